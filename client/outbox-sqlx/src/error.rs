//! Why something was not enqueued, not installed or not handled.

use posthouse_client::outbox::sql::InvalidPrefix;
use posthouse_client::outbox::{EnqueueError, StoreError};
use posthouse_client::{ConsumeError, Outcome, ReadError};
use std::fmt;

/// Why something was not done, and whether it can have happened all the same.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database refused or could not be reached. Nothing of the transaction stays.
    Database(sqlx::Error),
    /// The commit was sent and its answer is missing: all of the transaction has happened, or
    /// nothing of it. To find out, look for what it would have written; or do it again with the same
    /// message id, which an inbox knows.
    CommitUnknown(sqlx::Error),
    /// The transaction was over before its commit: the database rolled it back after an error that
    /// the closure did not pass on (a deadlock, for example), or the closure ended it. Nothing is
    /// committed by this call. Pass errors of statements on with `?`.
    TransactionEnded,
    /// No broker would take the message. Nothing has happened.
    Enqueue(EnqueueError),
    /// The tables of the outbox are not as expected, or could not be reached.
    Tables(StoreError),
    /// The broker ended the consumer.
    Consumer(ConsumeError),
    /// The stream cannot be read.
    Reader(ReadError),
    /// Another reader with the same consumer name has moved the cursor. Nothing was done twice; let
    /// one read at a time, or give them names of their own.
    Overtaken,
    /// The tables cannot have such a prefix.
    Prefix(InvalidPrefix),
    /// The runtime was shut down in the middle.
    Interrupted,
}

impl Error {
    /// Whether the transaction can have been committed.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::CommitUnknown(_) | Self::Interrupted => Outcome::Unknown,
            Self::Database(_)
            | Self::TransactionEnded
            | Self::Enqueue(_)
            | Self::Tables(_)
            | Self::Consumer(_)
            | Self::Reader(_)
            | Self::Overtaken
            | Self::Prefix(_) => Outcome::Definite,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => write!(f, "database: {error}"),
            Self::CommitUnknown(error) => {
                write!(f, "commit without an answer, it may have happened: {error}")
            }
            Self::TransactionEnded => f.write_str(
                "the transaction ended before its commit and nothing of it stays: an error in it was \
                 not passed on",
            ),
            Self::Enqueue(error) => error.fmt(f),
            Self::Tables(error) => error.fmt(f),
            Self::Consumer(error) => error.fmt(f),
            Self::Reader(error) => error.fmt(f),
            Self::Overtaken => f.write_str(
                "another reader with this consumer name has moved the stream's cursor: let one read \
                 at a time",
            ),
            Self::Prefix(error) => error.fmt(f),
            Self::Interrupted => f.write_str(
                "the runtime was shut down during a transaction: it may have been committed",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Database(error) | Self::CommitUnknown(error) => Some(error),
            Self::Enqueue(error) => Some(error),
            Self::Tables(error) => Some(error),
            Self::Consumer(error) => Some(error),
            Self::Reader(error) => Some(error),
            Self::Prefix(error) => Some(error),
            Self::TransactionEnded | Self::Overtaken | Self::Interrupted => None,
        }
    }
}

/// So that `?` on a statement in a closure gives this error.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// So that a closure may use sqlx's error as its own. What is not the database's keeps its text and
/// stands as the source.
impl From<Error> for sqlx::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => error,
            Error::CommitUnknown(_)
            | Error::TransactionEnded
            | Error::Enqueue(_)
            | Error::Tables(_)
            | Error::Consumer(_)
            | Error::Reader(_)
            | Error::Overtaken
            | Error::Prefix(_)
            | Error::Interrupted => Self::Io(std::io::Error::other(error)),
        }
    }
}

impl From<EnqueueError> for Error {
    fn from(error: EnqueueError) -> Self {
        Self::Enqueue(error)
    }
}

impl From<InvalidPrefix> for Error {
    fn from(error: InvalidPrefix) -> Self {
        Self::Prefix(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Tables(error)
    }
}
