//! `posthouse-trial app`: an application that changes its database and sends messages with it.

use super::{Interrupt, say};
use clap::Args;
use posthouse_trials::{
    Chance, Database, Driver, Failure, KEYS, Outcome, POISON_KEYS, Plan, Style, with_database,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long after a refusal of the database the next operation is tried.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// An application.
#[derive(Debug, Args)]
pub(crate) struct App {
    #[arg(long)]
    driver: Driver,
    /// The sender's database
    #[arg(long)]
    database: String,
    /// Operations to do, rolled back ones included; it ends after them
    #[arg(long)]
    operations: u64,
    /// Number of the first operation
    #[arg(long)]
    first: i64,
    /// Rises with each older state of the database
    #[arg(long)]
    era: i64,
    /// Which choices it makes
    #[arg(long)]
    seed: u64,
    /// Operations at the same time
    #[arg(long, default_value_t = 4)]
    concurrency: u64,
    /// Milliseconds between operations of one task
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// Percent of operations whose message no broker takes
    #[arg(long, default_value_t = 0)]
    poison: u64,
    /// Percent of operations that stay open for long after their message got its row
    #[arg(long, default_value_t = 8)]
    late: u64,
}

/// What its tasks share.
#[derive(Debug, Default)]
struct Tally {
    next: AtomicI64,
    committed: AtomicU64,
    rolled_back: AtomicU64,
    failed: AtomicU64,
}

impl App {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let driver = self.driver;
        let url = self.database.clone();
        with_database!(driver, &url, database => self.work(database).await)
    }

    async fn work<D: Database>(self, database: D) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Tally { next: AtomicI64::new(self.first), ..Tally::default() });
        let app = Arc::new(self);
        let mut tasks = JoinSet::new();
        for number in 0..app.concurrency {
            let chance = Chance::new(app.seed).fork(number);
            let (app, tally) = (Arc::clone(&app), Arc::clone(&tally));
            tasks.spawn(task(app, database.clone(), chance, tally, stopped.clone()));
        }
        say(format_args!("working"));
        loop {
            tokio::select! {
                () = interrupt.next() => drop(stop.send_replace(true)),
                done = tasks.join_next() => match done {
                    Some(done) => done?,
                    None => break,
                },
            }
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        say(format_args!(
            "done {} committed, {} rolled back, {} failed",
            of(&tally.committed),
            of(&tally.rolled_back),
            of(&tally.failed)
        ));
        Ok(())
    }

    fn plan(&self, chance: &mut Chance, id: i64) -> Plan {
        let key = match chance.percent(self.poison) {
            true => KEYS + chance.below(POISON_KEYS),
            false => chance.skewed(KEYS),
        };
        // One writer at a time is all that SQLite knows; there nobody commits late.
        let is_server = matches!(self.driver, Driver::Postgres | Driver::Mariadb);
        let hold = match is_server && chance.percent(self.late) {
            true => Duration::from_millis(20 + chance.below(150)),
            false => Duration::ZERO,
        };
        let style = match chance.below(6) {
            0 => Style::Insert,
            1 | 2 => Style::Transaction,
            3 => Style::Send,
            _ => Style::Enqueue,
        };
        let key = i64::try_from(key).unwrap_or(i64::MAX);
        Plan { id, key, era: self.era, style, rolls_back: chance.percent(30), hold }
    }
}

async fn task<D: Database>(
    app: Arc<App>,
    database: D,
    mut chance: Chance,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let id = tally.next.fetch_add(1, Ordering::Relaxed);
        if id.abs_diff(app.first) >= app.operations {
            return;
        }
        let plan = app.plan(&mut chance, id);
        let count = match database.operate(&plan).await {
            Ok(Outcome::Committed) => &tally.committed,
            Ok(Outcome::RolledBack) => &tally.rolled_back,
            Err(error) => {
                // Whether it was committed shows in the table.
                tracing::warn!(%error, id, "operation failed");
                tokio::time::sleep(AFTER_FAILURE).await;
                &tally.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(app.pace)).await;
    }
}
