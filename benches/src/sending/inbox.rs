//! What the inbox costs a consumer: the same handler in a transaction of its own that is acknowledged
//! after its commit, with a bare insert of the message's id in front, and run by the inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use posthouse_client::Client;
use tokio::sync::Notify;

use super::business::{OnMariadb, OnPostgres, OnSqlite, TOPIC, message, stamp_of};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::running::InProcess;
use crate::{clock, report};

/// Handlers at the same time.
const HANDLERS: usize = 16;
/// What is compared.
const KINDS: [Kind; 3] = [Kind::Without, Kind::Bare, Kind::Inbox];

/// How a message is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// In a transaction, which does not notice a message that it had before.
    Without,
    /// The inbox' row inserted by a statement that stays prepared, with nothing behind it that looks
    /// at the outcome: an inbox that begins a transaction for each message cannot cost less.
    Bare,
    /// By the inbox.
    Inbox,
}

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let place = dir.path().to_path_buf();
    let broker = tokio::task::spawn_blocking(move || InProcess::start(&place)).await??;
    let client =
        Client::builder().server(broker.address.to_string()).name("bench").connect().await?;
    client.admin().ensure_topic(TOPIC).await?;
    let (messages, rounds) =
        if options.common.smoke { (200, 1) } else { (options.rows.min(10_000), options.rounds) };
    report::line(format_args!(
        "tax of the inbox, {messages} messages, {HANDLERS} handlers, one update each, synced"
    ));
    report::line("database  msg/s without  bare insert    inbox   tax: bare  inbox");
    for database in &options.databases {
        let servers = Servers::start(*database, dir.path())?;
        let figures = match database {
            Database::Sqlite => {
                let business = OnSqlite::set_up(servers.sqlite().await?).await?;
                measure(&business, &client, messages, rounds).await?
            }
            Database::Postgres => {
                let business = OnPostgres::set_up(servers.postgres().await?).await?;
                measure(&business, &client, messages, rounds).await?
            }
            Database::Mariadb => {
                let business = OnMariadb::set_up(servers.mariadb().await?).await?;
                measure(&business, &client, messages, rounds).await?
            }
        };
        let middle = |figure: fn(&[f64; 3]) -> f64| report::median(figures.iter().map(figure));
        let [without, bare, with] =
            [middle(|rates| rates[0]), middle(|rates| rates[1]), middle(|rates| rates[2])];
        let [bare_tax, tax] =
            [middle(|rates| 1.0 - rates[1] / rates[0]), middle(|rates| 1.0 - rates[2] / rates[0])]
                .map(|tax| tax * 100.0);
        let name = database.to_string();
        report::line(format_args!(
            "{name:<10}{without:>13.0}{bare:>13.0}{with:>9.0}{bare_tax:>10.1} %{tax:>5.1} %"
        ));
        report::line(probe::typical(&[probe.read()?]));
    }
    client.close(Duration::from_secs(5)).await;
    tokio::task::spawn_blocking(move || broker.stop()).await??;
    Ok(())
}

async fn measure(
    handling: &impl Handling,
    client: &Client,
    messages: u64,
    rounds: usize,
) -> Result<Vec<[f64; 3]>, Failed> {
    let mut figures = Vec::new();
    for round in 0..rounds {
        let mut rates = [0.0; 3];
        // Who goes first changes, so that a drift of the machine favours nobody.
        for turn in 0..KINDS.len() {
            let kind = (round + turn) % KINDS.len();
            let (Some(how), Some(rate)) = (KINDS.get(kind), rates.get_mut(kind)) else { continue };
            fill(client, messages).await?;
            let took = handling.handle(client, messages, *how).await?;
            *rate = messages as f64 / took.as_secs_f64();
            client.admin().delete_subscription(TOPIC, "all").await?;
        }
        figures.push(rates);
    }
    Ok(figures)
}

/// A subscription with `messages` to handle.
async fn fill(client: &Client, messages: u64) -> Result<(), Failed> {
    client.admin().ensure_subscription(TOPIC, "all").await?;
    let publisher = client.publisher(TOPIC).await?;
    let mut last = None;
    for step in 0..messages {
        last = Some(publisher.submit(message(step, step)).await?);
    }
    if let Some(last) = last {
        last.await?;
    }
    Ok(())
}

