//! Delayed messages: invisible until they are due, then published once.

use super::shell::*;
use crate::Input;
use crate::effect::{Effect, Gate};
use crate::event::Event;
use posthouse_protocol::message::{self, Receipt};
use posthouse_protocol::settings::{Durability, Overflow, TopicSettings};
use posthouse_protocol::{ErrorCode, LogIndex, Offset, Reply, Timestamp, TopicId};
use std::collections::BTreeMap;

fn orders(settings: TopicSettings) -> (Shell, TopicId, Sender) {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", settings).id;
    let sender = shell.open_producer(Some("shop"));
    (shell, topic, sender)
}

fn usual() -> (Shell, TopicId, Sender) {
    orders(TopicSettings::default())
}

fn written() -> TopicSettings {
    TopicSettings { durability: Durability::Written, ..TopicSettings::default() }
}

/// The bodies in a topic, in the order of their offsets.
fn bodies(shell: &mut Shell, topic: &str) -> Vec<String> {
    let partition = shell.topic(topic).partition;
    let stored = shell.stored(partition).into_values();
    stored.map(|(message, _)| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

fn waiting(shell: &Shell) -> usize {
    shell.engine.state().waiting.messages()
}

#[test]
fn delayed_message_is_invisible_until_it_is_due_and_then_there_once() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let receipt = receipt(shell.publish_due(&mut sender, topic, &[("a", now + 300)]));
    assert_eq!((receipt.base, receipt.count, receipt.duplicate), (None, 1, false));
    assert_eq!((shell.topic("orders").end, waiting(&shell)), (Offset(0), 1));

    shell.advance(299);
    assert_eq!(bodies(&mut shell, "orders"), [""; 0]);
    shell.advance(1);
    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
    shell.advance(100_000);
    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
    assert_eq!(waiting(&shell), 0);
    shell.check_replay();
}

#[test]
fn delayed_messages_come_in_the_order_of_their_times() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let due = [("c", now + 30), ("a", now + 10), ("b", now + 20)];
    receipt(shell.publish_due(&mut sender, topic, &due));
    receipt(shell.publish(&mut sender, topic, &["now"]));
    shell.advance(15);
    receipt(shell.publish(&mut sender, topic, &["later"]));
    shell.advance(1_000);

    assert_eq!(bodies(&mut shell, "orders"), ["now", "a", "later", "b", "c"]);
}

#[test]
fn time_that_has_passed_is_no_delay() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let first = receipt(shell.publish_due(&mut sender, topic, &[("a", now), ("b", 0)]));
    assert_eq!((first.base, waiting(&shell)), (Some(Offset(0)), 0));

    // One of them waits, so the batch does; what is due leaves at once.
    let second = receipt(shell.publish_due(&mut sender, topic, &[("c", now), ("d", now + 9)]));
    assert_eq!(second.base, None);
    assert_eq!(bodies(&mut shell, "orders"), ["a", "b", "c"]);
    assert_eq!(waiting(&shell), 1);
}

#[test]
fn batch_that_mixes_delayed_messages_with_others_is_refused() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let before = shell.last();
    let reply = shell.publish_due(&mut sender, topic, &[("a", now + 5), ("b", 0)]);
    assert_eq!(fault(reply.clone()), (ErrorCode::Invalid, Some((0, 1))));
    assert!(code_of(reply).1.contains("two batches"));
    assert_eq!(shell.last(), before);
}

#[test]
fn repeat_of_a_delayed_publish_is_answered_like_the_first() {
    let (mut shell, topic, sender) = usual();
    let request = sender.next(topic);
    let batch = batch_due(&[("a", shell.now.wall.0 + 300)]);
    let ask = |shell: &mut Shell| {
        let correlation = shell.send_batch(ALICE, request.clone(), batch.clone());
        receipt(shell.answer_to(correlation).reply.clone())
    };
    let first = ask(&mut shell);
    let again = ask(&mut shell);
    shell.advance(500);
    let late = ask(&mut shell);

    assert_eq!(again, Receipt { duplicate: true, ..first });
    assert_eq!(late, again);
    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
}

