//! Workers, leases and the end of a client, against a scripted broker.

#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{ErrorCode, Failure, Outcome, SettleError};
use posthouse_protocol::message::{RefusedRun, Settled, Verdict};
use posthouse_protocol::{Offset, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::consuming;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn leases_are_prolonged_at_half_their_length_up_to_the_longest() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    let start = Instant::now();
    peer.deliver(0, &["a", "b", "c"]).await;
    let held = billing.next().await.unwrap().unwrap();
    billing.next().await.unwrap().unwrap().ack();
    let (correlation, _) = peer.settle().await;
    peer.confirm(correlation).await;
    peer.credit().await;

    let mut at = Vec::new();
    loop {
        let (correlation, request, _) = peer.request().await;
        match request {
            Request::Extend(extend) => {
                assert_eq!(extend.lease_ms, 30_000);
                let runs = extend.deliveries.iter().map(|run| (run.first.0, run.count));
                assert_eq!(runs.collect::<Vec<_>>(), [(0, 1), (2, 1)]);
                at.push(start.elapsed().as_secs());
                peer.confirm(correlation).await;
            }
            Request::Settle(settle) => {
                assert_eq!(settle.verdict, Verdict::Release, "what nobody took is given back");
                assert_eq!(settle.deliveries[0].first.0, 2);
                break;
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    assert_eq!(at, (1..=38).map(|times| times * 15).collect::<Vec<_>>());
    assert_eq!(start.elapsed().as_secs(), 585);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn extension_is_sent_and_answered() {
    let (mut billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    peer.credit().await;

    let extension = delivery.extend(Duration::from_secs(120));
    let (correlation, request, _) = peer.request().await;
    let Request::Extend(extend) = request else { panic!("{request:?}") };
    assert_eq!((extend.lease_ms, extend.deliveries[0].first.0), (120_000, 0));
    let left = delivery.lease_ends_at().unwrap() - Instant::now();
    assert_eq!(left.as_secs(), 119 + u64::from(left.subsec_nanos() == 0));
    let code = ErrorCode::LeaseEnded.number();
    let refused = vec![RefusedRun { first: Offset(0), count: 1, code }];
    peer.reply(correlation, Settled { refused }).await;

    let error = extension.await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::LeaseEnded), Outcome::Definite));
}

#[tokio::test(start_paused = true)]
async fn run_acks_nacks_rejects_and_survives_panics() {
    let (billing, _client, _broker, mut peer) = consuming().await;
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = billing.run(3, move |delivery| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            match delivery.body().as_ref() {
                b"good" => Ok(()),
                b"bad" => Err(Failure::from("bad luck")),
                b"never" => Err(Failure::reject("no use")),
                _ => panic!("on purpose"),
            }
        }
    });
    let running = tokio::spawn(running.until(async { drop(stopped.await) }).into_future());
    peer.deliver(0, &["good", "bad", "never", "crash", "good"]).await;

    let mut verdicts = Vec::new();
    while verdicts.len() < 5 {
        let (correlation, settle) = peer.settle().await;
        peer.confirm(correlation).await;
        for run in &settle.deliveries {
            let offsets = (run.first.0..).take(run.count as usize);
            verdicts.extend(offsets.map(|at| (at, settle.verdict, settle.reason.clone())));
        }
    }
    verdicts.sort();
    let verdicts: Vec<_> = verdicts.iter().map(|(at, v, r)| (*at, *v, r.as_str())).collect();
    assert_eq!(
        verdicts,
        [
            (0, Verdict::Ack, ""),
            (1, Verdict::Nack, "bad luck"),
            (2, Verdict::Reject, "no use"),
            (3, Verdict::Nack, "panicked"),
            (4, Verdict::Ack, ""),
        ]
    );
    assert_eq!(handled.load(Ordering::Relaxed), 5);

    drop(stop);
    running.await.unwrap().unwrap();
    loop {
        match peer.request().await.1 {
            Request::Credit(_) => {}
            Request::Unsubscribe(_) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn worker_that_panicked_is_replaced() {
    let (billing, _client, _broker, mut peer) = consuming().await;
    let running = billing.run(1, |delivery| async move {
        assert_ne!(delivery.body(), "crash", "on purpose");
        Ok::<_, Failure>(())
    });
    let running = tokio::spawn(running.into_future());
    peer.deliver(0, &["crash", "crash", "good"]).await;

    let mut settled = Vec::new();
    while settled.len() < 3 {
        let settle = peer.settle().await.1;
        for run in settle.deliveries {
            settled.extend((0..run.count).map(|_| settle.verdict));
        }
    }

    assert_eq!(settled, [Verdict::Nack, Verdict::Nack, Verdict::Ack]);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn closed_client_gives_back_what_was_not_taken() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["taken", "untaken"]).await;
    billing.next().await.unwrap().unwrap().ack();
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(5)).await });

    let (correlation, settle) = peer.settle().await;
    assert_eq!(settle.deliveries.len(), 1);
    peer.confirm(correlation).await;

    let report = closing.await.unwrap();
    assert_eq!((report.unsent, report.unsettled), (0, 0));
    let mut last = None;
    while let Some((_, request, _)) = peer.try_request().await {
        last = Some(request);
    }
    assert!(matches!(last, Some(Request::Unsubscribe(_))), "{last:?}");
    assert!(billing.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn run_stops_taking_and_lets_handlers_finish() {
    let (billing, _client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b", "c"]).await;
    let slow = |_delivery| async {
        sleep(Duration::from_secs(5)).await;
        Ok::<_, Failure>(())
    };
    let running = billing.run(1, slow).until(sleep(Duration::from_secs(1)));

    let started = Instant::now();
    running.await.unwrap();

    assert_eq!(started.elapsed().as_secs(), 5);
    let (_, settle) = peer.settle().await;
    assert_eq!(settle.deliveries.iter().map(|run| run.count).sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn settlement_without_an_answer_ends_with_the_client() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;
    let sent = billing.next().await.unwrap().unwrap().ack();
    let held = billing.next().await.unwrap().unwrap();
    peer.settle().await;

    let report = client.close(Duration::from_secs(3)).await;

    assert_eq!((report.unsent, report.unsettled), (0, 2));
    assert_eq!(sent.await, Err(SettleError::Closed { outcome: Outcome::Unknown }));
    assert_eq!(held.ack().await, Err(SettleError::Closed { outcome: Outcome::Definite }));
    assert!(billing.next().await.is_none());
}
