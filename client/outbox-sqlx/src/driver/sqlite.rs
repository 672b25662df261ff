//! SQLite.

use super::{Driver, same_for_all};
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{NewRow, StoreErrorKind};
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use std::time::Duration;

/// How long a relay waits while others write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lite;

impl Lite {
    const KEEP_STATEMENTS: bool = true;

    const fn is_written_out(_rows: &[NewRow], _is_kept: bool) -> bool {
        false
    }
}

/// The result code without its extension.
fn code(error: &(dyn DatabaseError + 'static)) -> u32 {
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default() & 0xff
}

const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const INTERRUPTED: u32 = 9;
const IO: u32 = 10;
const FULL: u32 = 13;

impl Driver for Lite {
    type Options = SqliteConnectOptions;

    const DIALECT: Dialect = Dialect::Sqlite;
    const BEGIN: &'static [&'static str] = &["BEGIN IMMEDIATE"];
    /// For writing from the start: a transaction that reads first and writes later fails when
    /// another one has written in between, without waiting.
    const BEGIN_OPEN: &'static str = "BEGIN IMMEDIATE";
    const OPENED: Option<&'static str> = Some("SAVEPOINT posthouse");
    /// Some errors end the transaction silently, and each statement after it is committed by itself.
    const IS_OPEN: &'static str = "RELEASE posthouse";
    /// The one behind it locks nothing before its first statement, which writes.
    const COMMIT_AND_BEGIN: &'static str = "COMMIT; BEGIN";

    fn mark(name: &str) -> String {
        format!("SAVEPOINT {name}")
    }

    fn is_marked(name: &str) -> String {
        format!("RELEASE {name}")
    }

    same_for_all!(Sqlite, SqliteConnection, SqliteRow);

    /// Some errors have rolled back already; sqlx would take the connection for one in a
    /// transaction for ever.
    async fn roll_back(mut tx: Transaction<'static, Sqlite>) -> sqlx::Result<()> {
        // Fails in a transaction; else it stands for the one that is gone.
        let _ = Self::run(&mut tx, "BEGIN".to_owned()).await;
        tx.rollback().await
    }

    fn own_options(pool: &SqlitePool) -> SqliteConnectOptions {
        let options = (*pool.connect_options()).clone().create_if_missing(false);
        // A claim makes durable what was committed before it.
        let options = options.synchronous(SqliteSynchronous::Full).busy_timeout(BUSY_TIMEOUT);
        options.disable_statement_logging()
    }

    async fn connect(options: &SqliteConnectOptions) -> sqlx::Result<SqliteConnection> {
        options.connect().await
    }

    /// Who waits for another writer waits when it begins.
    fn bounded_wait() -> Option<[&'static str; 2]> {
        None
    }

    fn refused_commit(error: &(dyn DatabaseError + 'static)) -> bool {
        code(error) != IO
    }

    fn kind_of(error: &(dyn DatabaseError + 'static)) -> StoreErrorKind {
        match code(error) {
            BUSY | LOCKED | INTERRUPTED | IO | FULL => StoreErrorKind::Transient,
            _ if error.message().starts_with("no such table") => StoreErrorKind::NotInstalled,
            _ => StoreErrorKind::Permanent,
        }
    }
}
