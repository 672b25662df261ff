//! Handling in the consumer's own transaction, with a real file and a real broker.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{Delivery, Failure, Message, MessageId, Position, Record, Retry, Timestamp};
use posthouse_outbox_rusqlite::{Error, ErrorKind, Inbox};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::{Shop, broker, connect};
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn effect_is_there_once_although_a_message_comes_twice() {
    let (broker, client) = broker().await;
    let shop = Shop::new();
    client.admin().ensure_subscription("orders", "other").await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    let copy = Message::new("1").id(MessageId([7; 16]));
    orders.publish(copy.clone()).await.unwrap();
    orders.publish(copy).await.unwrap();
    orders.publish("2").await.unwrap();

    run_until_empty(&shop, &client, note).await;

    assert_eq!(shop.orders(), [1, 2]);
    let other = Inbox::new(shop.path(), "another consumer");
    let consumer = client.consumer("orders", "other").await.unwrap();
    other.run(consumer, 4, note).until(settled(client.clone(), "other")).await.unwrap();
    assert_eq!(shop.orders(), [1, 2, 1, 2], "each consumer has effects of its own");
    drop(broker);
}

#[tokio::test]
async fn failure_and_panic_roll_back_and_the_message_comes_again() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let orders = client.publisher("orders").await.unwrap();
    for body in ["1", "2", "3"] {
        orders.publish(body).await.unwrap();
    }
    let failed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&failed);
    let handler = move |tx: &Transaction<'_>, delivery: &Delivery| {
        note(tx, delivery).map_err(Failure::from)?;
        let attempt =
            format!("UPDATE orders SET text = {0} WHERE text IS NULL", delivery.attempt().0);
        tx.execute(&attempt, []).map_err(Failure::from)?;
        match (delivery.body().as_ref(), delivery.attempt().0) {
            (b"2", 0) => {
                count.fetch_add(1, Ordering::Relaxed);
                Err(Failure::nack(Retry::Now, "not yet"))
            }
            (b"3", 0) => {
                count.fetch_add(1, Ordering::Relaxed);
                panic!("on purpose")
            }
            _ => Ok(()),
        }
    };

    run_until_empty(&shop, &client, handler).await;

    let mut done = shop.orders();
    done.sort_unstable();
    assert_eq!(done, [1, 2, 3]);
    assert_eq!(failed.load(Ordering::Relaxed), 2);
    let later = "SELECT count(*) FROM orders WHERE number > 1 AND text = '1'";
    let later: i64 = shop.connect().query_row(later, [], |row| row.get(0)).unwrap();
    assert_eq!(later, 2, "what failed left nothing: these are of the second attempts");
}

#[tokio::test]
async fn transaction_that_ended_inside_the_handler_counts_and_acks_nothing() {
    for end in ["ROLLBACK", "ROLLBACK; BEGIN"] {
        let (_broker, client) = broker().await;
        let shop = Shop::new();
        client.admin().ensure_subscription("orders", "keeper").await.unwrap();
        client.publisher("orders").await.unwrap().publish("1").await.unwrap();
        let handler = move |tx: &Transaction<'_>, delivery: &Delivery| {
            note(tx, delivery)?;
            // As SQLite does it after an `OR ROLLBACK`, or on a full disk.
            if delivery.attempt().0 == 0 { tx.execute_batch(end) } else { Ok(()) }
        };
        let done = run_until_empty(&shop, &client, handler);
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("the failure counts");
        assert_eq!(shop.orders(), [1], "{end}");

        let inbox = Inbox::new(shop.path(), "projector");
        let reader = client.reader("orders", Position::Earliest).await.unwrap();
        let ends = move |tx: &Transaction<'_>, records: &[Record]| {
            note_all(tx, records)?;
            tx.execute_batch(end)
        };
        inbox.run_stream(reader, ends).await.unwrap_err();
        assert_eq!(count(&shop.connect(), "posthouse_stream_cursor"), 0, "{end}");
    }
}

