//! Commits frame by frame, against a scripted broker.

#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{
    CloseReport, CommitErrorKind, CommitPart, ErrorCode, Message, Offset, Outcome, Retry,
};
use posthouse_protocol::message::{Operation, ProducerInfo, ProducerOpened, RefusedAt, Verdict};
use posthouse_protocol::{Name, ProducerEpoch, Request, Sequence, Timestamp};
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use support::{PRODUCER, Peer, SUBSCRIPTION, bodies, connected, consuming};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn commit_is_one_frame_and_its_deliveries_are_settled_by_it_alone() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(4, &["order"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    peer.credit().await;

    let commit = client.commit().publish("bills", "bill").publish("audit", "entry");
    let committing = tokio::spawn(commit.publish("bills", "copy").ack(delivery).into_future());
    peer.open_producer(PRODUCER).await;
    let (correlation, commit, tail) = peer.commit().await;
    assert_eq!((commit.producer, commit.sequence.0, commit.prev.0), (PRODUCER, 1, 0));
    let batches = commit.batches(&tail).unwrap();
    let batches: Vec<_> = batches.iter().map(|(place, batch)| (*place, bodies(batch))).collect();
    let [bills, audit] = [vec!["bill", "copy"], vec!["entry"]];
    assert_eq!(batches, [(0, bills.map_str()), (1, audit.map_str())]);
    let Operation::Settle(settle) = &commit.operations[2] else { panic!("{commit:?}") };
    assert_eq!((settle.subscription, settle.verdict), (SUBSCRIPTION, Verdict::Ack));
    assert_eq!((settle.deliveries[0].first, settle.deliveries[0].fence.counter), (Offset(4), 104));
    peer.expect_silence().await;
    peer.committed(correlation, &[(10, 2), (90, 1)]).await;

    let committed = committing.await.unwrap().unwrap();
    let offsets = committed.receipts.iter().map(|receipt| receipt.offset.unwrap().0);
    assert_eq!(offsets.collect::<Vec<_>>(), [10, 90, 11]);
    assert_eq!(committed.sequence, 1);
    let credit = peer.credit().await;
    assert_eq!((credit.messages, credit.taken), (257, 1), "credit comes back");
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn lost_connection_sends_the_same_bytes_again() {
    let (client, mut broker, mut peer) = connected().await;
    let committing = tokio::spawn(client.commit().publish("bills", "bill").into_future());
    peer.open_producer(PRODUCER).await;
    let (_, first, first_tail) = peer.commit().await;
    drop(peer);

    let mut peer = broker.welcome().await;
    let (correlation, again, tail) = peer.commit().await;
    assert_eq!((&again, &tail), (&first, &first_tail));
    peer.committed(correlation, &[(0, 1)]).await;

    committing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn refused_commit_says_which_part_is_at_fault_and_gives_its_deliveries_back() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;
    let [first, second] =
        [billing.next().await, billing.next().await].map(|it| it.unwrap().unwrap());
    peer.credit().await;

    let commit = client.commit().publish("bills", "1").publish("no-such", "2").ack(first);
    let committing = tokio::spawn(commit.ack(second).into_future());
    peer.open_producer(PRODUCER).await;
    let (correlation, _, _) = peer.commit().await;
    let at = RefusedAt { operation: 1, message: RefusedAt::NO_MESSAGE };
    peer.refuse_at(correlation, ErrorCode::NotFound, at).await;

    let mut error = committing.await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::NotFound), Outcome::Definite));
    let part = CommitPart::Message { index: None, topic: "no-such".to_owned() };
    assert_eq!(error.at(), Some(&part));
    let text = "commit refused: messages for topic \"no-such\": NOT_FOUND: as scripted \
                (outcome=definite)";
    assert_eq!(error.to_string(), text);
    let deliveries = error.take_deliveries();
    assert_eq!(deliveries.iter().map(|it| it.offset().0).collect::<Vec<_>>(), [0, 1]);
    for delivery in deliveries {
        delivery.ack();
    }
    drop(error);
    let settle = peer.settle().await.1;
    assert_eq!((settle.verdict, settle.deliveries[0].count), (Verdict::Ack, 2));
}

