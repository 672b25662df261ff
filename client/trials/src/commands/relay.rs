//! `posthouse-trial relay`: hands messages over to the broker, or stands by.

use super::{Interrupt, Member, say};
use clap::Args;
use posthouse_client::outbox::{RelayState, RelayStats};
use posthouse_trials::{Database, Failure, Relaying, with_database};
use std::time::Duration;
use tokio::time::interval;

/// Between two looks at what the relay does.
const LOOK: Duration = Duration::from_millis(20);

/// A relay.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    #[command(flatten)]
    member: Member,
    /// Milliseconds of silence after which another relay takes over
    #[arg(long, default_value_t = 1_000)]
    lease: u64,
    /// Rows at a time
    #[arg(long, default_value_t = 8)]
    batch: u32,
    /// Go on although the broker knows less than it acknowledged
    #[arg(long)]
    accept_restored_broker: bool,
    /// Take over an outbox that was copied from another database
    #[arg(long)]
    adopt: bool,
}

impl Relay {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let (driver, url) = (self.member.driver, self.member.database.clone());
        with_database!(driver, &url, database => self.work(database).await)
    }

    async fn work<D: Database>(self, database: D) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let client = self.member.connect().await?;
        let how = Relaying {
            name: self.member.name,
            lease: Duration::from_millis(self.lease),
            batch: self.batch,
            accept_restored_broker: self.accept_restored_broker,
            adopt: self.adopt,
        };
        let mut relay = database.relay(&client, &how);
        let mut told = RelayStats::default();
        let mut look = interval(LOOK);
        loop {
            tokio::select! {
                () = interrupt.next() => {
                    relay.shutdown().await?;
                    client.close(Duration::from_secs(5)).await;
                    return Ok(());
                }
                end = relay.ended() => {
                    tell(&mut told, relay.stats());
                    return Ok(end?);
                }
                _ = look.tick() => tell(&mut told, relay.stats()),
            }
        }
    }
}

/// Says what is new.
fn tell(told: &mut RelayStats, stats: RelayStats) {
    if stats.state != told.state {
        if stats.state == RelayState::Active {
            say(format_args!("active"));
        } else {
            // It may have had the lease before.
            say(format_args!("passive {:?}", stats.state));
        }
    }
    if stats.rows > told.rows {
        say(format_args!("handed over {}", stats.rows));
    }
    if stats.parked > told.parked {
        say(format_args!("parked {}", stats.parked));
    }
    *told = stats;
}
