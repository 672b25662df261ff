//! The parts of a trial.

pub(crate) mod app;
pub(crate) mod broker;
pub(crate) mod consumer;
pub(crate) mod relay;
pub(crate) mod view;

use posthouse_client::Client;
use posthouse_trials::Failure;
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

/// A connection to the broker, which may be down for long.
pub(crate) async fn connect(address: &str, name: &str) -> Result<Client, Failure> {
    let client = Client::builder().server(address).name(name);
    let patience = Duration::from_secs(60);
    let client = client.connect_timeout(patience).operation_timeout(patience);
    Ok(client.connect().await?)
}
