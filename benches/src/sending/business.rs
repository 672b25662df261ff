//! The sender's business: an account's balance and an order, in one transaction, with or without a
//! message in the outbox. The same on every database.

use std::marker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use posthouse_client::Message;
use posthouse_outbox_sqlx::Error;
use tokio::task::JoinSet;

use super::Failed;
use crate::clock;

/// Accounts, so many that clients rarely meet.
pub(super) const ACCOUNTS: u64 = 10_000;
/// The topic of all messages.
pub(super) const TOPIC: &str = "bench";
/// Bytes of each message.
const BODY: usize = 256;

/// A message as it is sent everywhere here.
pub(super) fn message(account: u64, stamp: u64) -> Message {
    Message::new(Bytes::from(body(stamp))).key(account.to_le_bytes().to_vec())
}

/// A body, which starts with `stamp`.
pub(super) fn body(stamp: u64) -> Vec<u8> {
    let mut body = vec![b'x'; BODY];
    if let Some(front) = body.first_chunk_mut() {
        *front = stamp.to_le_bytes();
    }
    body
}

/// The stamp of a body.
pub(super) fn stamp_of(body: &[u8]) -> u64 {
    body.first_chunk().map_or(0, |front| u64::from_le_bytes(*front))
}

/// One account after another, in an order that does not favour neighbours.
pub(super) fn account(step: u64) -> u64 {
    step.wrapping_mul(7_919) % ACCOUNTS
}

/// What a business transaction sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    /// Nothing.
    Nothing,
    /// The row that an outbox would have inserted, inserted by a statement that stays prepared: no
    /// outbox in this table can cost less.
    Bare,
    /// A message, through the outbox.
    Message,
    /// A message, through an outbox that is connected directly.
    Directly,
    /// A message, by a transaction of the outbox.
    Closure,
}

/// A database with the tables of the business, and an outbox.
pub(super) trait Business: Clone + marker::Send + Sync + 'static {
    /// One business transaction; what it sends has its number as the stamp.
    fn perform(
        &self,
        step: u64,
        send: Send,
    ) -> impl Future<Output = Result<(), Failed>> + marker::Send;

    /// Empties the outbox, without anything that the database has to do for it later.
    fn clear(&self) -> impl Future<Output = Result<(), Failed>> + marker::Send;

    /// Transactions a second of `clients` that perform without pause for `slice`.
    fn rate(
        &self,
        clients: u64,
        slice: Duration,
        send: Send,
    ) -> impl Future<Output = Result<f64, Failed>> + marker::Send {
        let steps = Arc::new(AtomicU64::new(0));
        async move {
            let start = clock::now();
            let mut crew: JoinSet<Result<(), Failed>> = JoinSet::new();
            for _ in 0..clients {
                let (this, steps) = (self.clone(), Arc::clone(&steps));
                crew.spawn(async move {
                    while start.elapsed() < slice {
                        let step = steps.fetch_add(1, Ordering::Relaxed);
                        this.perform(step, send).await?;
                    }
                    Ok(())
                });
            }
            while let Some(done) = crew.join_next().await {
                done??;
            }
            Ok(steps.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
        }
    }
}

