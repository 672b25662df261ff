//! `posthouse-trial consumer`: an inbox on every topic.

use super::{Interrupt, Member, say};
use clap::Args;
use posthouse_trials::{Database, Failure, Handling, SUBSCRIPTION, with_database};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A consumer.
#[derive(Debug, Args)]
pub(crate) struct Consumer {
    #[command(flatten)]
    member: Member,
    /// Topics to consume
    #[arg(long, required = true)]
    topic: Vec<String>,
    /// Messages of a topic at a time
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// Messages of a topic that it takes ahead
    #[arg(long, default_value_t = 32)]
    credit: u32,
    /// Milliseconds for which each transaction stays open
    #[arg(long, default_value_t = 0)]
    hold: u64,
}

impl Consumer {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let (driver, url) = (self.member.driver, self.member.database.clone());
        with_database!(driver, &url, database => self.work(database).await)
    }

    async fn work<D: Database>(self, database: D) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let client = self.member.connect().await?;
        let (stop, stopped) = watch::channel(false);
        let mut runs = JoinSet::new();
        for topic in &self.topic {
            let consumer =
                client.consumer(topic, SUBSCRIPTION).credit(self.credit, 1 << 20).await?;
            let how = Handling {
                concurrency: self.concurrency,
                hold: Duration::from_millis(self.hold),
                holding: |op| say(format_args!("holding {op}")),
            };
            let (database, mut stopped) = (database.clone(), stopped.clone());
            runs.spawn(async move {
                let shutdown = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                database.consume(consumer, how, shutdown).await
            });
        }
        say(format_args!("consuming"));
        loop {
            tokio::select! {
                () = interrupt.next() => drop(stop.send_replace(true)),
                done = runs.join_next() => match done {
                    Some(done) => done??,
                    None => break,
                },
            }
        }
        client.close(Duration::from_secs(5)).await;
        Ok(())
    }
}
