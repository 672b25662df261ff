//! Consuming from a scripted broker: taking, settling, credit, reconnects.

#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{ConsumeError, ErrorCode, Outcome, Retry};
use posthouse_protocol::message::{BACKOFF, ConsumerEnded, Credit, RefusedRun, Settled, Verdict};
use posthouse_protocol::{ConsumerId, CorrelationId, Offset, Request};
use std::time::Duration;
use support::consuming;
use tokio::time::{advance, timeout};

#[tokio::test(start_paused = true)]
async fn delivery_carries_what_was_sent() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(7, &["hello", "world"]).await;

    let delivery = billing.next().await.unwrap().unwrap();

    assert_eq!(delivery.body(), "hello");
    assert_eq!((delivery.offset().0, delivery.fence().counter), (7, 107));
    assert_eq!((delivery.attempt().0, delivery.ack_floor().0), (0, 0));
    assert_eq!(delivery.key(), Some(&b"k"[..]));
    assert_eq!(delivery.header("name"), Some(&b"value"[..]));
    assert_eq!(delivery.headers().count(), 1);
    let second = billing.next().await.unwrap().unwrap();
    assert_eq!((second.body().as_ref(), second.fence().counter), (&b"world"[..], 108));
}

#[tokio::test(start_paused = true)]
async fn taking_is_told_at_once_and_credit_comes_back_with_the_ack() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;

    let delivery = billing.next().await.unwrap().unwrap();
    let credit = peer.credit().await;
    assert_eq!((credit.taken, credit.messages), (1, 256));

    let ack = delivery.ack();
    let (correlation, settle) = peer.settle().await;
    assert_eq!((settle.verdict, settle.deliveries[0].first.0), (Verdict::Ack, 0));
    assert_eq!(settle.deliveries[0].fence.counter, 100);
    let credit = peer.credit().await;
    assert_eq!((credit.taken, credit.messages), (1, 257));
    assert!(credit.bytes > 8 << 20);
    peer.confirm(correlation).await;
    ack.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acks_made_together_travel_in_one_frame_as_runs() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b", "c", "d", "e"]).await;
    let mut deliveries = Vec::new();
    for _ in 0..5 {
        deliveries.push(billing.next().await.unwrap().unwrap());
    }
    peer.credit().await;
    let kept = deliveries.remove(3);
    for delivery in deliveries.into_iter().rev() {
        delivery.ack();
    }

    let (_, settle) = peer.settle().await;

    let runs: Vec<_> = settle.deliveries.iter().map(|run| (run.first.0, run.count)).collect();
    assert_eq!(runs, [(0, 3), (4, 1)]);
    kept.ack();
}

#[tokio::test(start_paused = true)]
async fn loop_over_waiting_deliveries_lets_the_client_settle() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"; 250]).await;
    let consuming = tokio::spawn(async move {
        while let Some(delivery) = billing.next().await {
            delivery.unwrap().ack();
        }
    });

    let settled = peer.settle().await.1.deliveries[0].count;

    assert!(settled < 250, "{settled} before anything was settled");
    consuming.abort();
}

