//! Opening a database file the way a relay and an inbox need it.

use crate::error::Error;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// How long a statement waits for another writer before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries of what SQLite does not wait for.
const PAUSE: Duration = Duration::from_millis(10);

/// A database file.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    path: PathBuf,
}

impl Database {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// A connection of our own to a database that is there: a write-ahead log, so that readers and
    /// the application's writer do not wait for us, and every commit of ours synced.
    pub(crate) fn open(&self) -> Result<Connection, Error> {
        let create = OpenFlags::SQLITE_OPEN_CREATE;
        self.open_with(OpenFlags::default().difference(create))
    }

    /// The same, and makes the file if there is none.
    pub(crate) fn open_or_create(&self) -> Result<Connection, Error> {
        self.open_with(OpenFlags::default())
    }

    fn open_with(&self, flags: OpenFlags) -> Result<Connection, Error> {
        let failed = |error| Error::opening(&self.path, error);
        let connection = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        prepare(&connection).map_err(failed)?;
        Ok(connection)
    }
}

#[expect(clippy::disallowed_methods, reason = "it blocks like every call of SQLite here")]
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // SQLite does not wait by itself when several change the mode at once.
    let mut tries = 1..BUSY_TIMEOUT.as_millis() / PAUSE.as_millis();
    loop {
        match keep_a_log(connection) {
            Err(error) if is_busy(&error) && tries.next().is_some() => sleep(PAUSE),
            kept => break kept?,
        }
    }
    connection.pragma_update(None, "synchronous", "FULL")
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn keep_a_log(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        // Where it cannot be had (some network file systems), SQLite stays with what it has.
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    }
    Ok(())
}