#[tokio::test]
async fn commit_that_sqlite_refuses_is_the_failure_of_its_message() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let tables = "CREATE TABLE articles (number INTEGER PRIMARY KEY); \
         CREATE TABLE sold (number REFERENCES articles (number) DEFERRABLE INITIALLY DEFERRED)";
    shop.connect().execute_batch(tables).unwrap();
    let orders = client.publisher("orders").await.unwrap();
    orders.publish("1").await.unwrap();
    orders.publish("2").await.unwrap();
    let handler = |tx: &Transaction<'_>, delivery: &Delivery| {
        note(tx, delivery)?;
        // There is no such article, which the commit finds out.
        let is_bad = delivery.body() == "1" && delivery.attempt().0 == 0;
        let sell = if is_bad { "INSERT INTO sold VALUES (7)" } else { "SELECT 1" };
        tx.execute_batch(sell)
    };
    let done = run_until_empty(&shop, &client, handler);
    tokio::time::timeout(Duration::from_secs(20), done).await.expect("the refusal counts");
    assert_eq!(shop.orders(), [2, 1]);
}

#[tokio::test]
async fn a_handled_message_keeps_the_fence_that_refuses_earlier_ones() {
    let (broker, client) = broker().await;
    let shop = Shop::new();
    client.publisher("orders").await.unwrap().publish("1").await.unwrap();

    // A first consumer takes the message, its connection is lost, and a second one handles it.
    let zombie = connect(&broker).await;
    let mut taken = zombie.consumer("orders", "billing").await.unwrap();
    let old = taken.next().await.unwrap().unwrap();
    let (id, place, fence) = (old.id(), old.offset(), old.fence());
    old.nack(Retry::Now).await.unwrap();
    drop(taken);
    let fences = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&fences);
    let handler = move |tx: &Transaction<'_>, delivery: &Delivery| {
        seen.lock().unwrap().push(delivery.fence());
        note(tx, delivery)
    };
    run_until_empty(&shop, &client, handler).await;
    assert!(fences.lock().unwrap()[0] > fence);

    // What the first one would still write finds a higher fence; the fault matrix lets it try.
    let db = shop.connect();
    let stored: (u64, i64) = db
        .query_row(
            "SELECT place, fence_counter FROM posthouse_inbox WHERE message_id = ?1",
            [id.0],
            |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)),
        )
        .unwrap();
    assert_eq!(stored.0, place.0);
    assert!(stored.1.cast_unsigned() > fence.counter);
    assert_eq!(shop.orders(), [1]);
}

#[tokio::test]
async fn locked_database_gives_messages_back_uncounted() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    client.publisher("orders").await.unwrap().publish("1").await.unwrap();
    let mut writer = shop.connect();
    let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();

    let (done, mut finished) = mpsc::channel(1);
    let handler = move |tx: &Transaction<'_>, delivery: &Delivery| {
        assert_eq!(delivery.attempt().0, 0, "waiting counts nothing");
        done.try_send(()).unwrap();
        note(tx, delivery)
    };
    let inbox = Inbox::new(shop.path(), "billing");
    let consumer = client.consumer("orders", "billing").await.unwrap();
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let running = inbox.run(consumer, 1, handler).until(async move { stopped.notified().await });
    let running = tokio::spawn(running.into_future());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(finished.try_recv().is_err(), "the other writer is not done");
    tx.rollback().unwrap();
    finished.recv().await.unwrap();
    stop.notify_one();
    running.await.unwrap().unwrap();
    assert_eq!(shop.orders(), [1]);
}

#[tokio::test]
async fn rows_are_forgotten_below_the_floor_and_stay_refused() {
    let (broker, client) = broker().await;
    let shop = Shop::new();
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..50 {
        orders.submit(number.to_string()).await.unwrap().await.unwrap();
    }
    let inbox = Inbox::new(shop.path(), "billing").window(Duration::ZERO);
    let run = || async {
        let consumer = client.consumer("orders", "billing").await.unwrap();
        inbox.run(consumer, 4, note).until(settled(client.clone(), "billing")).await.unwrap();
    };
    run().await;
    let db = shop.connect();
    assert_eq!(count(&db, "posthouse_inbox"), 50, "the first round stores a floor only");
    // This one brings the floor 50.
    orders.publish("50").await.unwrap();
    run().await;
    age_the_floor(&db);
    assert_eq!(inbox.collect_garbage().unwrap(), 0, "the floor stored before was lower");
    assert_eq!(inbox.collect_garbage().unwrap(), 0, "not twice within a minute");
    age_the_floor(&db);
    assert_eq!(inbox.collect_garbage().unwrap(), 50, "what lies below the floor of a round ago");
    assert_eq!(count(&db, "posthouse_inbox"), 1);

    // A delivery of then that comes late is refused although its row is gone; a new message in that
    // place, of a broker restored from a copy, is not.
    let late = "INSERT INTO posthouse_inbox_floor SELECT 'billing', 'orders.billing', 1000, \
         fence_epoch + 1, 0, older_than, raised_at FROM posthouse_inbox_floor \
         WHERE true ON CONFLICT DO UPDATE SET floor_place = 1000, fence_epoch = excluded.fence_epoch";
    db.execute(late, []).unwrap();
    let old = Timestamp(1);
    orders.publish(Message::new("51").created_at(old)).await.unwrap();
    let tomorrow = "UPDATE posthouse_inbox_floor SET older_than = older_than - 1000";
    db.execute(tomorrow, []).unwrap();
    let days = Timestamp(u64::MAX >> 2);
    orders.publish(Message::new("52").created_at(days)).await.unwrap();
    run().await;
    assert_eq!(shop.orders().last(), Some(&52));
    assert!(!shop.orders().contains(&51));
    drop(broker);
}

