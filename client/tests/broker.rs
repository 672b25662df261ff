//! The client and a real broker, in process and over sockets, with connections that break.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

mod cutting;

use cutting::Cutting;
use posthouse_broker::{Broker, Config, Exit};
use posthouse_client::{
    Client, Delivery, ErrorCode, Failure, Mode, Offset, Position, Retry, Start,
    SubscriptionSettings, TopicSettings,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const SECONDS: Duration = Duration::from_secs(20);

#[tokio::test]
async fn work_queue_handles_everything_and_failures_come_again() {
    let (broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..2000 {
        drop(orders.submit(number.to_string()).await.unwrap());
    }
    orders.flush().await.unwrap();

    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let all = Arc::new(Notify::new());
    let handler = {
        let (done, all) = (Arc::clone(&done), Arc::clone(&all));
        move |delivery: Arc<Delivery>| {
            let (done, all) = (Arc::clone(&done), Arc::clone(&all));
            async move {
                let number: u32 = str::from_utf8(delivery.body()).unwrap().parse().unwrap();
                if number % 100 == 7 && delivery.attempt().0 == 0 {
                    return Err(Failure::nack(Retry::Now, "not yet"));
                }
                let mut done = done.lock().unwrap();
                assert!(done.insert(number), "{number} came twice");
                if done.len() == 2000 {
                    all.notify_one();
                }
                Ok(())
            }
        }
    };
    let billing = client.consumer("orders", "billing").await.unwrap();
    billing.run(8, handler).until(async move { all.notified().await }).await.unwrap();

    assert_eq!(done.lock().unwrap().len(), 2000);
    let report = client.close(SECONDS).await;
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    assert_eq!(backlog(&broker).await, 0);
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

#[tokio::test]
async fn hopeless_message_becomes_a_dead_letter_and_comes_back_by_redrive() {
    let (_broker, client) = started().await;
    client.publisher("orders").await.unwrap().publish("bad").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();

    let delivery = billing.next().await.unwrap().unwrap();
    delivery.reject("no such customer").await.unwrap();
    // The copy is made after the verdict is durable.
    while client.admin().describe_subscription("orders", "billing").await.unwrap().dead == 0 {
        tokio::task::yield_now().await;
    }
    let mut dead = client.reader("orders.billing.dead", Position::Earliest).follow().await.unwrap();
    let letter = dead.next().await.unwrap().unwrap();
    assert_eq!(letter.body(), "bad");
    assert_eq!(letter.header("posthouse-dead-reason"), Some(&b"no such customer"[..]));

    assert_eq!(client.admin().redrive("orders", "billing", 10).await.unwrap(), 1);
    let again = billing.next().await.unwrap().unwrap();
    assert_eq!(again.body(), "bad");
    again.ack().await.unwrap();
}

#[tokio::test]
async fn stream_is_read_from_where_it_was_saved() {
    let (_broker, client) = started().await;
    let settings = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
    let admin = client.admin();
    admin.create_subscription("orders", "projector", settings, Start::Earliest).await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..100 {
        orders.publish(number.to_string()).await.unwrap();
    }

    let mut reader = client.reader("orders", Position::saved("projector")).await.unwrap();
    for _ in 0..40 {
        let record = reader.next().await.unwrap().unwrap();
        reader.save(record.offset().next()).await.unwrap();
    }
    let mut reader = client.reader("orders", Position::saved("projector")).await.unwrap();
    let mut bodies = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
    }

    assert_eq!(bodies, (40..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn follower_sees_what_is_published_after_it_was_opened() {
    let (_broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    orders.publish("before").await.unwrap();
    let mut reader = client.reader("orders", Position::Latest).follow().await.unwrap();
    let receipt = orders.publish("after").await.unwrap();
    assert_eq!(Some(reader.next().await.unwrap().unwrap().offset()), receipt.offset);
    for number in 0..50 {
        let next = reader.next();
        let (record, receipt) = tokio::join!(next, async {
            tokio::task::yield_now().await;
            orders.publish(number.to_string()).await.unwrap()
        });
        let record = record.unwrap().unwrap();
        assert_eq!((record.id(), Some(record.offset())), (receipt.id, receipt.offset));
    }
}

#[tokio::test]
async fn consumer_dropped_gives_back_what_it_had_not_taken_uncounted() {
    let (_broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..20 {
        orders.publish(number.to_string()).await.unwrap();
    }
    for number in 0..20 {
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        let delivery = billing.next().await.unwrap().unwrap();
        assert_eq!((delivery.offset().0, delivery.attempt().0), (number, 0));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let (_broker, client) = started().await;
    let codes = [
        client.publisher("nothing").await.unwrap_err().code(),
        client.consumer("orders", "nothing").await.unwrap_err().code(),
        client.reader("nothing", Position::Earliest).await.unwrap_err().code(),
        client.admin().describe_topic("nothing").await.unwrap_err().code(),
    ];

    assert_eq!(codes, [Some(ErrorCode::NotFound); 4]);
}

#[tokio::test]
async fn named_producer_opened_again_fences_the_first() {
    let (_broker, client) = started().await;
    let first = client.publisher("orders").producer("importer").await.unwrap();
    first.publish("a").await.unwrap();
    let second = client.publisher("orders").producer("importer").await.unwrap();
    second.publish("b").await.unwrap();

    let error = first.publish("c").await.unwrap_err();

    assert_eq!(error.code(), Some(ErrorCode::Fenced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_over_connections_that_break_neither_loses_nor_doubles() {
    let (broker, client) = started().await;
    let cutting = Cutting::new(broker.connector(), 50_000);
    let flaky = Client::builder().connector(cutting.clone()).connect().await.unwrap();
    let orders = flaky.publisher("orders").buffer_bytes(20_000).await.unwrap();
    let mut pending = Vec::new();
    for number in 0..20_000 {
        pending.push(orders.submit(number.to_string()).await.unwrap());
    }
    let mut offsets = Vec::new();
    for pending in pending {
        offsets.push(pending.await.unwrap().offset.unwrap());
    }

    assert!(cutting.cuts() > 10, "only {} cuts", cutting.cuts());
    assert_eq!(offsets, (0..20_000).map(Offset).collect::<Vec<_>>());
    let mut reader = client.reader("orders", Position::Earliest).await.unwrap();
    for number in 0..20_000 {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.body(), number.to_string().as_bytes());
    }
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_over_connections_that_break_loses_nothing_and_settles_all() {
    let (broker, client) = started().await;
    let quick = SubscriptionSettings {
        attempts_max: 1000,
        backoff_ms_first: 1,
        backoff_ms_max: 2,
        ..SubscriptionSettings::default()
    };
    client.admin().create_subscription("orders", "quick", quick, Start::Earliest).await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    for number in 0..5000 {
        drop(orders.submit(number.to_string()).await.unwrap());
    }
    orders.flush().await.unwrap();
    let cutting = Cutting::new(broker.connector(), 60_000);
    let flaky = Client::builder().connector(cutting.clone()).connect().await.unwrap();

    let mut seen = BTreeSet::new();
    let mut consumer = flaky.consumer("orders", "quick").await.unwrap();
    while seen.len() < 5000 {
        let delivery = consumer.next().await.unwrap().unwrap();
        seen.insert(delivery.offset());
        delivery.ack();
    }
    drop(consumer);
    let report = flaky.close(SECONDS).await;

    assert!(cutting.cuts() > 5, "only {} cuts", cutting.cuts());
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    // An ack may have come after the message was handed out again: then that one has to be acked.
    let mut consumer = client.consumer("orders", "quick").await.unwrap();
    loop {
        let info = client.admin().describe_subscription("orders", "quick").await.unwrap();
        if info.backlog == 0 {
            break;
        }
        let next = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await;
        if let Ok(Some(delivery)) = next {
            delivery.unwrap().ack().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_go_through_a_socket_both_ways() {
    let mut config = Config::temporary().unwrap();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let broker = Broker::start(config).await.unwrap();
    let client = Client::builder().server(&broker.addresses()[0]).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    let body = |number: u8| vec![number; (1 << 20) - usize::from(number) * 1000];
    for number in 0..64 {
        drop(orders.submit(body(number)).await.unwrap());
    }
    orders.flush().await.unwrap();

    let mut billing = client.consumer("orders", "billing").await.unwrap();
    for number in 0..64 {
        let delivery = billing.next().await.unwrap().unwrap();
        assert!(delivery.body() == &body(number), "number {number}");
        delivery.ack();
    }

    let report = client.close(SECONDS).await;
    assert_eq!((report.unsent, report.unsettled), (0, 0));
}

#[tokio::test]
async fn client_rides_through_a_restart_on_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", directory.path().join("socket").display());
    let config = || {
        let mut config = Config::temporary().unwrap();
        config.data_dir = directory.path().join("data");
        config.listen = vec![address.parse().unwrap()];
        config
    };
    let broker = Broker::start(config()).await.unwrap();
    let client = Client::builder().server(&address).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    orders.publish("before").await.unwrap();
    let before = billing.next().await.unwrap().unwrap();

    assert_eq!(broker.shutdown().await, Exit::Clean);
    let pending = orders.submit("while it is down").await.unwrap();
    let broker = Broker::start(config()).await.unwrap();

    pending.await.unwrap();
    orders.publish("after").await.unwrap();
    assert_eq!(before.body(), "before");
    let mut bodies = BTreeSet::new();
    while bodies.len() < 2 {
        let delivery = billing.next().await.unwrap().unwrap();
        bodies.insert(delivery.body().clone());
        delivery.ack().await.unwrap();
    }
    let _ = before.ack().await;
    let report = client.close(SECONDS).await;
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

#[cfg(feature = "json")]
#[tokio::test]
async fn typed_payloads_go_through_json() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Order {
        customer: String,
        cents: u64,
    }
    let order = Order { customer: "c-17".to_owned(), cents: 1250 };
    let (_broker, client) = started().await;
    let orders = client.publisher("orders").await.unwrap();
    orders.publish(posthouse_client::Message::json(&order).unwrap()).await.unwrap();

    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let delivery = billing.next().await.unwrap().unwrap();

    assert_eq!(delivery.json::<Order>().unwrap(), order);
    assert_eq!(delivery.header("content-type"), Some(&b"application/json"[..]));
    assert!(delivery.json::<Vec<u8>>().is_err());
    delivery.ack().await.unwrap();
}

/// A broker and a client, with a topic and a subscription.
async fn started() -> (Broker, Client) {
    let broker = Broker::start(Config::temporary().unwrap()).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    (broker, client)
}

async fn backlog(broker: &Broker) -> u64 {
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().describe_subscription("orders", "billing").await.unwrap().backlog
}
