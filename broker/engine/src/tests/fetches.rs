//! Reading without consuming, waiting, and cursors.

use super::shell::*;
use crate::{Gate, Input};
use posthouse_protocol::message::{self, CursorSave, Fetch, TopicDelete, TopicPurge};
use posthouse_protocol::settings::{
    Durability, Mode, Position, Retention, SubscriptionSettings, TopicSettings,
};
use posthouse_protocol::{CorrelationId, ErrorCode, LogIndex, Offset, Reply, TopicId};
use std::ops::Range;

#[test]
fn reader_of_a_synced_topic_sees_only_what_is_committed() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    shell.prompt = false;
    shell.send_batch(ALICE, sender.next(topic), batch_of(&["a"]));

    assert!(fetched(&mut shell, topic, Position::Earliest).is_empty());
    shell.progress(shell.last(), LogIndex(shell.last().0 - 1));
    assert!(fetched(&mut shell, topic, Position::Earliest).is_empty());
    shell.progress(shell.last(), shell.last());
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(0)..Offset(1)]);
}

#[test]
fn reader_of_a_written_topic_sees_what_is_written() {
    let (mut shell, topic, sender) = orders(Durability::Written);
    shell.prompt = false;
    let before = shell.last();
    shell.send_batch(ALICE, sender.next(topic), batch_of(&["a"]));

    assert!(fetched(&mut shell, topic, Position::Earliest).is_empty());
    shell.progress(shell.last(), before);
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(0)..Offset(1)]);
}

#[test]
fn topic_becomes_written_when_that_is_on_disk() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    shell.prompt = false;
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    shell.request(message::TopicAlter { topic: name("orders"), settings });
    let altered = shell.last();
    shell.publish(&mut sender, topic, &["a"]);
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(shell.last()));
    shell.progress(shell.last(), LogIndex(altered.0 - 1));
    assert!(fetched(&mut shell, topic, Position::Earliest).is_empty(), "its offset may come again");

    shell.progress(shell.last(), shell.last());
    let committed = shell.last();
    shell.publish(&mut sender, topic, &["b"]);

    assert_eq!(shell.answers.last().unwrap().gate, Gate::Written(shell.last()));
    shell.progress(shell.last(), committed);
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(0)..Offset(2)]);
}

#[test]
fn waiting_fetch_is_answered_when_a_message_can_be_seen() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let correlation = shell.send(BOB, fetch(topic, Position::Latest, 1000));
    assert!(answer(&shell, correlation).is_none());
    shell.prompt = false;

    shell.send_batch(ALICE, sender.next(topic), batch_of(&["a"]));
    assert!(answer(&shell, correlation).is_none());
    shell.progress(shell.last(), shell.last());

    assert_eq!(answer(&shell, correlation), Some(vec![Offset(0)..Offset(1)]));
    assert_eq!(shell.engine.next_deadline(), None);
}

#[test]
fn waiting_fetch_is_answered_with_nothing_when_its_time_is_over() {
    let (mut shell, topic, _) = orders(Durability::Synced);
    let correlation = shell.send(BOB, fetch(topic, Position::Latest, 1000));

    shell.advance(999);
    assert!(answer(&shell, correlation).is_none());
    shell.advance(1);

    assert_eq!(answer(&shell, correlation), Some(Vec::new()));
}

#[test]
fn waiting_fetch_of_a_lost_connection_is_forgotten() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let correlation = shell.send(BOB, fetch(topic, Position::Latest, 1000));
    shell.input(Input::Disconnected { connection: BOB });
    shell.publish(&mut sender, topic, &["a"]);
    shell.advance(5000);

    assert!(answer(&shell, correlation).is_none());
}

#[test]
fn waiting_fetch_of_a_deleted_topic_is_refused() {
    let (mut shell, topic, _) = orders(Durability::Synced);
    let correlation = shell.send(BOB, fetch(topic, Position::Latest, 1000));
    shell.request(TopicDelete { topic: name("orders") });

    let reply = shell.answer_to(correlation).reply.clone();
    assert_eq!(code_of(reply).0, ErrorCode::NotFound);
}

