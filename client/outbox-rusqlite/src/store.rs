//! The outbox tables as a relay sees them: each call is carried out on a thread of its own.

use crate::database::Database;
use crate::error::Error;
use crate::tables::Tables;
use crate::worker::Worker;
use posthouse_client::outbox::{
    Claim, Description, Lag, Park, Parked, Row, RowId, RowRange, Standing, Step, Store, StoreError,
};
use rusqlite::Connection;
use std::time::Duration;

/// The [`Store`] of an SQLite database: one connection, on one thread, which ends with it.
///
/// A call that is given up is carried out to its end all the same, before the next one. Dropping the
/// store waits for that, 5 s at most if another writer is in the way, and closes the connection: a
/// relay that was shut down has left the file alone.
#[derive(Debug)]
pub struct SqliteStore {
    worker: Worker,
    database: Database,
    tables: Tables,
}

impl SqliteStore {
    pub(crate) fn new(database: Database, tables: Tables) -> Self {
        Self { worker: Worker::start("posthouse-outbox", database.clone()), database, tables }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tables, &mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tables = self.tables.clone();
        Ok(self.worker.call(move |connection| work(&tables, connection)).await?)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.worker.end();
    }
}

impl Store for SqliteStore {
    fn beside(&self) -> Self {
        Self::new(self.database.clone(), self.tables.clone())
    }

    async fn close(&mut self) {
        self.worker.close().await;
    }

    async fn describe(&mut self) -> Result<Description, StoreError> {
        self.call(|tables, connection| tables.describe(connection)).await
    }

    async fn acquire(
        &mut self,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Standing>, StoreError> {
        let owner = owner.to_owned();
        self.call(move |tables, connection| tables.acquire(connection, &owner, lease)).await
    }

    async fn raise_epoch(&mut self, from: u64, to: u64) -> Result<bool, StoreError> {
        self.call(move |tables, connection| tables.raise_epoch(connection, from, to)).await
    }

    async fn adopt(&mut self, epoch: u64) -> Result<bool, StoreError> {
        self.call(move |tables, connection| tables.adopt(connection, epoch)).await
    }

    async fn claims(&mut self) -> Result<Vec<Claim>, StoreError> {
        self.call(|tables, connection| tables.claims(connection)).await
    }

    async fn rows(&mut self, ids: &[RowId]) -> Result<Vec<Row>, StoreError> {
        let ids = ids.to_vec();
        self.call(move |tables, connection| tables.rows(connection, &ids)).await
    }

    async fn scan(
        &mut self,
        gaps: &[RowRange],
        after: RowId,
        rows_max: u32,
        bytes_max: u64,
    ) -> Result<Vec<Row>, StoreError> {
        let gaps = gaps.to_vec();
        let scan = move |tables: &Tables, connection: &mut Connection| {
            tables.scan(connection, &gaps, after, [rows_max.into(), bytes_max])
        };
        self.call(scan).await
    }

    async fn sweep(
        &mut self,
        from: RowId,
        through: RowId,
        limit: u32,
    ) -> Result<Vec<RowId>, StoreError> {
        self.call(move |tables, connection| tables.sweep(connection, from, through, limit)).await
    }

    async fn step(&mut self, step: &Step) -> Result<bool, StoreError> {
        let step = step.clone();
        self.call(move |tables, connection| tables.step(connection, &step)).await
    }

    async fn park(&mut self, park: &Park) -> Result<bool, StoreError> {
        let park = park.clone();
        self.call(move |tables, connection| tables.park(connection, &park)).await
    }

    async fn release(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.call(move |tables, connection| tables.release(connection, epoch)).await
    }

    async fn lag(&mut self) -> Result<Lag, StoreError> {
        self.call(|tables, connection| tables.lag(connection)).await
    }

    async fn parked(&mut self, after: RowId, limit: u32) -> Result<Vec<Parked>, StoreError> {
        self.call(move |tables, connection| tables.parked(connection, after, limit)).await
    }

    async fn redrive(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        let ids = ids.to_vec();
        self.call(move |tables, connection| tables.redrive(connection, &ids)).await
    }

    async fn discard(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        let ids = ids.to_vec();
        self.call(move |tables, connection| tables.discard(connection, &ids)).await
    }
}
