//! From the application's transaction to the consumer's, over a real broker.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use posthouse_client::outbox::{RelayHandle, RelayState};
use posthouse_client::{Client, Delivery, Message, Position, Record};
use posthouse_outbox_rusqlite::{Error, Inbox, Outbox, RowId};
use rusqlite::Transaction;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use support::{Shop, broker};
use tokio::time::sleep;

const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_messages_arrive_once_and_in_order_through_relay_restarts() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let (go_on, slow_down) = std::sync::mpsc::sync_channel(1);
    let sender = {
        let (outbox, mut db) = (shop.outbox.clone(), shop.connect());
        std::thread::spawn(move || {
            for number in 0..600 {
                if number % 100 == 0 {
                    slow_down.recv().unwrap();
                }
                let sent = outbox.transaction(&mut db, |_, out| {
                    out.send(Message::new(number.to_string()).key("k").to("orders"));
                    if number % 3 == 2 { Err("rolled back") } else { Ok(()) }
                        .map_err(|text| rusqlite::Error::InvalidParameterName(text.to_owned()))
                });
                assert_eq!(sent.is_err(), number % 3 == 2);
            }
        })
    };
    let mut handed_over = 0;
    let mut relays = 0;
    while !sender.is_finished() {
        let _: Result<(), _> = go_on.try_send(());
        let relay = shop.outbox.relay(&client).batch(7).spawn();
        while relay.stats().rows == 0 && !sender.is_finished() {
            sleep(PAUSE).await;
        }
        handed_over += relay.stats().rows;
        relay.shutdown().await.unwrap();
        relays += 1;
    }
    sender.join().unwrap();
    let relay = shop.outbox.relay(&client).spawn();
    drained(&shop.outbox).await;
    relay.shutdown().await.unwrap();

    let expected: Vec<_> = (0..600).filter(|it| it % 3 != 2).map(|it| it.to_string()).collect();
    assert_eq!(topic(&client, "orders").await, expected);
    assert!(relays > 3 && handed_over > 0, "{relays} relays ended in the middle");
}

#[tokio::test]
async fn bell_brings_a_message_and_plain_sql_comes_by_looking() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    // Without the bell it looks no sooner than when the test has failed.
    let (hour, lease) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let relay = shop.outbox.relay(&client).poll(hour, hour).lease(lease).spawn();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let mut db = shop.connect();
    active(&relay).await;

    let message = Message::new("rung").header("a", "b").key("k").to("orders");
    shop.outbox.send_with_transaction(&mut db, message, |_| Ok::<_, Error>(())).unwrap();
    let rung = tokio::time::timeout(Duration::from_secs(20), billing.next()).await;
    let delivery = rung.expect("the bell was heard").unwrap().unwrap();
    assert_eq!((delivery.body().as_ref(), delivery.key()), (&b"rung"[..], Some(&b"k"[..])));
    assert_eq!(delivery.header("a"), Some(&b"b"[..]));
    delivery.ack().await.unwrap();

    // A stream's handler rings, too.
    client.publisher("audit").await.unwrap().publish("read").await.unwrap();
    let (inbox, outbox) = (Inbox::new(shop.path(), "reader").wakes(&shop.outbox), &shop.outbox);
    let (reader, outbox) =
        (client.reader("audit", Position::Earliest).await.unwrap(), outbox.clone());
    let answer = move |tx: &Transaction<'_>, _: &[Record]| {
        let _rung_after_the_commit = outbox.enqueue(tx, Message::new("answer").to("orders"))?;
        Ok::<_, Error>(())
    };
    inbox.run_stream(reader, answer).await.unwrap();
    let rung = tokio::time::timeout(Duration::from_secs(20), billing.next()).await;
    let delivery = rung.expect("the bell was heard").unwrap().unwrap();
    assert_eq!(delivery.body(), "answer");
    delivery.ack().await.unwrap();
    relay.shutdown().await.unwrap();

    let relay = shop.outbox.relay(&client).spawn();
    active(&relay).await;
    db.execute("INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'text')", []).unwrap();
    assert_eq!(billing.next().await.unwrap().unwrap().body(), "text");
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn delayed_message_is_handed_over_at_once_and_arrives_when_it_is_due() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let mut db = shop.connect();
    let delay = Duration::from_millis(400);
    let started = tokio::time::Instant::now();
    let late = Message::new("late").delay(delay);
    for message in [late, Message::new("now"), Message::new("never").delay(Duration::MAX)] {
        let message = message.to("orders");
        shop.outbox.send_with_transaction(&mut db, message, |_| Ok::<_, Error>(())).unwrap();
    }
    drain(&shop.outbox, &client).await;
    let info = client.admin().describe_topic("orders").await.unwrap();
    assert_eq!(info.messages + info.waiting, 3, "the outbox holds nothing back");

    let mut billing = client.consumer("orders", "billing").await.unwrap();
    for body in ["now", "late"] {
        let delivery = billing.next().await.unwrap().unwrap();
        assert_eq!(delivery.body(), body);
        delivery.ack().await.unwrap();
    }
    assert!(started.elapsed() + Duration::from_millis(2) >= delay, "{:?}", started.elapsed());
    let info = client.admin().describe_topic("orders").await.unwrap();
    assert_eq!((info.end.0, info.waiting), (2, 1), "each once");
}