#[test]
fn restart_goes_on_with_what_waits() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 300), ("b", now + 900)]));
    shell.restart(false);
    shell.advance(400);
    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
    shell.restart(true);
    shell.advance(1_000);

    assert_eq!(bodies(&mut shell, "orders"), ["a", "b"]);
}

#[test]
fn what_waits_stays_readable_and_nothing_more() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let due = [("a", now + 300), ("b", now + 900), ("c", now + 100)];
    receipt(shell.publish_due(&mut sender, topic, &due));
    let room = shell.engine.state().topics[&topic].waiting_room.unwrap();
    assert_eq!(shell.engine.state().needed(room), [Offset(0)..Offset(3)]);
    assert!(shell.engine.state().partitions().any(|partition| partition == room));
    shell.advance(500);
    assert_eq!(shell.engine.state().needed(room), [Offset(1)..Offset(2)]);
    shell.advance(500);
    assert_eq!(shell.engine.state().needed(room), []);
}

#[test]
fn purge_and_delete_drop_what_waits_and_limits_do_not() {
    let settings = TopicSettings {
        overflow: Overflow::DropOldest,
        messages_max: 2,
        age_ms_max: 1_000,
        ..TopicSettings::default()
    };
    let (mut shell, topic, mut sender) = orders(settings);
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 9_000)]));
    receipt(shell.publish(&mut sender, topic, &["1", "2"]));
    receipt(shell.publish(&mut sender, topic, &["3", "4"]));
    shell.advance(5_000);
    assert_eq!((shell.topic("orders").messages, waiting(&shell)), (0, 1));

    shell.request(message::TopicPurge { topic: name("orders") });
    assert_eq!(waiting(&shell), 0);
    receipt(shell.publish_due(&mut sender, topic, &[("b", now + 9_000)]));
    shell.check_replay();
    shell.request(message::TopicDelete { topic: name("orders") });
    assert_eq!(waiting(&shell), 0);
    shell.advance(20_000);
    shell.check_replay();
}

#[test]
fn purge_while_a_due_message_is_read_drops_it() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    shell.prompt = false;
    shell.advance(10);
    assert_eq!(shell.loads.len(), 1);
    shell.request(message::TopicPurge { topic: name("orders") });
    shell.settle();

    assert_eq!((bodies(&mut shell, "orders").len(), waiting(&shell)), (0, 0));
}

#[test]
fn full_topic_lets_its_due_messages_wait() {
    let settings = TopicSettings { messages_max: 2, ..TopicSettings::default() };
    let (mut shell, topic, mut sender) = orders(settings);
    let queue = shell.create_subscription("orders", "s", Default::default()).id;
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    receipt(shell.publish(&mut sender, topic, &["1", "2"]));
    shell.advance(5_000);
    assert_eq!(waiting(&shell), 1);

    shell.hand_out(queue, 0..1);
    shell.settle_all(queue, 0..1, message::Verdict::Ack);
    shell.advance(1_000);
    assert_eq!((bodies(&mut shell, "orders").len(), waiting(&shell)), (3, 0));
}

#[test]
fn delayed_message_that_the_topic_can_never_hold_is_refused_at_once() {
    let (mut shell, topic, mut sender) =
        orders(TopicSettings { bytes_max: 400, ..TopicSettings::default() });
    let due = shell.now.wall.0 + 10;
    let large = "x".repeat(400);

    let refused = shell.publish_due(&mut sender, topic, &[("small", due), (&large, due)]);
    assert_eq!(code_of(refused).0, ErrorCode::TooLarge);
    receipt(shell.publish_due(&mut sender, topic, &[("small", due)]));
}

#[test]
fn message_without_room_holds_up_no_smaller_one_however_much_later_it_is_due() {
    let (mut shell, topic, mut sender) =
        orders(TopicSettings { bytes_max: 1_000, ..TopicSettings::default() });
    shell.create_subscription("orders", "s", Default::default());
    let now = shell.now.wall.0;
    let large = "x".repeat(700);
    receipt(shell.publish_due(&mut sender, topic, &[(&large, now + 10)]));
    receipt(shell.publish_due(&mut sender, topic, &[("b", now + 20), ("c", now + 60_000)]));
    receipt(shell.publish(&mut sender, topic, &[&"y".repeat(400)]));
    shell.advance(120_000);

    assert_eq!(bodies(&mut shell, "orders")[1..], ["b", "c"]);
    assert_eq!(waiting(&shell), 1);
}

