//! Commits, named producers and transform against a real broker, with connections that break.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

mod cutting;

use cutting::Cutting;
use posthouse_broker::{Broker, Config};
use posthouse_client::{
    Client, CommitPart, ErrorCode, Failure, Message, MessageId, Mode, Offset, Outcome, Position,
    Start, SubscriptionSettings, Timestamp, TopicSettings,
};
use std::future::IntoFuture;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

#[tokio::test]
async fn commit_publishes_settles_and_saves_together() {
    let (_broker, client) = started().await;
    client.publisher("orders").await.unwrap().publish("order").await.unwrap();
    client.publisher("events").await.unwrap().publish("event").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let order = billing.next().await.unwrap().unwrap();
    let mut events = client.reader("events", Position::saved("view")).await.unwrap();
    let event = events.next().await.unwrap().unwrap();

    let commit = client.commit().publish("bills", "bill").publish("events", "billed").ack(order);
    let save = events.cursor(event.offset().next()).unwrap();
    let committed = commit.publish("bills", "copy").save(save).await.unwrap();

    let offsets: Vec<_> = committed.receipts.iter().map(|receipt| receipt.offset).collect();
    assert_eq!(offsets, [Some(Offset(0)), Some(Offset(1)), Some(Offset(1))]);
    assert!(!committed.duplicate);
    assert_eq!(bodies(&client, "bills").await, ["bill", "copy"]);
    assert_eq!(backlog(&client, "orders", "billing").await, 0);
    let info = client.admin().describe_subscription("events", "view").await.unwrap();
    assert_eq!(info.ack_floor, Offset(1));
}

#[tokio::test]
async fn refused_commit_does_nothing_at_all_and_says_why() {
    let (_broker, client) = started().await;
    client.publisher("orders").await.unwrap().publish("order").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let order = billing.next().await.unwrap().unwrap();

    let commit = client.commit().publish("bills", "bill").ack(order).publish("no-such", "x");
    let mut error = commit.await.unwrap_err();

    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::NotFound), Outcome::Definite));
    let is_named =
        matches!(error.at(), Some(CommitPart::Message { topic, .. }) if topic == "no-such");
    assert!(is_named, "{error}");
    assert_eq!(bodies(&client, "bills").await, Vec::<String>::new());
    assert_eq!(backlog(&client, "orders", "billing").await, 1);
    let order = error.take_deliveries().pop().unwrap();
    client.commit().publish("bills", "bill").ack(order).await.unwrap();
    assert_eq!(bodies(&client, "bills").await, ["bill"]);
    assert_eq!(backlog(&client, "orders", "billing").await, 0);
}