#[tokio::test]
async fn message_that_no_topic_takes_is_set_aside_and_can_come_back() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let mut db = shop.connect();
    for (body, topic) in [("1", "orders"), ("2", "nowhere"), ("3", "orders")] {
        let message = Message::new(body).to(topic);
        shop.outbox.send_with_transaction(&mut db, message, |_| Ok::<_, Error>(())).unwrap();
    }
    let relay = shop.outbox.relay(&client).spawn();
    drained(&shop.outbox).await;
    assert_eq!(topic(&client, "orders").await, ["1", "3"], "nothing waits for it");

    let parked = shop.outbox.parked(RowId(0), 10).unwrap();
    assert_eq!((parked.len(), parked[0].topic.as_str()), (1, "nowhere"));
    assert!(parked[0].reason.contains("NOT_FOUND"), "{}", parked[0].reason);
    client.admin().ensure_topic("nowhere").await.unwrap();
    assert_eq!(shop.outbox.redrive(&[parked[0].id]).unwrap(), 1);
    drained(&shop.outbox).await;
    assert_eq!(topic(&client, "nowhere").await, ["2"]);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn message_id_of_another_length_is_refused_by_the_table_and_set_aside_if_it_is_there() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let db = shop.connect();
    let odd =
        "INSERT INTO posthouse_outbox (topic, body, message_id) VALUES ('orders', '1', X'01')";
    let refused = db.execute_batch(odd).unwrap_err().to_string();
    assert!(refused.contains("length(message_id) = 16"), "{refused}");
    db.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
    db.execute_batch(odd).unwrap();
    db.execute_batch("INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', '2')").unwrap();
    let relay = shop.outbox.relay(&client).spawn();
    drained(&shop.outbox).await;
    assert_eq!(topic(&client, "orders").await, ["2"], "nothing waits for it");

    let parked = shop.outbox.parked(RowId(0), 10).unwrap();
    assert_eq!((parked.len(), parked[0].message_id), (1, None));
    assert!(parked[0].reason.contains("message_id"), "{}", parked[0].reason);
    assert_eq!(shop.outbox.redrive(&[parked[0].id]).unwrap(), 1);
    drained(&shop.outbox).await;
    assert_eq!(topic(&client, "orders").await, ["2", "1"]);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn copied_database_is_refused_until_it_is_adopted() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    send(&shop.outbox, &shop.path(), ["1"]);
    drain(&shop.outbox, &client).await;
    send(&shop.outbox, &shop.path(), ["2"]);
    let path = shop.file("copy.db");
    shop.connect().execute_batch(&format!("VACUUM INTO '{}'", path.display())).unwrap();

    let copy = Outbox::new(&path);
    let refused = copy.relay(&client).spawn().ended().await.unwrap_err();
    assert!(refused.to_string().contains("adopt"), "{refused}");
    assert_eq!(topic(&client, "orders").await, ["1"]);

    let relay = copy.relay(&client).adopt().spawn();
    drained(&copy).await;
    relay.shutdown().await.unwrap();
    drain(&copy, &client).await;
    drain(&shop.outbox, &client).await;
    assert_eq!(topic(&client, "orders").await, ["1", "2", "2"], "two outboxes, each once");
}

