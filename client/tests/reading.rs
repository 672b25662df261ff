//! Reading from a scripted broker: parts, the end, following, saving, damage.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{Client, ErrorCode, Offset, Position, ReadError, Reader, Timestamp};
use posthouse_protocol::message::{Fetch, Fetched, SubscriptionInfo};
use posthouse_protocol::settings::{Position as From, SubscriptionSettings};
use posthouse_protocol::{CorrelationId, Name, Request, TopicId};
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use support::{Peer, SUBSCRIPTION, connected, slice, topic_info};
use tokio::task::coop;
use tokio::time::timeout;

#[tokio::test(start_paused = true)]
async fn parts_follow_each_other_and_the_end_is_told() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let script = tokio::spawn(async move {
        let (correlation, fetch) = fetch(&mut peer).await;
        assert_eq!((fetch.from, fetch.wait_ms), (From::Earliest, 0));
        fetched(&mut peer, correlation, 4, 7, &[(1, &["a"]), (2, &["b", "c"])]).await;
        let (correlation, fetch_2) = self::fetch(&mut peer).await;
        assert_eq!(fetch_2.from, From::Offset(Offset(4)));
        fetched(&mut peer, correlation, 7, 7, &[(6, &["d"])]).await;
        let (correlation, fetch_3) = self::fetch(&mut peer).await;
        assert_eq!(fetch_3.from, From::Offset(Offset(7)));
        fetched(&mut peer, correlation, 7, 7, &[]).await;
        peer
    });

    let mut read = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        read.push((record.offset().0, String::from_utf8(record.body().to_vec()).unwrap()));
    }

    let read: Vec<_> = read.iter().map(|(offset, body)| (*offset, body.as_str())).collect();
    assert_eq!(read, [(1, "a"), (2, "b"), (3, "c"), (6, "d")]);
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_parts_are_read_ahead_and_forgotten_by_a_seek() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let bodies = vec!["a"; 200];
    let two_parts = async {
        let (correlation, _) = fetch(&mut peer).await;
        fetched(&mut peer, correlation, 200, 500, &[(0, &bodies)]).await;
        let (correlation, second) = fetch(&mut peer).await;
        assert_eq!(second.from, From::Offset(Offset(200)));
        fetched(&mut peer, correlation, 400, 500, &[(200, &bodies)]).await;
    };
    let (first, ()) = tokio::join!(reader.next(), two_parts);
    assert_eq!(first.unwrap().unwrap().offset(), Offset(0));

    let half_a_part = async {
        for offset in 1..100 {
            tokio::task::yield_now().await;
            assert_eq!(reader.next().await.unwrap().unwrap().offset(), Offset(offset));
        }
    };
    let ((), (_, third)) = tokio::join!(half_a_part, fetch(&mut peer));
    assert_eq!(third.from, From::Offset(Offset(400)));

    reader.seek(Offset(7));
    let elsewhere = async {
        let (correlation, other) = fetch(&mut peer).await;
        assert_eq!(other.from, From::Offset(Offset(7)));
        fetched(&mut peer, correlation, 8, 8, &[(7, &["b"])]).await;
    };
    let (record, ()) = tokio::join!(reader.next(), elsewhere);
    assert_eq!(record.unwrap().unwrap().offset(), Offset(7));
}

#[tokio::test(start_paused = true)]
async fn part_that_failed_before_it_was_waited_for_is_asked_for_again() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let (first, ()) = tokio::join!(reader.next(), async {
        let (correlation, _) = fetch(&mut peer).await;
        fetched(&mut peer, correlation, 2, 3, &[(0, &["a", "b"])]).await;
        let (correlation, ahead) = fetch(&mut peer).await;
        assert_eq!(ahead.from, From::Offset(Offset(2)));
        peer.refuse(correlation, ErrorCode::NotFound).await;
    });
    assert_eq!(first.unwrap().unwrap().offset(), Offset(0));
    // Until the refusal has arrived as well.
    tokio::time::sleep(Duration::from_millis(1)).await;

    let rest = async { [reader.next().await, reader.next().await, reader.next().await] };
    let (rest, ()) = tokio::join!(rest, async {
        let (correlation, again) = fetch(&mut peer).await;
        assert_eq!(again.from, From::Offset(Offset(2)));
        fetched(&mut peer, correlation, 3, 4, &[(2, &["c"])]).await;
        let (correlation, ahead) = fetch(&mut peer).await;
        assert_eq!(ahead.from, From::Offset(Offset(3)));
        // By then it is waited for.
        tokio::time::sleep(Duration::from_millis(1)).await;
        peer.refuse(correlation, ErrorCode::NotFound).await;
    });
    let [second, third, failed] = rest;
    assert_eq!(second.unwrap().unwrap().offset(), Offset(1));
    assert_eq!(third.unwrap().unwrap().offset(), Offset(2));
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::NotFound));
}