/// The business on one kind of database: the statements differ in their placeholders only.
macro_rules! business {
    ($name:ident, $driver:ident, $db:ty, $pool:ty, $direct:expr, $begin:expr, $update:literal, $insert:literal, $bare:literal, $clear:literal) => {
        #[doc = concat!("The business on ", stringify!($driver), ".")]
        #[derive(Clone)]
        pub(super) struct $name {
            pub(super) pool: $pool,
            pub(super) outbox: posthouse_outbox_sqlx::$driver::Outbox,
            direct: posthouse_outbox_sqlx::$driver::Outbox,
        }

        impl $name {
            /// Makes the tables of business and outbox.
            pub(super) async fn set_up(pool: $pool) -> Result<Self, Failed> {
                for statement in [
                    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)",
                    "CREATE TABLE purchase (account BIGINT NOT NULL, amount BIGINT NOT NULL)",
                ] {
                    sqlx::query(statement).execute(&pool).await?;
                }
                let mut tx = pool.begin().await?;
                for id in 0..ACCOUNTS {
                    let id = i64::try_from(id)?;
                    let insert =
                        concat!("INSERT INTO account (id, balance) VALUES (", $insert, ")");
                    sqlx::query(insert).bind(id).bind(0_i64).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                let outbox = posthouse_outbox_sqlx::$driver::Outbox::new(pool.clone());
                outbox.install().await?;
                let direct = $direct(outbox.clone());
                Ok(Self { pool, outbox, direct })
            }

            /// What a transaction is about.
            async fn work(tx: &mut sqlx::Transaction<'_, $db>, id: i64) -> Result<(), Error> {
                let update =
                    concat!("UPDATE account SET balance = balance + 1 WHERE id = ", $update);
                sqlx::query(update).bind(id).execute(&mut **tx).await?;
                let insert =
                    concat!("INSERT INTO purchase (account, amount) VALUES (", $insert, ")");
                sqlx::query(insert).bind(id).bind(1_i64).execute(&mut **tx).await?;
                Ok(())
            }
        }

        impl Business for $name {
            async fn perform(&self, step: u64, send: Send) -> Result<(), Failed> {
                let account = account(step);
                let id = i64::try_from(account)?;
                if send == Send::Closure {
                    let message = message(account, step).to(TOPIC);
                    let work = async |tx: &mut sqlx::Transaction<'_, $db>| Self::work(tx, id).await;
                    return Ok(self.outbox.send_with_transaction(message, work).await?);
                }
                let mut tx = self.pool.begin_with($begin).await?;
                Self::work(&mut tx, id).await?;
                let bell = match send {
                    Send::Nothing => None,
                    Send::Bare => {
                        let now = i64::try_from(step)?;
                        let id = u128::from(step).to_be_bytes().to_vec();
                        let body = vec![b'x'; BODY];
                        let query = sqlx::query($bare).bind(id).bind(TOPIC);
                        let query = query.bind(account.to_le_bytes().to_vec()).bind("").bind(body);
                        query.bind(0_i64).bind(now).execute(&mut *tx).await?;
                        None
                    }
                    Send::Message => {
                        let message = message(account, step).to(TOPIC);
                        Some(self.outbox.enqueue(&mut tx, message).await?)
                    }
                    Send::Directly => {
                        let message = message(account, step).to(TOPIC);
                        Some(self.direct.enqueue(&mut tx, message).await?)
                    }
                    Send::Closure => None,
                };
                tx.commit().await?;
                if let Some(bell) = bell {
                    bell.ring();
                }
                Ok(())
            }

            async fn clear(&self) -> Result<(), Failed> {
                sqlx::query($clear).execute(&self.pool).await?;
                Ok(())
            }
        }
    };
}

business!(
    OnSqlite,
    sqlite,
    sqlx::Sqlite,
    sqlx::SqlitePool,
    |outbox| outbox,
    "BEGIN IMMEDIATE",
    "?",
    "?, ?",
    "INSERT INTO posthouse_outbox (message_id, topic, message_key, headers, body, due_at, created_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?)",
    "DELETE FROM posthouse_outbox"
);
business!(
    OnPostgres,
    postgres,
    sqlx::Postgres,
    sqlx::PgPool,
    posthouse_outbox_sqlx::postgres::Outbox::connects_directly,
    "BEGIN",
    "$1",
    "$1, $2",
    "INSERT INTO posthouse_outbox (message_id, topic, message_key, headers, body, due_at, created_at) \
     VALUES (encode($1, 'hex')::uuid, $2, $3, $4, $5, $6, $7)",
    "TRUNCATE posthouse_outbox"
);
business!(
    OnMariadb,
    mysql,
    sqlx::MySql,
    sqlx::MySqlPool,
    |outbox| outbox,
    "START TRANSACTION",
    "?",
    "?, ?",
    "INSERT INTO posthouse_outbox (message_id, topic, message_key, headers, body, due_at, created_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?)",
    "TRUNCATE posthouse_outbox"
);
