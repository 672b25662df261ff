//! Transactions of the application with rows of the outbox in them, for any kind of database.

use crate::driver::{Driver, is_short};
use crate::error::Error;
use crate::rows::odd;
use crate::sends::Bell;
use crate::store::{Tables, place};
use crate::unbroken::unbroken;
use posthouse_client::Outgoing;
use posthouse_client::failpoint::{amid, failpoint};
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{EnqueueError, NewRow, StoreErrorKind};
use sqlx::{Pool, Transaction};
use std::fmt;
use std::sync::Arc;
use tokio::sync::Notify;

/// Held by whoever makes tables, so that many can do it at once.
const INSTALL_LOCK: i64 = 0x706f_7374_686f_7573;

/// A pool of the application, and the statements on the tables there.
pub(crate) struct Core<D: Driver> {
    pub(crate) pool: Pool<D::Db>,
    pub(crate) sql: Arc<Sql>,
    pub(crate) bell: Arc<Notify>,
    /// No proxy lends another server connection to each transaction.
    pub(crate) is_direct: bool,
}

impl<D: Driver> Clone for Core<D> {
    fn clone(&self) -> Self {
        let (sql, bell) = (Arc::clone(&self.sql), Arc::clone(&self.bell));
        Self { pool: self.pool.clone(), sql, bell, is_direct: self.is_direct }
    }
}

impl<D: Driver> fmt::Debug for Core<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("prefix", &self.sql.prefix()).finish_non_exhaustive()
    }
}

impl<D: Driver> Core<D> {
    pub(crate) fn new(pool: Pool<D::Db>) -> Self {
        let sql = Arc::new(Sql::standard(D::DIALECT));
        Self { pool, sql, bell: Arc::new(Notify::new()), is_direct: false }
    }

    pub(crate) fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
        self.sql = Arc::new(Sql::new(D::DIALECT, prefix)?);
        Ok(self)
    }

    pub(crate) async fn install(&self) -> Result<(), Error> {
        let (pool, sql) = (self.pool.clone(), Arc::clone(&self.sql));
        let install = async move {
            let mut connection = pool.acquire().await?;
            let installed = install::<D>(&mut connection, &sql).await;
            if installed.is_err() {
                // It may be in a transaction that nobody ends.
                connection.close_on_drop();
            }
            Ok(installed?)
        };
        unbroken(install).await?
    }

    pub(crate) fn tables(&self) -> Tables<D> {
        Tables::new(D::own_options(&self.pool), Arc::clone(&self.sql))
    }

    pub(crate) fn bell(&self) -> Bell {
        Bell::new(Arc::clone(&self.bell))
    }

    /// Begins a transaction for [`Self::finish`].
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, D::Db>, Error> {
        let pool = self.pool.clone();
        Ok(unbroken(D::begin_open(pool)).await??)
    }

    pub(crate) async fn enqueue(
        &self,
        connection: &mut D::Connection,
        rows: &[NewRow],
    ) -> Result<Bell, Error> {
        D::insert(connection, &self.sql, rows, self.is_direct).await?;
        Ok(self.bell())
    }

    /// Waits for the other transactions that hold the row's key, and holds it until this one ends.
    pub(crate) async fn enqueue_ordered(
        &self,
        connection: &mut D::Connection,
        row: NewRow,
    ) -> Result<Bell, Error> {
        let key = row.key.as_ref().ok_or(EnqueueError::NoKey)?;
        let rows = std::slice::from_ref(&row);
        match self.sql.order_key(key) {
            // One round trip. The insert gets its number behind the lock.
            Some(lock) if is_short(rows) => {
                let insert = self.sql.enqueue_literally(rows);
                D::run(connection, format!("{lock};\n{insert}")).await?;
                return Ok(self.bell());
            }
            Some(lock) => drop(D::run(connection, lock).await?),
            None => {}
        }
        self.enqueue(connection, rows).await
    }

    /// Inserts rows at the end of a transaction of [`Self::begin`], commits it, and wakes the relay.
    pub(crate) async fn finish(
        &self,
        mut tx: Transaction<'static, D::Db>,
        rows: Vec<NewRow>,
    ) -> Result<(), Error> {
        let (sql, bell, is_direct) = (Arc::clone(&self.sql), self.bell(), self.is_direct);
        let finish = async move {
            failpoint("outbox.before-insert");
            if is_short(&rows) {
                let insert = (!rows.is_empty()).then(|| sql.enqueue_literally(&rows));
                let committed = commit_if::<D>(tx, D::IS_OPEN.to_owned(), insert);
                // What is begun behind it is rolled back when the pool has it.
                drop(amid(Some("outbox.in-commit"), committed).await?);
            } else {
                if let Err(error) = D::run(&mut tx, D::IS_OPEN.to_owned()).await {
                    roll_back::<D>(tx).await;
                    return Err(ended(error));
                }
                D::insert(&mut tx, &sql, &rows, is_direct).await?;
                failpoint("outbox.before-commit");
                amid(Some("outbox.in-commit"), commit::<D>(tx)).await?;
            }
            failpoint("outbox.after-commit");
            if !rows.is_empty() {
                bell.ring();
            }
            Ok(())
        };
        unbroken(finish).await?
    }
}