#[tokio::test(start_paused = true)]
async fn following_waits_at_the_end() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.reader("orders", Position::Latest).follow().await.unwrap() };
    let (mut reader, ()) = tokio::join!(opening, async {
        describe(&mut peer).await;
        let (correlation, end) = fetch(&mut peer).await;
        assert_eq!((end.from, end.wait_ms), (From::Latest, 0));
        fetched(&mut peer, correlation, 7, 7, &[]).await;
    });
    let next = tokio::spawn(async move { reader.next().await.unwrap().unwrap().offset() });

    let (correlation, first) = fetch(&mut peer).await;
    assert_eq!(first.from, From::Offset(Offset(7)), "whatever was published since");
    assert!(first.wait_ms > 0);
    fetched(&mut peer, correlation, 7, 7, &[]).await;
    let (correlation, second) = fetch(&mut peer).await;
    assert_eq!(second.from, From::Offset(Offset(7)));
    fetched(&mut peer, correlation, 8, 8, &[(7, &["a"])]).await;

    assert_eq!(next.await.unwrap(), Offset(7));
}

#[tokio::test(start_paused = true)]
async fn next_given_up_passes_nothing_over() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Offset(Offset(3))).await;
    assert!(timeout(Duration::from_secs(1), reader.next()).await.is_err());

    let (correlation, _) = fetch(&mut peer).await;
    fetched(&mut peer, correlation, 4, 4, &[(3, &["a"])]).await;

    assert_eq!(reader.next().await.unwrap().unwrap().offset(), Offset(3));
}

#[tokio::test(start_paused = true)]
async fn topic_that_ends_before_the_place_to_be_read_is_an_error_until_the_reader_is_told_where_to()
{
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Offset(Offset(500))).await;
    let next = tokio::spawn(async move {
        let beyond = [reader.next().await, reader.next().await];
        reader.seek(Offset(300));
        (beyond, reader.next().await)
    });
    for _ in 0..2 {
        let (correlation, asked) = fetch(&mut peer).await;
        assert_eq!(asked.from, From::Offset(Offset(500)));
        fetched(&mut peer, correlation, 300, 300, &[]).await;
    }
    let (correlation, asked) = fetch(&mut peer).await;
    assert_eq!(asked.from, From::Offset(Offset(300)));
    fetched(&mut peer, correlation, 301, 301, &[(300, &["a"])]).await;

    let (failed, then) = next.await.unwrap();

    for error in failed.map(Result::unwrap_err) {
        let ReadError::BeyondEnd { offset, end } = error else { panic!("{error}") };
        assert_eq!((offset, end), (Offset(500), Offset(300)));
    }
    assert_eq!(then.unwrap().unwrap().offset(), Offset(300));
}

#[cfg(feature = "outbox")]
#[tokio::test(start_paused = true)]
async fn batch_is_given_up_when_the_end_is_found_too_near() {
    use posthouse_client::outbox::batches::next_batch;
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let (first, ()) = tokio::join!(reader.next(), async {
        let (correlation, _) = fetch(&mut peer).await;
        fetched(&mut peer, correlation, 2, 5, &[(0, &["a", "b"])]).await;
        let (correlation, ahead) = fetch(&mut peer).await;
        assert_eq!(ahead.from, From::Offset(Offset(2)));
        fetched(&mut peer, correlation, 1, 1, &[]).await;
    });
    assert_eq!(first.unwrap().unwrap().offset(), Offset(0));
    // Until the second answer has arrived as well.
    tokio::time::sleep(Duration::from_millis(1)).await;

    let error = next_batch(&mut reader).await.expect_err("the broker does not have it any more");
    let ReadError::BeyondEnd { offset, end } = error else { panic!("{error}") };
    assert_eq!((offset, end), (Offset(2), Offset(1)));
}