#[test]
fn released_messages_are_invisible_at_once_holes_included() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    shell.publish(&mut sender, topic, &["a", "b", "c", "d", "e"]);
    settle(&mut shell, queue.id, 0..1);
    settle(&mut shell, queue.id, 2..4);

    let ranges = fetched(&mut shell, topic, Position::Earliest);

    assert_eq!(ranges, [Offset(1)..Offset(2), Offset(4)..Offset(5)]);
    assert_eq!(shell.fetched.last().unwrap().gate, Gate::Committed(shell.last()));
    assert_eq!(shell.topic("orders").messages, 2);
    shell.check_replay();
}

#[test]
fn hole_is_released_only_when_every_subscription_has_settled_it() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let settings = SubscriptionSettings::default;
    let one = shell.create_subscription("orders", "one", settings()).id;
    let two = shell.create_subscription("orders", "two", settings()).id;
    shell.publish(&mut sender, topic, &["a", "b", "c", "d"]);
    settle(&mut shell, one, 1..3);
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(0)..Offset(4)]);

    settle(&mut shell, two, 0..2);

    let ranges = fetched(&mut shell, topic, Position::Earliest);
    assert_eq!(ranges, [Offset(0)..Offset(1), Offset(2)..Offset(4)]);
    assert_eq!(shell.topic("orders").messages, 3);
}

#[test]
fn message_count_cuts_the_answer_and_next_says_where_to_go_on() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    shell.publish(&mut sender, topic, &["a", "b", "c"]);
    let request = Fetch { messages_max: 2, ..fetch(topic, Position::Earliest, 0) };
    shell.send(ALICE, request);

    let answer = shell.fetched.last().unwrap();
    assert_eq!((answer.ranges.as_slice(), answer.next), (&[Offset(0)..Offset(2)][..], Offset(2)));
    assert_eq!((answer.end, answer.gate), (Offset(3), Gate::Now));
}

#[test]
fn fetch_from_a_forgotten_offset_goes_on_at_the_first_one_kept() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    shell.publish(&mut sender, topic, &["a", "b"]);
    shell.request(TopicPurge { topic: name("orders") });
    shell.publish(&mut sender, topic, &["c"]);

    let ranges = fetched(&mut shell, topic, Position::Offset(Offset(0)));

    assert_eq!(ranges, [Offset(2)..Offset(3)]);
}

#[test]
fn fetch_from_beyond_the_end_is_answered_at_once_with_the_end() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    shell.publish(&mut sender, topic, &["a", "b"]);
    shell.send(ALICE, fetch(topic, Position::Offset(Offset(2)), 1000));
    assert!(shell.fetched.is_empty(), "at the end, it waits");

    shell.send(ALICE, fetch(topic, Position::Offset(Offset(3)), 1000));

    let answer = shell.fetched.last().unwrap();
    assert_eq!((answer.ranges.len(), answer.next, answer.end), (0, Offset(2), Offset(2)));
}

#[test]
fn saved_cursor_releases_and_survives() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let id = stream(&mut shell);
    shell.publish(&mut sender, topic, &["a", "b", "c"]);

    assert_eq!(save(&mut shell, id, 2), Reply::Done(message::Done {}));
    shell.restart(true);

    assert_eq!(shell.subscription("orders", "audit").ack_floor, Offset(2));
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(2)..Offset(3)]);
    shell.check_replay();
}

