//! The trial's business on the databases that sqlx reaches.

use crate::Failure;
use crate::database::{Database, Handling, Outcome, Relaying};
use crate::op::{KEYS, Op, POISON_KEYS, Plan, Style};
use posthouse_client::failpoint::{amid, failpoint};
use posthouse_client::outbox::{RelayHandle, RowId};
use posthouse_client::{Client, Consumer, Message, Reader, Record};
use posthouse_outbox_sqlx::Error;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, raw_sql};
use std::future::Future;
use std::time::Duration;

mod postgres {
    pub(super) use posthouse_outbox_sqlx::postgres::{Inbox, Outbox};
    pub(super) type Pool = sqlx::PgPool;
    pub(super) type Tx<'c> = sqlx::Transaction<'c, sqlx::Postgres>;
}

mod mysql {
    pub(super) use posthouse_outbox_sqlx::mysql::{Inbox, Outbox};
    pub(super) type Pool = sqlx::MySqlPool;
    pub(super) type Tx<'c> = sqlx::Transaction<'c, sqlx::MySql>;
}

mod sqlite {
    pub(super) use posthouse_outbox_sqlx::sqlite::{Inbox, Outbox};
    pub(super) type Pool = sqlx::SqlitePool;
    pub(super) type Tx<'c> = sqlx::Transaction<'c, sqlx::Sqlite>;
}

/// Connections of one process.
const CONNECTIONS: u32 = 10;
/// How long an operation waits for a connection, or for a lock of SQLite.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether connections to SQLite do not wait until their commits are on disk.
pub(crate) fn is_hasty() -> bool {
    std::env::var_os("POSTHOUSE_TRIAL_HASTY").is_some()
}

/// The inbox of every consumer.
pub(crate) const INBOX: &str = "billing";
/// The name of every reader of streams.
pub(crate) const VIEW: &str = "view";
/// Rows parked that are looked at.
pub(crate) const PARKED_MAX: u32 = 10_000;

/// Every so many operations send a message that is longer than what is written into an insert's text.
const LONG: i64 = 2;
/// Bytes that make it so.
const LONG_BYTES: usize = 20 << 10;

/// The message of an operation.
pub(crate) fn message(op: &Op) -> posthouse_client::Outgoing {
    let padding = if op.id % LONG == 0 { LONG_BYTES } else { 0 };
    Message::new(op.to_string())
        .key(op.message_key())
        .header("era", op.era.to_string())
        .header("padding", " ".repeat(padding))
        .to(op.topic())
}

/// The numbers that the tables' keys have.
pub(crate) fn keys() -> impl Iterator<Item = i64> {
    0..(KEYS + POISON_KEYS).cast_signed()
}

fn op((id, key, version, era): (i64, i64, i64, i64)) -> Op {
    Op { id, key, version, era }
}

/// How an operation in a closure ended, which fails like this if it changes its mind.
fn ended(done: sqlx::Result<()>) -> Result<Outcome, Failure> {
    match done {
        Ok(()) => {
            failpoint("app.after-commit");
            Ok(Outcome::Committed)
        }
        Err(sqlx::Error::RowNotFound) => Ok(Outcome::RolledBack),
        Err(error) => Err(error.into()),
    }
}

