//! A running relay, as its owner sees it.

use super::error::RelayError;
use crate::lock::lock;
use crate::outbox::Lag;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long [`RelayHandle::shutdown`] waits for what is under way.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How much longer the database may take to give the lease back.
const GRACE: Duration = Duration::from_secs(5);

/// What a relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayState {
    /// Taking the lease, or waiting for database or broker in order to.
    #[default]
    Starting,
    /// Another relay has the lease.
    StandingBy,
    /// It hands rows over.
    Active,
    /// It has ended.
    Ended,
}

/// What a relay has done since it was started, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStats {
    /// What it is doing.
    pub state: RelayState,
    /// Rows handed over.
    pub rows: u64,
    /// Claims handed over: commits at the broker.
    pub claims: u64,
    /// Rows set aside.
    pub parked: u64,
    /// What waits, as it was some seconds ago; `None` before the first look.
    pub lag: Option<Lag>,
    /// What database or broker said when something failed last.
    pub last_error: Option<String>,
    /// What this database may lose in a crash although it was committed.
    pub durability_warning: Option<String>,
}

/// A running relay. Dropped, it shuts down in the background.
#[derive(Debug)]
pub struct RelayHandle {
    task: JoinHandle<Result<(), RelayError>>,
    /// How it ended; a task tells that only once.
    end: Option<Result<(), RelayError>>,
    stop: watch::Sender<Option<Instant>>,
    stats: Arc<Mutex<RelayStats>>,
}

impl RelayHandle {
    pub(super) const fn new(
        task: JoinHandle<Result<(), RelayError>>,
        stop: watch::Sender<Option<Instant>>,
        stats: Arc<Mutex<RelayStats>>,
    ) -> Self {
        Self { task, end: None, stop, stats }
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        lock(&self.stats).clone()
    }

    /// Waits until it ends by itself.
    ///
    /// # Cancellation
    ///
    /// Safe: dropping the future leaves the relay as it is.
    ///
    /// # Errors
    ///
    /// [`RelayError`], why it did. It is no error if it was told to shut down.
    pub async fn ended(&mut self) -> Result<(), RelayError> {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let end = match (&mut self.task).await {
            Ok(end) => end,
            Err(error) => Err(RelayError::aborted(format!("its task has ended: {error}"))),
        };
        self.end = Some(end.clone());
        end
    }

    /// Claims nothing more, waits up to 10 s for what is under way, and gives the lease back, so that
    /// another relay goes on at once. What had no answer by then is sent again by that one.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop the shutting down.
    ///
    /// # Errors
    ///
    /// [`RelayError`] if it had ended by itself before, or if the database did not answer.
    pub async fn shutdown(self) -> Result<(), RelayError> {
        self.shutdown_within(SHUTDOWN).await
    }

    /// Like [`Self::shutdown`], but waits so long for what is under way.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn shutdown_within(mut self, within: Duration) -> Result<(), RelayError> {
        let _ = self.stop.send(Some(Instant::now() + within));
        let ended = timeout(within.saturating_add(GRACE), self.ended()).await;
        ended.unwrap_or_else(|_| {
            self.task.abort();
            Err(RelayError::aborted("the database gave no answer; the lease ends by itself"))
        })
    }
}