/// In one transaction where the database has that for tables; elsewhere each statement stands alone,
/// and does nothing if it was run before.
async fn install<D: Driver>(connection: &mut D::Connection, sql: &Sql) -> sqlx::Result<()> {
    let mut begin: Vec<_> = D::BEGIN.iter().copied().map(str::to_owned).collect();
    if D::DIALECT == Dialect::Postgres {
        begin.push(format!("SELECT pg_advisory_xact_lock({INSTALL_LOCK})"));
    }
    D::run(connection, begin.join(";\n")).await?;
    let mut statements = sql.upgrade(installed::<D>(connection, sql).await?);
    statements.push("COMMIT".to_owned());
    D::run(connection, statements.join(";\n")).await?;
    let place = place::<D>(connection).await?;
    if !place.is_empty() {
        D::run(connection, sql.belongs(&place)).await?;
    }
    Ok(())
}

/// The version of the tables, zero if there are none.
async fn installed<D: Driver>(connection: &mut D::Connection, sql: &Sql) -> sqlx::Result<u32> {
    if D::query(connection, sql.is_installed()).await?.is_empty() {
        return Ok(0);
    }
    let rows = D::query(connection, sql.installed()).await?;
    let version = rows.first().map(|row| D::number(row, 0)).transpose()?.flatten();
    u32::try_from(version.unwrap_or_default()).map_err(|_| odd("a version of the tables is odd"))
}

/// The rows for messages.
pub(crate) fn rows(
    outgoing: impl IntoIterator<Item = Outgoing>,
) -> Result<Vec<NewRow>, EnqueueError> {
    outgoing.into_iter().map(NewRow::new).collect()
}

/// What an error means that a look at the transaction gave.
fn ended(error: sqlx::Error) -> Error {
    if matches!(error, sqlx::Error::Database(_)) {
        return Error::TransactionEnded;
    }
    Error::Database(error)
}

/// Commits; to be run where it is not dropped halfway.
async fn commit<D: Driver>(tx: Transaction<'static, D::Db>) -> Result<(), Error> {
    let Err(error) = tx.commit().await else { return Ok(()) };
    if error.as_database_error().is_some_and(D::refused_commit) {
        return Err(Error::Database(error));
    }
    Err(Error::CommitUnknown(error))
}

/// Commits a transaction if `check` does not fail in it, with this statement at its end, in one round
/// trip; gives the transaction that is begun behind it. To be run where it is not dropped halfway.
pub(crate) async fn commit_if<D: Driver>(
    mut tx: Transaction<'static, D::Db>,
    check: String,
    last: Option<String>,
) -> Result<Transaction<'static, D::Db>, Error> {
    let statements: Vec<_> = [check].into_iter().chain(last).collect();
    let text = format!("{};\n{}", statements.join(";\n"), D::COMMIT_AND_BEGIN);
    let (done, error) = D::run_until(&mut tx, text).await;
    let Some(error) = error else { return Ok(tx) };
    roll_back::<D>(tx).await;
    Err(not_committed::<D>(done.len(), statements.len(), error))
}

/// What an error means that came after so many statements, of which the one with the number `commit`
/// commits. An answer says that what comes behind its statement was not run.
fn not_committed<D: Driver>(done: usize, commit: usize, error: sqlx::Error) -> Error {
    let Some(answer) = error.as_database_error() else { return Error::CommitUnknown(error) };
    if done == 0 && D::kind_of(answer) != StoreErrorKind::Transient {
        return Error::TransactionEnded;
    }
    if done < commit || (done == commit && D::refused_commit(answer)) {
        return Error::Database(error);
    }
    Error::CommitUnknown(error)
}

/// Rolls back before anything else is done.
pub(crate) async fn roll_back<D: Driver>(tx: Transaction<'static, D::Db>) {
    // Where this fails the connection is gone, and the database rolls back by itself.
    let _ = unbroken(D::roll_back(tx)).await;
}