#[tokio::test]
async fn rows_younger_than_the_window_are_kept_below_the_floor() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let orders = client.publisher("orders").await.unwrap();
    let inbox = Inbox::new(shop.path(), "billing").window(Duration::from_hours(1));
    for number in 0..3 {
        orders.publish(number.to_string()).await.unwrap();
        let consumer = client.consumer("orders", "billing").await.unwrap();
        inbox.run(consumer, 1, note).until(settled(client.clone(), "billing")).await.unwrap();
    }
    let db = shop.connect();
    // The floor that the third has brought lies above the two before.
    age_the_floor(&db);
    assert_eq!(inbox.collect_garbage().unwrap(), 0, "the floor is stored first");
    age_the_floor(&db);
    assert_eq!(inbox.collect_garbage().unwrap(), 0, "none is an hour old");

    let old = "UPDATE posthouse_inbox SET received_at = received_at - 3601000 WHERE place = 0";
    assert_eq!(db.execute(old, []).unwrap(), 1);
    age_the_floor(&db);
    assert_eq!(inbox.collect_garbage().unwrap(), 1, "the one that is");
    assert_eq!(count(&db, "posthouse_inbox"), 2);
}

#[tokio::test]
async fn stream_takes_every_record_once_and_two_readers_stop_each_other() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..2500 {
        drop(orders.submit(number.to_string()).await.unwrap());
    }
    orders.flush().await.unwrap();
    let inbox = Inbox::new(shop.path(), "projector");
    let read = |from| async { client.reader("orders", from).await.unwrap() };
    let batches = AtomicU32::new(0);
    let fails = move |tx: &Transaction<'_>, records: &[Record]| {
        note_all(tx, records)?;
        match batches.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(rusqlite::Error::QueryReturnedNoRows),
        }
    };
    let failed = inbox.run_stream(read(Position::Earliest).await, fails).await;
    assert_eq!(failed, Err(rusqlite::Error::QueryReturnedNoRows));
    let first = shop.orders().len();
    assert!(first > 0 && first < 2500, "{first}: one batch is in");

    inbox.run_stream(read(Position::Earliest).await, note_all).await.unwrap();
    assert_eq!(shop.orders(), (0..2500).collect::<Vec<_>>());

    // While this one waits for more, another one with its name takes the next record.
    let follower = client.reader("orders", Position::Earliest).follow().await.unwrap();
    let (mine, other) = (inbox.clone(), Connection::open(shop.path()).unwrap());
    let all = |tx: &Transaction<'_>, records: &[Record]| {
        note_all(tx, records).unwrap();
        Ok::<_, Error>(())
    };
    let running = tokio::spawn(async move { mine.run_stream(follower, all).await });
    orders.publish("2500").await.unwrap();
    while shop.orders().len() < 2501 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.execute("UPDATE posthouse_stream_cursor SET next_place = 2502", []).unwrap();
    orders.publish("2501").await.unwrap();
    let stopped = running.await.unwrap().unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Overtaken, "{stopped}");
    assert_eq!(shop.orders().len(), 2501);
}

