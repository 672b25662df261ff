//! Publishing against a scripted broker: batches, resending, refusals, timeouts, bounds.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{Durability, ErrorCode, Offset, Outcome, Pending, PublishError, Publisher};
use posthouse_protocol::ProducerId;
use std::time::Duration;
use support::{message, publishing, topic_info};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn publish_returns_when_the_broker_has_accepted() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let publishing = tokio::spawn(async move { orders.publish("hello").await });

    let correlation = peer.expect_publish(1, 0, &["hello"]).await;
    assert!(!publishing.is_finished());
    peer.receipt(correlation, 42).await;

    let receipt = publishing.await.unwrap().unwrap();
    assert_eq!(receipt.offset, Some(Offset(42)));
    assert_eq!((receipt.durability, receipt.duplicate), (Durability::Synced, false));
}

#[tokio::test(start_paused = true)]
async fn what_is_submitted_together_travels_in_one_batch() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let pending = submit(&orders, &["a", "b", "c"]).await;

    let correlation = peer.expect_publish(1, 0, &["a", "b", "c"]).await;
    peer.receipt(correlation, 10).await;

    let mut offsets = Vec::new();
    for pending in pending {
        offsets.push(pending.await.unwrap().offset.unwrap().0);
    }
    assert_eq!(offsets, [10, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn while_batches_are_under_way_the_rest_gathers_behind_them() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let mut correlations = Vec::new();
    for (number, body) in (1..).zip(["a", "b", "c", "d"]) {
        submit(&orders, &[body]).await;
        correlations.push(peer.expect_publish(number, number - 1, &[body]).await);
    }
    submit(&orders, &["e"]).await;
    submit(&orders, &["f"]).await;
    peer.expect_silence().await;

    peer.receipt(correlations[0], 1).await;

    peer.expect_publish(5, 4, &["e", "f"]).await;
}

#[tokio::test(start_paused = true)]
async fn lost_connection_resends_the_same_sequences_without_opening_a_producer() {
    let (orders, _client, mut broker, mut peer) = publishing().await;
    let first = submit(&orders, &["a", "b"]).await;
    peer.expect_publish(1, 0, &["a", "b"]).await;
    let second = submit(&orders, &["c"]).await;
    peer.expect_publish(2, 1, &["c"]).await;
    drop(peer);

    let mut peer = broker.welcome().await;
    let correlations =
        [peer.expect_publish(1, 0, &["a", "b"]).await, peer.expect_publish(2, 1, &["c"]).await];
    peer.receipt(correlations[0], 0).await;
    peer.receipt(correlations[1], 2).await;

    for (offset, pending) in (0..).zip(first.into_iter().chain(second)) {
        assert_eq!(pending.await.unwrap().offset, Some(Offset(offset)));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_came_before_the_connection_broke_count() {
    let (orders, _client, mut broker, mut peer) = publishing().await;
    let mut pending = Vec::new();
    // More than the pipe takes, so that the client is writing when the connection breaks.
    for _ in 0..7 {
        pending.push(orders.submit(vec![b'a'; 1_000_000]).await.unwrap());
    }
    let (correlation, publish, _) = peer.publish().await;
    assert_eq!(publish.sequence.0, 1);
    peer.receipt(correlation, 0).await;
    drop(peer);

    let mut peer = broker.welcome().await;
    let (_, publish, _) = peer.publish().await;

    assert_eq!((publish.sequence.0, publish.prev.0), (2, 1));
    assert_eq!(pending.remove(0).await.unwrap().offset, Some(Offset(0)));
}

#[tokio::test(start_paused = true)]
async fn loop_of_submits_lets_the_client_send() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let submitting = tokio::spawn(async move {
        for _ in 0..10_000 {
            drop(orders.submit("a").await.unwrap());
        }
    });

    let first = peer.publish().await.2.len();

    assert!(first < 1000, "{first} before anything was sent");
    assert!(!submitting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn full_batch_leaves_while_others_have_no_answer() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    for number in 1..=4 {
        submit(&orders, &["a"]).await;
        peer.expect_publish(number, number - 1, &["a"]).await;
    }
    let pending = orders.submit(vec![b'b'; 200_000]).await.unwrap();
    peer.expect_silence().await;

    drop(orders.submit(vec![b'c'; 200_000]).await.unwrap());

    let (correlation, publish, bodies) = peer.publish().await;
    assert_eq!((publish.sequence.0, bodies.len()), (5, 1));
    peer.receipt(correlation, 4).await;
    pending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_are_no_larger_than_the_broker_takes() {
    let (mut broker, connector) = support::fake_broker();
    let connecting = posthouse_client::Client::builder().connector(connector).connect();
    let (client, mut peer) = tokio::join!(connecting, broker.welcome_to(2000));
    let client = client.unwrap();
    let opening = async { client.publisher("orders").await.unwrap() };
    let (orders, ()) = tokio::join!(opening, peer.open_publisher());
    let body = "x".repeat(500);
    let pending = submit(&orders, &[body.as_str(); 10]).await;

    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 10 {
        let (correlation, request, tail) = peer.request().await;
        assert!(matches!(request, posthouse_protocol::Request::Publish(_)), "{request:?}");
        assert!(tail.len() <= 2000, "{} bytes", tail.len());
        batches.push(support::bodies(&tail).len());
        peer.receipt(correlation, 0).await;
    }

    assert_eq!(batches, [3, 3, 3, 1]);
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn refusal_in_the_middle_fails_its_batch_alone_and_keeps_the_order() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let mut pending = Vec::new();
    let mut correlations = Vec::new();
    for (number, body) in (1..).zip(["a", "b", "c", "d"]) {
        pending.extend(submit(&orders, &[body]).await);
        correlations.push(peer.expect_publish(number, number - 1, &[body]).await);
    }

    peer.receipt(correlations[0], 0).await;
    peer.refuse(correlations[1], ErrorCode::TooLarge).await;
    peer.refuse(correlations[2], ErrorCode::OutOfSequence).await;
    peer.refuse(correlations[3], ErrorCode::OutOfSequence).await;
    peer.describe_topic(topic_info()).await;
    let third = peer.expect_publish(3, 1, &["c"]).await;
    let fourth = peer.expect_publish(4, 3, &["d"]).await;
    peer.receipt(third, 1).await;
    peer.receipt(fourth, 2).await;

    let mut results = Vec::new();
    for pending in pending {
        results.push(pending.await.map(|receipt| receipt.offset.unwrap().0));
    }
    assert!(matches!(&results[1], Err(error) if error.code() == Some(ErrorCode::TooLarge)
        && error.outcome() == Outcome::Definite));
    let accepted: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(accepted, [&0, &1, &2]);
}

#[tokio::test(start_paused = true)]
async fn forgotten_producer_makes_resent_batches_unknown_and_later_ones_go_on() {
    let (orders, _client, mut broker, mut peer) = publishing().await;
    let resent = submit(&orders, &["a"]).await;
    peer.expect_publish(1, 0, &["a"]).await;
    drop(peer);
    let mut peer = broker.welcome().await;
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    let fresh = submit(&orders, &["b"]).await;
    let other = peer.expect_publish(2, 1, &["b"]).await;

    peer.refuse(correlation, ErrorCode::UnknownProducer).await;
    peer.refuse(other, ErrorCode::UnknownProducer).await;
    peer.open_producer(ProducerId(8)).await;
    let (correlation, publish, bodies) = peer.publish().await;
    peer.receipt(correlation, 5).await;

    assert_eq!((publish.producer, publish.sequence.0, publish.prev.0), (ProducerId(8), 1, 0));
    assert_eq!(bodies, ["b"]);
    let error = result(resent).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(result(fresh).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn full_broker_is_tried_again_when_it_says() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let pending = submit(&orders, &["a"]).await;
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    let refused_at = Instant::now();
    peer.refuse_for(correlation, ErrorCode::StorageFull, 2500).await;

    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    assert_eq!(refused_at.elapsed().as_millis(), 2500);
    peer.receipt(correlation, 9).await;

    assert_eq!(result(pending).await.unwrap(), 9);
}

#[tokio::test(start_paused = true)]
async fn broker_that_stays_full_is_a_definite_error_after_the_timeout() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let started = Instant::now();
    let pending = submit(&orders, &["a"]).await;
    let full = tokio::spawn(async move {
        while let Some((correlation, _, _)) = peer.try_request().await {
            peer.refuse_for(correlation, ErrorCode::StorageFull, 700).await;
        }
    });

    let error = result(pending).await.unwrap_err();

    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(error.outcome(), Outcome::Definite);
    assert_eq!(error.code(), Some(ErrorCode::StorageFull));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(700)));
    full.abort();
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_broker_is_an_unknown_outcome_after_the_timeout() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let sent = submit(&orders, &["a"]).await;
    peer.expect_publish(1, 0, &["a"]).await;

    let error = result(sent).await.unwrap_err();

    assert_eq!(error, PublishError::TimedOut { outcome: Outcome::Unknown, last: None });
}

#[tokio::test(start_paused = true)]
async fn without_a_broker_what_was_never_sent_is_a_definite_error_after_the_timeout() {
    let (orders, _client, broker, peer) = publishing().await;
    drop((broker, peer));
    sleep(Duration::from_secs(1)).await;

    let error = orders.publish("a").await.unwrap_err();

    assert_eq!(error, PublishError::TimedOut { outcome: Outcome::Definite, last: None });
}

#[tokio::test(start_paused = true)]
async fn fenced_publisher_says_so_for_good() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let pending = submit(&orders, &["a"]).await;
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.refuse(correlation, ErrorCode::Fenced).await;

    let error = result(pending).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::Fenced), Outcome::Definite));
    let error = orders.publish("b").await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::Fenced), Outcome::Definite));
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn topic_made_again_is_found_again() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let lost = submit(&orders, &["a"]).await;
    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.refuse(correlation, ErrorCode::NotFound).await;
    assert_eq!(result(lost).await.unwrap_err().code(), Some(ErrorCode::NotFound));

    let found = submit(&orders, &["b"]).await;
    let mut info = topic_info();
    info.id.0 = 99;
    peer.describe_topic(info).await;
    let (correlation, publish, _) = peer.publish().await;
    assert_eq!((publish.topic.0, publish.prev.0), (99, 0));
    peer.receipt(correlation, 0).await;

    assert_eq!(result(found).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn message_beyond_the_topics_limit_is_refused_without_sending() {
    let (orders, _client, _broker, mut peer) = publishing().await;

    let error = orders.publish(vec![0; (1 << 20) + 1]).await.unwrap_err();

    assert!(matches!(error, PublishError::Invalid(_)), "{error}");
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn topic_altered_to_smaller_messages_fails_one_batch_at_most() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let large = submit(&orders, &["0123456789"]).await;
    let correlation = peer.expect_publish(1, 0, &["0123456789"]).await;
    peer.refuse(correlation, ErrorCode::TooLarge).await;
    assert!(result(large).await.is_err());

    let small = submit(&orders, &["a"]).await;
    let mut info = topic_info();
    info.settings.message_bytes_max = 5;
    peer.describe_topic(info).await;
    let correlation = peer.expect_publish(2, 0, &["a"]).await;
    peer.receipt(correlation, 0).await;
    result(small).await.unwrap();

    let error = orders.publish("0123456789").await.unwrap_err();
    assert!(matches!(error, PublishError::Invalid(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn submit_waits_for_room_and_no_longer_than_the_timeout() {
    let (client, _broker, mut peer) = support::connected().await;
    let opening = async { client.publisher("orders").buffer_bytes(1000).await.unwrap() };
    let (orders, ()) = tokio::join!(opening, peer.open_publisher());
    let first = orders.submit(vec![b'a'; 900]).await.unwrap();
    let correlation = peer.publish().await.0;

    let mut waiting = Box::pin(orders.submit(vec![b'b'; 900]));
    assert!(timeout(Duration::from_secs(5), &mut waiting).await.is_err());
    peer.receipt(correlation, 0).await;
    drop(waiting.await.unwrap());
    first.await.unwrap();

    let error = orders.submit(vec![b'c'; 900]).await.unwrap_err();
    assert_eq!(error, PublishError::TimedOut { outcome: Outcome::Definite, last: None });
}

#[tokio::test(start_paused = true)]
async fn message_larger_than_the_room_goes_alone() {
    let (client, _broker, mut peer) = support::connected().await;
    let opening = async { client.publisher("orders").buffer_bytes(1000).await.unwrap() };
    let (orders, ()) = tokio::join!(opening, peer.open_publisher());

    let pending = orders.submit(vec![b'a'; 100_000]).await.unwrap();
    let (correlation, _, bodies) = peer.publish().await;
    peer.receipt(correlation, 0).await;

    assert_eq!(bodies[0].len(), 100_000);
    pending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_everything_submitted() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    submit(&orders, &["a", "b"]).await;
    let flushing = tokio::spawn({
        let orders = orders.clone();
        async move { orders.flush().await }
    });
    let correlation = peer.publish().await.0;
    sleep(Duration::from_secs(1)).await;
    assert!(!flushing.is_finished());

    peer.receipt(correlation, 0).await;

    flushing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_publisher_still_sends_what_was_submitted() {
    let (orders, client, _broker, mut peer) = publishing().await;
    let pending = submit(&orders, &["a"]).await;
    drop((orders, client));

    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.receipt(correlation, 0).await;

    assert_eq!(result(pending).await.unwrap(), 0);
    let hung_up = timeout(Duration::from_secs(1), peer.try_request()).await;
    assert!(hung_up.is_ok_and(|request| request.is_none()), "nothing is left to do");
}

async fn submit(orders: &Publisher, bodies: &[&str]) -> Vec<Pending> {
    let mut pending = Vec::new();
    for body in bodies {
        pending.push(orders.submit(message(body)).await.unwrap());
    }
    pending
}

/// The offset of the only message.
async fn result(pending: Vec<Pending>) -> Result<u64, PublishError> {
    let [pending] = <[Pending; 1]>::try_from(pending).unwrap();
    pending.await.map(|receipt| receipt.offset.unwrap().0)
}
