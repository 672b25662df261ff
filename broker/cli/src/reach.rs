//! Waiting until a relay's database and broker can be reached.

use crate::cli::Common;
use crate::connect::connect;
use crate::database::{Outbox, undescribed};
use crate::exit::{Code, Failure};
use posthouse_client::Client;
use posthouse_client::outbox::StoreErrorKind;
use std::time::Duration;
use tokio::time::sleep;

/// The wait after the first failure; it doubles up to the last.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Failures with one text between two lines in the log.
const FAILURES_PER_LINE: u32 = 12;

/// Looks at the database, then connects to the broker, as often as it takes.
///
/// # Errors
///
/// What waiting does not help with.
pub(crate) async fn reach(outbox: &Outbox, common: &Common) -> Result<Client, Failure> {
    let mut wait = Wait::default();
    // Before the broker is asked for, so that what is wrong here is said first.
    while let Err(error) = outbox.look().await {
        if error.kind() != StoreErrorKind::Transient {
            return Err(undescribed(&error));
        }
        wait.after(&error.to_string()).await;
    }
    let mut wait = Wait::default();
    loop {
        match connect(common).await {
            Err(Failure::Said { code: Code::NoServer, text }) => wait.after(&text).await,
            done => return done,
        }
    }
}

/// How long was waited.
#[derive(Debug, Default)]
struct Wait {
    pause: Duration,
    said: String,
    failures: u32,
}

impl Wait {
    async fn after(&mut self, failure: &str) {
        if self.said != failure || self.failures.is_multiple_of(FAILURES_PER_LINE) {
            tracing::warn!(error = failure, "trying again");
            failure.clone_into(&mut self.said);
        }
        self.failures += 1;
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
        sleep(self.pause).await;
    }
}