#[tokio::test]
async fn stream_stops_before_a_broker_that_has_less_than_was_read() {
    let shop = Shop::new();
    let inbox = Inbox::new(shop.path(), "projector");
    for numbers in [0..3, 3..4] {
        let (_broker, client) = broker().await;
        let orders = client.publisher("orders").await.unwrap();
        let all = |tx: &Transaction<'_>, records: &[Record]| {
            note_all(tx, records).unwrap();
            Ok::<_, Error>(())
        };
        let read = || async { client.reader("orders", Position::Earliest).await.unwrap() };
        for number in numbers.clone() {
            orders.publish(number.to_string()).await.unwrap();
        }
        let done = inbox.run_stream(read().await, all).await;
        let kind = done.map_err(|error| error.kind());
        let is_first = numbers.start == 0;
        assert_eq!(kind, if is_first { Ok(()) } else { Err(ErrorKind::BeyondEnd) });
        assert_eq!(shop.orders(), [0, 1, 2]);
    }
    let db = Connection::open(shop.path()).unwrap();
    let cursor = "SELECT next_place FROM posthouse_stream_cursor";
    assert_eq!(db.query_row(cursor, [], |row| row.get::<_, i64>(0)).unwrap(), 3);
}

#[tokio::test]
async fn closures_capture_what_they_like_inside_a_spawned_task() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let (path, outbox) = (shop.path(), shop.outbox.clone());
    client.admin().ensure_subscription("orders", "keeper").await.unwrap();
    client.publisher("orders").await.unwrap().publish("5").await.unwrap();
    let counter = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&counter);
    let task = tokio::spawn(async move {
        let local = String::from("local");
        let inbox = Inbox::new(path, local.as_str()).wakes(&outbox);
        let consumer = client.consumer("orders", "billing").await?;
        let count = Arc::clone(&shared);
        let handler = move |tx: &Transaction<'_>, delivery: &Delivery| -> Result<(), Error> {
            count.fetch_add(1, Ordering::Relaxed);
            note(tx, delivery).map_err(|_| ()).unwrap();
            let next = Message::new("next").to("audit");
            let _rung_after_the_commit = outbox.enqueue(tx, next)?;
            Ok(())
        };
        inbox.run(consumer, 2, handler).until(settled(client.clone(), "billing")).await?;
        let reader = client.reader("orders", Position::Earliest).await?;
        let (borrowed, count) = (&local, Arc::clone(&shared));
        assert_eq!(borrowed, "local");
        let handler = move |_: &Transaction<'_>, records: &[Record]| {
            count.fetch_add(u32::try_from(records.len()).unwrap(), Ordering::Relaxed);
            Ok::<_, Error>(())
        };
        inbox.run_stream(reader, handler).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    task.await.unwrap().unwrap();
    assert_eq!(counter.load(Ordering::Relaxed), 2);
    assert_eq!(shop.outbox.lag().unwrap().rows, 1, "what the handler enqueued");
}

/// The handler of most tests: the body is a number, and goes to the table.
fn note(tx: &Transaction<'_>, delivery: &Delivery) -> rusqlite::Result<()> {
    insert(tx, delivery.body())
}

fn note_all(tx: &Transaction<'_>, records: &[Record]) -> rusqlite::Result<()> {
    records.iter().try_for_each(|record| insert(tx, record.body()))
}

fn insert(tx: &Transaction<'_>, body: &[u8]) -> rusqlite::Result<()> {
    let number: i64 = str::from_utf8(body).unwrap().parse().unwrap();
    tx.execute("INSERT INTO orders (number) VALUES (?1)", [number]).map(|_| ())
}

async fn run_until_empty<H, E>(shop: &Shop, client: &posthouse_client::Client, handler: H)
where
    H: Fn(&Transaction<'_>, &Delivery) -> Result<(), E> + Send + Sync + 'static,
    E: Into<Failure> + 'static,
{
    let inbox = Inbox::new(shop.path(), "billing");
    let consumer = client.consumer("orders", "billing").await.unwrap();
    let until = settled(client.clone(), "billing");
    inbox.run(consumer, 4, handler).until(until).await.unwrap();
}

/// Done when nothing waits and nobody holds anything.
async fn settled(client: posthouse_client::Client, subscription: &'static str) {
    loop {
        let info = client.admin().describe_subscription("orders", subscription).await.unwrap();
        if info.backlog == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As if the floor had been stored two minutes ago.
fn age_the_floor(db: &Connection) {
    let aged = db.execute("UPDATE posthouse_inbox_floor SET raised_at = raised_at - 120000", []);
    assert_eq!(aged.unwrap(), 1);
}

fn count(db: &Connection, table: &str) -> u64 {
    let count: i64 =
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    count.cast_unsigned()
}
