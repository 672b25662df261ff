//! Relays between a database in memory and a real broker: late commits, rollbacks, connections that
//! break on both sides, leases that change hands, restored and copied databases, poison.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

mod cutting;
#[path = "relaying/memory.rs"]
mod memory;

use cutting::Cutting;
use memory::{Fault, Memory};
use posthouse_broker::{Broker, Config};
use posthouse_client::outbox::{
    Claim, OnPoison, Relay, RelayErrorKind, RelayHandle, RelayState, RowId,
};
use posthouse_client::{Client, Position, TopicSettings};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn backlog_is_handed_over_once_and_in_order_in_few_claims() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 5000);

    let relay = relay(&database, &client).spawn();
    until(|| is_empty(&database)).await;

    let expected: Vec<u64> = (1..=5000).collect();
    assert_eq!(log(&client, "orders").await, expected);
    let stats = relay.stats();
    assert_eq!((stats.state, stats.rows, stats.parked), (RelayState::Active, 5000, 0));
    assert!(stats.claims < 20, "{stats:?}");
    relay.shutdown().await.unwrap();
    assert!(database.with(|tables| tables.claims.is_empty()));
}

#[tokio::test]
async fn topics_of_one_claim_each_keep_their_order() {
    let (_broker, client) = started().await;
    client.admin().create_topic("audit", TopicSettings::default()).await.unwrap();
    let database = Memory::new();
    for _ in 0..50 {
        database.enqueue("orders", 1);
        database.enqueue("audit", 1);
    }

    let relay = relay(&database, &client).spawn();
    until(|| is_empty(&database)).await;

    assert!(log(&client, "orders").await.into_iter().eq((1..100).step_by(2)));
    assert!(log(&client, "audit").await.into_iter().eq((2..=100).step_by(2)));
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn row_that_is_committed_late_comes_and_a_rolled_back_one_never() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let bell = Arc::new(Notify::new());
    let relay = relay(&database, &client).bell(Arc::clone(&bell)).spawn();
    let late = database.insert("orders");
    drop(database.insert("orders"));
    database.enqueue("orders", 1);
    bell.notify_one();
    until(|| is_empty(&database)).await;

    database.commit(late);
    until(|| is_empty(&database)).await;

    assert_eq!(log(&client, "orders").await, [3, 1]);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn bell_makes_an_idle_relay_look_at_once() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let bell = Arc::new(Notify::new());
    let relay = relay(&database, &client).bell(Arc::clone(&bell)).spawn();
    until(|| relay.stats().lag.is_some()).await;
    // Waits are at their longest by now.
    sleep(Duration::from_millis(1500)).await;

    let mut total = Duration::ZERO;
    for _ in 0..5 {
        let since = Instant::now();
        database.enqueue("orders", 1);
        bell.notify_one();
        until(|| is_empty(&database)).await;
        total += since.elapsed();
        sleep(Duration::from_millis(700)).await;
    }

    assert!(total < Duration::from_millis(1200), "{total:?} for five rows");
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn broken_connections_on_both_sides_lose_and_double_nothing() {
    let (broker, client) = started().await;
    let cutting = Cutting::new(broker.connector(), 40_000);
    let broken = Client::builder().connector(cutting.clone()).connect().await.unwrap();
    let database = Memory::new();
    let relays: Vec<RelayHandle> =
        (0..2).map(|_| relay(&database, &broken).batch(7).lease(Duration::ZERO).spawn()).collect();
    let mut pending = Vec::new();
    let mut rolled_back = BTreeSet::new();
    let mut seed = 7_u64;
    for number in 1..=600_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pending.push(database.insert("orders"));
        match seed >> 60 {
            0..=8 => database.commit(pending.pop().unwrap()),
            9 | 10 => {
                drop(pending.pop());
                rolled_back.insert(number);
            }
            11 => fail_next(&database, &[Fault::Before, Fault::None]).await,
            12 if number % 4 == 0 => fail_next(&database, &BURST).await,
            12 => fail_next(&database, &[Fault::None, Fault::After]).await,
            _ => sleep(Duration::from_millis(3)).await,
        }
        if pending.len() > 6 {
            database.commit(pending.remove(0));
        }
    }
    pending.into_iter().for_each(|row| database.commit(row));
    until(|| is_empty(&database)).await;

    let found = log(&client, "orders").await;
    let distinct: BTreeSet<u64> = found.iter().copied().collect();
    assert_eq!(distinct.len(), found.len(), "something came twice");
    let expected: BTreeSet<u64> = (1..=600).filter(|row| !rolled_back.contains(row)).collect();
    assert_eq!(distinct, expected);
    assert!(cutting.cuts() > 0);
    for relay in relays {
        relay.shutdown().await.unwrap();
    }
}

