//! The trial's business on SQLite by way of rusqlite.

use crate::Failure;
use crate::by_sqlx::{INBOX, PARKED_MAX, PATIENCE, VIEW, is_hasty, keys, message};
use crate::database::{Database, Handling, Outcome, Relaying};
use crate::op::{Op, Plan, Style};
use posthouse_client::failpoint::{during, failpoint};
use posthouse_client::outbox::{RelayHandle, RowId};
use posthouse_client::{Client, Consumer, Delivery, Reader, Record};
use posthouse_outbox_rusqlite::{Error, ErrorKind, Inbox, Outbox};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// SQLite via rusqlite.
#[derive(Clone, Debug)]
pub struct Rusqlite {
    path: PathBuf,
    outbox: Outbox,
}

impl Rusqlite {
    fn open(&self) -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        let synchronous = if is_hasty() { "normal" } else { "full" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        Ok(connection)
    }

    fn work(tx: &Transaction<'_>, plan: &Plan) -> Result<Op, rusqlite::Error> {
        tx.execute("UPDATE trial_key SET version = version + 1 WHERE op_key = ?1", [plan.key])?;
        let read = "SELECT version FROM trial_key WHERE op_key = ?1";
        let version = tx.query_row(read, [plan.key], |row| row.get(0))?;
        let op = Op { id: plan.id, key: plan.key, version, era: plan.era };
        Self::done(tx, "trial_op", &op)?;
        Ok(op)
    }

    /// Notes an operation as done.
    fn done(tx: &Transaction<'_>, table: &str, op: &Op) -> Result<(), rusqlite::Error> {
        let note =
            format!("INSERT INTO {table} (op_id, op_key, version, era) VALUES (?1, ?2, ?3, ?4)");
        tx.execute(&note, (op.id, op.key, op.version, op.era)).map(|_| ())
    }

    fn operate_by_hand(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let mut connection = self.open()?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let op = Self::work(&tx, plan)?;
        let bell = match plan.style {
            Style::Insert => {
                // As a trigger or another language would do it.
                let row =
                    "INSERT INTO posthouse_outbox (topic, message_key, body) VALUES (?1, ?2, ?3)";
                tx.execute(row, (op.topic(), op.message_key(), op.to_string()))?;
                None
            }
            Style::Enqueue | Style::Transaction | Style::Send => {
                Some(self.outbox.enqueue(&tx, message(&op))?)
            }
        };
        if plan.rolls_back {
            tx.rollback()?;
            return Ok(Outcome::RolledBack);
        }
        failpoint("app.before-commit");
        during("app.in-commit", || tx.commit())?;
        failpoint("app.after-commit");
        if let Some(bell) = bell {
            bell.ring();
        }
        Ok(Outcome::Committed)
    }

