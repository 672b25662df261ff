//! What the rest of this package needs of a kind of database. The differences are here.

#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

use crate::rows::{self, Bulk};
use bytes::Bytes;
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{NewRow, Row, StoreErrorKind};
use sqlx::{Database, Pool, Transaction};
use std::fmt::Debug;

/// A kind of database.
pub(crate) trait Driver: Debug + Send + Sync + Sized + 'static {
    type Db: Database<Connection = Self::Connection, Row = Self::Row>;
    type Connection: sqlx::Connection<Database = Self::Db> + Send;
    type Row: sqlx::Row<Database = Self::Db> + Send + Sync;
    /// How to connect.
    type Options: Clone + Debug + Send + Sync + 'static;

    const DIALECT: Dialect;
    /// Begins a transaction for writing whose commit is durable when it returns.
    const BEGIN: &'static [&'static str];
    /// Begins a transaction of the application, of which [`Self::IS_OPEN`] knows.
    const BEGIN_OPEN: &'static str;
    /// Marks a transaction that was just begun, if it has to be.
    const OPENED: Option<&'static str>;
    /// Fails unless the transaction at hand is still the one that was begun, or there is at least one
    /// that has not failed.
    const IS_OPEN: &'static str;
    /// Commits and begins another transaction.
    const COMMIT_AND_BEGIN: &'static str;

    /// Marks the transaction at hand with a name, until it ends.
    fn mark(name: &str) -> String;
    /// Fails unless the transaction at hand has this mark, and takes it away.
    fn is_marked(name: &str) -> String;

    /// Runs statements without parameters in one go up to the first that fails; gives how many rows
    /// each has changed, and the error.
    fn run_until(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = (Vec<u64>, Option<sqlx::Error>)> + Send;

    /// Runs statements without parameters in one go, and counts the rows that each has changed.
    fn run(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = sqlx::Result<Vec<u64>>> + Send {
        async {
            let (changed, error) = Self::run_until(connection, sql).await;
            error.map_or(Ok(changed), Err)
        }
    }

    /// Runs a query without parameters.
    fn query(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Row>>> + Send;

    /// Inserts rows into the outbox, in their order. `is_direct`: a statement that stays prepared is
    /// found again on this connection.
    fn insert(
        connection: &mut Self::Connection,
        sql: &Sql,
        rows: &[NewRow],
        is_direct: bool,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// A number.
    fn number(row: &Self::Row, column: usize) -> sqlx::Result<Option<i64>>;
    /// A text.
    fn text(row: &Self::Row, column: usize) -> sqlx::Result<Option<String>>;
    /// Bytes.
    fn bytes(row: &Self::Row, column: usize) -> sqlx::Result<Option<Vec<u8>>>;

    /// A query of many rows, so that its values come as `bulk_number` and so on read them.
    fn bulk(sql: String) -> String {
        sql
    }

    /// A number of a row of `bulk`.
    fn bulk_number(row: &Self::Row, column: usize) -> sqlx::Result<Option<i64>> {
        Self::number(row, column)
    }
    /// A text of a row of `bulk`.
    fn bulk_text(row: &Self::Row, column: usize) -> sqlx::Result<Option<String>> {
        Self::text(row, column)
    }
    /// Bytes of a row of `bulk`.
    fn bulk_bytes(row: &Self::Row, column: usize) -> sqlx::Result<Option<Bytes>> {
        Ok(Self::bytes(row, column)?.map(Into::into))
    }

    /// Reads the rows of a query that gives many: it may take more than one round trip where each row
    /// costs less then.
    fn read_many(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = sqlx::Result<Vec<Row>>> + Send {
        async {
            let rows = Self::query(connection, Self::bulk(sql)).await?;
            rows.iter().map(|row| rows::row(&Bulk::<Self>(row))).collect()
        }
    }

    /// Begins a transaction of the application.
    fn begin(
        pool: &Pool<Self::Db>,
    ) -> impl Future<Output = sqlx::Result<Transaction<'static, Self::Db>>> + Send {
        pool.begin_with(Self::BEGIN_OPEN)
    }

    /// The same, with what [`Self::IS_OPEN`] looks for.
    fn begin_open(
        pool: Pool<Self::Db>,
    ) -> impl Future<Output = sqlx::Result<Transaction<'static, Self::Db>>> + Send {
        async move {
            let mut tx = Self::begin(&pool).await?;
            // Not in the text that begins: sqlx would take a transaction of which the second
            // statement failed for none, and give its connection to others.
            if let Some(mark) = Self::OPENED {
                Self::run(&mut tx, mark.to_owned()).await?;
            }
            Ok(tx)
        }
    }

    /// Rolls back whatever became of the transaction.
    fn roll_back(
        tx: Transaction<'static, Self::Db>,
    ) -> impl Future<Output = sqlx::Result<()>> + Send {
        tx.rollback()
    }

    /// How a relay connects to the pool's database.
    fn own_options(pool: &Pool<Self::Db>) -> Self::Options;

    /// Connects.
    fn connect(
        options: &Self::Options,
    ) -> impl Future<Output = sqlx::Result<Self::Connection>> + Send;

    /// The statements by which the first of a transaction waits for another one's rows at most so
    /// long: before it and behind it; `None` if it does not wait.
    fn bounded_wait() -> Option<[&'static str; 2]>;

    /// Whether an error in answer to a commit says that nothing was committed.
    fn refused_commit(error: &(dyn sqlx::error::DatabaseError + 'static)) -> bool;

    /// What can be done about a refusal of the database.
    fn kind_of(error: &(dyn sqlx::error::DatabaseError + 'static)) -> StoreErrorKind;

    /// What can be done about an error.
    fn kind(error: &sqlx::Error) -> StoreErrorKind {
        if let Some(error) = error.as_database_error() {
            return Self::kind_of(error);
        }
        let is_passing = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::BeginFailed
                | sqlx::Error::WorkerCrashed
        );
        // What is left is a mistake in a text or in the configuration.
        if is_passing { StoreErrorKind::Transient } else { StoreErrorKind::Permanent }
    }
}

/// Rows of so many bytes are written into the text of their insert, and so many rows.
const WRITTEN_OUT_MAX: usize = 16 << 10;
const WRITTEN_OUT_ROWS_MAX: usize = 256;

/// Whether these rows are written into a text rather than bound, where both are possible.
pub(crate) fn is_short(rows: &[NewRow]) -> bool {
    rows.len() <= WRITTEN_OUT_ROWS_MAX && bytes(rows) <= WRITTEN_OUT_MAX
}

/// The bytes of rows.
pub(crate) fn bytes(rows: &[NewRow]) -> usize {
    let bytes = |row: &NewRow| {
        let key = row.key.as_ref().map_or(0, |key| key.len());
        row.topic.len() + key + row.headers.len() + row.body.len()
    };
    rows.iter().map(bytes).sum()
}

/// Statements of one transaction as one text.
pub(crate) fn transaction<D: Driver>(statements: &[String]) -> String {
    let mut text = String::new();
    for statement in D::BEGIN.iter().copied().chain(statements.iter().map(String::as_str)) {
        text.push_str(statement);
        text.push_str(";\n");
    }
    text.push_str("COMMIT");
    text
}

/// The methods that are the same text for every kind of database.
macro_rules! same_for_all {
    ($db:ty, $connection:ty, $row:ty) => {
        type Db = $db;
        type Connection = $connection;
        type Row = $row;

        async fn run_until(
            connection: &mut $connection,
            sql: String,
        ) -> (Vec<u64>, Option<sqlx::Error>) {
            let mut results = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_many(connection);
            let mut changed = Vec::new();
            while let Some(result) = std::future::poll_fn(|cx| results.as_mut().poll_next(cx)).await
            {
                match result {
                    Ok(result) => changed.extend(result.left().map(|done| done.rows_affected())),
                    Err(error) => return (changed, Some(error)),
                }
            }
            (changed, None)
        }

        async fn query(connection: &mut $connection, sql: String) -> sqlx::Result<Vec<$row>> {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await
        }

        fn number(row: &$row, column: usize) -> sqlx::Result<Option<i64>> {
            sqlx::Row::try_get_unchecked(row, column)
        }

        fn text(row: &$row, column: usize) -> sqlx::Result<Option<String>> {
            sqlx::Row::try_get_unchecked(row, column)
        }

        fn bytes(row: &$row, column: usize) -> sqlx::Result<Option<Vec<u8>>> {
            sqlx::Row::try_get_unchecked(row, column)
        }

        async fn insert(
            connection: &mut $connection,
            sql: &Sql,
            rows: &[NewRow],
            is_direct: bool,
        ) -> sqlx::Result<()> {
            let is_kept = is_direct || Self::KEEP_STATEMENTS;
            for part in $crate::driver::parts(rows) {
                if Self::is_written_out(part, is_kept) {
                    Self::run(connection, sql.enqueue_literally(part)).await?;
                    continue;
                }
                let text = sqlx::AssertSqlSafe(sql.enqueue(part.len()));
                let mut query = sqlx::query::<$db>(text).persistent(is_kept);
                for row in part {
                    query = query
                        .bind(row.message_id.0.to_vec())
                        .bind(row.topic.as_str())
                        .bind(row.key.as_deref())
                        .bind(row.headers.as_str())
                        .bind(&row.body[..])
                        .bind(row.due_at.0.cast_signed())
                        .bind(row.created_at.0.cast_signed());
                }
                query.execute(&mut *connection).await?;
            }
            Ok(())
        }
    };
}
pub(crate) use same_for_all;

/// Cuts rows into parts of a few sizes, so that few different statements are ever prepared, and
/// few parameters bound.
pub(crate) fn parts(mut rows: &[NewRow]) -> impl Iterator<Item = &[NewRow]> {
    const SIZES: [usize; 4] = [256, 32, 4, 1];
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (part, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some(part)
    })
}