/// A topic that is full but for a few small messages, and a large body that it has no room for.
fn nearly_full() -> (Shell, TopicId, Sender, String) {
    let (mut shell, topic, mut sender) =
        orders(TopicSettings { bytes_max: 2_000, ..TopicSettings::default() });
    shell.create_subscription("orders", "s", Default::default());
    receipt(shell.publish(&mut sender, topic, &[&"y".repeat(1_000)]));
    (shell, topic, sender, "x".repeat(1_000))
}

#[test]
fn message_without_room_holds_up_no_smaller_one_due_within_the_same_second() {
    let (mut shell, topic, mut sender, large) = nearly_full();
    let now = shell.now.wall.0;
    // More than a block, and a small message in the next one.
    let mut due = vec![(large.as_str(), now + 10), (&large, now + 900), (&large, now + 1_500)];
    due.extend(vec![("far", now + 1_000_000); 509]);
    due.push(("small", now + 600));
    receipt(shell.publish_due(&mut sender, topic, &due));
    (shell.now.mono, shell.now.wall) = (shell.now.mono.plus_millis(2_000), Timestamp(now + 2_000));
    shell.input(Input::Deadline);

    assert_eq!(bodies(&mut shell, "orders")[1..], ["small"]);
    assert_eq!(waiting(&shell), 512);
}

#[test]
fn message_behind_one_without_room_comes_in_its_millisecond() {
    let (mut shell, topic, mut sender, large) = nearly_full();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[(&large, now + 10), ("a", now + 400)]));
    shell.advance(200);
    receipt(shell.publish_due(&mut sender, topic, &[("b", now + 300), ("c", now + 5_000)]));
    for (at, there) in [(299, 0), (300, 1), (399, 1), (400, 2), (4_999, 2), (5_000, 3)] {
        shell.advance(now + at - shell.now.wall.0);
        assert_eq!(bodies(&mut shell, "orders")[1..], ["b", "a", "c"][..there], "after {at}");
    }
}

#[test]
fn message_that_is_due_before_one_that_had_no_room_comes_when_the_clock_was_set_back() {
    let (mut shell, topic, mut sender, large) = nearly_full();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[(&large, now + 1_000)]));
    shell.advance(1_500);
    shell.now.wall = Timestamp(now);
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 50)]));
    shell.advance(3_000);
    assert_eq!(bodies(&mut shell, "orders")[1..], ["a"]);

    shell.request(message::TopicAlter { topic: name("orders"), settings: Default::default() });
    shell.advance(1_000);
    assert_eq!(waiting(&shell), 0);
    shell.now.wall = Timestamp(now);
    receipt(shell.publish_due(&mut sender, topic, &[("b", now + 50)]));
    shell.advance(50);
    assert_eq!(waiting(&shell), 0);
}

#[test]
fn message_that_had_no_room_waits_for_its_time_again_when_the_clock_was_set_back() {
    let (mut shell, topic, mut sender, large) = nearly_full();
    let now = shell.now.wall.0;
    let due = [("far", now + 100_000), (large.as_str(), now + 1_000), ("a", now + 600)];
    receipt(shell.publish_due(&mut sender, topic, &due[1..2]));
    shell.advance(1_500);
    shell.now.wall = Timestamp(now);
    receipt(shell.publish_due(&mut sender, topic, &due));
    shell.request(message::TopicAlter { topic: name("orders"), settings: Default::default() });
    shell.advance(999);
    assert_eq!(bodies(&mut shell, "orders")[1..], ["a"]);
    shell.advance(1);
    assert_eq!(waiting(&shell), 1);
}

