//! Opening a database file the way a relay and an inbox need it.

use crate::error::Error;
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;
use std::time::Duration;

/// How long a statement waits for another writer before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        // Where it cannot be had (some network file systems), SQLite stays with what it has.
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    }
    connection.pragma_update(None, "synchronous", "FULL")
}
