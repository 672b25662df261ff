//! The two relays that others write, as good as their method allows: one that locks rows and skips
//! locked ones, and one that reads up to the oldest transaction still open.
//!
//! Both are woken by the same bell as ours, publish with the same client and wait for receipts.

use std::sync::Arc;
use std::time::Duration;

use posthouse_client::{Client, Publisher};
use sqlx::{PgPool, Postgres, Row as _, Transaction};
use tokio::sync::Notify;

use super::Failed;
use super::business::{TOPIC, message};

/// Rows that are read at a time.
const BATCH: i64 = 500;
/// How long an idle relay waits without a bell.
const POLL: Duration = Duration::from_millis(20);

/// How a relay finds the rows that it has not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `FOR UPDATE SKIP LOCKED` and a status column.
    SkipLocked,
    /// A cursor over (transaction id, row id) below `pg_snapshot_xmin`.
    XminFrontier,
}

/// An outbox with one of these relays.
#[derive(Clone)]
pub(super) struct Rival {
    method: Method,
    pool: PgPool,
    bell: Arc<Notify>,
}

impl Rival {
    pub(super) async fn set_up(method: Method, pool: PgPool) -> Result<Self, Failed> {
        let tables: &[&'static str] = match method {
            Method::SkipLocked => &[
                "CREATE TABLE rival (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                 stamp bigint NOT NULL, sent boolean NOT NULL DEFAULT false)",
                "CREATE INDEX ON rival (id) WHERE NOT sent",
            ],
            Method::XminFrontier => {
                &["CREATE TABLE rival (id bigint GENERATED ALWAYS AS IDENTITY, \
                 stamp bigint NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), \
                 PRIMARY KEY (xid, id))"]
            }
        };
        for table in tables {
            sqlx::query(*table).execute(&pool).await?;
        }
        Ok(Self { method, pool, bell: Arc::new(Notify::new()) })
    }

    pub(super) async fn enqueue(
        tx: &mut Transaction<'_, Postgres>,
        stamp: u64,
    ) -> Result<(), Failed> {
        let insert = "INSERT INTO rival (stamp) VALUES ($1)";
        sqlx::query(insert).bind(i64::try_from(stamp)?).execute(&mut **tx).await?;
        Ok(())
    }

    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Relays until it is dropped or fails.
    pub(super) async fn relay(self, client: Client) -> Result<(), Failed> {
        let publisher = client.publisher(TOPIC).await?;
        let mut cursor = ("0".to_owned(), 0);
        loop {
            let sent = match self.method {
                Method::SkipLocked => self.skip_locked(&publisher).await?,
                Method::XminFrontier => self.below_frontier(&publisher, &mut cursor).await?,
            };
            if sent == 0 {
                // A bell and a poll are alike: look again.
                let _ = tokio::time::timeout(POLL, self.bell.notified()).await;
            }
        }
    }

    async fn skip_locked(&self, publisher: &Publisher) -> Result<usize, Failed> {
        let mut tx = self.pool.begin().await?;
        let select = "SELECT id, stamp FROM rival WHERE NOT sent ORDER BY id LIMIT $1 \
                      FOR UPDATE SKIP LOCKED";
        let rows = sqlx::query(select).bind(BATCH).fetch_all(&mut *tx).await?;
        let mut ids = Vec::new();
        let mut stamps = Vec::new();
        for row in &rows {
            ids.push(row.try_get::<i64, _>(0)?);
            stamps.push(row.try_get::<i64, _>(1)?);
        }
        publish(publisher, &stamps).await?;
        if !ids.is_empty() {
            let update = "UPDATE rival SET sent = true WHERE id = ANY($1)";
            sqlx::query(update).bind(ids).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        if !rows.is_empty() {
            sqlx::query("DELETE FROM rival WHERE sent").execute(&self.pool).await?;
        }
        Ok(rows.len())
    }

    async fn below_frontier(
        &self,
        publisher: &Publisher,
        cursor: &mut (String, i64),
    ) -> Result<usize, Failed> {
        let select = "SELECT xid::text, id, stamp FROM rival \
                      WHERE (xid, id) > ($1::xid8, $2) \
                      AND xid < pg_snapshot_xmin(pg_current_snapshot()) \
                      ORDER BY xid, id LIMIT $3";
        let query = sqlx::query(select).bind(cursor.0.clone()).bind(cursor.1).bind(BATCH);
        let rows = query.fetch_all(&self.pool).await?;
        let mut stamps = Vec::new();
        for row in &rows {
            stamps.push(row.try_get::<i64, _>(2)?);
        }
        publish(publisher, &stamps).await?;
        if let Some(last) = rows.last() {
            *cursor = (last.try_get(0)?, last.try_get(1)?);
            let delete = "DELETE FROM rival WHERE (xid, id) <= ($1::xid8, $2)";
            let query = sqlx::query(delete).bind(cursor.0.clone()).bind(cursor.1);
            query.execute(&self.pool).await?;
        }
        Ok(rows.len())
    }
}

async fn publish(publisher: &Publisher, stamps: &[i64]) -> Result<(), Failed> {
    let mut pending = Vec::new();
    for stamp in stamps {
        pending.push(publisher.submit(message(0, u64::try_from(*stamp)?)).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    Ok(())
}
