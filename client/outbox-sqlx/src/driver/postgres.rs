//! PostgreSQL.

mod copy;

use super::{Driver, is_short, same_for_all};
use crate::rows::{self, Columns, odd};
use bytes::Bytes;
use copy::{Malformed, Tuple, Tuples};
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{NewRow, Row, StoreErrorKind};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgRow, PgSeverity};
use sqlx::{ConnectOptions as _, PgConnection, PgPool, Postgres, Row as _, ValueRef as _};
use std::future::poll_fn;

/// Whatever the session's isolation level: where it is serializable, a look would lock what it reads.
const READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";

/// PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pg;

impl Pg {
    /// A statement with a name would outlive the transaction, and with it the server connection
    /// that a pooling proxy has lent. Without a name, one with bound values takes two round trips; with
    /// the values in its text it takes one, which is the better deal unless the text becomes long.
    const KEEP_STATEMENTS: bool = false;

    fn is_written_out(rows: &[NewRow], is_kept: bool) -> bool {
        !is_kept && is_short(rows)
    }
}

/// A value as it came, whatever sqlx takes it for: it does not expect binary ones here.
fn binary(row: &PgRow, column: usize) -> sqlx::Result<Option<&[u8]>> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_bytes().map(Some).map_err(sqlx::Error::Decode)
}

fn number_of(bytes: &[u8]) -> sqlx::Result<i64> {
    let bytes = bytes.try_into().map_err(|_| odd("a number does not have 8 bytes"))?;
    Ok(i64::from_be_bytes(bytes))
}

fn text_of(bytes: &[u8]) -> sqlx::Result<String> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| odd("a text is not UTF-8"))
}

impl Columns for Tuple {
    fn number(&self, column: usize) -> sqlx::Result<Option<i64>> {
        self.value(column).map(|value| number_of(value)).transpose()
    }

    fn text(&self, column: usize) -> sqlx::Result<Option<String>> {
        self.value(column).map(|value| text_of(value)).transpose()
    }

    fn bytes(&self, column: usize) -> sqlx::Result<Option<Bytes>> {
        Ok(self.value(column).cloned())
    }
}

/// Reads the rows of a query.
async fn copied(connection: &mut PgConnection, sql: &str) -> sqlx::Result<Vec<Row>> {
    let text = format!("COPY ({sql}) TO STDOUT (FORMAT binary)");
    let mut pieces = connection.copy_out_raw(&text).await?;
    let mut tuples = Tuples::new();
    let mut rows = Vec::new();
    while let Some(piece) = poll_fn(|cx| pieces.as_mut().poll_next(cx)).await {
        tuples.push(&piece?);
        while let Some(tuple) = tuples.next().map_err(|Malformed| odd("no binary copy"))? {
            rows.push(rows::row(&tuple)?);
        }
    }
    if tuples.is_complete() { Ok(rows) } else { Err(odd("a binary copy without its end")) }
}

impl Driver for Pg {
    type Options = PgConnectOptions;

    const DIALECT: Dialect = Dialect::Postgres;
    const BEGIN: &'static [&'static str] = &[
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
         WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)",
    ];
    const BEGIN_OPEN: &'static str = "BEGIN";
    const OPENED: Option<&'static str> = None;
    /// A failed transaction takes no statements, but a commit, which then rolls back and says that
    /// all is well. A savepoint can neither be set in one, nor outside of a transaction. Set earlier it
    /// would be in the way of who sets the isolation level.
    const IS_OPEN: &'static str = "SAVEPOINT posthouse";
    const COMMIT_AND_BEGIN: &'static str = "COMMIT AND CHAIN";

    /// A cursor ends with its transaction and costs it nothing; what is written behind a savepoint
    /// needs a second transaction number.
    fn mark(name: &str) -> String {
        format!("DECLARE {name} NO SCROLL CURSOR FOR SELECT 1")
    }

    fn is_marked(name: &str) -> String {
        format!("CLOSE {name}")
    }

    same_for_all!(Postgres, PgConnection, PgRow);

    /// A query without parameters has its values as text, bytes in base 16: twice as much to send, and
    /// most of a relay's work to read. Those of a binary cursor are binary, and it is one round trip
    /// as well.
    fn bulk(sql: String) -> String {
        format!(
            "{READ}; DECLARE posthouse_rows BINARY NO SCROLL CURSOR FOR {sql}; \
             FETCH ALL FROM posthouse_rows; COMMIT"
        )
    }

    fn bulk_number(row: &PgRow, column: usize) -> sqlx::Result<Option<i64>> {
        binary(row, column)?.map(number_of).transpose()
    }

    fn bulk_text(row: &PgRow, column: usize) -> sqlx::Result<Option<String>> {
        binary(row, column)?.map(text_of).transpose()
    }

    fn bulk_bytes(row: &PgRow, column: usize) -> sqlx::Result<Option<Bytes>> {
        Ok(binary(row, column)?.map(Bytes::copy_from_slice))
    }

    /// A cursor puts all rows aside before it gives the first; a copy does not, and its rows are easier
    /// to read. sqlx takes it in no text with other statements.
    async fn read_many(connection: &mut PgConnection, sql: String) -> sqlx::Result<Vec<Row>> {
        Self::run(connection, READ.to_owned()).await?;
        let rows = copied(connection, &sql).await?;
        Self::run(connection, "COMMIT".to_owned()).await?;
        Ok(rows)
    }

    fn own_options(pool: &PgPool) -> PgConnectOptions {
        let options = (*pool.connect_options()).clone();
        options.statement_cache_capacity(0).disable_statement_logging()
    }

    async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
        options.connect().await
    }

    fn bounded_wait() -> Option<[&'static str; 2]> {
        Some([
            "SELECT set_config('posthouse.lock_timeout', current_setting('lock_timeout'), true), \
             set_config('lock_timeout', '5s', true)",
            "SELECT set_config('lock_timeout', current_setting('posthouse.lock_timeout'), true)",
        ])
    }

    fn refused_commit(error: &(dyn DatabaseError + 'static)) -> bool {
        // What ends the session can come after the commit is on disk.
        let refused = error.try_downcast_ref::<PgDatabaseError>();
        refused
            .is_some_and(|error| error.severity() == PgSeverity::Error && error.code() != "40003")
    }

    fn kind_of(error: &(dyn DatabaseError + 'static)) -> StoreErrorKind {
        let code = error.code().unwrap_or_default();
        match (code.as_ref(), code.get(..2).unwrap_or_default()) {
            // No such table, no such function.
            ("42P01" | "42883", _) => StoreErrorKind::NotInstalled,
            // Lock not available; in a transaction on a standby.
            ("55P03" | "25006", _)
            // Connection, rollback, resources, operator.
            | (_, "08" | "40" | "53" | "57") => StoreErrorKind::Transient,
            _ => StoreErrorKind::Permanent,
        }
    }
}