/// Faults while the relays start over from one.
const BURST: [Fault; 6] =
    [Fault::After, Fault::Before, Fault::None, Fault::After, Fault::None, Fault::Before];

/// Faults for the next queries, once those before have been met: too many in a row would only make the
/// relays wait longer and longer, before they have done anything that could be lost.
async fn fail_next(database: &Memory, faults: &[Fault]) {
    until(|| database.with(|tables| tables.faults.is_empty())).await;
    database.with(|tables| tables.faults.extend(faults));
}

#[tokio::test]
async fn database_that_is_away_is_waited_for() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let relay = relay(&database, &client).spawn();
    until(|| relay.stats().state == RelayState::Active).await;
    database.with(|tables| tables.is_away = true);
    until(|| relay.stats().state == RelayState::Starting).await;
    assert!(relay.stats().last_error.unwrap().contains("connection lost"));

    database.enqueue("orders", 3);
    database.with(|tables| tables.is_away = false);
    until(|| is_empty(&database)).await;

    assert_eq!(log(&client, "orders").await, [1, 2, 3]);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn second_relay_stands_by_and_takes_over_at_once_after_a_shutdown() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let first = relay(&database, &client).spawn();
    until(|| first.stats().state == RelayState::Active).await;
    let second = relay(&database, &client).spawn();
    until(|| second.stats().state == RelayState::StandingBy).await;

    first.shutdown().await.unwrap();
    database.enqueue("orders", 1);
    timeout(Duration::from_secs(5), until(|| is_empty(&database))).await.unwrap();

    assert_eq!(second.stats().state, RelayState::Active);
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn relay_whose_lease_was_taken_is_fenced_and_stands_by() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let first = relay(&database, &client).spawn();
    until(|| first.stats().state == RelayState::Active).await;

    database.with(|tables| tables.end_lease());
    let second = relay(&database, &client).spawn();
    until(|| second.stats().state == RelayState::Active).await;
    database.enqueue("orders", 10);
    until(|| is_empty(&database)).await;
    until(|| first.stats().state == RelayState::StandingBy).await;

    assert!(log(&client, "orders").await.into_iter().eq(1..=10));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn rows_that_no_broker_takes_are_set_aside_and_the_others_go_on() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 3);
    database.enqueue("nowhere", 2);
    database.enqueue("no/name", 1);
    database.enqueue("orders", 3);

    let relay = relay(&database, &client).batch(2).spawn();
    until(|| is_empty(&database)).await;

    assert_eq!(log(&client, "orders").await, [1, 2, 3, 7, 8, 9]);
    let reasons: Vec<_> = database.with(|tables| {
        tables.parked.values().map(|(row, reason)| (row.id.0, reason.clone())).collect()
    });
    let [(4, missing), (5, _), (6, invalid)] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(missing.contains("NOT_FOUND"), "{missing}");
    assert!(invalid.contains("invalid name"), "{invalid}");
    assert_eq!(relay.stats().parked, 3);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn relay_that_is_to_halt_at_poison_names_the_row() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("nowhere", 1);

    let mut relay = relay(&database, &client).on_poison(OnPoison::Halt).spawn();
    let error = timeout(LONG, relay.ended()).await.unwrap().unwrap_err();

    assert_eq!(error.kind(), RelayErrorKind::Poison);
    assert!(error.to_string().contains("row 1"), "{error}");
    assert_eq!(relay.stats().state, RelayState::Ended);
    assert!(database.with(|tables| tables.rows.contains_key(&RowId(1))));
}

#[tokio::test]
async fn claim_that_is_too_large_for_the_broker_is_made_smaller() {
    let mut config = Config::temporary().unwrap();
    config.segment_bytes = 1 << 20;
    config.message_bytes_max = 32 << 10;
    let (_broker, client) = started_with(config).await;
    let database = Memory::new();
    database.enqueue("orders", 40);
    database.with(|tables| {
        for row in tables.rows.values_mut() {
            row.body = format!("{:10000}", row.id.0).into();
        }
    });

    let relay = relay(&database, &client).spawn();
    until(|| is_empty(&database)).await;

    assert!(log(&client, "orders").await.into_iter().eq(1..=40));
    assert_eq!(relay.stats().parked, 0);
    relay.shutdown().await.unwrap();
}