    fn operate_in_closure(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let mut connection = self.open()?;
        let done = self.outbox.transaction(&mut connection, |tx, out| {
            let op = Self::work(tx, plan)?;
            out.send(message(&op));
            if plan.rolls_back {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok(())
        });
        ended(done)
    }

    /// With a message that is known before, and so the version; whoever is not the first to raise it
    /// from there changes its mind.
    fn operate_and_send(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let mut connection = self.open()?;
        let read = "SELECT version FROM trial_key WHERE op_key = ?1";
        let version: i64 = connection.query_row(read, [plan.key], |row| row.get(0))?;
        let op = Op { id: plan.id, key: plan.key, version: version + 1, era: plan.era };
        let done = self.outbox.send_with_transaction(&mut connection, message(&op), |tx| {
            let raise =
                "UPDATE trial_key SET version = version + 1 WHERE op_key = ?1 AND version = ?2";
            let raised = tx.execute(raise, [plan.key, version])?;
            Self::done(tx, "trial_op", &op)?;
            if plan.rolls_back || raised == 0 {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok(())
        });
        ended(done)
    }

    fn ops(&self, table: &str) -> Result<Vec<Op>, Failure> {
        let connection = self.open()?;
        let all = format!("SELECT op_id, op_key, version, era FROM {table}");
        let mut statement = connection.prepare(&all)?;
        let rows = statement.query_map([], |row| {
            Ok(Op { id: row.get(0)?, key: row.get(1)?, version: row.get(2)?, era: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await?
    }
}

impl Database for Rusqlite {
    fn new(path: &str) -> Result<Self, Failure> {
        Ok(Self { outbox: Outbox::new(path), path: path.into() })
    }

    async fn install_sender(&self) -> Result<(), Failure> {
        self.blocking(|this| {
            let connection = this.open()?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS trial_key (op_key INTEGER PRIMARY KEY, version INTEGER NOT NULL);
                 CREATE TABLE IF NOT EXISTS trial_op (op_id INTEGER PRIMARY KEY, op_key INTEGER NOT NULL, version INTEGER NOT NULL, era INTEGER NOT NULL);",
            )?;
            for key in keys() {
                connection.execute("INSERT OR IGNORE INTO trial_key VALUES (?1, 0)", [key])?;
            }
            this.outbox.install()?;
            Ok(())
        })
        .await
    }

    async fn install_receiver(&self) -> Result<(), Failure> {
        self.blocking(|this| {
            for table in ["trial_effect", "trial_view"] {
                this.open()?.execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS {table} (place INTEGER PRIMARY KEY AUTOINCREMENT, op_id INTEGER NOT NULL, op_key INTEGER NOT NULL, version INTEGER NOT NULL, era INTEGER NOT NULL);",
                ))?;
            }
            Inbox::new(&this.path, INBOX).install()?;
            Ok(())
        })
        .await
    }

    async fn operate(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let plan = *plan;
        self.blocking(move |this| match plan.style {
            Style::Enqueue | Style::Insert => this.operate_by_hand(&plan),
            Style::Transaction => this.operate_in_closure(&plan),
            Style::Send => this.operate_and_send(&plan),
        })
        .await
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
        let concurrency = how.concurrency;
        let handler = move |tx: &Transaction<'_>, delivery: &Delivery| {
            let op = how.read(delivery.body())?;
            Self::done(tx, "trial_effect", &op)?;
            (how.holding)(&op);
            hold(how.hold);
            Ok::<_, Failure>(())
        };
        let inbox = Inbox::new(&self.path, INBOX);
        inbox.run(consumer, concurrency, handler).until(shutdown).await?;
        Ok(())
    }

    async fn view(&self, reader: Reader, how: Handling) -> Result<(), Failure> {
        let handler = move |tx: &Transaction<'_>, records: &[Record]| {
            for record in records {
                let op = how.read(record.body())?;
                Self::done(tx, "trial_view", &op)?;
                (how.holding)(&op);
            }
            hold(how.hold);
            Ok::<_, Failure>(())
        };
        let read = Inbox::new(&self.path, VIEW).run_stream(reader, handler).await;
        let error = read.as_ref().err().and_then(|error| error.downcast_ref::<Error>());
        let is_overtaken = error.is_some_and(|error| error.kind() == ErrorKind::Overtaken);
        if is_overtaken { Ok(()) } else { read }
    }

    async fn committed(&self) -> Result<Vec<Op>, Failure> {
        self.blocking(|this| this.ops("trial_op ORDER BY op_id")).await
    }

    async fn effects(&self) -> Result<Vec<Op>, Failure> {
        self.blocking(|this| this.ops("trial_effect ORDER BY place")).await
    }

    async fn viewed(&self) -> Result<Vec<Op>, Failure> {
        self.blocking(|this| this.ops("trial_view ORDER BY place")).await
    }

    async fn forget_view(&self) -> Result<(), Failure> {
        self.blocking(|this| {
            let forget = format!(
                "BEGIN; DELETE FROM trial_view; \
                 DELETE FROM posthouse_stream_cursor WHERE consumer = '{VIEW}'; COMMIT"
            );
            Ok(this.open()?.execute_batch(&forget)?)
        })
        .await
    }

    async fn waiting(&self) -> Result<(u64, u64), Failure> {
        let lag = self.blocking(|this| Ok(this.outbox.lag()?)).await?;
        Ok((lag.rows, lag.parked))
    }

    async fn redrive(&self) -> Result<u64, Failure> {
        self.blocking(|this| {
            let parked = this.outbox.parked(RowId(0), PARKED_MAX)?;
            let ids: Vec<RowId> = parked.iter().map(|parked| parked.id).collect();
            Ok(this.outbox.redrive(&ids)?)
        })
        .await
    }
}

/// How an operation in a closure ended, which fails like this if it changes its mind.
fn ended(done: rusqlite::Result<()>) -> Result<Outcome, Failure> {
    match done {
        Ok(()) => {
            failpoint("app.after-commit");
            Ok(Outcome::Committed)
        }
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Outcome::RolledBack),
        Err(error) => Err(error.into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a slow handler; it has a thread of its own")]
fn hold(time: Duration) {
    std::thread::sleep(time);
}
