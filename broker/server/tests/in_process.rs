//! A program that carries its broker inside itself: the same frames over an in-memory pipe.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use posthouse_broker::{Broker, Config, Exit, StartError};
use posthouse_client::{Client, Message, Retry, Start, SubscriptionSettings, TopicSettings};
use std::path::PathBuf;
use std::time::Duration;

#[tokio::test]
async fn the_shape_of_the_readme_works_without_a_socket() {
    let broker = Broker::start(Config::temporary().unwrap()).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    let settings = SubscriptionSettings::default();
    client
        .admin()
        .create_subscription("orders", "billing", settings, Start::Earliest)
        .await
        .unwrap();

    let orders = client.publisher("orders").await.unwrap();
    for number in 0..100 {
        orders.publish(Message::new(format!("order {number}")).key("c-17")).await.unwrap();
    }

    let mut billing = client.consumer("orders", "billing").await.unwrap();
    for number in 0..100 {
        let delivery = billing.next().await.unwrap().unwrap();
        assert_eq!(delivery.body(), format!("order {number}").as_bytes());
        if number == 50 {
            delivery.nack(Retry::Backoff);
        } else {
            delivery.ack().await.unwrap();
        }
    }
    let again = billing.next().await.unwrap().unwrap();
    assert_eq!((&again.body()[..], again.attempt().0), (&b"order 50"[..], 1));
    again.ack().await.unwrap();
    drop(billing);

    let report = client.close(Duration::from_secs(5)).await;
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

#[tokio::test]
async fn a_temporary_broker_that_is_dropped_leaves_nothing() {
    let (broker, client, home) = temporary().await;
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    let orders = client.publisher("orders").await.unwrap();
    orders.publish(Message::new("an order")).await.unwrap();
    assert!(home.exists());
    drop(broker);
    assert!(!home.exists(), "{}", home.display());
}

#[tokio::test]
async fn a_stop_of_a_temporary_broker_that_is_not_waited_for_leaves_nothing() {
    let (broker, _client, home) = temporary().await;
    polled_once(broker.shutdown()).await;
    assert!(!home.exists(), "{}", home.display());
}

#[tokio::test]
async fn a_temporary_broker_whose_start_is_given_up_leaves_nothing() {
    let config = Config::temporary().unwrap();
    let home = config.data_dir.clone();
    polled_once(Broker::start(config)).await;
    assert!(!home.exists(), "{}", home.display());
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_data_directory_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::temporary().unwrap();
    config.listen = vec![taken.local_addr().unwrap().to_string().parse().unwrap()];
    let failed = Broker::start(config.clone()).await;
    assert!(matches!(failed, Err(StartError::Io { .. })), "{failed:?}");

    config.listen.clear();
    let broker = Broker::start(config).await.unwrap();
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

/// A broker, a client of it, and where its data are.
async fn temporary() -> (Broker, Client, PathBuf) {
    let config = Config::temporary().unwrap();
    let home = config.data_dir.clone();
    let broker = Broker::start(config).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    (broker, client, home)
}

/// Begins something and gives it up.
async fn polled_once<T>(future: impl Future<Output = T>) {
    tokio::select! {
        biased;
        done = future => drop(done),
        () = std::future::ready(()) => {}
    }
}