/// Such a frame would cost the connection, and everybody else's on the same client, again and again.
#[tokio::test]
async fn row_whose_frame_the_broker_does_not_read_is_set_aside_and_the_connection_stays() {
    let mut config = Config::temporary().unwrap();
    config.segment_bytes = 1 << 20;
    config.message_bytes_max = 32 << 10;
    let (broker, client) = started_with(config).await;
    let cutting = Cutting::new(broker.connector(), u64::MAX);
    let counted = Client::builder().connector(cutting.clone()).connect().await.unwrap();
    let database = Memory::new();
    database.enqueue("orders", 6);
    database.with(|tables| {
        let large = tables.rows.get_mut(&RowId(1)).unwrap();
        large.body = vec![b'x'; 12 << 20].into();
    });

    let relay = relay(&database, &counted).spawn();
    until(|| is_empty(&database)).await;

    assert!(log(&client, "orders").await.into_iter().eq(2..=6));
    let reason = database.with(|tables| tables.parked[&RowId(1)].1.clone());
    assert!(reason.contains("TOO_LARGE") && reason.contains("Commit.batches"), "{reason}");
    assert_eq!(cutting.made.load(Ordering::Relaxed), 1, "the connection was lost");
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn copied_database_is_refused_until_it_is_adopted() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 1);
    database.with(|tables| tables.description.found_in = "elsewhere".to_owned());

    let error = relay(&database, &client).spawn().ended().await.unwrap_err();
    assert_eq!(error.kind(), RelayErrorKind::DatabaseCopied);
    assert!(error.to_string().contains("adopt()"), "{error}");

    let adopted = relay(&database, &client).adopt().spawn();
    until(|| is_empty(&database)).await;
    assert_eq!(log(&client, "orders").await, [1]);
    adopted.shutdown().await.unwrap();
}

/// It knew the database as a copy when it began to stand by; by now it is not one any more.
#[tokio::test]
async fn copy_is_adopted_once_however_many_relays_were_told_to() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 3);
    database.with(|tables| {
        tables.description.found_in = "elsewhere".to_owned();
        tables.lease_to("somebody");
    });
    let relays = [0, 1].map(|_| relay(&database, &client).adopt().spawn());
    until(|| relays.iter().all(|it| it.stats().state == RelayState::StandingBy)).await;

    database.with(|tables| tables.end_lease());
    until(|| is_empty(&database)).await;
    let adopted = database.with(|tables| tables.description.outbox);
    let [first, second] = relays;
    let is_first = first.stats().state == RelayState::Active;
    let (worker, standby) = if is_first { (first, second) } else { (second, first) };
    worker.shutdown().await.unwrap();
    until(|| standby.stats().state == RelayState::Active).await;
    database.enqueue("orders", 1);
    until(|| is_empty(&database)).await;

    assert_eq!(database.with(|tables| tables.description.outbox), adopted, "adopted twice");
    assert_eq!(log(&client, "orders").await, [1, 2, 3, 4]);
    standby.shutdown().await.unwrap();
}

#[tokio::test]
async fn restored_database_goes_on_above_what_the_broker_has() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 3);
    let backup = database.copy();
    let relay_before = relay(&database, &client).batch(1).spawn();
    until(|| is_empty(&database)).await;
    relay_before.shutdown().await.unwrap();

    backup.enqueue("orders", 1);
    let relay_after = relay(&backup, &client).spawn();
    until(|| is_empty(&backup)).await;

    // Those whose deletion was lost come again, with the same message ids.
    assert_eq!(log(&client, "orders").await, [1, 2, 3, 1, 2, 3, 4]);
    relay_after.shutdown().await.unwrap();
}

