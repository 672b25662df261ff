//! Futures dropped at every poll: nothing is lost, doubled, or left behind.

#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{CloseReport, Outcome, PublishError};
use posthouse_protocol::Request;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use support::{connected, consuming, message, publishing};
use tokio::time::{sleep, timeout};

/// Polls the future at most so many times and drops it; the result if it got there.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        // Polled again whether or not anything happens, with everyone else's turn in between.
        cx.waker().wake_by_ref();
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn publish_dropped_while_it_waits_for_room_is_not_sent() {
    for times in 0..5 {
        let (client, _broker, mut peer) = connected().await;
        let opening = async { client.publisher("orders").buffer_bytes(100).await.unwrap() };
        let (orders, ()) = tokio::join!(opening, peer.open_publisher());
        let full = orders.submit(vec![b'a'; 100]).await.unwrap();
        let correlation = peer.publish().await.0;

        assert!(polled(orders.publish("dropped"), times).await.is_none());
        sleep(Duration::from_secs(1)).await;
        peer.receipt(correlation, 0).await;
        full.await.unwrap();

        let kept = tokio::spawn(async move { orders.publish("kept").await });
        let correlation = peer.expect_publish(2, 1, &["kept"]).await;
        peer.receipt(correlation, 1).await;
        kept.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn publish_dropped_after_it_was_handed_over_is_sent() {
    for times in 1..5 {
        let (orders, client, _broker, mut peer) = publishing().await;

        assert!(polled(orders.publish("dropped"), times).await.is_none());

        let correlation = peer.expect_publish(1, 0, &["dropped"]).await;
        peer.receipt(correlation, 0).await;
        let report = client.close(Duration::from_secs(1)).await;
        assert_eq!(report, CloseReport::default());
    }
}

#[tokio::test(start_paused = true)]
async fn publish_never_polled_is_not_sent() {
    let (orders, _client, _broker, mut peer) = publishing().await;

    assert!(polled(orders.publish("dropped"), 0).await.is_none());

    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn room_of_dropped_submits_is_given_back() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.publisher("orders").buffer_bytes(1000).await.unwrap() };
    let (orders, ()) = tokio::join!(opening, peer.open_publisher());
    let first = orders.submit(vec![b'a'; 900]).await.unwrap();
    for times in 0..20 {
        assert!(polled(orders.submit(vec![b'b'; 900]), times % 3).await.is_none());
    }
    let correlation = peer.publish().await.0;
    peer.receipt(correlation, 0).await;
    first.await.unwrap();

    let second = orders.submit(vec![b'c'; 900]);
    let second = timeout(Duration::from_secs(1), second).await.expect("the room is free");
    drop(second.unwrap());
}

#[tokio::test(start_paused = true)]
async fn pending_dropped_changes_nothing_for_the_others() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let mut pending = Vec::new();
    for body in ["a", "b", "c"] {
        pending.push(orders.submit(body).await.unwrap());
    }
    let last = pending.pop().unwrap();
    for pending in pending {
        assert!(polled(pending, 1).await.is_none());
    }

    let correlation = peer.expect_publish(1, 0, &["a", "b", "c"]).await;
    peer.receipt(correlation, 0).await;

    assert_eq!(last.await.unwrap().offset.unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn next_dropped_at_any_poll_takes_nothing() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    let script = tokio::spawn(async move {
        for first in (0..60).step_by(3) {
            peer.deliver(first, &["a", "b", "c"]).await;
            sleep(Duration::from_millis(1)).await;
        }
        peer
    });

    let mut taken = Vec::new();
    let mut times = 0;
    while taken.len() < 60 {
        times += 1;
        if let Some(item) = polled(billing.next(), times % 3).await {
            let delivery = item.unwrap().unwrap();
            taken.push(delivery.offset().0);
            delivery.ack();
        } else {
            sleep(Duration::from_micros(300)).await;
        }
    }

    assert_eq!(taken, (0..60).collect::<Vec<_>>());
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn opening_a_consumer_dropped_at_any_poll_leaves_none() {
    for times in 0..6 {
        let (client, _broker, mut peer) = connected().await;
        let opening = async { client.consumer("orders", "billing").await };
        let script = tokio::spawn(async move {
            let mut is_open = false;
            while let Some((correlation, request, _)) = peer.try_request().await {
                match request {
                    Request::Subscribe(_) => {
                        let error = posthouse_client::ErrorCode::NotFound;
                        // Refused or not, it is gone either way.
                        if times % 2 == 0 {
                            peer.refuse(correlation, error).await;
                        } else {
                            is_open = true;
                            peer.subscribed(correlation).await;
                        }
                    }
                    Request::Unsubscribe(_) => is_open = false,
                    Request::Credit(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            is_open
        });

        drop(polled(opening, times).await);
        sleep(Duration::from_secs(1)).await;
        client.close(Duration::from_secs(1)).await;

        assert!(!script.await.unwrap(), "still open after {times} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn opening_a_publisher_dropped_at_any_poll_leaves_the_client_working() {
    for times in 0..6 {
        let (client, _broker, mut peer) = connected().await;
        let opening = async { client.publisher("orders").await };
        assert!(polled(opening, times).await.is_none());
        let script = tokio::spawn(async move {
            let mut published = 0;
            while let Some((correlation, request, _)) = peer.try_request().await {
                match request {
                    Request::TopicDescribe(_) => {
                        peer.reply(correlation, support::topic_info()).await;
                    }
                    Request::ProducerOpen(_) => peer.opened(correlation).await,
                    Request::Publish(_) => {
                        published += 1;
                        peer.receipt(correlation, 0).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
            published
        });

        let orders = client.publisher("orders").await.unwrap();
        orders.publish("a").await.unwrap();
        client.close(Duration::from_secs(1)).await;

        assert_eq!(script.await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn flush_dropped_at_any_poll_lets_others_go_on() {
    let (orders, _client, _broker, mut peer) = publishing().await;
    let pending = orders.submit(message("a")).await.unwrap();
    for times in 0..4 {
        assert!(polled(orders.flush(), times).await.is_none());
    }
    let next = orders.submit(message("b"));
    let next = timeout(Duration::from_secs(1), next).await.expect("nobody is in the way").unwrap();

    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    peer.receipt(correlation, 0).await;
    let correlation = peer.expect_publish(2, 1, &["b"]).await;
    peer.receipt(correlation, 1).await;

    pending.await.unwrap();
    next.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_dropped_goes_on_closing() {
    let (orders, client, _broker, mut peer) = publishing().await;
    let pending = orders.submit(message("a")).await.unwrap();

    assert!(polled(client.close(Duration::from_secs(5)), 1).await.is_none());

    let correlation = peer.expect_publish(1, 0, &["a"]).await;
    let refused = orders.publish("b").await.unwrap_err();
    assert_eq!(refused, PublishError::Closed { outcome: Outcome::Definite });
    peer.receipt(correlation, 0).await;
    pending.await.unwrap();
    assert!(peer.try_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn settlement_dropped_is_sent_all_the_same() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"]).await;
    let ack = billing.next().await.unwrap().unwrap().ack();

    assert!(polled(ack, 1).await.is_none());

    assert_eq!(peer.settle().await.1.deliveries[0].first.0, 0);
}
