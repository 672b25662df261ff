//! Why a commit was not made, or is not known to be, and the deliveries that it would have settled.

use super::{Refusal, outcome_word};
use crate::consumer::{Delivery, Retry, nack_action};
use posthouse_protocol::{DecodeError, ErrorCode, InvalidName, Outcome};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a commit has no result, with the deliveries that it would have settled.
///
/// Dropping it nacks those deliveries: they count as failed and back off, with this error as reason.
/// [`Self::take_deliveries`] gives them back instead. With an unknown outcome that is safe, too:
/// whichever of commit and nack comes first, the other is refused.
#[derive(Debug)]
pub struct CommitError {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: CommitErrorKind,
    deliveries: Vec<Arc<Delivery>>,
}

/// What went wrong with a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitErrorKind {
    /// A topic's name is not allowed; nothing was sent.
    Name {
        /// What is wrong with it.
        error: InvalidName,
        /// Whose it is.
        at: CommitPart,
    },
    /// It has no operations; nothing was sent.
    Empty,
    /// It breaks a limit that the client knows; nothing was sent.
    Invalid {
        /// Which.
        error: DecodeError,
        /// By what; `None` if it is the whole.
        at: Option<CommitPart>,
    },
    /// The broker refused it.
    Refused {
        /// With what.
        refusal: Refusal,
        /// Whether it may have happened all the same, by an earlier try whose answer was lost.
        outcome: Outcome,
        /// What is at fault; `None` if it is no part of the commit.
        at: Option<CommitPart>,
    },
    /// The timeout passed.
    TimedOut {
        /// Whether it may have happened all the same.
        outcome: Outcome,
        /// What the broker refused it with before, if it did.
        last: Option<Refusal>,
    },
    /// The client was closed.
    Closed {
        /// Whether it may have happened all the same.
        outcome: Outcome,
    },
    /// The broker's answer makes no sense.
    Protocol(DecodeError),
}

/// A part of a commit, as the application knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitPart {
    /// A message, or the topic of messages.
    Message {
        /// Which of the commit's messages, counted from 0 in the order in which they were added;
        /// `None` if it is all those for this topic.
        index: Option<usize>,
        /// Its topic.
        topic: String,
    },
    /// Deliveries that are settled.
    Settlement {
        /// Their topic.
        topic: String,
        /// Their subscription.
        subscription: String,
    },
    /// A cursor that is saved.
    Cursor {
        /// Its topic.
        topic: String,
        /// Its subscription.
        subscription: String,
    },
}

impl CommitError {
    pub(crate) fn new(kind: CommitErrorKind, deliveries: Vec<Arc<Delivery>>) -> Self {
        Self { inner: Box::new(Inner { kind, deliveries }) }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &CommitErrorKind {
        &self.inner.kind
    }

    /// Whether the commit can have happened, or still can.
    ///
    /// After [`Outcome::Definite`] nothing of it happened and nothing will. After
    /// [`Outcome::Unknown`] all of it may have happened, or none; never a part.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match &self.inner.kind {
            CommitErrorKind::Name { .. }
            | CommitErrorKind::Empty
            | CommitErrorKind::Invalid { .. } => Outcome::Definite,
            CommitErrorKind::Refused { outcome, .. }
            | CommitErrorKind::TimedOut { outcome, .. }
            | CommitErrorKind::Closed { outcome } => *outcome,
            CommitErrorKind::Protocol(_) => Outcome::Unknown,
        }
    }

    /// What of the commit is at fault, if it is one part.
    #[must_use]
    pub const fn at(&self) -> Option<&CommitPart> {
        match &self.inner.kind {
            CommitErrorKind::Name { at, .. } => Some(at),
            CommitErrorKind::Invalid { at, .. } | CommitErrorKind::Refused { at, .. } => {
                at.as_ref()
            }
            CommitErrorKind::Empty
            | CommitErrorKind::TimedOut { .. }
            | CommitErrorKind::Closed { .. }
            | CommitErrorKind::Protocol(_) => None,
        }
    }

    /// The broker's refusal, if there was one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match &self.inner.kind {
            CommitErrorKind::Refused { refusal, .. } => Some(refusal),
            CommitErrorKind::TimedOut { last, .. } => last.as_ref(),
            CommitErrorKind::Name { .. }
            | CommitErrorKind::Empty
            | CommitErrorKind::Invalid { .. }
            | CommitErrorKind::Closed { .. }
            | CommitErrorKind::Protocol(_) => None,
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

    /// Takes back the deliveries that the commit would have settled, in the order in which they were
    /// added, to be settled in another way.
    #[must_use]
    pub fn take_deliveries(&mut self) -> Vec<Delivery> {
        let deliveries = std::mem::take(&mut self.inner.deliveries);
        deliveries.into_iter().filter_map(Arc::into_inner).collect()
    }
}

impl Drop for CommitError {
    fn drop(&mut self) {
        if self.inner.deliveries.is_empty() {
            return;
        }
        let reason = self.to_string();
        for delivery in std::mem::take(&mut self.inner.deliveries) {
            delivery.settle_shared(nack_action(Retry::Backoff, &reason));
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = outcome_word(self.outcome());
        match &self.inner.kind {
            CommitErrorKind::Name { error, at } => write!(f, "commit not sent: {at}: {error}"),
            CommitErrorKind::Empty => f.write_str("commit not sent: it has no operations"),
            CommitErrorKind::Invalid { error, at: Some(at) } => {
                write!(f, "commit not sent: {at}: {error}")
            }
            CommitErrorKind::Invalid { error: error @ DecodeError::TooLarge { .. }, at: None } => {
                write!(f, "commit not sent: {error}; make it of fewer or smaller operations")
            }
            CommitErrorKind::Invalid { error, at: None } => write!(f, "commit not sent: {error}"),
            CommitErrorKind::Refused { refusal, at: Some(at), .. } => {
                write!(f, "commit refused: {at}: {refusal} (outcome={outcome})")
            }
            CommitErrorKind::Refused { refusal, at: None, .. } => {
                write!(f, "commit refused: {refusal} (outcome={outcome})")
            }
            CommitErrorKind::TimedOut { last: Some(refusal), .. } => {
                write!(f, "commit timed out (outcome={outcome}) after {refusal}")
            }
            CommitErrorKind::TimedOut { last: None, .. } => {
                write!(f, "commit timed out (outcome={outcome})")
            }
            CommitErrorKind::Closed { .. } => {
                write!(f, "client closed before the commit was answered (outcome={outcome})")
            }
            CommitErrorKind::Protocol(error) => {
                write!(f, "answer does not decode: {error} (outcome={outcome})")
            }
        }
    }
}

impl fmt::Display for CommitPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { index: Some(index), topic } => {
                write!(f, "message {index} for topic \"{}\"", topic.escape_debug())
            }
            Self::Message { index: None, topic } => {
                write!(f, "messages for topic \"{}\"", topic.escape_debug())
            }
            Self::Settlement { topic, subscription } => {
                write!(f, "settlement in {topic}.{subscription}")
            }
            Self::Cursor { topic, subscription } => write!(f, "cursor of {topic}.{subscription}"),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.inner.kind {
            CommitErrorKind::Name { error, .. } => Some(error),
            CommitErrorKind::Invalid { error, .. } | CommitErrorKind::Protocol(error) => {
                Some(error)
            }
            CommitErrorKind::Empty
            | CommitErrorKind::Refused { .. }
            | CommitErrorKind::TimedOut { .. }
            | CommitErrorKind::Closed { .. } => None,
        }
    }
}