/// As behind a proxy that keeps the relay's connections while the server behind it is replaced.
#[tokio::test]
async fn database_set_back_under_a_relay_is_noticed_before_anything_is_lost() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let bell = Arc::new(Notify::new());
    let relay = relay(&database, &client).batch(1).bell(Arc::clone(&bell)).spawn();
    until(|| relay.stats().state == RelayState::Active).await;
    let backup = database.copy();
    database.enqueue("orders", 3);
    bell.notify_one();
    until(|| is_empty(&database)).await;

    database.with(|tables| *tables = backup.with(|backup| backup.clone()));
    database.enqueue("orders", 4);
    bell.notify_one();
    until(|| is_empty(&database)).await;

    assert_eq!(log(&client, "orders").await, [1, 2, 3, 1, 2, 3, 4]);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn broker_that_has_lost_acknowledged_messages_halts_the_relay() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 3);
    let before = relay(&database, &client).spawn();
    until(|| is_empty(&database)).await;
    before.shutdown().await.unwrap();
    database.enqueue("orders", 1);

    let (_other, restored) = started().await;
    let error = relay(&database, &restored).spawn().ended().await.unwrap_err();
    assert_eq!(error.kind(), RelayErrorKind::BrokerRestored);
    assert!(error.to_string().contains("accept_restored_broker()"), "{error}");

    let goes_on = relay(&database, &restored).accept_restored_broker().spawn();
    until(|| is_empty(&database)).await;
    assert_eq!(log(&restored, "orders").await, [4]);
    goes_on.shutdown().await.unwrap();
    // It has said so once; that is enough.
    let again = relay(&database, &restored).spawn();
    until(|| again.stats().state == RelayState::Active).await;
    again.shutdown().await.unwrap();
}

#[tokio::test]
async fn rows_changed_after_they_were_claimed_halt_the_relay() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("orders", 2);
    database.with(|tables| {
        let rows = vec![RowId(1), RowId(2)];
        tables.claims.insert(1, Claim { sequence: 1, rows, digest: 1 });
        tables.standing.claimed = 1;
    });

    let error = relay(&database, &client).spawn().ended().await.unwrap_err();
    assert_eq!(error.kind(), RelayErrorKind::RowsChanged);
    assert!(error.to_string().contains("claim 1"), "{error}");

    let goes_on = relay(&database, &client).accept_changed_rows().spawn();
    until(|| is_empty(&database)).await;
    assert_eq!(log(&client, "orders").await, [1, 2]);
    goes_on.shutdown().await.unwrap();
}

#[tokio::test]
async fn relay_that_has_ended_says_why_as_often_as_it_is_asked() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.enqueue("nowhere", 1);
    let mut relay = relay(&database, &client).on_poison(OnPoison::Halt).spawn();

    let first = timeout(LONG, relay.ended()).await.unwrap().unwrap_err();

    assert_eq!(relay.ended().await, Err(first.clone()));
    assert_eq!(relay.shutdown().await, Err(first));
}

#[tokio::test]
async fn tables_of_another_version_end_the_relay() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    database.with(|tables| tables.description.schema_version = 3);

    let error = relay(&database, &client).spawn().ended().await.unwrap_err();

    assert_eq!(error.kind(), RelayErrorKind::NotInstalled);
    assert!(error.to_string().contains("version 3"), "{error}");
}

#[tokio::test]
async fn closed_client_ends_the_relay() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let mut relay = relay(&database, &client).spawn();
    until(|| relay.stats().state == RelayState::Active).await;

    client.close(LONG).await;
    database.enqueue("orders", 1);

    let error = timeout(LONG, relay.ended()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), RelayErrorKind::ClientClosed);
}

#[tokio::test]
async fn dropped_handle_gives_the_lease_back() {
    let (_broker, client) = started().await;
    let database = Memory::new();
    let first = relay(&database, &client).spawn();
    until(|| first.stats().state == RelayState::Active).await;

    drop(first);

    until(|| database.with(|tables| !tables.is_leased())).await;
}

fn relay(database: &Memory, client: &Client) -> Relay<Memory> {
    Relay::new(database.clone(), client.clone()).name("test")
}

fn is_empty(database: &Memory) -> bool {
    database.with(|tables| tables.rows.is_empty())
}

async fn started() -> (Broker, Client) {
    started_with(Config::temporary().unwrap()).await
}

async fn started_with(config: Config) -> (Broker, Client) {
    let broker = Broker::start(config).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    (broker, client)
}

/// The numbers in the bodies of everything in a topic.
async fn log(client: &Client, topic: &str) -> Vec<u64> {
    let mut reader = client.reader(topic, Position::Earliest).await.unwrap();
    let mut rows = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        rows.push(str::from_utf8(record.body()).unwrap().trim().parse().unwrap());
    }
    rows
}

fn until(is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let waiting = async move {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    async { timeout(LONG, waiting).await.expect("it never came to be") }
}