/// Counts what is done and says when it is enough.
#[derive(Clone)]
struct Count {
    left: Arc<AtomicU64>,
    enough: Arc<Notify>,
}

impl Count {
    /// A counter, and what waits for `enough`.
    fn new(enough: u64) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (left, notify) = (Arc::new(AtomicU64::new(enough)), Arc::new(Notify::new()));
        let told = Arc::clone(&notify);
        (Self { left, enough: notify }, async move { told.notified().await })
    }

    fn add(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.enough.notify_one();
        }
    }
}

/// The handler on one kind of database, with and without the inbox.
trait Handling {
    async fn handle(&self, client: &Client, messages: u64, kind: Kind) -> Result<Duration, Failed>;
}

macro_rules! handling {
    ($name:ident, $driver:ident, $database:ty, $begin:literal, $update:literal, $bare:literal) => {
        impl Handling for $name {
            async fn handle(
                &self,
                client: &Client,
                messages: u64,
                kind: Kind,
            ) -> Result<Duration, Failed> {
                async fn bill(
                    tx: &mut sqlx::Transaction<'_, $database>,
                    stamp: u64,
                ) -> Result<(), sqlx::Error> {
                    let id = i64::try_from(super::business::account(stamp)).unwrap_or(0);
                    sqlx::query($update).bind(id).execute(&mut **tx).await.map(drop)
                }
                async fn note(
                    tx: &mut sqlx::Transaction<'_, $database>,
                    delivery: &posthouse_client::Delivery,
                ) -> Result<(), sqlx::Error> {
                    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                    let (fence, at) = (delivery.fence(), delivery.created_at());
                    let query = sqlx::query($bare).bind("bare").bind(delivery.id().0.to_vec());
                    let query = query.bind("bench.all").bind(number(delivery.offset().0));
                    let query = query.bind(i64::from(fence.epoch.0)).bind(number(fence.counter));
                    query.bind(number(at.0)).execute(&mut **tx).await.map(drop)
                }
                let inbox = posthouse_outbox_sqlx::$driver::Inbox::new(self.pool.clone(), "bench");
                inbox.install().await?;
                let consumer = client.consumer(TOPIC, "all").await?;
                let (count, enough) = Count::new(messages);
                let start = clock::now();
                if kind == Kind::Inbox {
                    let handler = async move |tx: &mut sqlx::Transaction<'_, $database>,
                                              delivery: &posthouse_client::Delivery|
                                -> Result<(), sqlx::Error> {
                        bill(tx, stamp_of(delivery.body())).await?;
                        count.add();
                        Ok(())
                    };
                    inbox.run(consumer, HANDLERS, handler).until(enough).await?;
                } else {
                    let pool = self.pool.clone();
                    let handler = move |delivery: Arc<posthouse_client::Delivery>| {
                        let (pool, count) = (pool.clone(), count.clone());
                        async move {
                            let mut tx = pool.begin_with($begin).await?;
                            if kind == Kind::Bare {
                                note(&mut tx, &delivery).await?;
                            }
                            bill(&mut tx, stamp_of(delivery.body())).await?;
                            tx.commit().await?;
                            count.add();
                            Ok::<(), sqlx::Error>(())
                        }
                    };
                    consumer.run(HANDLERS, handler).until(enough).await?;
                }
                Ok(start.elapsed())
            }
        }
    };
}

handling!(
    OnSqlite,
    sqlite,
    sqlx::Sqlite,
    "BEGIN IMMEDIATE",
    "UPDATE account SET balance = balance + 1 WHERE id = ?",
    "INSERT INTO posthouse_inbox (consumer, message_id, source, place, fence_epoch, fence_counter, \
     received_at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
);
handling!(
    OnPostgres,
    postgres,
    sqlx::Postgres,
    "BEGIN",
    "UPDATE account SET balance = balance + 1 WHERE id = $1",
    "INSERT INTO posthouse_inbox (consumer, message_id, source, place, fence_epoch, fence_counter, \
     received_at) VALUES ($1, encode($2, 'hex')::uuid, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
);
handling!(
    OnMariadb,
    mysql,
    sqlx::MySql,
    "START TRANSACTION",
    "UPDATE account SET balance = balance + 1 WHERE id = ?",
    "INSERT IGNORE INTO posthouse_inbox (consumer, message_id, source, place, fence_epoch, \
     fence_counter, received_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
);