#[tokio::test(start_paused = true)]
async fn deliveries_of_a_refused_commit_that_nobody_takes_back_are_nacked_with_the_reason() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    peer.credit().await;
    let committing =
        tokio::spawn(client.commit().publish("bills", "1").ack(delivery).into_future());
    peer.open_producer(PRODUCER).await;
    let (correlation, _, _) = peer.commit().await;
    peer.refuse(correlation, ErrorCode::NotFound).await;

    drop(committing.await.unwrap().unwrap_err());

    let settle = peer.settle().await.1;
    assert_eq!(settle.verdict, Verdict::Nack);
    assert!(settle.reason.starts_with("commit refused: NOT_FOUND"), "{}", settle.reason);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_limit_is_not_sent() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    peer.credit().await;

    let mut commit = client.commit().ack(delivery);
    for _ in 0..10_000 {
        commit = commit.publish("bills", "x");
    }
    let mut error = commit.await.unwrap_err();

    let expected = "commit not sent: too large field=Commit.operations found=10001 limit=10000; \
                    make it of fewer or smaller operations";
    assert_eq!((error.to_string().as_str(), error.outcome()), (expected, Outcome::Definite));
    assert_eq!(error.take_deliveries().len(), 1);
    let empty = client.commit().await.unwrap_err();
    assert_eq!(*empty.kind(), CommitErrorKind::Empty);
    let large = client.commit().publish("bills", vec![0; 3 << 20]).await.unwrap_err();
    assert!(large.to_string().contains("too large field=Commit.batches"), "{large}");
    let nack = peer.settle().await.1;
    assert_eq!(nack.verdict, Verdict::Nack, "the delivery taken back was dropped");
    peer.credit().await;
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_an_unknown_outcome_and_the_next_commit_has_another_producer() {
    let (client, _broker, mut peer) = connected().await;
    let committing = tokio::spawn(client.commit().publish("bills", "1").into_future());
    peer.open_producer(PRODUCER).await;
    peer.commit().await;

    let error = committing.await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(matches!(error.kind(), CommitErrorKind::TimedOut { .. }));

    let commit = client.commit().publish("bills", "2").timeout(Duration::from_secs(5));
    let committing = tokio::spawn(commit.into_future());
    let (correlation, request, _) = peer.request().await;
    assert!(matches!(request, Request::ProducerOpen(_)), "{request:?}");
    peer.opened(correlation).await;
    let (correlation, _, _) = peer.commit().await;
    peer.committed(correlation, &[(0, 1)]).await;
    committing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn commits_at_the_same_time_go_side_by_side_and_lanes_are_used_again() {
    let (client, _broker, mut peer) = connected().await;
    for round in 0..2_u64 {
        let commits = ["a", "b", "c"].map(|body| client.commit().publish("bills", body));
        let commits = commits.map(|commit| tokio::spawn(commit.into_future()));
        let mut correlations = Vec::new();
        while correlations.len() < 3 {
            let (correlation, request, _) = peer.request().await;
            match request {
                Request::ProducerOpen(_) if round == 0 => peer.opened(correlation).await,
                Request::Commit(commit) => {
                    assert_eq!((commit.sequence.0, commit.prev.0), (round + 1, round));
                    correlations.push(correlation);
                }
                other => panic!("{other:?}"),
            }
        }
        for correlation in correlations {
            peer.committed(correlation, &[(0, 1)]).await;
        }
        for commit in commits {
            commit.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn commit_dropped_before_it_is_handed_over_is_not_sent_and_nacks() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;
    let [first, second] =
        [billing.next().await, billing.next().await].map(|it| it.unwrap().unwrap());
    peer.credit().await;
    drop(client.commit().publish("bills", "1").ack(first));
    drop(client.commit().publish("bills", "2").ack(second).into_future());

    let settle = peer.settle().await.1;
    assert_eq!((settle.verdict, settle.deliveries[0].count), (Verdict::Nack, 2));
    peer.credit().await;
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn commit_dropped_after_it_is_handed_over_is_made_and_settles() {
    for is_refused in [false, true] {
        let (mut billing, client, _broker, mut peer) = consuming().await;
        peer.deliver(0, &["a"]).await;
        let delivery = billing.next().await.unwrap().unwrap();
        peer.credit().await;

        let mut committing = client.commit().publish("bills", "1").ack(delivery).into_future();
        assert!(poll_once(committing.as_mut()).await.is_pending());
        drop(committing);

        peer.open_producer(PRODUCER).await;
        let (correlation, _, _) = peer.commit().await;
        if is_refused {
            peer.refuse(correlation, ErrorCode::NotFound).await;
            assert_eq!(peer.settle().await.1.verdict, Verdict::Nack);
        } else {
            peer.committed(correlation, &[(0, 1)]).await;
            assert_eq!(peer.credit().await.messages, 257);
            peer.expect_silence().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_commits_and_settles_what_was_delivered() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a"]).await;
    let delivery = billing.next().await.unwrap().unwrap();
    peer.credit().await;
    let commit = client.commit().publish("bills", "1").ack(delivery);
    let late = client.commit().publish("bills", "2");
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(5)).await });
    sleep(Duration::from_millis(1)).await;

    let refused = late.await.unwrap_err();
    assert_eq!(*refused.kind(), CommitErrorKind::Closed { outcome: Outcome::Definite });
    let committing = tokio::spawn(commit.into_future());
    peer.open_producer(PRODUCER).await;
    let (correlation, _, _) = peer.commit().await;
    sleep(Duration::from_secs(1)).await;
    peer.committed(correlation, &[(0, 1)]).await;

    committing.await.unwrap().unwrap();
    assert_eq!(closing.await.unwrap(), CloseReport::default());
}

#[tokio::test(start_paused = true)]
async fn closed_before_the_answer_a_commit_is_unknown_and_reported() {
    let (client, _broker, mut peer) = connected().await;
    let committing = tokio::spawn(client.commit().publish("bills", "1").into_future());
    peer.open_producer(PRODUCER).await;
    peer.commit().await;

    let report = client.close(Duration::from_secs(1)).await;

    assert_eq!((report.unsent, report.unsettled), (1, 0));
    let error = committing.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), CommitErrorKind::Closed { outcome: Outcome::Unknown });
}

#[tokio::test(start_paused = true)]
async fn named_producer_numbers_its_commits_and_repeats_what_it_is_told() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.producer("importer").await.unwrap() };
    let (importer, ()) = tokio::join!(opening, peer.open_named(3, 41));
    assert_eq!((importer.last(), importer.epoch(), importer.name()), (41, 3, "importer"));

    let commits = [importer.commit().publish("a", "42"), importer.commit_as(50).publish("a", "50")];
    let [first, second] = commits.map(|commit| tokio::spawn(commit.into_future()));
    let (correlation, commit, _) = peer.commit().await;
    assert_eq!((commit.epoch.0, commit.sequence.0, commit.prev.0), (3, 42, 41));
    peer.expect_silence().await;
    peer.committed(correlation, &[(0, 1)]).await;
    assert_eq!(first.await.unwrap().unwrap().sequence, 42);
    let (correlation, commit, _) = peer.commit().await;
    assert_eq!((commit.sequence.0, commit.prev.0), (50, 42));
    peer.committed(correlation, &[(0, 1)]).await;
    second.await.unwrap().unwrap();
    assert_eq!(importer.last(), 50);

    let again = tokio::spawn(importer.commit_as(42).publish("a", "42").into_future());
    let (correlation, commit, _) = peer.commit().await;
    assert_eq!((commit.sequence.0, commit.prev.0), (42, 41));
    peer.refuse(correlation, ErrorCode::SequenceReused).await;
    assert_eq!(again.await.unwrap().unwrap_err().code(), Some(ErrorCode::SequenceReused));
    assert_eq!(importer.last(), 50);
    let zero = importer.commit_as(0).publish("a", "0").await.unwrap_err();
    assert_eq!(zero.to_string(), "commit not sent: invalid field=Commit.sequence found=0");
}

