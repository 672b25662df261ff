//! The two relays that others write, as good as their method allows: one that locks rows and skips
//! locked ones, and one that reads up to the oldest transaction still open.
//!
//! Both are woken by the same bell as ours, publish with the same client and wait for receipts.

use std::sync::Arc;
use std::time::Duration;

use posthouse_client::{Client, Message, Publisher};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _, Transaction};
use tokio::sync::Notify;

use super::Failed;
use super::business::{TOPIC, body};

/// Rows that are read at a time.
const BATCH: i64 = 500;
/// How long an idle relay waits without a bell.
const POLL: Duration = Duration::from_millis(20);

/// How a relay finds the rows that it has not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `FOR UPDATE SKIP LOCKED`; what was sent is deleted by the same transaction.
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
            Method::SkipLocked => {
                &["CREATE TABLE rival (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                 topic text NOT NULL, key bytea, body bytea NOT NULL)"]
            }
            Method::XminFrontier => {
                &["CREATE TABLE rival (id bigint GENERATED ALWAYS AS IDENTITY, \
                 topic text NOT NULL, key bytea, body bytea NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), \
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
        account: u64,
        stamp: u64,
    ) -> Result<(), Failed> {
        let insert = "INSERT INTO rival (topic, key, body) VALUES ($1, $2, $3)";
        let (key, body) = (account.to_le_bytes().to_vec(), body(stamp));
        sqlx::query(insert).bind(TOPIC).bind(key).bind(body).execute(&mut **tx).await?;
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
        let select = "SELECT id, key, body FROM rival ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";
        let rows = sqlx::query(select).bind(BATCH).fetch_all(&mut *tx).await?;
        publish(publisher, &rows).await?;
        let ids = rows.iter().map(|row| row.try_get::<i64, _>("id"));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        if !ids.is_empty() {
            let delete = "DELETE FROM rival WHERE id = ANY($1)";
            sqlx::query(delete).bind(ids).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }

    async fn below_frontier(
        &self,
        publisher: &Publisher,
        cursor: &mut (String, i64),
    ) -> Result<usize, Failed> {
        let select = "SELECT xid::text, id, key, body FROM rival \
                      WHERE (xid, id) > ($1::xid8, $2) \
                      AND xid < pg_snapshot_xmin(pg_current_snapshot()) \
                      ORDER BY xid, id LIMIT $3";
        let query = sqlx::query(select).bind(cursor.0.clone()).bind(cursor.1).bind(BATCH);
        let rows = query.fetch_all(&self.pool).await?;
        publish(publisher, &rows).await?;
        if let Some(last) = rows.last() {
            *cursor = (last.try_get(0)?, last.try_get(1)?);
            let delete = "DELETE FROM rival WHERE (xid, id) <= ($1::xid8, $2)";
            let query = sqlx::query(delete).bind(cursor.0.clone()).bind(cursor.1);
            query.execute(&self.pool).await?;
        }
        Ok(rows.len())
    }
}

async fn publish(publisher: &Publisher, rows: &[PgRow]) -> Result<(), Failed> {
    let mut pending = Vec::new();
    for row in rows {
        let (key, body): (Vec<u8>, Vec<u8>) = (row.try_get("key")?, row.try_get("body")?);
        pending.push(publisher.submit(Message::new(body).key(key)).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    Ok(())
}