#[tokio::test(start_paused = true)]
async fn damaged_record_is_reported_and_passed_over() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Time(Timestamp(5))).await;
    let next = tokio::spawn(async move { (reader.next().await, reader.next().await) });
    let (correlation, asked) = fetch(&mut peer).await;
    assert_eq!(asked.from, From::Time(Timestamp(5)));
    let (slice, mut tail) = slice(0, &["a", "b"]);
    let at = tail.len() - 2;
    tail[at] ^= 1;
    let head = Fetched { next: Offset(2), end: Offset(2), damaged_from: None, slices: vec![slice] };
    peer.reply_with(correlation, head, &tail).await;
    // What lies behind it is asked for again: it was there, but can it be trusted?
    let (correlation, again) = fetch(&mut peer).await;
    assert_eq!(again.from, From::Offset(Offset(1)));
    fetched(&mut peer, correlation, 2, 2, &[(1, &["b"])]).await;

    let (first, second) = next.await.unwrap();

    assert!(matches!(first, Err(ReadError::Damaged { offset: Offset(0), .. })), "{first:?}");
    assert_eq!(second.unwrap().unwrap().offset(), Offset(1));
}

#[tokio::test(start_paused = true)]
async fn many_records_are_lent_in_their_order_and_take_turns_with_single_ones() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let numbered: Vec<String> = (1..=2_500).map(|number| format!("body {number}")).collect();
    let script = async {
        let bodies: Vec<&str> = numbered.iter().map(String::as_str).collect();
        let (correlation, _) = fetch(&mut peer).await;
        fetched(&mut peer, correlation, 2_501, 2_502, &[(1, &bodies)]).await;
        let (correlation, ahead) = fetch(&mut peer).await;
        assert_eq!(ahead.from, From::Offset(Offset(2_501)));
        fetched(&mut peer, correlation, 2_502, 2_502, &[(2_501, &["last"])]).await;
        let (correlation, _) = fetch(&mut peer).await;
        fetched(&mut peer, correlation, 2_502, 2_502, &[]).await;
    };
    let reading = async {
        let (mut read, mut lens) = (Vec::new(), Vec::new());
        let mut note = |offset: Offset, body: &[u8], key: Option<&[u8]>, header: Option<&[u8]>| {
            assert_eq!((key, header), (Some(&b"k"[..]), Some(&b"value"[..])));
            read.push((offset.0, String::from_utf8(body.to_vec()).unwrap()));
        };
        loop {
            if let Some(record) = reader.next().await.unwrap() {
                note(record.offset(), record.body(), record.key(), record.header("name"));
            }
            let Some(records) = reader.next_records().await.unwrap() else { break };
            lens.push((records.first().0, records.len(), records.end().0));
            assert_eq!(records.iter().len(), records.len());
            for record in &records {
                note(record.offset(), record.body(), record.key(), record.header("name"));
            }
        }
        (read, lens)
    };

    let ((read, lens), ()) = tokio::join!(reading, script);

    assert_eq!(lens, [(2, 1_000, 1_002), (1_003, 1_000, 2_003), (2_004, 497, 2_501)]);
    let bodies = numbered.iter().map(String::as_str).chain(["last"]);
    assert!(read.iter().map(|(offset, body)| (*offset, body.as_str())).eq((1..).zip(bodies)));
}

