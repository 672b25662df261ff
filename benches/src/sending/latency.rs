//! From the commit of the sender's transaction to the consumer: alone, and with a writing and a
//! reading transaction held open beside it, which is what stops other relays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use posthouse_client::Client;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::JoinSet;

use super::business::{Business, OnPostgres, Send, TOPIC, account, stamp_of};
use super::rivals::{Method, Rival};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::running::InProcess;
use crate::{clock, report};

/// Tasks that write, so that one slow transaction does not delay the next message.
const WRITERS: u64 = 4;
/// How long a message may take before it counts as stalled.
const GRACE: Duration = Duration::from_secs(3);

/// A way from the sender's transaction to the broker.
#[derive(Clone)]
enum Way {
    /// Ours; whether the relay runs in the sender's process and hears its bell.
    Ours { business: OnPostgres, rings: bool },
    /// Another relay.
    Rival(OnPostgres, Rival),
}

/// Which one, before its tables are made.
#[derive(Clone, Copy)]
enum Kind {
    Bell,
    Polling,
    Rival(Method),
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Bell, "posthouse relay, in process"),
    (Kind::Polling, "posthouse relay, polling only"),
    (Kind::Rival(Method::SkipLocked), "SKIP LOCKED relay"),
    (Kind::Rival(Method::XminFrontier), "xmin frontier relay"),
];

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    if !options.databases.contains(&Database::Postgres) {
        return Err("outbox-latency runs on PostgreSQL only".into());
    }
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let (rate, seconds) =
        if options.common.smoke { (50, 1) } else { (options.rate, options.seconds) };
    report::line(format_args!(
        "commit to consumer on PostgreSQL, synced, {rate} messages/s for {seconds} s; ms"
    ));
    report::line(
        "                               p50      p99    p99.9  stalled | held:  p50      p99    p99.9  stalled   x p99",
    );
    for (kind, name) in KINDS {
        let free = one(kind, dir.path(), rate, seconds, false).await?;
        let held = one(kind, dir.path(), rate, seconds, true).await?;
        let ratio = held.p99 as f64 / free.p99.max(1) as f64;
        report::line(format_args!("{name:<28}{free} |      {held}{ratio:>8.2}"));
        report::line(probe::typical(&[probe.read()?]));
    }
    Ok(())
}

/// What was measured, in nanoseconds.
struct Latencies {
    p50: u64,
    p99: u64,
    p999: u64,
    stalled: u64,
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let Self { p50, p99, p999, stalled } = self;
        let (p50, p99, p999) = (millis(*p50), millis(*p99), millis(*p999));
        write!(f, "{p50:>8.2} {p99:>8.2} {p999:>8.2} {stalled:>8}")
    }
}

async fn one(
    kind: Kind,
    dir: &std::path::Path,
    rate: u64,
    seconds: u64,
    held: bool,
) -> Result<Latencies, Failed> {
    let place = tempfile::tempdir_in(dir)?;
    let path = place.path().to_path_buf();
    let broker = tokio::task::spawn_blocking(move || InProcess::start(&path)).await??;
    let servers = Servers::start(Database::Postgres, place.path())?;
    let business = OnPostgres::set_up(servers.postgres().await?).await?;
    let client =
        Client::builder().server(broker.address.to_string()).name("bench").connect().await?;
    client.admin().ensure_topic(TOPIC).await?;
    client.admin().ensure_subscription(TOPIC, "all").await?;
    let pool = business.pool.clone();
    let holders = if held { Some(hold(&pool).await?) } else { None };
    let (way, mut relay) = start(kind, business, &client).await?;
    let latencies = measure(&way, &client, rate, rate * seconds).await?;
    relay.abort_all();
    if let Some((writer, reader)) = holders {
        writer.rollback().await?;
        reader.rollback().await?;
    }
    client.close(Duration::from_secs(5)).await;
    tokio::task::spawn_blocking(move || broker.stop()).await??;
    Ok(latencies)
}

/// Opens a transaction that has written and one that has read, and leaves them idle.
async fn hold(
    pool: &PgPool,
) -> Result<(Transaction<'static, Postgres>, Transaction<'static, Postgres>), Failed> {
    sqlx::query("CREATE TABLE held (n bigint)").execute(pool).await?;
    let mut writer = pool.begin().await?;
    sqlx::query("INSERT INTO held VALUES (1)").execute(&mut *writer).await?;
    let mut reader = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    sqlx::query("SELECT count(*) FROM account").execute(&mut *reader).await?;
    Ok((writer, reader))
}

