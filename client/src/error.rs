//! Why something failed: one small type for each kind of operation.
//!
//! Every one of them says through `outcome()` whether the thing can still have happened.

mod commit;
mod publish;
mod receive;
mod request;

pub use commit::{CommitError, CommitErrorKind, CommitPart};
pub use publish::{PublishError, TrySubmitError};
pub use receive::{ConsumeError, ReadError, SettleError};
pub use request::{ConnectError, RequestError};

use posthouse_protocol::message::{Refused, RefusedAt};
use posthouse_protocol::{ErrorCode, Outcome};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A broker's "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    number: u16,
    retry_after: Option<Duration>,
    text: Arc<str>,
    at: Option<RefusedAt>,
    /// An earlier try stayed without an answer, and this refusal says nothing of it.
    is_after_lost_tries: bool,
}

impl Refusal {
    pub(crate) fn new(number: u16, text: &str) -> Self {
        let (retry_after, at) = (None, None);
        Self { number, retry_after, text: text.into(), at, is_after_lost_tries: false }
    }

    /// The same refusal of a request of which an earlier try may have had its effect.
    #[must_use]
    pub(crate) const fn after_lost_tries(mut self) -> Self {
        self.is_after_lost_tries = true;
        self
    }

    /// Which operation of a commit, and which message of it, is at fault.
    #[doc(hidden)]
    #[must_use]
    pub const fn at(&self) -> Option<&RefusedAt> {
        self.at.as_ref()
    }

    /// The code, if this version of the client knows it.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.number)
    }

    /// The code's number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// What is wrong and what to do about it, for people.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When the broker advises to try again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the refused request can have taken effect, or still can: unknown if an earlier try of
    /// it stayed without an answer that this refusal does not speak of, or if this version does not
    /// know the code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.is_after_lost_tries {
            return Outcome::Unknown;
        }
        self.code().map_or(Outcome::Unknown, ErrorCode::outcome)
    }

    /// Whether the same request may succeed later without anything being changed.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.code().is_some_and(ErrorCode::is_retriable)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let retry_after = Duration::from_millis(u64::from(refused.retry_after_ms));
        Self {
            number: refused.code,
            retry_after: (!retry_after.is_zero()).then_some(retry_after),
            text: refused.text.into(),
            at: refused.at,
            is_after_lost_tries: false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code() {
            Some(code) => write!(f, "{code}")?,
            None => write!(f, "code={}", self.number)?,
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// `definite` or `unknown`, as error texts show it.
const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Definite => "definite",
        Outcome::Unknown => "unknown",
    }
}
