//! Why a message was not received, or a settlement did not count.

use super::{Refusal, RequestError, outcome_word};
use posthouse_protocol::{Attempt, DecodeError, ErrorCode, Offset, Outcome};
use std::fmt;

/// An item of a consumer's stream that is not a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The broker ended the consumer; nothing follows. Its subscription is gone, for example.
    Ended(Refusal),
    /// A message arrived damaged. It was given back as failed, and the stream goes on.
    Damaged {
        /// Its offset.
        offset: Offset,
        /// How often it had failed before.
        attempt: Attempt,
        /// What does not match.
        error: DecodeError,
    },
    /// The client's task ended without [`Client::close`](crate::Client::close): its runtime is gone.
    Closed,
}

impl ConsumeError {
    /// The broker's reason, if it ended the consumer.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Ended(refusal) => Some(refusal),
            Self::Damaged { .. } | Self::Closed => None,
        }
    }

    /// The refusal's code.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.refusal().and_then(Refusal::code)
    }

    /// Whether nothing follows this item.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Damaged { .. })
    }
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(refusal) => write!(f, "consumer ended by the broker: {refusal}"),
            Self::Damaged { offset, attempt, error } => {
                write!(f, "damaged message offset={offset} attempt={attempt}: {error}")
            }
            Self::Closed => f.write_str("client closed"),
        }
    }
}

impl std::error::Error for ConsumeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Damaged { error, .. } => Some(error),
            Self::Ended(_) | Self::Closed => None,
        }
    }
}

/// Why a settlement or an extension did not count.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettleError {
    /// The broker refused it, with `STALE_FENCE` or `LEASE_ENDED` as a rule: the message is, or may
    /// be, with another consumer.
    Refused {
        /// With what.
        refusal: Refusal,
        /// Unknown if an earlier sending, whose answer was lost, may have counted.
        outcome: Outcome,
    },
    /// The client was closed before the answer.
    Closed {
        /// Whether it may have counted.
        outcome: Outcome,
    },
}

impl SettleError {
    /// Whether the settlement can have counted, or still can.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { outcome, .. } | Self::Closed { outcome } => *outcome,
        }
    }

    /// The refusal's code.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { refusal, .. } => refusal.code(),
            Self::Closed { .. } => None,
        }
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = outcome_word(self.outcome());
        match self {
            Self::Refused { refusal, .. } => {
                write!(f, "settlement refused: {refusal} (outcome={outcome})")
            }
            Self::Closed { .. } => {
                write!(f, "client closed before the settlement was confirmed (outcome={outcome})")
            }
        }
    }
}

impl std::error::Error for SettleError {}

/// Why a reader could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// A request to the broker failed; [`Reader::next`](crate::Reader::next) may be called again.
    Request(RequestError),
    /// A message does not match its checksum; the next call goes on behind it, with what it asks for anew.
    Damaged {
        /// Its offset.
        offset: Offset,
        /// What does not match.
        error: DecodeError,
    },
    /// Messages are damaged where the broker keeps them; the next call goes on behind them.
    Unreadable {
        /// The first one's offset.
        first: Offset,
        /// The offset behind the last one.
        next: Offset,
    },
    /// The topic ends before the place to be read. If that was read up to before, the broker was
    /// restored from an older copy or the topic made anew, and messages may have come since in places
    /// that were read. The next call says the same until the topic is longer, or
    /// [`Reader::seek`](crate::Reader::seek) goes elsewhere.
    BeyondEnd {
        /// The offset to be read.
        offset: Offset,
        /// Where the topic ends.
        end: Offset,
    },
    /// The reader was not opened for a subscription, so there is no cursor to save.
    NoSubscription,
}

impl ReadError {
    /// The refusal's code.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Request(error) => error.code(),
            Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::BeyondEnd { .. }
            | Self::NoSubscription => None,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Damaged { offset, error } => {
                write!(f, "damaged message offset={offset}: {error}")
            }
            Self::Unreadable { first, next } => {
                let last = next.0.saturating_sub(1);
                write!(f, "damaged where the broker keeps them: messages offset={first}..={last}")
            }
            Self::BeyondEnd { offset, end } => write!(
                f,
                "topic ends at offset {end}, before offset {offset} which is to be read: if what came \
                 before was read once, the broker was restored from an older copy or the topic made \
                 anew"
            ),
            Self::NoSubscription => {
                f.write_str("reader has no subscription: open it at Position::Saved")
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Damaged { error, .. } => Some(error),
            Self::Unreadable { .. } | Self::BeyondEnd { .. } | Self::NoSubscription => None,
        }
    }
}

impl From<RequestError> for ReadError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}