async fn start(
    kind: Kind,
    business: OnPostgres,
    client: &Client,
) -> Result<(Way, JoinSet<Result<(), Failed>>), Failed> {
    let mut relay = JoinSet::new();
    let way = match kind {
        Kind::Bell | Kind::Polling => {
            let handle = business.outbox.relay(client).spawn();
            relay.spawn(async move {
                // Stopped with the task.
                let _handle = handle;
                std::future::pending().await
            });
            Way::Ours { business, rings: matches!(kind, Kind::Bell) }
        }
        Kind::Rival(method) => {
            let rival = Rival::set_up(method, business.pool.clone()).await?;
            relay.spawn(rival.clone().relay(client.clone()));
            Way::Rival(business, rival)
        }
    };
    Ok((way, relay))
}

impl Way {
    /// One business transaction with its message.
    async fn send(&self, step: u64) -> Result<Instant, Failed> {
        match self {
            Self::Ours { business, rings: true } => {
                business.perform(step, Send::Message).await?;
                Ok(clock::now())
            }
            Self::Ours { business, rings: false } => {
                let mut tx = business.pool.begin().await?;
                update(&mut tx, step).await?;
                let message = super::business::message(account(step), step).to(TOPIC);
                // Not rung: the relay has to find the row by itself.
                let _bell = business.outbox.enqueue(&mut tx, message).await?;
                tx.commit().await?;
                Ok(clock::now())
            }
            Self::Rival(business, rival) => {
                let mut tx = business.pool.begin().await?;
                update(&mut tx, step).await?;
                Rival::enqueue(&mut tx, account(step), step).await?;
                tx.commit().await?;
                let done = clock::now();
                rival.ring();
                Ok(done)
            }
        }
    }
}

async fn update(tx: &mut Transaction<'_, Postgres>, step: u64) -> Result<(), Failed> {
    let id = i64::try_from(account(step))?;
    let update = "UPDATE account SET balance = balance + 1 WHERE id = $1";
    sqlx::query(update).bind(id).execute(&mut **tx).await?;
    let insert = "INSERT INTO purchase (account, amount) VALUES ($1, $2)";
    sqlx::query(insert).bind(id).bind(1_i64).execute(&mut **tx).await?;
    Ok(())
}

/// Sends `count` messages on schedule and takes them.
async fn measure(way: &Way, client: &Client, rate: u64, count: u64) -> Result<Latencies, Failed> {
    let start = clock::now();
    let since = move |at: Instant| clock::nanos(at.duration_since(start)).max(1);
    let committed: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers: JoinSet<Result<(), Failed>> = JoinSet::new();
    for writer in 0..WRITERS {
        let (way, committed) = (way.clone(), Arc::clone(&committed));
        writers.spawn(async move {
            for step in (0..count).filter(|step| step % WRITERS == writer) {
                let due = start + Duration::from_nanos(step * 1_000_000_000 / rate);
                tokio::time::sleep_until(due.into()).await;
                let done = way.send(step).await?;
                if let Some(slot) = committed.get(usize::try_from(step)?) {
                    slot.store(since(done), Ordering::Release);
                }
            }
            Ok(())
        });
    }
    let mut consumer = client.consumer(TOPIC, "all").await?;
    let taking = Arc::clone(&is_over);
    let mut taker = JoinSet::new();
    taker.spawn(async move {
        let mut arrivals = Vec::new();
        while !taking.load(Ordering::Acquire) && arrivals.len() as u64 != count {
            let next = tokio::time::timeout(Duration::from_millis(100), consumer.next());
            let Ok(Some(delivery)) = next.await else { continue };
            let Ok(delivery) = delivery else { break };
            arrivals.push((stamp_of(delivery.body()), since(clock::now())));
            delivery.ack();
        }
        arrivals
    });
    while let Some(done) = writers.join_next().await {
        done??;
    }
    tokio::time::sleep(GRACE).await;
    is_over.store(true, Ordering::Release);
    let arrivals = taker.join_next().await.ok_or("nobody took messages")??;
    let mut latencies = Vec::new();
    for (step, arrived) in &arrivals {
        let slot = usize::try_from(*step).ok().and_then(|step| committed.get(step));
        let committed = slot.ok_or("a message that nobody sent")?.load(Ordering::Acquire);
        latencies.push(arrived.saturating_sub(committed));
    }
    let stalled = count - latencies.len() as u64;
    let mut at = |share| report::percentile(&mut latencies, share);
    Ok(Latencies { p50: at(0.5), p99: at(0.99), p999: at(0.999), stalled })
}