#[tokio::test(start_paused = true)]
async fn what_is_sound_before_a_damaged_record_is_given_first() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let reading = tokio::spawn(async move {
        let mut found = Vec::new();
        loop {
            match reader.next_records().await {
                Ok(Some(records)) => found.push(Ok((records.first().0, records.len()))),
                Err(ReadError::Damaged { offset, .. }) => found.push(Err(offset.0)),
                Ok(None) => return found,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let (correlation, _) = fetch(&mut peer).await;
    let (first, mut tail) = slice(0, &["aa", "bb", "cc", "dd", "ee"]);
    let bodies_at = tail.len() - 10;
    tail[bodies_at + 4] ^= 1;
    tail[bodies_at + 6] ^= 1;
    let head = Fetched { next: Offset(5), end: Offset(5), damaged_from: None, slices: vec![first] };
    peer.reply_with(correlation, head, &tail).await;
    // It was damaged on its way, and so was the next one; that one is damaged where it is kept, too.
    let (correlation, again) = fetch(&mut peer).await;
    assert_eq!(again.from, From::Offset(Offset(3)));
    let (mut second, mut tail) = slice(3, &["dd", "ee", "ff"]);
    let bodies_at = tail.len() - 6;
    tail[bodies_at] ^= 1;
    // And it claims to have one more than it has.
    second.count += 1;
    let head =
        Fetched { next: Offset(7), end: Offset(7), damaged_from: None, slices: vec![second] };
    peer.reply_with(correlation, head, &tail).await;
    let (correlation, last) = fetch(&mut peer).await;
    assert_eq!(last.from, From::Offset(Offset(7)));
    fetched(&mut peer, correlation, 7, 7, &[]).await;

    let expected = [Ok((0, 2)), Err(2), Err(3), Ok((4, 2)), Err(6)];
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_apart_is_asked_for_again_and_nothing_sound_is_passed_over() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Earliest).await;
    let reading = async {
        let first = reader.next().await.unwrap().unwrap().offset();
        let damaged = reader.next().await;
        let behind = reader.next().await.unwrap().unwrap().offset();
        (first, damaged, behind)
    };
    let script = async {
        let (correlation, _) = fetch(&mut peer).await;
        let (whole, mut tail) = slice(0, &["aa", "bb", "cc"]);
        // The length of the second one's entry: neither its body nor what follows can be found.
        let entry = whole.index_len as usize / 3;
        tail[entry..entry + 8].fill(0xff);
        let head =
            Fetched { next: Offset(3), end: Offset(3), damaged_from: None, slices: vec![whole] };
        peer.reply_with(correlation, head, &tail).await;
        let (correlation, again) = fetch(&mut peer).await;
        assert_eq!(again.from, From::Offset(Offset(2)));
        fetched(&mut peer, correlation, 3, 3, &[(2, &["cc"])]).await;
    };

    let ((first, damaged, behind), ()) = tokio::join!(reading, script);

    assert_eq!((first, behind), (Offset(0), Offset(2)));
    assert!(matches!(damaged, Err(ReadError::Damaged { offset: Offset(1), .. })), "{damaged:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_finds_damaged_is_named_and_passed_over() {
    let (client, _broker, mut peer) = connected().await;
    let mut reader = open(&client, &mut peer, Position::Offset(Offset(5))).await;
    let reading = async { (reader.next().await, reader.next().await) };
    let script = async {
        let (correlation, _) = fetch(&mut peer).await;
        let (next, end, damaged_from) = (Offset(9), Offset(10), Some(Offset(5)));
        let head = Fetched { next, end, damaged_from, slices: Vec::new() };
        peer.reply_with(correlation, head, &[]).await;
        let (correlation, behind) = fetch(&mut peer).await;
        assert_eq!(behind.from, From::Offset(Offset(9)));
        fetched(&mut peer, correlation, 10, 10, &[(9, &["a"])]).await;
    };

    let ((damaged, behind), ()) = tokio::join!(reading, script);

    let (first, next) = (Offset(5), Offset(9));
    assert_eq!(damaged.unwrap_err(), ReadError::Unreadable { first, next });
    assert_eq!(behind.unwrap().unwrap().offset(), Offset(9));
}

#[tokio::test(start_paused = true)]
async fn records_take_as_much_effort_as_they_are_many_and_waiting_for_them_takes_none() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.reader("orders", Position::Earliest).follow().await.unwrap() };
    let (mut reader, ()) = tokio::join!(opening, describe(&mut peer));
    tokio::task::yield_now().await;
    let whole = poll_fn(|cx| Poll::Ready(effort_left(cx))).await;

    tokio::task::yield_now().await;
    let left = poll_fn(|cx| {
        assert!(pin!(reader.next_records()).poll(cx).is_pending());
        Poll::Ready(effort_left(cx))
    });
    assert_eq!(left.await, whole, "left when it waits");

    let numbered: Vec<String> = (4..).take(640).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = numbered.iter().map(String::as_str).collect();
    let (correlation, _) = fetch(&mut peer).await;
    let alone = [(0, &["0"][..]), (1, &["1"]), (2, &["2"]), (3, &["3"])];
    fetched(&mut peer, correlation, 644, 644, &[&alone[..], &[(4, &bodies)]].concat()).await;
    assert_eq!(reader.next_records().await.unwrap().unwrap().len(), 1);
    for (lens, spent) in [(&[1, 1, 1][..], 3), (&[640], 41)] {
        tokio::task::yield_now().await;
        let left = poll_fn(|cx| {
            for len in lens {
                let Poll::Ready(records) = pin!(reader.next_records()).poll(cx) else { panic!() };
                assert_eq!(records.unwrap().unwrap().len(), *len);
            }
            Poll::Ready(effort_left(cx))
        });
        assert_eq!(left.await, whole - spent, "left after {lens:?}");
    }
}

/// Units of effort that this task has left before it must let others run; none afterwards.
fn effort_left(cx: &mut Context<'_>) -> u32 {
    let mut left = 0;
    while coop::has_budget_remaining() {
        let Poll::Ready(unit) = coop::poll_proceed(cx) else { panic!("there is some left") };
        unit.made_progress();
        left += 1;
    }
    left
}

#[tokio::test(start_paused = true)]
async fn saved_position_is_read_from_and_saved_to() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.reader("orders", Position::saved("projector")).await.unwrap() };
    let (mut reader, ()) = tokio::join!(opening, async {
        describe(&mut peer).await;
        let (correlation, request, _) = peer.request().await;
        assert!(matches!(request, Request::SubscriptionDescribe(_)), "{request:?}");
        peer.reply(correlation, subscription_info(40)).await;
    });

    let saving = async {
        let record = reader.next().await.unwrap().unwrap();
        reader.save(record.offset().next()).await.unwrap();
    };
    tokio::join!(saving, async {
        let (correlation, asked) = fetch(&mut peer).await;
        assert_eq!(asked.from, From::Offset(Offset(40)));
        fetched(&mut peer, correlation, 41, 41, &[(40, &["a"])]).await;
        let (correlation, request, _) = peer.request().await;
        let Request::CursorSave(save) = request else { panic!("{request:?}") };
        assert_eq!((save.subscription, save.offset), (SUBSCRIPTION, Offset(41)));
        peer.done(correlation).await;
    });
}