#[tokio::test(start_paused = true)]
async fn each_way_of_settling_says_what_it_means() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b", "c", "d", "e"]).await;
    let mut next = async || billing.next().await.unwrap().unwrap();

    next().await.nack(Retry::Backoff);
    next().await.nack_because(Retry::After(Duration::from_secs(2)), "busy");
    next().await.nack(Retry::Now);
    next().await.release();
    next().await.reject("no such customer");

    let mut settled = Vec::new();
    for _ in 0..5 {
        let settle = peer.settle().await.1;
        settled.push((settle.verdict, settle.delay_ms, settle.reason));
    }
    let settled: Vec<_> = settled.iter().map(|(v, d, r)| (*v, *d, r.as_str())).collect();
    assert_eq!(
        settled,
        [
            (Verdict::Nack, BACKOFF, ""),
            (Verdict::Nack, 2000, "busy"),
            (Verdict::Nack, 0, ""),
            (Verdict::Release, 0, ""),
            (Verdict::Reject, 0, "no such customer"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn delivery_dropped_unsettled_is_a_nack_that_backs_off() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;

    drop(billing.next().await);
    let (_, settle) = peer.settle().await;
    assert_eq!((settle.verdict, settle.delay_ms), (Verdict::Nack, BACKOFF));
    assert_eq!(settle.reason, "dropped unsettled");

    let delivery = billing.next().await;
    let worker = tokio::spawn(async move {
        let _held = delivery;
        panic!("on purpose");
    });
    assert!(worker.await.is_err());
    let (_, settle) = peer.settle().await;
    assert_eq!((settle.verdict, settle.reason.as_str()), (Verdict::Nack, "panicked"));
}

#[tokio::test(start_paused = true)]
async fn dropped_consumer_unsubscribes_after_its_last_settlements() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b", "c"]).await;
    billing.next().await.unwrap().unwrap().ack();
    let held = billing.next().await.unwrap().unwrap();
    drop(billing);

    let (correlation, settle) = peer.settle().await;
    assert_eq!(settle.deliveries[0].first.0, 0);
    peer.confirm(correlation).await;
    assert_eq!(peer.credit().await.taken, 2);
    let (_, request, _) = peer.request().await;
    assert!(matches!(request, Request::Unsubscribe(_)), "{request:?}");

    let ack = held.ack();
    let (correlation, settle) = peer.settle().await;
    assert_eq!(settle.deliveries[0].first.0, 1, "what is still held can be settled");
    peer.confirm(correlation).await;
    ack.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn settlement_tells_whether_it_counted() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b", "c"]).await;
    let mut acks = Vec::new();
    for _ in 0..3 {
        acks.push(billing.next().await.unwrap().unwrap().ack());
    }
    let (correlation, _) = peer.settle().await;
    let code = ErrorCode::StaleFence.number();
    let refused = vec![RefusedRun { first: Offset(1), count: 1, code }];
    peer.reply(correlation, Settled { refused }).await;

    let mut codes = Vec::new();
    for ack in acks {
        codes.push(ack.await.map_err(|error| error.code().unwrap()));
    }
    assert_eq!(codes, [Ok(()), Err(ErrorCode::StaleFence), Ok(())]);
}

#[tokio::test(start_paused = true)]
async fn reconnect_subscribes_again_with_fresh_credit_and_repeats_settlements() {
    let (mut billing, _client, mut broker, mut peer) = consuming().await;
    peer.deliver(0, &["acked", "held", "untaken"]).await;
    let ack = billing.next().await.unwrap().unwrap().ack();
    let held = billing.next().await.unwrap().unwrap();
    let (_, sent) = peer.settle().await;
    drop(peer);

    let mut peer = broker.welcome().await;
    peer.open_consumer().await;
    let (correlation, repeated) = peer.settle().await;
    assert_eq!(sent, repeated);
    let code = ErrorCode::StaleFence.number();
    let refused = vec![RefusedRun { first: Offset(0), count: 1, code }];
    peer.reply(correlation, Settled { refused }).await;
    let error = ack.await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "the first sending may have counted");

    let credit = peer.credit().await;
    assert_eq!((credit.messages, credit.taken), (255, 0), "one is still held");
    assert_eq!(held.lease_ends_at(), None);
    peer.deliver(2, &["again"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    assert_eq!(delivery.body(), "again", "what was not taken is not handed out twice");
    assert_eq!(peer.credit().await.taken, 1);

    held.ack();
    let (_, settle) = peer.settle().await;
    assert_eq!(settle.deliveries[0].first.0, 1);
    assert_eq!(peer.credit().await.messages, 256);
}

#[tokio::test(start_paused = true)]
async fn damaged_message_is_reported_and_nacked_and_the_rest_goes_on() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    let flip_a_bit_of_the_second_body = |tail: &mut Vec<u8>| {
        let at = tail.len() - 2;
        tail[at] ^= 1;
    };
    peer.deliver_damaged(0, &["a", "b", "c"], flip_a_bit_of_the_second_body).await;

    let first = billing.next().await.unwrap();
    let second = billing.next().await.unwrap();
    let third = billing.next().await.unwrap();

    assert!(first.is_ok() && third.is_ok());
    assert!(matches!(second, Err(ConsumeError::Damaged { offset: Offset(1), .. })), "{second:?}");
    let (_, settle) = peer.settle().await;
    assert_eq!((settle.verdict, settle.deliveries[0].first.0), (Verdict::Nack, 1));
    assert!(settle.reason.starts_with("damaged: "), "{}", settle.reason);
}

#[tokio::test(start_paused = true)]
async fn consumer_ended_by_the_broker_says_why_and_then_nothing() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    let code = ErrorCode::NotFound.number();
    let text = "topic deleted".to_owned();
    peer.reply(CorrelationId(0), ConsumerEnded { consumer: ConsumerId(0), code, text }).await;

    let item = billing.next().await.unwrap();

    let error = item.unwrap_err();
    assert_eq!((error.code(), error.is_final()), (Some(ErrorCode::NotFound), true));
    assert!(billing.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn broker_that_is_stopping_is_subscribed_to_again() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    let code = ErrorCode::ShuttingDown.number();
    let text = String::new();
    peer.reply(CorrelationId(0), ConsumerEnded { consumer: ConsumerId(0), code, text }).await;

    peer.open_consumer().await;
    peer.credit().await;
    peer.deliver(0, &["a"]).await;

    assert_eq!(billing.next().await.unwrap().unwrap().body(), "a");
}

#[tokio::test(start_paused = true)]
async fn unknown_subscription_is_refused_when_it_is_opened() {
    let (client, _broker, mut peer) = support::connected().await;
    let opening = async { client.consumer("orders", "billing").await };
    let (result, ()) = tokio::join!(opening, async {
        let (correlation, _, _) = peer.request().await;
        peer.refuse(correlation, ErrorCode::NotFound).await;
    });

    assert_eq!(result.unwrap_err().code(), Some(ErrorCode::NotFound));
}

#[tokio::test(start_paused = true)]
async fn consumer_given_up_while_opening_is_unsubscribed() {
    let (client, _broker, mut peer) = support::connected().await;
    let opening = async { client.consumer("orders", "billing").await };
    assert!(timeout(Duration::from_secs(1), opening).await.is_err());

    peer.open_consumer().await;

    loop {
        match peer.request().await.1 {
            Request::Credit(_) => {}
            Request::Unsubscribe(_) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_confirmations_gather_settlements_in_few_frames() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"; 20]).await;
    for _ in 0..20 {
        billing.next().await.unwrap().unwrap().ack();
        advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }

    let mut frames = 0;
    let mut settled = 0;
    while settled < 20 {
        let (correlation, settle) = peer.settle().await;
        frames += 1;
        settled += settle.deliveries.iter().map(|run| run.count).sum::<u32>();
        peer.confirm(correlation).await;
    }
    assert!(frames <= 6, "{frames}");
}

#[tokio::test(start_paused = true)]
async fn credit_is_never_more_than_the_window_beyond_what_is_settled() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"; 200]).await;
    let mut held = Vec::new();
    while held.len() < 200 {
        held.push(billing.next().await.unwrap().unwrap());
    }
    let mut last: Option<Credit> = None;
    while let Ok(credit) = timeout(Duration::from_millis(10), peer.credit()).await {
        last = Some(credit);
    }

    let last = last.unwrap();
    assert_eq!((last.messages, last.bytes, last.taken), (256, 8 << 20, 200));
}
