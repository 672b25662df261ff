//! `posthouse-trial view`: reads every topic as a stream, into a database that keeps the cursors.

use super::{Interrupt, Member, say};
use clap::Args;
use posthouse_client::{Client, Position};
use posthouse_trials::{Database, Failure, Handling, with_database};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long after a refusal of the database it reads again.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// A view.
#[derive(Debug, Args)]
pub(crate) struct View {
    #[command(flatten)]
    member: Member,
    /// Topics to read
    #[arg(long, required = true)]
    topic: Vec<String>,
}

impl View {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let (driver, url) = (self.member.driver, self.member.database.clone());
        with_database!(driver, &url, database => self.work(database).await)
    }

    /// Ends when it was overtaken in every topic.
    async fn work<D: Database>(self, database: D) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let client = self.member.connect().await?;
        let mut runs = JoinSet::new();
        for topic in self.topic {
            runs.spawn(read(client.clone(), database.clone(), topic));
        }
        say(format_args!("viewing"));
        loop {
            tokio::select! {
                () = interrupt.next() => break,
                done = runs.join_next() => match done {
                    Some(done) => done??,
                    None => break,
                },
            }
        }
        runs.shutdown().await;
        client.close(Duration::from_secs(5)).await;
        Ok(())
    }
}

async fn read<D: Database>(client: Client, database: D, topic: String) -> Result<(), Failure> {
    loop {
        let reader = client.reader(&topic, Position::Earliest).follow().await?;
        let how = Handling {
            concurrency: 1,
            hold: Duration::ZERO,
            holding: |op| say(format_args!("holding {op}")),
        };
        match database.view(reader, how).await {
            Ok(()) => {
                say(format_args!("overtaken in {topic}"));
                return Ok(());
            }
            // The next one begins where the database's cursor is.
            Err(error) => tracing::warn!(%error, topic, "reading begins again"),
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}
