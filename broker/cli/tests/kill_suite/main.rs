//! The kill suite: a real broker under mixed load is killed with SIGKILL, again and again, and a
//! judge that knows only what clients saw decides whether it kept its promises.
//!
//! 0 acknowledged messages lost, 0 acknowledged settlements undone, 0 redeliveries without a reason.
//! `POSTHOUSE_KILL_CYCLES` says how many times (10 unless set, CI takes 100), `POSTHOUSE_KILL_SEED`
//! which choices the load makes. A run whose kills hit nothing fails.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod chance;
mod consuming;
mod killing;
mod last_look;
mod load;
mod progress;
mod publishing;
mod record;

use chance::Chance;
use killing::Killer;
use load::Load;
use posthouse_checker::history::{self, Event};
use posthouse_checker::{Counts, Expectations, check};
use posthouse_client::{Client, Durability, Start, SubscriptionSettings, TopicSettings};
use record::Record;
use support::broker::Site;

/// Small files, so that segments fill and folds happen all the time.
const SERVE: &[&str] = &[
    "--set=segment_bytes=1MiB",
    "--set=fold_bytes=1MiB",
    "--set=fold_idle=20ms",
    "--set=unfolded_bytes_max=64MiB",
    "--set=journal_keep_bytes=4MiB",
    "--set=message_bytes_max=64KiB",
];

/// A synced topic with two subscriptions, a written one with one, and a synced one with none.
const JOBS: &str = "jobs";
const NOTES: &str = "notes";
const LOG: &str = "log";
const WORK: &str = "work";
const COPY: &str = "copy";
const READ: &str = "read";
/// Where what failed too often in [`WORK`] goes.
const DEAD: &str = "jobs.work.dead";
/// Failures after which a message of [`WORK`] is a dead letter.
const ATTEMPTS_MAX: u32 = 4;

#[test]
fn nothing_acknowledged_is_lost_or_undone_however_often_the_broker_is_killed() {
    let kills = number("POSTHOUSE_KILL_CYCLES", 10);
    let seed = number("POSTHOUSE_KILL_SEED", 1);
    let record = Record::new();
    let mut chance = Chance::new(seed);
    let mut killer = Killer::new(Site::new(SERVE), record.clone());
    prepare(killer.address(), &record);

    let load = Load::start(killer.address(), &record, &mut chance);
    for _ in 0..kills {
        killer.cycle(load.progress(), &mut chance);
    }
    load.stop();
    last_look::take(killer.address(), &record);
    let seen = killer.finish();

    let expectations = Expectations {
        at_least: Counts {
            kills,
            kills_effective: kills * 3 / 4,
            publishes_ok: kills * 50,
            redeliveries: kills,
            settles_ok: kills * 20,
            consumers_lost: kills / 4,
            dead_letters: 1,
            ..Counts::default()
        },
        ..Expectations::SUITE
    };
    let report = check(&record.events(), &expectations);
    println!("faults: {seen}; {}", report.counts);
    if !report.is_valid() {
        let path = record.save();
        panic!("{report}\nthe history is in {}; seed {seed}", path.display());
    }
    seen.check(kills);
}

/// Makes the topics and subscriptions and declares them to the judge.
fn prepare(address: &str, record: &Record) {
    let subscriptions = [
        (JOBS, WORK, ATTEMPTS_MAX, Some(DEAD)),
        (JOBS, COPY, 1000, None),
        (NOTES, READ, 1000, None),
    ];
    block_on(async {
        let admin = connect(address).await.admin();
        for (topic, durability) in
            [(JOBS, Durability::Synced), (NOTES, Durability::Written), (LOG, Durability::Synced)]
        {
            let settings = TopicSettings { durability, ..TopicSettings::default() };
            let settings = TopicSettings { message_bytes_max: 64 << 10, ..settings };
            admin.create_topic(topic, settings).await.unwrap();
        }
        for (topic, subscription, attempts_max, dead_topic) in subscriptions {
            let settings = SubscriptionSettings {
                attempts_max,
                backoff_ms_first: 1,
                backoff_ms_max: 20,
                ..SubscriptionSettings::default()
            };
            let made = admin.create_subscription(topic, subscription, settings, Start::Earliest);
            made.await.unwrap();
            record.add(Event::Subscription(history::Subscription {
                topic: topic.to_owned(),
                subscription: subscription.to_owned(),
                mode: history::Mode::Queue,
                start: 0,
                attempts_max,
                untaken_may_expire: false,
                lease_ms_max: 600_000,
                dead_topic: dead_topic.map(str::to_owned),
            }));
        }
    });
    for (topic, durability) in [
        (JOBS, history::Durability::Synced),
        (NOTES, history::Durability::Written),
        (LOG, history::Durability::Synced),
    ] {
        record.add(Event::Topic(history::Topic { topic: topic.to_owned(), durability }));
    }
}

async fn connect(address: &str) -> Client {
    let client = Client::builder().server(address).connect_timeout(support::PATIENCE);
    let client = client.operation_timeout(support::PATIENCE).publish_timeout(support::PATIENCE);
    client.connect().await.unwrap()
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().expect("the variable is a number") }
}
