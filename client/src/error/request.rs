//! Why a request or a connection attempt failed.

use super::{Refusal, outcome_word};
use posthouse_protocol::{DecodeError, ErrorCode, InvalidName, Outcome};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a request (administration, opening a publisher, consumer or reader) failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// A name is not allowed; nothing was sent.
    Name(InvalidName),
    /// The broker refused it.
    Refused(Refusal),
    /// The operation timeout passed.
    TimedOut {
        /// Whether it may have happened.
        outcome: Outcome,
    },
    /// The connection was lost before the answer, and repeating the request is not safe.
    ConnectionLost,
    /// The client is closed.
    Closed {
        /// Whether it may have happened.
        outcome: Outcome,
    },
    /// The broker's answer makes no sense.
    Protocol(DecodeError),
}

impl RequestError {
    /// Whether the request can have taken effect, or still can.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Name(_) => Outcome::Definite,
            Self::Refused(refusal) => refusal.outcome(),
            Self::TimedOut { outcome } | Self::Closed { outcome } => *outcome,
            Self::ConnectionLost | Self::Protocol(_) => Outcome::Unknown,
        }
    }

    /// The broker's refusal, if it was one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Name(_)
            | Self::TimedOut { .. }
            | Self::ConnectionLost
            | Self::Closed { .. }
            | Self::Protocol(_) => None,
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

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::TimedOut { outcome } => {
                write!(f, "no answer in time (outcome={})", outcome_word(*outcome))
            }
            Self::ConnectionLost => f.write_str("connection lost before the answer"),
            Self::Closed { outcome } => {
                write!(f, "client closed (outcome={})", outcome_word(*outcome))
            }
            Self::Protocol(error) => write!(f, "answer does not decode: {error}"),
        }
    }
}

impl std::error::Error for RequestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Refused(_)
            | Self::TimedOut { .. }
            | Self::ConnectionLost
            | Self::Closed { .. } => None,
        }
    }
}

impl From<InvalidName> for RequestError {
    fn from(error: InvalidName) -> Self {
        Self::Name(error)
    }
}

/// Why [`ClientBuilder::connect`](crate::ClientBuilder::connect) gave up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// An address is not `HOST:PORT` or `unix:PATH`.
    Address {
        /// The address.
        text: String,
    },
    /// A broker answered and does not want this client.
    Refused(Refusal),
    /// No broker was reached within the connect timeout.
    Unreachable {
        /// Where it was tried last.
        server: String,
        /// What went wrong there; `None` if it hung.
        last: Option<Arc<std::io::Error>>,
    },
}

impl ConnectError {
    /// The broker's refusal, if a broker was reached.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Address { .. } | Self::Unreachable { .. } => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { text } => {
                write!(f, "address \"{}\" is not HOST:PORT or unix:PATH", text.escape_debug())
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unreachable { server, last: Some(error) } => {
                write!(f, "no broker at {server}: {error}")
            }
            Self::Unreachable { server, last: None } => {
                write!(f, "no broker at {server}: no answer in time")
            }
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { last: Some(error), .. } => Some(error),
            Self::Address { .. } | Self::Refused(_) | Self::Unreachable { last: None, .. } => None,
        }
    }
}
