//! Why something was not stored, or is not known to be.

use posthouse_client::ReadError;
use posthouse_client::outbox::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Why an outbox or an inbox could not do what was asked.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    doing: Cow<'static, str>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What an [`Error`] means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The database was locked for longer than the connection waits; nothing was done. Try again.
    Busy,
    /// The disk is full or fails; nothing was done. Try again later: a relay does.
    Disk,
    /// The tables are not there: call `install()`, or run `posthouse outbox install`.
    NotInstalled,
    /// The message breaks a limit and could never be handed over; nothing was done.
    Invalid,
    /// Nothing was done, and trying again will not help as it is.
    Failed,
    /// The transaction was over before its commit: SQLite rolled it back after an error that was not
    /// passed on (`OR ROLLBACK`, a full disk), or the closure ended it. Nothing is committed by this
    /// call; what was done behind the end was committed by itself. Pass errors on with `?`.
    Ended,
    /// Another reader with this consumer name has moved the stream's cursor, and goes on from there.
    /// Nothing was done; run one at a time.
    Overtaken,
    /// The topic ends before the place to be read: the broker was restored from an older copy, or the
    /// topic was made anew. Nothing was done.
    BeyondEnd,
    /// The commit failed in a way that leaves open whether it is on disk: business data and messages
    /// are both there or both not there. Read the data back.
    Unknown,
}

impl Error {
    /// What it means for the caller.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn database(doing: &'static str, error: rusqlite::Error) -> Self {
        Self { kind: kind_of(&error), doing: doing.into(), source: error.into() }
    }

    pub(crate) fn opening(path: &Path, error: rusqlite::Error) -> Self {
        let doing = format!("open {}", path.display()).into();
        Self { kind: kind_of(&error), doing, source: error.into() }
    }

    /// A failed COMMIT. SQLite takes a transaction back that it could not commit, except where the
    /// disk failed: then nobody knows what is on it.
    pub(crate) fn commit(error: rusqlite::Error) -> Self {
        let is_open = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
        let kind = if is_open { ErrorKind::Unknown } else { kind_of(&error) };
        Self { kind, doing: "commit".into(), source: error.into() }
    }

    pub(crate) fn invalid(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind: ErrorKind::Invalid, doing: doing.into(), source: source.into() }
    }

    pub(crate) fn not_installed(text: String) -> Self {
        let doing = "use the outbox tables".into();
        Self { kind: ErrorKind::NotInstalled, doing, source: text.into() }
    }

    pub(crate) fn reading(error: ReadError) -> Self {
        let is_beyond = matches!(error, ReadError::BeyondEnd { .. });
        let kind = if is_beyond { ErrorKind::BeyondEnd } else { ErrorKind::Failed };
        Self { kind, doing: "read the topic".into(), source: error.into() }
    }

    pub(crate) fn moved(consumer: &str, topic: &str) -> Self {
        let doing = format!("move the cursor of {consumer} in {topic}").into();
        let source = "another reader with this consumer name has moved it: run one at a time";
        Self { kind: ErrorKind::Overtaken, doing, source: source.into() }
    }

    pub(crate) fn ended() -> Self {
        let source = "the transaction has ended already: an error in it was not passed on";
        Self { kind: ErrorKind::Ended, doing: "commit".into(), source: source.into() }
    }

    pub(crate) fn thread(text: &str) -> Self {
        Self {
            kind: ErrorKind::Failed,
            doing: "use the database's thread".into(),
            source: text.into(),
        }
    }
}

fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => ErrorKind::Disk,
        Some(ErrorCode::Unknown) if error.to_string().starts_with("no such table") => {
            ErrorKind::NotInstalled
        }
        _ => ErrorKind::Failed,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.source)?;
        match self.kind {
            ErrorKind::NotInstalled => f.write_str(
                "; create the tables with install() or: posthouse outbox install --database URL",
            ),
            ErrorKind::Unknown => f.write_str(" (outcome=unknown: read the data back)"),
            ErrorKind::Busy
            | ErrorKind::Disk
            | ErrorKind::Invalid
            | ErrorKind::Failed
            | ErrorKind::Ended
            | ErrorKind::Overtaken
            | ErrorKind::BeyondEnd => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// So that a transaction whose closure fails with rusqlite's own error can be had as it is.
impl From<Error> for rusqlite::Error {
    fn from(error: Error) -> Self {
        match error.source.downcast::<Self>() {
            Ok(own) if error.kind != ErrorKind::Unknown => *own,
            Ok(own) => Self::ToSqlConversionFailure(
                Error { kind: error.kind, doing: error.doing, source: own }.into(),
            ),
            Err(source) => Self::ToSqlConversionFailure(
                Error { kind: error.kind, doing: error.doing, source }.into(),
            ),
        }
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            // After a failed commit the relay starts from what it finds.
            ErrorKind::Busy | ErrorKind::Disk | ErrorKind::Unknown => StoreErrorKind::Transient,
            ErrorKind::NotInstalled => StoreErrorKind::NotInstalled,
            ErrorKind::Invalid
            | ErrorKind::Failed
            | ErrorKind::Ended
            | ErrorKind::Overtaken
            | ErrorKind::BeyondEnd => StoreErrorKind::Permanent,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::{Connection, ffi};

    #[test]
    fn full_disk_is_passing() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (x); PRAGMA max_page_count = 4").unwrap();
        let full = db.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap_err();
        assert_eq!(full.sqlite_error_code(), Some(ErrorCode::DiskFull));
        let failed = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None);
        for error in [full, failed] {
            let stored = StoreError::from(Error::database("enqueue", error));
            assert_eq!(stored.kind(), StoreErrorKind::Transient, "{stored}");
        }
    }
}