#[test]
fn messages_that_cannot_be_read_hold_up_none_behind_them() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let mut due: Vec<_> = (0..5_000).map(|at| ("", now + 1_000 - at / 6)).collect();
    due.extend([("a", now + 100), ("b", now + 900), ("c", now + 7_000)]);
    receipt(shell.publish_due(&mut sender, topic, &due));
    shell.unreadable = (0..5_000).map(Offset).collect();
    (shell.now.mono, shell.now.wall) = (shell.now.mono.plus_millis(2_000), Timestamp(now + 2_000));
    shell.input(Input::Deadline);
    assert_eq!(bodies(&mut shell, "orders"), ["a", "b"]);
    shell.advance(4_999);
    assert_eq!(bodies(&mut shell, "orders"), ["a", "b"]);
    shell.advance(1);
    assert_eq!(bodies(&mut shell, "orders"), ["a", "b", "c"]);
    shell.advance(50_000);
    let loads: Vec<_> = shell.trace.iter().filter(|line| line.contains("LoadDue")).collect();
    assert!(loads.len() < 20, "{} loads", loads.len());
    let silent = loads.iter().filter(|line| line.contains("told: true"));
    assert_eq!(loads.len() - silent.count(), 1, "the log is told once");

    shell.unreadable.clear();
    shell.advance(20_000);
    assert_eq!((bodies(&mut shell, "orders").len(), waiting(&shell)), (5_003, 0));
}

#[test]
fn message_that_is_due_before_one_that_cannot_be_read_comes_when_the_clock_was_set_back() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("", now + 2_000)]));
    shell.unreadable = [Offset(0)].into();
    shell.advance(2_500);
    shell.now.wall = Timestamp(now);

    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 50)]));
    shell.advance(1_500);

    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
}

#[test]
fn message_that_can_be_read_is_not_passed_over_with_those_due_within_the_same_second() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    // A group is two blocks, and what is in the next one is due before their last ones.
    let mut due = vec![("", now + 900); 1_024];
    (due[0].1, due[512].1) = (now + 10, now + 11);
    due.push(("a", now + 600));
    receipt(shell.publish_due(&mut sender, topic, &due));
    shell.unreadable = (0..1_024).map(Offset).collect();
    (shell.now.mono, shell.now.wall) = (shell.now.mono.plus_millis(2_000), Timestamp(now + 2_000));
    shell.input(Input::Deadline);

    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
}

#[test]
fn messages_that_cannot_be_read_in_a_full_topic_hold_up_none_behind_them() {
    let (mut shell, topic, mut sender, large) = nearly_full();
    let now = shell.now.wall.0;
    let mut due = Vec::new();
    for at in 0..60 {
        due.extend([("", now + 10 + at), (&large, now + 10 + at), ("", now + 10 + at)]);
    }
    due.extend([("a", now + 50), ("b", now + 900)]);
    receipt(shell.publish_due(&mut sender, topic, &due));
    shell.unreadable = (0..180).filter(|at| at % 3 != 1).map(Offset).collect();
    shell.advance(10_000);

    assert_eq!(bodies(&mut shell, "orders")[1..], ["a", "b"]);
    assert_eq!(waiting(&shell), 180);
}

#[test]
fn topic_that_drops_its_oldest_makes_room_for_a_due_message() {
    let settings = TopicSettings {
        overflow: Overflow::DropOldest,
        messages_max: 2,
        ..TopicSettings::default()
    };
    let (mut shell, topic, mut sender) = orders(settings);
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    receipt(shell.publish(&mut sender, topic, &["1", "2"]));
    shell.advance(10);

    let info = shell.topic("orders");
    assert_eq!((info.start, info.end), (Offset(1), Offset(3)));
}

#[test]
fn full_disk_lets_due_messages_wait() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    shell.set_space(0, 1 << 20);
    let refused = shell.publish_due(&mut sender, topic, &[("b", now + 10)]);
    assert_eq!(code_of(refused).0, ErrorCode::StorageFull);
    shell.advance(5_000);
    assert_eq!(waiting(&shell), 1);
    shell.set_space(1 << 20, 1 << 20);
    shell.advance(1_000);

    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
}

#[test]
fn broker_without_room_reads_little_for_its_due_messages() {
    let (mut shell, _, mut sender) = usual();
    let body = "x".repeat(1_000);
    let due = vec![(body.as_str(), shell.now.wall.0 + 10); 100];
    for room in 0..30 {
        let topic = shell.create_topic(&format!("t{room}"), TopicSettings::default()).id;
        receipt(shell.publish_due(&mut sender, topic, &due));
    }
    let loads = |shell: &Shell| shell.trace.iter().filter(|line| line.contains("LoadDue")).count();
    shell.set_space(500, 1 << 20);
    shell.advance(5_000);
    assert_eq!((waiting(&shell), loads(&shell)), (3_000, 0));
    // There is room for something, for none of these.
    shell.set_space(1_500, 1 << 20);
    shell.advance(5_000);
    assert_eq!(waiting(&shell), 3_000);
    assert!(loads(&shell) <= 30 * 7, "{} loads", loads(&shell));
    shell.set_space(1 << 20, 1 << 20);
    shell.advance(1_000);
    assert!(waiting(&shell) < 3_000);
}

