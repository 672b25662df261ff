//! Transactions of the application with rows of the outbox in them, for any kind of database.

use crate::driver::{Driver, transaction};
use crate::error::Error;
use crate::sends::Bell;
use crate::store::{Tables, place};
use crate::unbroken::unbroken;
use posthouse_client::Outgoing;
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{EnqueueError, NewRow};
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
}

impl<D: Driver> Clone for Core<D> {
    fn clone(&self) -> Self {
        let (sql, bell) = (Arc::clone(&self.sql), Arc::clone(&self.bell));
        Self { pool: self.pool.clone(), sql, bell }
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
        Self { pool, sql, bell: Arc::new(Notify::new()) }
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

    /// Begins a transaction and marks it, for [`Self::finish`].
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, D::Db>, Error> {
        let pool = self.pool.clone();
        let begin = async move {
            let mut tx = D::begin(&pool).await?;
            if let Some(mark) = D::MARK {
                D::run(&mut tx, mark.to_owned()).await?;
            }
            Ok(tx)
        };
        unbroken(begin).await?
    }

    pub(crate) async fn enqueue(
        &self,
        connection: &mut D::Connection,
        rows: &[NewRow],
    ) -> Result<Bell, Error> {
        D::insert(connection, &self.sql, rows).await?;
        Ok(self.bell())
    }

    /// Inserts rows at the end of a transaction of [`Self::begin`], commits it, and wakes the relay.
    pub(crate) async fn finish(
        &self,
        mut tx: Transaction<'static, D::Db>,
        rows: Vec<NewRow>,
    ) -> Result<(), Error> {
        let (sql, bell) = (Arc::clone(&self.sql), self.bell());
        let finish = async move {
            D::check(&mut tx).await.map_err(ended)?;
            D::insert(&mut tx, &sql, &rows).await?;
            commit::<D>(tx).await?;
            if !rows.is_empty() {
                bell.ring();
            }
            Ok(())
        };
        unbroken(finish).await?
    }
}

async fn install<D: Driver>(connection: &mut D::Connection, sql: &Sql) -> sqlx::Result<()> {
    let mut statements = sql.ddl();
    if D::DIALECT == Dialect::Postgres {
        statements.insert(0, format!("SELECT pg_advisory_xact_lock({INSTALL_LOCK})"));
    }
    D::run(connection, transaction::<D>(&statements)).await?;
    let place = place::<D>(connection).await?;
    if !place.is_empty() {
        D::run(connection, sql.belongs(&place)).await?;
    }
    Ok(())
}

/// The rows for messages.
pub(crate) fn rows(
    outgoing: impl IntoIterator<Item = Outgoing>,
) -> Result<Vec<NewRow>, EnqueueError> {
    outgoing.into_iter().map(NewRow::new).collect()
}

/// What an error means that a look at the transaction gave.
pub(crate) fn ended(error: sqlx::Error) -> Error {
    if matches!(error, sqlx::Error::Database(_) | sqlx::Error::BeginFailed) {
        return Error::TransactionEnded;
    }
    Error::Database(error)
}

/// Commits; to be run where it is not dropped halfway.
pub(crate) async fn commit<D: Driver>(tx: Transaction<'static, D::Db>) -> Result<(), Error> {
    let Err(error) = tx.commit().await else { return Ok(()) };
    if error.as_database_error().is_some_and(D::refused_commit) {
        return Err(Error::Database(error));
    }
    Err(Error::CommitUnknown(error))
}

/// Rolls back before anything else is done.
pub(crate) async fn roll_back<D: Driver>(mut tx: Transaction<'static, D::Db>) {
    let roll_back = async move {
        if D::DIALECT == Dialect::Sqlite {
            // Some errors have rolled back already; sqlx would take the connection for one in a
            // transaction for ever.
            let _ = D::check(&mut tx).await;
        }
        tx.rollback().await
    };
    // Where this fails the connection is gone, and the database rolls back by itself.
    let _ = unbroken(roll_back).await;
}