#[tokio::test(start_paused = true)]
async fn fenced_producer_says_so_for_all_its_commits() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.producer("importer").await.unwrap() };
    let (importer, ()) = tokio::join!(opening, peer.open_named(3, 0));
    let commits = ["1", "2"].map(|body| importer.commit().publish("a", body));
    let commits = commits.map(|commit| tokio::spawn(commit.into_future()));
    let (correlation, _, _) = peer.commit().await;
    peer.refuse(correlation, ErrorCode::Fenced).await;

    for commit in commits {
        let error = commit.await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::Fenced), Outcome::Definite));
    }
    let error = importer.commit().publish("a", "3").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Fenced));
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn named_producer_whose_commits_were_lost_goes_on_from_where_the_broker_is() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.producer("importer").await.unwrap() };
    let (importer, ()) = tokio::join!(opening, peer.open_named(3, 9));
    let committing = tokio::spawn(importer.commit().publish("a", "x").into_future());
    let (correlation, _, _) = peer.commit().await;
    peer.refuse(correlation, ErrorCode::OutOfSequence).await;
    let (correlation, request, _) = peer.request().await;
    assert!(matches!(request, Request::ProducerDescribe(_)), "{request:?}");
    let info = ProducerInfo {
        producer: PRODUCER,
        name: Name::new("importer").ok(),
        epoch: ProducerEpoch(3),
        last: Sequence(7),
        last_at: Timestamp(1),
    };
    peer.reply(correlation, info).await;
    let (correlation, commit, _) = peer.commit().await;
    assert_eq!((commit.sequence.0, commit.prev.0), (10, 7));
    peer.committed(correlation, &[(0, 1)]).await;

    committing.await.unwrap().unwrap();
    assert_eq!(importer.last(), 10);
}