#[test]
fn damaged_delayed_message_is_dropped_and_the_others_come() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10), ("b", now + 10)]));
    shell.prompt = false;
    shell.advance(10);
    let load = shell.loads.remove(0);
    let Effect::LoadDue { partition, offsets, .. } = load else { panic!("no load") };
    assert_eq!(offsets, [Offset(0), Offset(1)]);
    let damaged = vec![Offset(0)];
    let (offsets, unreadable) = (Vec::new(), Vec::new());
    shell.input(Input::DueLoaded { partition, offsets, damaged, unreadable, batch: None });
    shell.settle();

    assert_eq!((bodies(&mut shell, "orders"), waiting(&shell)), (vec![String::from("b")], 0));
    shell.check_replay();
}

#[test]
fn receipt_of_a_delayed_publish_waits_as_its_topic_asks() {
    for (settings, durability) in
        [(TopicSettings::default(), Durability::Synced), (written(), Durability::Written)]
    {
        let (mut shell, topic, sender) = orders(settings);
        let due = batch_due(&[("a", shell.now.wall.0 + 10)]);
        let correlation = shell.send_batch(ALICE, sender.next(topic), due);
        let answer = shell.answer_to(correlation);
        assert_eq!(receipt(answer.reply.clone()).durability, durability);
        let last = shell.last();
        let gates = [Gate::Committed(last), Gate::Written(last)];
        assert_eq!(answer.gate, gates[usize::from(durability == Durability::Written)]);
    }
}

#[test]
fn commit_delays_messages_with_everything_else() {
    let (mut shell, _, mut sender) = usual();
    shell.create_topic("audit", TopicSettings::default());
    let now = shell.now.wall.0;
    let parts = [
        Part::PublishDue("orders", &[("a", now + 10), ("b", now + 20)]),
        Part::Publish("orders", &["now"]),
        Part::PublishDue("audit", &[("x", now + 10)]),
        Part::PublishDue("orders", &[("c", now + 30)]),
    ];
    let (request, tail) = sender.next_commit(&parts);
    let frames = shell.frames.len();
    let first = committed(shell.commit(&mut sender, &parts));
    assert_eq!(shell.frames.len(), frames + 1);
    let bases: Vec<_> = first.published.iter().map(|place| (place.base, place.count)).collect();
    assert_eq!(bases, [(None, 2), (Some(Offset(0)), 1), (None, 1), (None, 1)]);
    shell.advance(1_000);

    assert_eq!(bodies(&mut shell, "orders"), ["now", "a", "b", "c"]);
    assert_eq!(bodies(&mut shell, "audit"), ["x"]);
    let again = committed(shell.commit_as(&request, &tail));
    assert_eq!((again.published, again.duplicate), (first.published, true));
    shell.check_replay();
}

#[test]
fn refused_commit_delays_nothing() {
    let (mut shell, _, mut sender) = usual();
    let now = shell.now.wall.0;
    let parts = [
        Part::PublishDue("orders", &[("a", now + 10)]),
        Part::PublishDue("orders", &[("b", now + 10), ("c", 0)]),
    ];
    assert_eq!(fault(shell.commit(&mut sender, &parts)), (ErrorCode::Invalid, Some((1, 1))));
    assert_eq!(waiting(&shell), 0);
}