#[tokio::test]
async fn restored_database_goes_on_and_the_inbox_absorbs_what_comes_again() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    send(&shop.outbox, &shop.path(), ["1", "2"]);
    std::fs::copy(shop.path(), shop.file("backup.db")).unwrap();
    assert!(!wal(&shop.path()).exists(), "the backup is whole");
    drain(&shop.outbox, &client).await;
    send(&shop.outbox, &shop.path(), ["lost with the database"]);
    drain(&shop.outbox, &client).await;
    for file in [shop.path(), wal(&shop.path())] {
        drop(std::fs::remove_file(file));
    }
    std::fs::copy(shop.file("backup.db"), shop.path()).unwrap();

    send(&shop.outbox, &shop.path(), ["3"]);
    drain(&shop.outbox, &client).await;

    assert_eq!(
        topic(&client, "orders").await,
        ["1", "2", "lost with the database", "1", "2", "3"],
        "handed over and forgotten: it comes again, with the same ids"
    );
    let effects = Shop::new();
    let inbox = Inbox::new(effects.path(), "billing");
    let consumer = client.consumer("orders", "billing").await.unwrap();
    let asking = client.clone();
    let settled = async move {
        let backlog = || async {
            asking.admin().describe_subscription("orders", "billing").await.unwrap().backlog
        };
        while backlog().await > 0 {
            sleep(PAUSE).await;
        }
    };
    let note = |tx: &Transaction<'_>, delivery: &Delivery| {
        let text = str::from_utf8(delivery.body()).unwrap();
        tx.execute("INSERT INTO orders (text) VALUES (?1)", [text]).map(|_| ())
    };
    inbox.run(consumer, 4, note).until(settled).await.unwrap();
    let db = effects.connect();
    let mut select = db.prepare("SELECT text FROM orders").unwrap();
    let texts: Vec<String> =
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let distinct: BTreeSet<_> = texts.iter().collect();
    assert_eq!((texts.len(), distinct.len()), (4, 4), "{texts:?}");
}

#[tokio::test]
async fn second_relay_stands_by_and_takes_over() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let first = shop.outbox.relay(&client).spawn();
    active(&first).await;
    let second = shop.outbox.relay(&client).spawn();
    while second.stats().state != RelayState::StandingBy {
        sleep(PAUSE).await;
    }
    first.shutdown().await.unwrap();
    active(&second).await;
    send(&shop.outbox, &shop.path(), ["1"]);
    drained(&shop.outbox).await;
    assert_eq!(topic(&client, "orders").await, ["1"]);
    second.shutdown().await.unwrap();
}

fn send<const N: usize>(outbox: &Outbox, path: &Path, bodies: [&str; N]) {
    let mut db = rusqlite::Connection::open(path).unwrap();
    for body in bodies {
        let message = Message::new(body.to_owned()).to("orders");
        outbox.send_with_transaction(&mut db, message, |_| Ok::<_, Error>(())).unwrap();
    }
}

async fn drain(outbox: &Outbox, client: &Client) {
    let relay = outbox.relay(client).spawn();
    active(&relay).await;
    drained(outbox).await;
    relay.shutdown().await.unwrap();
}

async fn active(relay: &RelayHandle) {
    while relay.stats().state != RelayState::Active {
        assert_ne!(relay.stats().state, RelayState::Ended, "{:?}", relay.stats());
        sleep(PAUSE).await;
    }
}

async fn drained(outbox: &Outbox) {
    while outbox.lag().unwrap().rows > 0 {
        sleep(PAUSE).await;
    }
}

/// Everything in a topic.
async fn topic(client: &Client, topic: &str) -> Vec<String> {
    let mut reader = client.reader(topic, Position::Earliest).await.unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        found.push(String::from_utf8(record.body().to_vec()).unwrap());
    }
    found
}

fn wal(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}