macro_rules! database {
    ($(#[$docs:meta])* $name:ident, $module:ident, $pool:expr, identity: $identity:literal, ignore: $ignore:literal) => {
        $(#[$docs])*
        #[derive(Clone, Debug)]
        pub struct $name {
            pool: $module::Pool,
            outbox: $module::Outbox,
        }

        impl $name {
            async fn sql(&self, sql: String) -> Result<(), Failure> {
                raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await?;
                Ok(())
            }

            /// Locks the key by raising its version, and notes the operation.
            async fn work(tx: &mut $module::Tx<'_>, plan: &Plan) -> Result<Op, sqlx::Error> {
                let key = plan.key;
                let raise = format!("UPDATE trial_key SET version = version + 1 WHERE op_key = {key}");
                sqlx::query(AssertSqlSafe(raise)).execute(&mut **tx).await?;
                let read = format!("SELECT version FROM trial_key WHERE op_key = {key}");
                let (version,): (i64,) =
                    sqlx::query_as(AssertSqlSafe(read)).fetch_one(&mut **tx).await?;
                let op = Op { id: plan.id, key, version, era: plan.era };
                Self::done(tx, "trial_op", &op).await?;
                Ok(op)
            }

            /// Notes an operation as done.
            async fn done(tx: &mut $module::Tx<'_>, table: &str, op: &Op) -> Result<(), sqlx::Error> {
                let note = format!(
                    "INSERT INTO {table} (op_id, op_key, version, era) VALUES ({}, {}, {}, {})",
                    op.id, op.key, op.version, op.era
                );
                sqlx::query(AssertSqlSafe(note)).execute(&mut **tx).await?;
                Ok(())
            }

            async fn ops(&self, table: &str) -> Result<Vec<Op>, Failure> {
                let all = format!("SELECT op_id, op_key, version, era FROM {table}");
                let ops = sqlx::query_as(AssertSqlSafe(all)).fetch_all(&self.pool).await?;
                Ok(ops.into_iter().map(op).collect())
            }

            /// As a trigger or another language would do it.
            async fn insert(tx: &mut $module::Tx<'_>, op: &Op) -> Result<(), sqlx::Error> {
                let row = format!(
                    "INSERT INTO posthouse_outbox (topic, message_key, body) VALUES ('{}', '{}', '{op}')",
                    op.topic(),
                    op.message_key(),
                );
                sqlx::query(AssertSqlSafe(row)).execute(&mut **tx).await?;
                Ok(())
            }

            /// With a transaction of one's own.
            async fn operate_by_hand(&self, plan: &Plan) -> Result<Outcome, Failure> {
                let mut tx = self.pool.begin().await?;
                let op = Self::work(&mut tx, plan).await?;
                let bell = match plan.style {
                    Style::Insert => {
                        Self::insert(&mut tx, &op).await?;
                        None
                    }
                    Style::Enqueue | Style::Transaction | Style::Send => {
                        Some(self.outbox.enqueue(&mut tx, message(&op)).await?)
                    }
                };
                tokio::time::sleep(plan.hold).await;
                if plan.rolls_back {
                    tx.rollback().await?;
                    return Ok(Outcome::RolledBack);
                }
                failpoint("app.before-commit");
                amid(Some("app.in-commit"), tx.commit()).await?;
                failpoint("app.after-commit");
                if let Some(bell) = bell {
                    bell.ring();
                }
                Ok(Outcome::Committed)
            }

            /// With a closure.
            async fn operate_in_closure(&self, plan: &Plan) -> Result<Outcome, Failure> {
                let plan = *plan;
                let done = self.outbox.transaction(async move |tx, out| {
                    let op = Self::work(tx, &plan).await?;
                    out.send(message(&op));
                    tokio::time::sleep(plan.hold).await;
                    if plan.rolls_back {
                        return Err(sqlx::Error::RowNotFound);
                    }
                    Ok(())
                });
                ended(done.await)
            }

            /// With a message that is known before, and so the version; whoever is not the first to
            /// raise it from there changes its mind.
            async fn operate_and_send(&self, plan: &Plan) -> Result<Outcome, Failure> {
                let (plan, key) = (*plan, plan.key);
                let read = format!("SELECT version FROM trial_key WHERE op_key = {key}");
                let (version,): (i64,) =
                    sqlx::query_as(AssertSqlSafe(read)).fetch_one(&self.pool).await?;
                let op = Op { id: plan.id, key, version: version + 1, era: plan.era };
                let done = self.outbox.send_with_transaction(message(&op), async move |tx| {
                    let raise = format!("UPDATE trial_key SET version = version + 1 WHERE op_key = {key} AND version = {version}");
                    let raised = sqlx::query(AssertSqlSafe(raise)).execute(&mut **tx).await?;
                    Self::done(tx, "trial_op", &op).await?;
                    tokio::time::sleep(plan.hold).await;
                    if plan.rolls_back || raised.rows_affected() == 0 {
                        return Err(sqlx::Error::RowNotFound);
                    }
                    Ok(())
                });
                ended(done.await)
            }
        }

        impl Database for $name {
            fn new(url: &str) -> Result<Self, Failure> {
                let pool = $pool(url)?;
                Ok(Self { outbox: $module::Outbox::new(pool.clone()), pool })
            }

            async fn install_sender(&self) -> Result<(), Failure> {
                self.sql("CREATE TABLE IF NOT EXISTS trial_key (op_key BIGINT PRIMARY KEY, version BIGINT NOT NULL)".to_owned()).await?;
                self.sql("CREATE TABLE IF NOT EXISTS trial_op (op_id BIGINT PRIMARY KEY, op_key BIGINT NOT NULL, version BIGINT NOT NULL, era BIGINT NOT NULL)".to_owned()).await?;
                for key in keys() {
                    self.sql(format!($ignore, key)).await?;
                }
                self.outbox.install().await?;
                Ok(())
            }

            async fn install_receiver(&self) -> Result<(), Failure> {
                for table in ["trial_effect", "trial_view"] {
                    self.sql(format!("CREATE TABLE IF NOT EXISTS {table} (place {}, op_id BIGINT NOT NULL, op_key BIGINT NOT NULL, version BIGINT NOT NULL, era BIGINT NOT NULL)", $identity)).await?;
                }
                $module::Inbox::new(self.pool.clone(), INBOX).install().await?;
                Ok(())
            }

            async fn operate(&self, plan: &Plan) -> Result<Outcome, Failure> {
                match plan.style {
                    Style::Enqueue | Style::Insert => self.operate_by_hand(plan).await,
                    Style::Transaction => self.operate_in_closure(plan).await,
                    Style::Send => self.operate_and_send(plan).await,
                }
            }

            fn relay(&self, client: &Client, how: &Relaying) -> RelayHandle {
                how.configure(self.outbox.relay(client)).spawn()
            }

            async fn consume(
                &self,
                consumer: Consumer,
                how: Handling,
                shutdown: impl Future<Output = ()> + Send + 'static,
            ) -> Result<(), Failure> {
                let inbox = $module::Inbox::new(self.pool.clone(), INBOX);
                let run = inbox.run(consumer, how.concurrency, async move |tx, delivery| {
                    let op: Op = how.read(delivery.body())?;
                    Self::done(tx, "trial_effect", &op).await?;
                    (how.holding)(&op);
                    tokio::time::sleep(how.hold).await;
                    Ok::<_, Failure>(())
                });
                run.until(shutdown).await?;
                Ok(())
            }

            async fn view(&self, reader: Reader, how: Handling) -> Result<(), Failure> {
                let inbox = $module::Inbox::new(self.pool.clone(), VIEW);
                let reading = inbox.run_stream(reader, async move |tx, records: &[Record]| {
                    for record in records {
                        let op: Op = how.read(record.body())?;
                        Self::done(tx, "trial_view", &op).await?;
                        (how.holding)(&op);
                    }
                    tokio::time::sleep(how.hold).await;
                    Ok::<_, Failure>(())
                });
                let read = reading.await;
                let error = read.as_ref().err().and_then(|error| error.downcast_ref());
                if matches!(error, Some(Error::Overtaken)) { Ok(()) } else { read }
            }

            async fn committed(&self) -> Result<Vec<Op>, Failure> {
                self.ops("trial_op ORDER BY op_id").await
            }

            async fn effects(&self) -> Result<Vec<Op>, Failure> {
                self.ops("trial_effect ORDER BY place").await
            }

            async fn viewed(&self) -> Result<Vec<Op>, Failure> {
                self.ops("trial_view ORDER BY place").await
            }

            async fn forget_view(&self) -> Result<(), Failure> {
                self.sql("DELETE FROM trial_view".to_owned()).await?;
                self.sql(format!("DELETE FROM posthouse_stream_cursor WHERE consumer = '{VIEW}'")).await
            }

            async fn waiting(&self) -> Result<(u64, u64), Failure> {
                let lag = self.outbox.lag().await?;
                Ok((lag.rows, lag.parked))
            }

            async fn redrive(&self) -> Result<u64, Failure> {
                let parked = self.outbox.parked(RowId(0), PARKED_MAX).await?;
                let ids: Vec<RowId> = parked.iter().map(|parked| parked.id).collect();
                Ok(self.outbox.redrive(&ids).await?)
            }
        }
    };
}

database! {
    /// PostgreSQL via sqlx.
    Postgres, postgres, postgres_pool,
    identity: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ignore: "INSERT INTO trial_key VALUES ({}, 0) ON CONFLICT DO NOTHING"
}

database! {
    /// MariaDB via sqlx.
    MariaDb, mysql, mysql_pool,
    identity: "BIGINT AUTO_INCREMENT PRIMARY KEY",
    ignore: "INSERT IGNORE INTO trial_key VALUES ({}, 0)"
}

database! {
    /// SQLite via sqlx.
    Sqlite, sqlite, sqlite_pool,
    identity: "INTEGER PRIMARY KEY AUTOINCREMENT",
    ignore: "INSERT OR IGNORE INTO trial_key VALUES ({}, 0)"
}

fn postgres_pool(url: &str) -> Result<postgres::Pool, Failure> {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
    Ok(options.connect_lazy(url)?)
}

fn mysql_pool(url: &str) -> Result<mysql::Pool, Failure> {
    let options = MySqlPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
    Ok(options.connect_lazy(url)?)
}

fn sqlite_pool(path: &str) -> Result<sqlite::Pool, Failure> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(PATIENCE);
    let options = options.synchronous(match is_hasty() {
        true => SqliteSynchronous::Normal,
        false => SqliteSynchronous::Full,
    });
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
    Ok(pool.connect_lazy_with(options))
}