#[test]
fn delayed_part_of_a_synced_commit_is_not_seen_before_the_commit() {
    let (mut shell, _, sender) = orders(written());
    shell.create_topic("audit", TopicSettings::default());
    shell.prompt = false;
    let now = shell.now.wall.0;
    let parts = [Part::PublishDue("orders", &[("a", now + 10)]), Part::Publish("audit", &["x"])];
    let (request, tail) = sender.next_commit(&parts);
    let before = shell.last();
    shell.send_batch(ALICE, request, tail);
    shell.progress(shell.last(), before);
    shell.advance(10);
    shell.answer_loads();
    let published = shell.frames.last().unwrap().events.first().cloned();
    let Some(Event::Published(published)) = published else { panic!("not published") };
    assert!(!published.written, "it could be seen before its commit");

    // Without anything synced beside it, it could.
    let (mut shell, topic, mut sender) = orders(written());
    shell.prompt = false;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    shell.progress(shell.last(), LogIndex(1));
    shell.advance(10);
    shell.answer_loads();
    let published = shell.frames.last().unwrap().events.first().cloned();
    let Some(Event::Published(published)) = published else { panic!("not published") };
    assert!(published.written);
}

/// What each frame published since `from`.
fn published(shell: &Shell, from: usize) -> Vec<u32> {
    let events = shell.frames[from..].iter().flat_map(|frame| &frame.events);
    let published = |event: &Event| {
        if let Event::Published(event) = event { Some(event.count) } else { None }
    };
    events.filter_map(published).collect()
}

#[test]
fn messages_of_a_topic_that_are_due_are_published_together() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    let names: Vec<_> = (0..3_000).map(|at| at.to_string()).collect();
    let due: Vec<_> = names.iter().zip(1..).map(|(name, at)| (name.as_str(), now + at)).collect();
    receipt(shell.publish_due(&mut sender, topic, &due));
    let frames = shell.frames.len();
    (shell.now.mono, shell.now.wall) = (shell.now.mono.plus_millis(5_000), Timestamp(now + 5_000));
    shell.input(Input::Deadline);

    assert_eq!(published(&shell, frames), [1_024, 1_024, 952]);
    assert_eq!(bodies(&mut shell, "orders"), names);
    shell.check_replay();
}

#[test]
fn few_messages_are_read_at_a_time() {
    let (mut shell, _, mut sender) = usual();
    let due: Vec<_> = (0..3_000).map(|_| ("a", shell.now.wall.0 + 10)).collect();
    for topic in 0..20 {
        let topic = shell.create_topic(&format!("t{topic}"), TopicSettings::default()).id;
        receipt(shell.publish_due(&mut sender, topic, &due));
    }
    shell.prompt = false;
    shell.advance(10);
    let rooms = shell.loads.iter().map(|load| {
        let Effect::LoadDue { partition, offsets, .. } = load else { panic!("another load") };
        (*partition, offsets.len())
    });
    let rooms: BTreeMap<_, _> = rooms.collect();
    assert_eq!((shell.loads.len(), rooms.len()), (16, 16));
    assert!(rooms.values().all(|messages| *messages == 1_024), "{rooms:?}");
    shell.settle();
    assert_eq!(bodies(&mut shell, "t19").len(), 3_000);
}

#[test]
fn full_topic_takes_as_many_due_messages_as_it_has_room_for() {
    let settings = TopicSettings { messages_max: 11, ..TopicSettings::default() };
    let (mut shell, topic, mut sender) = orders(settings);
    let due = shell.now.wall.0 + 10;
    receipt(shell.publish_due(&mut sender, topic, &vec![("a", due); 30]));
    shell.advance(10);
    assert_eq!((bodies(&mut shell, "orders").len(), waiting(&shell)), (11, 19));
    shell.request(message::TopicAlter { topic: name("orders"), settings: Default::default() });
    shell.advance(1_000);
    assert_eq!((bodies(&mut shell, "orders").len(), waiting(&shell)), (30, 0));
}

#[test]
fn stopping_broker_publishes_nothing_more() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("a", now + 10)]));
    shell.input(Input::Drain);
    let refused = shell.publish_due(&mut sender, topic, &[("b", now + 10)]);
    assert!(matches!(refused, Reply::Refused(_)));
    shell.advance(1_000);
    assert_eq!(waiting(&shell), 1);
    shell.restart(true);
    shell.advance(10);
    assert_eq!(bodies(&mut shell, "orders"), ["a"]);
}

