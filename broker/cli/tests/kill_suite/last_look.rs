//! The last look: everything that is still there is read once more.

use crate::record::{self, Record};
use crate::support::PATIENCE;
use crate::{COPY, DEAD, JOBS, LOG, NOTES, READ, WORK, block_on, connect};
use posthouse_checker::history::{
    self, ConsumerChange, Event, Fetch, Final, MessageId, Seen, Verdict,
};
use posthouse_client::{Client, Delivery, Position};
use std::time::Duration;
use tokio::time::timeout;

/// How long nothing comes before it is asked whether anything is left.
const QUIET: Duration = Duration::from_millis(20);

/// Drains every subscription, and reads what no subscription takes away.
pub(crate) fn take(address: &str, record: &Record) {
    block_on(async {
        let client = connect(address).await;
        for (topic, subscription) in [(JOBS, WORK), (JOBS, COPY), (NOTES, READ)] {
            begin(record, topic, Some(subscription));
            drain(&client, record, topic, subscription).await;
        }
        for topic in [LOG, DEAD] {
            begin(record, topic, None);
            fetch(&client, record, topic).await;
        }
        client.close(PATIENCE).await;
    });
}

fn begin(record: &Record, topic: &str, subscription: Option<&str>) {
    record.add(Event::Final(Final {
        t: record.now(),
        topic: topic.to_owned(),
        subscription: subscription.map(str::to_owned),
    }));
}

async fn drain(client: &Client, record: &Record, topic: &str, subscription: &str) {
    let number = record.next_consumer();
    let change = |t0, change| {
        record.add(Event::Consumer(history::Consumer {
            t0,
            t1: record.now(),
            topic: topic.to_owned(),
            subscription: subscription.to_owned(),
            consumer: number,
            change,
        }));
    };
    let t0 = record.now();
    let mut consumer = client.consumer(topic, subscription).await.unwrap();
    change(t0, ConsumerChange::Opened);
    loop {
        let Ok(next) = timeout(QUIET, consumer.next()).await else {
            let admin = client.admin();
            let state = admin.describe_subscription(topic, subscription).await.unwrap();
            if state.backlog == 0 {
                break;
            }
            continue;
        };
        let delivery: Delivery = next.expect("the client is open").unwrap();
        record.add(record::deliver(record.now(), (topic, subscription, number), &delivery));
        let settle = record::settle(record.now(), (topic, subscription), &delivery, Verdict::Ack);
        let result = delivery.ack().await;
        record.add(record::settled(settle, record.now(), result));
    }
    let t0 = record.now();
    drop(consumer);
    change(t0, ConsumerChange::Closed);
}

async fn fetch(client: &Client, record: &Record, topic: &str) {
    let t0 = record.now();
    let end = client.admin().describe_topic(topic).await.unwrap().end;
    let mut reader = client.reader(topic, Position::Earliest).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = reader.next().await.unwrap() {
        messages.push(Seen {
            offset: message.offset().0,
            id: MessageId::from(message.id().0),
            crc: crc32fast::hash(message.body()),
        });
    }
    let (topic, t1) = (topic.to_owned(), record.now());
    record.add(Event::Fetch(Fetch { t0, t1, topic, from: 0, next: end.0, messages }));
}