#[tokio::test(start_paused = true)]
async fn reader_without_a_subscription_saves_nothing() {
    let (client, _broker, mut peer) = connected().await;
    let reader = open(&client, &mut peer, Position::Earliest).await;

    assert_eq!(reader.save(Offset(1)).await, Err(ReadError::NoSubscription));
}

#[tokio::test(start_paused = true)]
async fn unknown_topic_is_refused_when_it_is_opened() {
    let (client, _broker, mut peer) = connected().await;
    let opening = async { client.reader("orders", Position::Earliest).await };
    let (result, ()) = tokio::join!(opening, async {
        let (correlation, _, _) = peer.request().await;
        peer.refuse(correlation, ErrorCode::NotFound).await;
    });

    assert_eq!(result.unwrap_err().code(), Some(ErrorCode::NotFound));
}

async fn open(client: &Client, peer: &mut Peer, from: Position) -> Reader {
    let opening = async { client.reader("orders", from).await.unwrap() };
    tokio::join!(opening, describe(peer)).0
}

async fn describe(peer: &mut Peer) {
    let (correlation, request, _) = peer.request().await;
    assert!(matches!(request, Request::TopicDescribe(_)), "{request:?}");
    peer.reply(correlation, topic_info()).await;
}

async fn fetch(peer: &mut Peer) -> (CorrelationId, Fetch) {
    let (correlation, request, _) = peer.request().await;
    let Request::Fetch(fetch) = request else { panic!("not a fetch: {request:?}") };
    (correlation, fetch)
}

async fn fetched(
    peer: &mut Peer,
    correlation: CorrelationId,
    next: u64,
    end: u64,
    parts: &[(u64, &[&str])],
) {
    let (slices, tails): (Vec<_>, Vec<_>) =
        parts.iter().map(|(first, bodies)| slice(*first, bodies)).unzip();
    let head = Fetched { next: Offset(next), end: Offset(end), damaged_from: None, slices };
    peer.reply_with(correlation, head, &tails.concat()).await;
}

fn subscription_info(ack_floor: u64) -> SubscriptionInfo {
    SubscriptionInfo {
        id: SUBSCRIPTION,
        topic: TopicId(3),
        subscription: Name::new("projector").unwrap(),
        settings: SubscriptionSettings::default(),
        ack_floor: Offset(ack_floor),
        backlog: 0,
        in_flight: 0,
        delayed: 0,
        dead: 0,
        consumers: 0,
        oldest_at: Timestamp::ZERO,
    }
}