#[tokio::test(start_paused = true)]
async fn nack_reject_and_retry_travel_in_the_commit() {
    let (mut billing, client, _broker, mut peer) = consuming().await;
    peer.deliver(0, &["a", "b"]).await;
    let [first, second] =
        [billing.next().await, billing.next().await].map(|it| it.unwrap().unwrap());
    peer.credit().await;
    let later = Retry::After(Duration::from_secs(1));
    let commit = client.commit().nack(first, later, "later").reject(second, "never");
    drop(tokio::spawn(commit.send(Message::new("x").to("audit")).into_future()));
    peer.open_producer(PRODUCER).await;

    let (_, commit, _) = peer.commit().await;
    let settled = commit.operations.iter().filter_map(|operation| match operation {
        Operation::Settle(it) => Some((it.verdict, it.delay_ms, it.reason.as_str())),
        Operation::Publish(_) | Operation::CursorSave(_) => None,
    });
    let expected = [(Verdict::Nack, 1000, "later"), (Verdict::Reject, 0, "never")];
    assert_eq!(settled.collect::<Vec<_>>(), expected);
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

trait MapStr {
    fn map_str(self) -> Vec<String>;
}

impl MapStr for Vec<&str> {
    fn map_str(self) -> Vec<String> {
        self.into_iter().map(str::to_owned).collect()
    }
}

impl Peer {
    /// Answers the opening of a named producer.
    async fn open_named(&mut self, epoch: u32, last: u64) {
        let (correlation, request, _) = self.request().await;
        let Request::ProducerOpen(open) = request else { panic!("{request:?}") };
        assert_eq!(open.name, Name::new("importer").ok());
        let (epoch, last) = (ProducerEpoch(epoch), Sequence(last));
        self.reply(correlation, ProducerOpened { producer: PRODUCER, epoch, last }).await;
    }
}
