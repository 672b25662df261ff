//! The parts of a trial.

pub(crate) mod app;
pub(crate) mod broker;
pub(crate) mod consumer;
pub(crate) mod relay;
pub(crate) mod view;

use clap::Args;
use posthouse_client::Client;
use posthouse_trials::{Driver, Failure};
use std::fmt;
use std::io::Write as _;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells the trial something.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    let said = writeln!(output, "{line}").and_then(|()| output.flush());
    if let Err(error) = said {
        // The trial is gone; so is this process in a moment.
        tracing::error!(%error, "nobody listens");
    }
}

/// The wish of the trial that this process ends in good order.
#[derive(Debug)]
pub(crate) struct Interrupt(Signal);

impl Interrupt {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self(signal(SignalKind::terminate())?))
    }

    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// What every part is told that has a database and talks to the broker.
#[derive(Debug, Args)]
pub(crate) struct Member {
    #[arg(long)]
    pub(crate) driver: Driver,
    /// The database: a relay's is the sender's, another part's the receiver's
    #[arg(long)]
    pub(crate) database: String,
    /// Address of the broker
    #[arg(long)]
    broker: String,
    /// Tells this part from others in the broker's log
    #[arg(long)]
    pub(crate) name: String,
}

impl Member {
    /// A connection to the broker, which may be down for long.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let client = Client::builder().server(&self.broker).name(&self.name);
        let patience = Duration::from_secs(60);
        let client = client.connect_timeout(patience).operation_timeout(patience);
        Ok(client.connect().await?)
    }
}