#[test]
fn cursor_goes_back_as_far_as_messages_are_still_there() {
    let mut shell = Shell::new();
    let settings = TopicSettings { retention: Retention::Limits, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    let id = stream(&mut shell);
    shell.publish(&mut sender, topic, &["a", "b"]);
    shell.request(TopicPurge { topic: name("orders") });
    shell.publish(&mut sender, topic, &["c", "d"]);
    save(&mut shell, id, 4);

    save(&mut shell, id, 3);
    assert_eq!(shell.subscription("orders", "audit").ack_floor, Offset(3));
    save(&mut shell, id, 0);

    let info = shell.subscription("orders", "audit");
    assert_eq!((info.ack_floor, info.backlog), (Offset(2), 2));
    shell.check_replay();
}

#[test]
fn cursor_never_brings_released_messages_back() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let id = stream(&mut shell);
    shell.publish(&mut sender, topic, &["a", "b", "c"]);
    save(&mut shell, id, 2);
    save(&mut shell, id, 0);

    assert_eq!(shell.subscription("orders", "audit").ack_floor, Offset(2));
    assert_eq!(fetched(&mut shell, topic, Position::Earliest), [Offset(2)..Offset(3)]);
}

#[test]
fn cursor_that_goes_back_does_not_bring_released_holes_back() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let cursor = stream(&mut shell);
    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    shell.publish(&mut sender, topic, &["a", "b", "c", "d"]);
    settle(&mut shell, queue.id, 1..3);
    save(&mut shell, cursor, 4);
    assert_eq!(shell.topic("orders").messages, 2);

    save(&mut shell, cursor, 0);

    assert_eq!(shell.subscription("orders", "audit").backlog, 2);
    let ranges = fetched(&mut shell, topic, Position::Earliest);
    assert_eq!(ranges, [Offset(0)..Offset(1), Offset(3)..Offset(4)]);
    shell.check_replay();
}

#[test]
fn cursor_beyond_the_end_and_cursor_of_a_queue_are_invalid() {
    let (mut shell, _, _) = orders(Durability::Synced);
    let id = stream(&mut shell);
    assert_eq!(code_of(save(&mut shell, id, 1)).0, ErrorCode::Invalid);

    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    assert_eq!(code_of(save(&mut shell, queue.id, 0)).0, ErrorCode::Invalid);
}

#[test]
fn cursor_of_a_written_topic_waits_for_the_write_only() {
    let (mut shell, topic, mut sender) = orders(Durability::Written);
    let id = stream(&mut shell);
    shell.publish(&mut sender, topic, &["a"]);
    save(&mut shell, id, 1);

    assert_eq!(shell.answers.last().unwrap().gate, Gate::Written(shell.last()));
}

fn orders(durability: Durability) -> (Shell, TopicId, Sender) {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let sender = shell.open_producer(None);
    (shell, topic, sender)
}

fn stream(shell: &mut Shell) -> posthouse_protocol::SubscriptionId {
    let settings = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
    shell.create_subscription("orders", "audit", settings).id
}

fn save(shell: &mut Shell, id: posthouse_protocol::SubscriptionId, offset: u64) -> Reply {
    shell.request(CursorSave { subscription: id, offset: Offset(offset) })
}

fn fetch(topic: TopicId, from: Position, wait_ms: u32) -> Fetch {
    Fetch { topic, from, bytes_max: 1 << 20, messages_max: 1000, wait_ms }
}

fn fetched(shell: &mut Shell, topic: TopicId, from: Position) -> Vec<Range<Offset>> {
    let correlation = shell.send(ALICE, fetch(topic, from, 0));
    answer(shell, correlation).expect("answered at once")
}

fn answer(shell: &Shell, correlation: CorrelationId) -> Option<Vec<Range<Offset>>> {
    let found = shell.fetched.iter().find(|fetch| fetch.correlation == correlation);
    found.map(|fetch| fetch.ranges.clone())
}

/// Hands out and acks a range of a queue.
fn settle(shell: &mut Shell, id: posthouse_protocol::SubscriptionId, range: Range<u64>) {
    shell.hand_out(id, range.clone());
    shell.settle_all(id, range, message::Verdict::Ack);
}