#[tokio::test]
async fn commit_with_a_delivery_that_another_has_is_refused_whole() {
    let (_broker, client) = started().await;
    client.publisher("orders").await.unwrap().publish("order").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let first = billing.next().await.unwrap().unwrap();
    // Settled behind the commit's back, as after a lease that ended.
    let acked_elsewhere = client.commit().publish("bills", "1");
    let mut same = client.consumer("orders", "billing").await.unwrap();
    drop(billing);
    let again = same.next().await.unwrap().unwrap();
    again.ack().await.unwrap();

    let mut error = acked_elsewhere.ack(first).await.unwrap_err();

    assert_eq!(error.code(), Some(ErrorCode::StaleFence), "{error}");
    assert!(matches!(error.at(), Some(CommitPart::Settlement { .. })), "{error}");
    assert_eq!(bodies(&client, "bills").await, Vec::<String>::new());
    drop(error.take_deliveries());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_over_connections_that_break_happen_once_each() {
    let (broker, client) = started().await;
    let cutting = Cutting::new(broker.connector(), 20_000);
    let flaky = Client::builder().connector(cutting.clone()).connect().await.unwrap();
    let mut commits = JoinSet::new();
    for number in 0..1500 {
        let commit = flaky.commit().publish("bills", number.to_string());
        commits.spawn(commit.publish("events", number.to_string()).into_future());
    }
    while let Some(committed) = commits.join_next().await {
        committed.unwrap().unwrap();
    }

    assert!(cutting.cuts() > 10, "only {} cuts", cutting.cuts());
    for topic in ["bills", "events"] {
        let mut numbers: Vec<u32> =
            bodies(&client, topic).await.iter().map(|body| body.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1500).collect::<Vec<_>>(), "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transform_over_connections_that_break_makes_one_of_each() {
    let (broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..1500 {
        drop(orders.submit(number.to_string()).await.unwrap());
    }
    orders.flush().await.unwrap();
    let cutting = Cutting::new(broker.connector(), 40_000);
    let flaky = Client::builder().connector(cutting.clone()).connect().await.unwrap();

    let quick = flaky.consumer("orders", "quick").await.unwrap();
    let done = Notify::new();
    let transforming = quick.transform(16, async |order| {
        let number: u32 = str::from_utf8(order.body())?.parse()?;
        if number % 50 == 3 && order.attempt().0 == 0 {
            return Err(Failure::from("not yet"));
        }
        assert!(number % 70 != 5 || order.attempt().0 > 0, "on purpose");
        Ok(vec![Message::new(order.body().clone()).to("bills")])
    });
    let (transformed, ()) =
        tokio::join!(transforming.until(done.notified()).into_future(), async {
            while backlog(&client, "orders", "quick").await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done.notify_one();
        });
    transformed.unwrap();

    assert!(cutting.cuts() > 5, "only {} cuts", cutting.cuts());
    let mut numbers: Vec<u32> =
        bodies(&client, "bills").await.iter().map(|body| body.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1500).collect::<Vec<_>>());
}

#[tokio::test]
async fn transform_stops_taking_and_finishes_what_it_has() {
    let (_broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..10 {
        orders.publish(number.to_string()).await.unwrap();
    }
    let quick = client.consumer("orders", "quick").await.unwrap();
    let (started, finish) = (Notify::new(), Notify::new());
    let transforming = quick.transform(2, async |order| {
        started.notify_one();
        finish.notified().await;
        Ok::<_, Failure>(vec![Message::new(order.body().clone()).to("bills")])
    });
    let stop = async {
        started.notified().await;
        started.notified().await;
    };
    let (transformed, ()) = tokio::join!(transforming.until(stop).into_future(), async {
        while client.admin().describe_subscription("orders", "quick").await.unwrap().in_flight < 2 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        finish.notify_one();
        finish.notify_one();
        tokio::time::sleep(Duration::from_millis(50)).await;
        finish.notify_one();
    });
    transformed.unwrap();

    assert_eq!(bodies(&client, "bills").await, ["0", "1"]);
    assert_eq!(backlog(&client, "orders", "quick").await, 8);
}

#[tokio::test]
async fn named_producer_that_crashed_asks_and_repeats_or_goes_on() {
    let (_broker, client) = started().await;
    let importer = client.producer("importer").await.unwrap();
    assert_eq!((importer.last(), importer.epoch()), (0, 1));
    let line = |number: u8| {
        let message = Message::new(number.to_string()).id(MessageId([number; 16]));
        message.created_at(Timestamp(1000))
    };
    let first = importer.commit_as(1).publish("bills", line(1)).await.unwrap();
    importer.commit_as(5).publish("bills", line(5)).await.unwrap();

    let again = client.producer("importer").await.unwrap();

    assert_eq!((again.last(), again.epoch()), (5, 2));
    let fenced = importer.commit_as(6).publish("bills", "6").await.unwrap_err();
    assert_eq!((fenced.code(), fenced.outcome()), (Some(ErrorCode::Fenced), Outcome::Definite));
    let repeated = again.commit_as(1).publish("bills", line(1)).await.unwrap();
    assert!(repeated.duplicate);
    assert_eq!(repeated.receipts[0].offset, first.receipts[0].offset);
    let other = again.commit_as(5).publish("bills", "other").await.unwrap_err();
    assert_eq!(other.code(), Some(ErrorCode::SequenceReused));
    let next = again.commit().publish("bills", "6").await.unwrap();
    assert_eq!((next.sequence, again.last()), (6, 6));
    assert_eq!(bodies(&client, "bills").await, ["1", "5", "6"]);
    let lower = client.producer("importer").epoch(1).await.unwrap_err();
    assert_eq!(lower.code(), Some(ErrorCode::Fenced));
}

#[tokio::test]
async fn retired_producer_is_gone_and_its_commits_are_refused() {
    let (_broker, client) = started().await;
    let importer = client.producer("importer").await.unwrap();
    importer.commit().publish("bills", "1").await.unwrap();
    client.producer("another").await.unwrap();
    let listed = client.admin().list_producers().await.unwrap();
    let listed: Vec<_> =
        listed.iter().map(|it| (it.name.as_ref().unwrap().as_str(), it.last.0)).collect();
    assert_eq!(listed, [("another", 0), ("importer", 1)]);

    client.admin().retire_producer("importer").await.unwrap();

    let error = importer.commit().publish("bills", "2").await.unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        (Some(ErrorCode::UnknownProducer), Outcome::Definite)
    );
    let error = client.admin().retire_producer("importer").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
    assert_eq!(client.admin().list_producers().await.unwrap().len(), 1);
}

/// A broker and a client, with topics and subscriptions.
async fn started() -> (Broker, Client) {
    let broker = Broker::start(Config::temporary().unwrap()).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    let admin = client.admin();
    for topic in ["orders", "bills", "events"] {
        admin.create_topic(topic, TopicSettings::default()).await.unwrap();
    }
    admin.ensure_subscription("orders", "billing").await.unwrap();
    let quick = SubscriptionSettings {
        attempts_max: 1000,
        backoff_ms_first: 1,
        backoff_ms_max: 2,
        ..SubscriptionSettings::default()
    };
    admin.create_subscription("orders", "quick", quick, Start::Earliest).await.unwrap();
    let stream = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
    admin.create_subscription("events", "view", stream, Start::Earliest).await.unwrap();
    (broker, client)
}

async fn bodies(client: &Client, topic: &str) -> Vec<String> {
    let mut reader = client.reader(topic, Position::Earliest).await.unwrap();
    let mut bodies = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
    }
    bodies
}

async fn backlog(client: &Client, topic: &str, subscription: &str) -> u64 {
    client.admin().describe_subscription(topic, subscription).await.unwrap().backlog
}
