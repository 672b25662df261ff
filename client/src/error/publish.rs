//! Why a message was not published, or is not known to be.

use super::{Refusal, outcome_word};
use crate::Message;
use posthouse_protocol::{DecodeError, ErrorCode, Outcome};
use std::fmt;
use std::time::Duration;

/// Why a publish has no receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The message breaks a limit that the client knows; it was not sent.
    Invalid(DecodeError),
    /// The broker refused it.
    Refused {
        /// With what.
        refusal: Refusal,
        /// Whether it may be stored all the same, by an earlier sending whose answer was lost.
        outcome: Outcome,
    },
    /// The publisher's timeout passed.
    TimedOut {
        /// Whether it may be stored all the same.
        outcome: Outcome,
        /// What the broker refused it with before, if it did.
        last: Option<Refusal>,
    },
    /// The client was closed.
    Closed {
        /// Whether it may be stored all the same.
        outcome: Outcome,
    },
}

impl PublishError {
    /// Whether the message can still be stored.
    ///
    /// After [`Outcome::Definite`] it is not stored and never will be: sending it again makes no
    /// second copy. After [`Outcome::Unknown`] it may be.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Invalid(_) => Outcome::Definite,
            Self::Refused { outcome, .. }
            | Self::TimedOut { outcome, .. }
            | Self::Closed { outcome } => *outcome,
        }
    }

    /// The broker's refusal, if there was one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::TimedOut { last, .. } => last.as_ref(),
            Self::Invalid(_) | Self::Closed { .. } => None,
        }
    }

    /// The refusal's code.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.refusal().and_then(Refusal::code)
    }

    /// When the broker advises to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(Refusal::retry_after)
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = outcome_word(self.outcome());
        match self {
            Self::Invalid(error) => write!(f, "message not sent: {error}"),
            Self::Refused { refusal, .. } => write!(f, "{refusal} (outcome={outcome})"),
            Self::TimedOut { last: Some(refusal), .. } => {
                write!(f, "publish timed out (outcome={outcome}) after {refusal}")
            }
            Self::TimedOut { last: None, .. } => write!(f, "publish timed out (outcome={outcome})"),
            Self::Closed { .. } => {
                write!(f, "client closed before the receipt (outcome={outcome})")
            }
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(error) => Some(error),
            Self::Refused { .. } | Self::TimedOut { .. } | Self::Closed { .. } => None,
        }
    }
}

/// Why [`Publisher::try_submit`](crate::Publisher::try_submit) did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrySubmitError {
    /// There is no room now; here is the message.
    Full(Box<Message>),
    /// It can never be sent.
    Failed(PublishError),
}

impl fmt::Display for TrySubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("no room for another message"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrySubmitError {}
