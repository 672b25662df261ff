//! Connecting, heartbeats, silence, several servers, requests over lost connections, closing.

#![expect(clippy::disallowed_methods, reason = "a test may panic, and its tasks end with it")]

mod support;

use posthouse_client::{
    Client, CloseReport, ConnectError, ErrorCode, Outcome, PublishError, RequestError,
};
use posthouse_protocol::Request;
use std::time::Duration;
use support::{connected, fake_broker, message, publishing, topic_info};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn connect_tries_until_its_timeout() {
    let (broker, connector) = fake_broker();
    drop(broker);
    let started = Instant::now();

    let connecting = Client::builder().connector(connector);
    let error = connecting.connect_timeout(Duration::from_secs(3)).connect().await.unwrap_err();

    assert!(matches!(error, ConnectError::Unreachable { last: Some(_), .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn broker_that_does_not_answer_is_unreachable() {
    let (_broker, connector) = fake_broker();

    let error = Client::builder().connector(connector).connect().await.unwrap_err();

    assert!(matches!(error, ConnectError::Unreachable { last: None, .. }), "{error}");
}

#[tokio::test]
async fn address_must_be_host_and_port_or_a_unix_path() {
    let error = Client::builder().server("localhost").connect().await.unwrap_err();

    assert_eq!(error.to_string(), "address \"localhost\" is not HOST:PORT or unix:PATH");
}

#[tokio::test(start_paused = true)]
async fn refusal_that_time_does_not_change_ends_connecting() {
    let (mut broker, connector) = fake_broker();
    let connecting = async { Client::builder().connector(connector).connect().await };

    let (result, ()) = tokio::join!(connecting, async {
        let mut peer = broker.accept().await;
        let (correlation, _, _) = peer.request().await;
        peer.refuse(correlation, ErrorCode::UnsupportedVersion).await;
    });

    let error = result.unwrap_err();
    assert_eq!(error.refusal().unwrap().code(), Some(ErrorCode::UnsupportedVersion));
}

#[tokio::test(start_paused = true)]
async fn next_server_is_tried_when_one_cannot_be_reached() {
    let (gone, first) = fake_broker();
    drop(gone);
    let (mut broker, second) = fake_broker();

    let connecting = Client::builder().connector(first).connector(second).connect();
    let (client, _peer) = tokio::join!(connecting, broker.welcome());

    client.unwrap();
}

#[tokio::test(start_paused = true)]
async fn heartbeat_is_sent_after_15_quiet_seconds() {
    let (_client, _broker, mut peer) = connected().await;
    peer.skip_heartbeats = false;
    let started = Instant::now();

    let (_, request, _) = peer.request().await;

    assert!(matches!(request, Request::Heartbeat(_)), "{request:?}");
    assert_eq!(started.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn broker_silent_for_45_seconds_is_given_up_and_connected_again() {
    let (_client, mut broker, mut peer) = connected().await;
    let started = Instant::now();

    assert!(peer.try_request().await.is_none());

    assert_eq!(started.elapsed().as_secs(), 45);
    broker.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn malformed_answer_costs_the_connection_and_nothing_else() {
    let (orders, _client, mut broker, mut peer) = publishing().await;
    let pending = orders.submit(message("a")).await.unwrap();
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.reply(correlation, topic_info()).await;
    assert!(peer.try_request().await.is_none());

    let mut peer = broker.welcome().await;
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.receipt(correlation, 0).await;

    pending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn broker_that_takes_offence_is_come_back_to_ever_more_slowly() {
    let (orders, _client, mut broker, mut peer) = publishing().await;
    let started = Instant::now();
    let pending = orders.submit(message("a")).await.unwrap();
    let mut times = 0;
    while started.elapsed() < Duration::from_secs(25) {
        peer.publish().await;
        peer.dismiss(ErrorCode::Malformed).await;
        peer = broker.welcome().await;
        times += 1;
    }

    assert!(pending.await.is_err());
    assert!((8..20).contains(&times), "{times}");
}

#[tokio::test(start_paused = true)]
async fn request_that_may_be_repeated_survives_a_lost_connection() {
    let (client, mut broker, mut peer) = connected().await;
    let asking = tokio::spawn(async move { client.admin().describe_topic("orders").await });
    peer.request().await;
    drop(peer);

    let mut peer = broker.welcome().await;
    let (correlation, request, _) = peer.request().await;
    assert!(matches!(request, Request::TopicDescribe(_)), "{request:?}");
    peer.reply(correlation, topic_info()).await;

    assert_eq!(asking.await.unwrap().unwrap(), topic_info());
}

#[tokio::test(start_paused = true)]
async fn request_that_must_not_be_repeated_has_an_unknown_outcome() {
    let (client, _broker, mut peer) = connected().await;
    let asking = tokio::spawn(async move { client.admin().purge_topic("orders").await });
    peer.request().await;
    drop(peer);

    let error = asking.await.unwrap().unwrap_err();

    assert_eq!(error, RequestError::ConnectionLost);
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn request_times_out_definite_if_it_was_never_sent() {
    let (client, broker, peer) = connected().await;
    drop((broker, peer));
    sleep(Duration::from_secs(1)).await;
    let started = Instant::now();

    let error = client.admin().describe_topic("orders").await.unwrap_err();

    assert_eq!(error, RequestError::TimedOut { outcome: Outcome::Definite });
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn lists_are_read_page_by_page() {
    use posthouse_protocol::{Name, message::TopicNames};
    let (client, _broker, mut peer) = connected().await;
    let listing = tokio::spawn(async move { client.admin().list_topics().await });
    let name = |text| Name::new(text).unwrap();
    let pages = [vec![name("a"), name("b")], vec![name("c")], vec![]];
    for (page, after) in pages.into_iter().zip([None, Some(name("b")), Some(name("c"))]) {
        let (correlation, request, _) = peer.request().await;
        assert!(matches!(request, Request::TopicList(list) if list.after == after));
        peer.reply(correlation, TopicNames { topics: page }).await;
    }

    let names = listing.await.unwrap().unwrap();

    assert_eq!(names, [name("a"), name("b"), name("c")]);
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_was_submitted_and_hangs_up() {
    let (orders, client, _broker, mut peer) = publishing().await;
    let pending = orders.submit(message("a")).await.unwrap();
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(9)).await });

    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    let refused = orders.publish("b").await.unwrap_err();
    peer.receipt(correlation, 0).await;

    assert_eq!(refused, PublishError::Closed { outcome: Outcome::Definite });
    assert_eq!(closing.await.unwrap(), CloseReport::default());
    pending.await.unwrap();
    assert!(peer.try_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn close_says_what_it_could_not_send_in_time() {
    let (orders, client, _broker, mut peer) = publishing().await;
    let sent = orders.submit(message("a")).await.unwrap();
    peer.expect_publish(1, 0, &["a"]).await;
    drop(peer);
    let waiting = [orders.submit("b").await.unwrap(), orders.submit("c").await.unwrap()];
    let started = Instant::now();

    let report = client.close(Duration::from_secs(2)).await;

    assert_eq!(report, CloseReport { unsent: 3, unsettled: 0 });
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(sent.await, Err(PublishError::Closed { outcome: Outcome::Unknown }));
    for waiting in waiting {
        assert_eq!(waiting.await, Err(PublishError::Closed { outcome: Outcome::Definite }));
    }
    assert_eq!(client.close(Duration::from_secs(2)).await, CloseReport::default());
}

#[test]
fn runtime_that_ends_ends_what_waits() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (orders, _client, _broker, _peer) = first.block_on(publishing());
    let pending = first.block_on(orders.submit(message("a"))).unwrap();
    drop(first);

    let (result, after) = runtime().block_on(async { (pending.await, orders.publish("b").await) });

    assert!(matches!(result, Err(PublishError::Closed { .. })), "{result:?}");
    assert_eq!(after, Err(PublishError::Closed { outcome: Outcome::Definite }));
}
