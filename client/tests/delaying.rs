//! Delayed messages through the client and a real broker over TCP.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

use posthouse_broker::{Broker, Config, Exit};
use posthouse_client::{Client, Consumer, Message, Offset, Position, Timestamp, TopicSettings};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const DELAY: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn delayed_message_arrives_when_it_is_due_and_not_before() {
    let (_home, broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    let begun = Instant::now();
    let late = orders.submit(Message::new("late").delay(DELAY)).await.unwrap();
    let now = orders.submit("now").await.unwrap();
    orders.flush().await.unwrap();
    assert_eq!((late.await.unwrap().offset, now.await.unwrap().offset), (None, Some(Offset(0))));

    let mut billing = client.consumer("orders", "billing").await.unwrap();
    assert_eq!(next(&mut billing).await, "now");
    assert_eq!(next(&mut billing).await, "late");
    // The broker's clock is this machine's, in whole milliseconds.
    assert!(begun.elapsed() + Duration::from_millis(2) >= DELAY, "{:?}", begun.elapsed());
    ended(broker, client, billing).await;
}

#[tokio::test]
async fn commit_publishes_some_messages_at_once_and_others_when_they_are_due() {
    let (_home, broker, client) = started().await;
    client.publisher("orders").await.unwrap().publish("work").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let work = billing.next().await.unwrap().unwrap();
    let begun = Instant::now();
    let committed = client
        .commit()
        .publish("orders", Message::new("last").delay(2 * DELAY))
        .publish("orders", "also now")
        .publish("audit", Message::new("trace").delay(DELAY))
        .publish("orders", Message::new("late").delay(DELAY))
        .ack(work)
        .await
        .unwrap();
    let offsets: Vec<_> = committed.receipts.iter().map(|receipt| receipt.offset).collect();
    assert_eq!(offsets, [None, Some(Offset(1)), None, None]);
    assert_eq!(waiting(&client, "orders").await, 2);

    assert_eq!(next(&mut billing).await, "also now");
    for (body, delay) in [("late", DELAY), ("last", 2 * DELAY)] {
        assert_eq!(next(&mut billing).await, body);
        assert!(begun.elapsed() + Duration::from_millis(2) >= delay, "{:?}", begun.elapsed());
    }
    assert_eq!(bodies(&client, "audit").await, ["trace"]);
    assert_eq!((waiting(&client, "orders").await, waiting(&client, "audit").await), (0, 0));
    ended(broker, client, billing).await;
}

#[tokio::test]
async fn what_waits_comes_once_after_a_restart() {
    let (home, broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    orders.publish(Message::new("soon").delay(DELAY)).await.unwrap();
    orders.publish(Message::new("much later").delay(HOUR)).await.unwrap();
    drop(orders);
    client.close(PATIENCE).await;
    assert_eq!(broker.shutdown().await, Exit::Clean);

    let (broker, client) = start(home.path()).await;
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    assert_eq!(next(&mut billing).await, "soon");
    let info = client.admin().describe_topic("orders").await.unwrap();
    assert_eq!((info.end, info.waiting), (Offset(1), 1), "each once");
    ended(broker, client, billing).await;
}

#[tokio::test]
async fn purge_and_delete_forget_what_waits() {
    let (_home, broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    let admin = client.admin();
    orders.publish(Message::new("purged").delay(DELAY)).await.unwrap();
    orders.publish(Message::new("purged, too").delay(HOUR)).await.unwrap();
    admin.purge_topic("orders").await.unwrap();
    assert_eq!(waiting(&client, "orders").await, 0);
    orders.publish(Message::new("kept").delay(2 * DELAY)).await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    assert_eq!(next(&mut billing).await, "kept", "what was purged was due before");
    drop((orders, billing));

    let audit = client.publisher("audit").await.unwrap();
    audit.publish(Message::new("deleted").delay(HOUR)).await.unwrap();
    admin.delete_topic("audit").await.unwrap();
    admin.create_topic("audit", TopicSettings::default()).await.unwrap();
    assert_eq!(waiting(&client, "audit").await, 0, "a topic of the same name is another one");
    drop(audit);
    client.close(PATIENCE).await;
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

#[tokio::test]
async fn any_time_may_be_asked_for() {
    let (_home, broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    let past = orders.publish(Message::new("past").due_at(Timestamp(1))).await.unwrap();
    assert_eq!(past.offset, Some(Offset(0)), "a time that has passed is no delay");
    let none = orders.publish(Message::new("at once").delay(Duration::ZERO)).await.unwrap();
    assert_eq!(none.offset, Some(Offset(1)));
    orders.publish(Message::new("never").delay(Duration::MAX)).await.unwrap();
    orders.publish(Message::new("late").delay(DELAY)).await.unwrap();

    let info = client.admin().describe_topic("orders").await.unwrap();
    assert_eq!((info.messages, info.waiting), (2, 2));
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    for body in ["past", "at once", "late"] {
        assert_eq!(next(&mut billing).await, body);
    }
    let info = client.admin().describe_topic("orders").await.unwrap();
    let year_2527 = Timestamp((1 << 44) - 1);
    assert_eq!((info.waiting, info.next_due_at), (1, year_2527), "the latest time that is kept");
    drop(orders);
    ended(broker, client, billing).await;
}

/// Everything that a topic has, once what is due soon is there.
async fn bodies(client: &Client, topic: &str) -> Vec<String> {
    let mut reader = client.reader(topic, Position::Earliest).await.unwrap();
    let mut bodies = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
    }
    bodies
}

async fn waiting(client: &Client, topic: &str) -> u64 {
    client.admin().describe_topic(topic).await.unwrap().waiting
}

async fn next(consumer: &mut Consumer) -> String {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let delivery = next.expect("it comes in time").unwrap().unwrap();
    let body = String::from_utf8(delivery.body().to_vec()).unwrap();
    delivery.ack().await.unwrap();
    body
}

async fn ended(broker: Broker, client: Client, consumer: Consumer) {
    drop(consumer);
    let report = client.close(PATIENCE).await;
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

async fn start(home: &Path) -> (Broker, Client) {
    let mut config = Config::temporary().unwrap();
    config.data_dir = home.join("data");
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let broker = Broker::start(config).await.unwrap();
    let client = Client::builder().server(&broker.addresses()[0]).connect().await.unwrap();
    (broker, client)
}

/// A broker and a client, with topics `orders` and `audit` and a subscription of the first.
async fn started() -> (tempfile::TempDir, Broker, Client) {
    let home = tempfile::tempdir().unwrap();
    let (broker, client) = start(home.path()).await;
    for topic in ["orders", "audit"] {
        client.admin().create_topic(topic, TopicSettings::default()).await.unwrap();
    }
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    (home, broker, client)
}