#[test]
fn publish_or_commit_of_more_than_can_wait_is_refused() {
    let (mut shell, topic, mut sender) = usual();
    shell.engine.set_delayed_max(1_000);
    let due = shell.now.wall.0 + 1_000_000_000;
    let messages = vec![("", due); 999];
    receipt(shell.publish_due(&mut sender, topic, &messages));

    let two = &messages[..2];
    let (code, text) = code_of(shell.publish_due(&mut sender, topic, two));
    assert_eq!(code, ErrorCode::Overloaded, "{text}");
    let one = Part::PublishDue("orders", &messages[..1]);
    let (code, text) = code_of(shell.commit(&mut sender, &[one.clone(), one.clone()]));
    assert_eq!(code, ErrorCode::Overloaded, "{text}");
    committed(shell.commit(&mut sender, &[one]));
    assert_eq!(waiting(&shell), 1_000);
}

#[test]
fn batch_that_fits_no_frame_with_its_times_is_refused() {
    let (mut shell, topic, mut sender) = usual();
    shell.set_space(u64::MAX, u64::MAX);
    let due = shell.now.wall.0 + 1_000;
    let body = "a".repeat(50);
    let delayed = vec![(body.as_str(), due); 10_000];
    assert!(batch_due(&delayed).len() < (1 << 20) - 10_000, "the batch alone fits");
    let (code, text) = code_of(shell.publish_due(&mut sender, topic, &delayed));
    assert_eq!(code, ErrorCode::TooLarge, "{text}");
    let at_once = vec![(body.as_str(), 1); 10_000];
    receipt(shell.publish_due(&mut sender, topic, &at_once));
}

#[test]
fn room_is_used_up_by_what_is_delayed_and_by_what_is_due() {
    // A frame takes its bytes once in the journal and once more in a run.
    for (disk_bytes, ring_bytes) in [(1_600, u64::MAX), (u64::MAX, 800)] {
        let (mut shell, topic, mut sender) = usual();
        let message = [("a", shell.now.wall.0 + 100)];
        for _ in 0..10 {
            receipt(shell.publish_due(&mut sender, topic, &message));
        }
        shell.set_space(disk_bytes, ring_bytes);
        shell.advance(100);
        assert_eq!(waiting(&shell), 8);

        shell.set_space(disk_bytes, ring_bytes);
        let message = [("a", shell.now.wall.0 + 100_000)];
        let replies = (0..10).map(|_| shell.publish_due(&mut sender, topic, &message));
        assert_eq!(replies.filter(|reply| matches!(reply, Reply::Receipt(_))).count(), 2);
    }
}

#[test]
fn commit_that_makes_several_waiting_rooms_gives_each_a_number_of_its_own() {
    let (mut shell, _, mut sender) = usual();
    shell.create_topic("audit", TopicSettings::default());
    let due = shell.now.wall.0 + 10;
    let parts = [
        Part::PublishDue("orders", &[("a", due)]),
        Part::PublishDue("audit", &[("b", due)]),
        Part::PublishDue("orders", &[("c", due)]),
    ];
    committed(shell.commit(&mut sender, &parts));
    let rooms: Vec<_> = shell.engine.state().waiting_rooms().map(|(room, _)| room).collect();
    assert_eq!(rooms.len(), 2);
    let fresh = shell.create_topic("later", TopicSettings::default());
    assert!(rooms.iter().all(|room| *room < fresh.partition), "{rooms:?}");
    shell.check_replay();
    shell.advance(10);
    assert_eq!(bodies(&mut shell, "orders"), ["a", "c"]);
    assert_eq!(bodies(&mut shell, "audit"), ["b"]);
}

#[test]
fn topic_says_how_many_messages_wait_and_when_the_first_is_due() {
    let (mut shell, topic, mut sender) = usual();
    let now = shell.now.wall.0;
    receipt(shell.publish_due(&mut sender, topic, &[("b", now + 20), ("a", now + 10)]));
    let info = shell.topic("orders");
    assert_eq!((info.waiting, info.next_due_at.0, info.messages), (2, now + 10, 0));
    shell.advance(10);
    let info = shell.topic("orders");
    assert_eq!((info.waiting, info.next_due_at.0, info.messages), (1, now + 20, 1));
    shell.advance(10);
    let info = shell.topic("orders");
    assert_eq!((info.waiting, info.next_due_at.0, info.messages), (0, 0, 2));
}
