//! Commits: all or nothing, repeats, refusals and whom they blame, gates, and what readers see.

use super::shell::*;
use crate::event::Event;
use crate::{Gate, Input};
use bytes::Bytes;
use posthouse_protocol::message::{self, CommittedPublish, Verdict};
use posthouse_protocol::settings::{
    Durability, Mode, Overflow, Position, SubscriptionSettings, TopicSettings,
};
use posthouse_protocol::{ErrorCode, Offset, Reply, SubscriptionId, limits};

const NO_MESSAGE: u32 = message::RefusedAt::NO_MESSAGE;

/// A broker with the topics `orders` and `audit`, of which `orders` has a queue with four messages
/// handed out, and `audit` a stream.
struct World {
    shell: Shell,
    sender: Sender,
    queue: SubscriptionId,
    stream: SubscriptionId,
}

fn world() -> World {
    let mut shell = Shell::new();
    let orders = shell.create_topic("orders", TopicSettings::default()).id;
    shell.create_topic("audit", TopicSettings::default());
    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default()).id;
    let settings = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
    let stream = shell.create_subscription("audit", "reports", settings).id;
    let mut sender = shell.open_producer(Some("shop"));
    shell.publish(&mut sender, orders, &["o0", "o1", "o2", "o3"]);
    shell.hand_out(queue, 0..4);
    World { shell, sender, queue, stream }
}

impl World {
    fn ack(&self, range: std::ops::Range<u64>) -> Part<'static> {
        self.settle(Verdict::Ack, range)
    }

    fn settle(&self, verdict: Verdict, range: std::ops::Range<u64>) -> Part<'static> {
        Part::Settle(self.queue, verdict, self.shell.handed(self.queue, range))
    }

    fn commit(&mut self, parts: &[Part<'_>]) -> Reply {
        self.shell.commit(&mut self.sender, parts)
    }

    /// Asserts that the commit is refused so, and that nothing has changed.
    fn refused(&mut self, parts: &[Part<'_>], code: ErrorCode, at: Option<(u32, u32)>) {
        let before = (self.shell.frames.len(), self.shell.engine.state().clone());
        assert_eq!(fault(self.commit(parts)), (code, at));
        assert_eq!(self.shell.frames.len(), before.0, "a refused commit appends nothing");
        assert_eq!(self.shell.engine.state(), &before.1, "a refused commit changes nothing");
    }
}

#[test]
fn commit_does_everything_in_one_frame() {
    let mut world = world();
    world.commit(&[Part::Publish("audit", &["a0", "a1"])]);
    let frames = world.shell.frames.len();
    let parts = [
        world.ack(0..2),
        Part::Publish("audit", &["a2"]),
        world.settle(Verdict::Nack, 2..3),
        Part::Publish("orders", &["o4", "o5"]),
        Part::Save(world.stream, 2),
        Part::Publish("audit", &["a3"]),
        world.settle(Verdict::Reject, 3..4),
    ];

    let committed = committed(world.commit(&parts));

    let at = |base, count| CommittedPublish { base: Some(Offset(base)), count };
    assert_eq!(committed.published, [at(2, 1), at(4, 2), at(3, 1)]);
    assert_eq!((committed.durability, committed.duplicate), (Durability::Synced, false));
    let frame = &world.shell.frames[frames];
    assert_eq!(frame.batches.len(), 3);
    assert!(matches!(frame.events.last(), Some(Event::Committed(_))));
    assert_eq!(frame.events.len(), 8);
    let answer = world.shell.answers.iter().rfind(|at| matches!(at.reply, Reply::Committed(_)));
    assert_eq!(answer.unwrap().gate, Gate::Committed(frame.index));
    let billing = world.shell.subscription("orders", "billing");
    assert_eq!((billing.ack_floor, billing.dead), (Offset(2), 1));
    assert_eq!(world.shell.subscription("audit", "reports").ack_floor, Offset(2));
    world.shell.check_replay();
}

#[test]
fn repeat_of_a_commit_gets_the_first_result_and_does_nothing() {
    let mut world = world();
    let parts = [world.ack(0..2), Part::Publish("audit", &["a0"])];
    let (request, tail) = world.sender.next_commit(&parts);
    let first = committed(world.commit(&parts));
    let gate = world.shell.answers.last().unwrap().gate;
    world.commit(&[Part::Publish("audit", &["a1"])]);
    world.shell.request(message::TopicDelete { topic: name("audit") });
    world.shell.set_space(0, 0);
    let frames = world.shell.frames.len();

    let again = committed(world.shell.commit_as(&request, &tail));

    assert_eq!(again, message::Committed { duplicate: true, ..first });
    assert_eq!(world.shell.answers.last().unwrap().gate, gate);
    assert_eq!(world.shell.frames.len(), frames);
}

#[test]
fn repeat_after_a_restart_gets_the_first_result() {
    let mut world = world();
    let parts = [world.ack(0..2), Part::Publish("audit", &["a0"])];
    let (request, tail) = world.sender.next_commit(&parts);
    let first = committed(world.commit(&parts));

    world.shell.restart(false);

    let again = committed(world.shell.commit_as(&request, &tail));
    assert_eq!(again, message::Committed { duplicate: true, ..first });
}

#[test]
fn other_content_under_a_used_number_is_refused() {
    let mut world = world();
    let parts = [world.ack(0..1), Part::Publish("audit", &["a0"])];
    let before = world.sender;
    world.commit(&parts);
    let others = [
        vec![world.ack(1..2), Part::Publish("audit", &["a0"])],
        vec![parts[0].clone(), Part::Publish("audit", &["a1"])],
        vec![parts[0].clone(), Part::Publish("orders", &["a0"])],
        vec![parts[1].clone(), parts[0].clone()],
        vec![],
    ];
    for other in others {
        let (request, tail) = before.next_commit(&other);
        let reply = world.shell.commit_as(&request, &tail);
        assert_eq!(fault(reply), (ErrorCode::SequenceReused, None), "{other:?}");
    }
}

#[test]
fn publish_and_commit_share_one_sequence_and_are_never_taken_for_each_other() {
    let mut world = world();
    let topic = world.shell.topic("audit").id;
    let before = world.sender;
    committed(world.commit(&[Part::Publish("audit", &["a0"])]));
    let reply = world.shell.publish_as(&before.next(topic), &["a0"]);
    assert_eq!(code_of(reply).0, ErrorCode::SequenceReused);
    let before = world.sender;
    receipt(world.shell.publish(&mut world.sender, topic, &["a1"]));
    let (request, tail) = before.next_commit(&[Part::Publish("audit", &["a1"])]);
    assert_eq!(code_of(world.shell.commit_as(&request, &tail)).0, ErrorCode::SequenceReused);
    let (mut request, tail) = world.sender.next_commit(&[Part::Publish("audit", &["a2"])]);
    request.prev = before.last;
    assert_eq!(code_of(world.shell.commit_as(&request, &tail)).0, ErrorCode::OutOfSequence);
    assert_eq!(world.shell.topic("audit").end, Offset(2));
}

#[test]
fn repeat_too_old_for_its_result_is_still_a_duplicate() {
    let mut world = world();
    let parts = [Part::Publish("audit", &["a0", "a1"]), world.ack(0..1)];
    let (request, tail) = world.sender.next_commit(&parts);
    world.commit(&parts);
    for _ in 0..64 {
        world.commit(&[]);
    }

    let again = committed(world.shell.commit_as(&request, &tail));

    assert_eq!(again.published, [CommittedPublish { base: None, count: 2 }]);
    assert!(again.duplicate);
    world.shell.check_replay();
}

#[test]
fn places_of_kept_results_are_bounded_and_the_newest_is_whole() {
    let mut world = world();
    let many: Vec<Part<'_>> = (0..1_500).map(|_| Part::Publish("audit", &["a"])).collect();
    let mut repeats = Vec::new();
    for _ in 0..4 {
        repeats.push(world.sender.next_commit(&many));
        assert_eq!(committed(world.commit(&many)).published.len(), 1_500);
    }
    let known = repeats.iter().map(|(request, tail)| {
        committed(world.shell.commit_as(request, tail)).published[0].base.is_some()
    });

    assert_eq!(known.collect::<Vec<_>>(), [false, false, true, true]);
    world.shell.check_replay();
}

#[test]
fn topic_that_is_not_there_is_blamed_and_may_be_made_later() {
    let mut world = world();
    let parts = [world.ack(0..1), Part::Publish("audit", &["a"]), Part::Publish("new", &["n"])];
    world.refused(&parts, ErrorCode::NotFound, Some((2, NO_MESSAGE)));

    world.shell.create_topic("new", TopicSettings::default());

    committed(world.commit(&parts));
    assert_eq!(world.shell.topic("new").end, Offset(1));
}

#[test]
fn delivery_that_no_longer_counts_refuses_the_whole_commit() {
    let mut world = world();
    let stale = world.ack(0..4);
    world.commit(&[world.ack(1..2)]);

    world.refused(
        &[Part::Publish("audit", &["a"]), stale],
        ErrorCode::StaleFence,
        Some((1, NO_MESSAGE)),
    );

    committed(world.commit(&[Part::Publish("audit", &["a"]), world.ack(0..4)]));
}

#[test]
fn what_a_commit_may_not_do_is_invalid() {
    let mut world = world();
    let nobody = SubscriptionId(99);
    let (queue, stream) = (world.queue, world.stream);
    let deliveries = || world.shell.handed(queue, 0..1);
    let cases = [
        (Part::Settle(queue, Verdict::Release, deliveries()), ErrorCode::Invalid),
        (Part::Settle(stream, Verdict::Ack, deliveries()), ErrorCode::Invalid),
        (Part::Settle(nobody, Verdict::Ack, deliveries()), ErrorCode::NotFound),
        (Part::Save(queue, 1), ErrorCode::Invalid),
        (Part::Save(stream, 1), ErrorCode::Invalid),
        (Part::Save(nobody, 0), ErrorCode::NotFound),
    ];
    for (part, code) in cases {
        world.refused(&[Part::Publish("audit", &["a"]), part], code, Some((1, NO_MESSAGE)));
    }
}

#[test]
fn delivery_settled_twice_and_cursor_saved_twice_are_invalid() {
    let mut world = world();
    let twice = [world.ack(0..3), world.settle(Verdict::Nack, 2..4)];
    world.refused(&twice, ErrorCode::Invalid, Some((1, NO_MESSAGE)));
    let twice = [Part::Save(world.stream, 0), Part::Save(world.stream, 0)];
    world.refused(&twice, ErrorCode::Invalid, Some((1, NO_MESSAGE)));
}

#[test]
fn message_that_its_topic_does_not_take_is_blamed() {
    let mut world = world();
    let settings = TopicSettings { message_bytes_max: 3, ..TopicSettings::default() };
    world.shell.create_topic("small", settings);
    let parts =
        [Part::Publish("audit", &["long enough"]), Part::Publish("small", &["abc", "", "abcd"])];

    world.refused(&parts, ErrorCode::TooLarge, Some((1, 2)));
}

#[test]
fn too_many_operations_are_refused() {
    let mut world = world();
    let bodies = vec!["x"; limits::COMMIT_OPERATIONS_MAX as usize - 4];
    let fits = [Part::Publish("audit", &bodies), world.ack(0..4)];
    let mut over = fits.to_vec();
    over.push(Part::Save(world.stream, 0));

    world.refused(&over, ErrorCode::TooLarge, None);
    committed(world.commit(&fits));
}

#[test]
fn commit_larger_than_a_frame_is_refused() {
    let mut world = world();
    let body = "x".repeat(1 << 20);
    world.shell.set_space(u64::MAX, u64::MAX);

    world.refused(&[world.ack(0..1), Part::Publish("audit", &[&body])], ErrorCode::TooLarge, None);
}

#[test]
fn commit_is_refused_while_there_is_no_room_unless_it_only_settles() {
    let mut world = world();
    world.shell.set_space(0, 0);
    let parts = [world.ack(0..1), Part::Publish("audit", &["a"])];
    world.refused(&parts, ErrorCode::StorageFull, None);
    world.refused(&[], ErrorCode::StorageFull, None);
    committed(world.commit(&[world.ack(0..1), Part::Save(world.stream, 0)]));
    world.shell.set_space(u64::MAX, u64::MAX);
    world.shell.input(Input::Drain);
    let parts = [world.ack(1..2), Part::Publish("audit", &["a"])];
    world.refused(&parts, ErrorCode::ShuttingDown, None);
    committed(world.commit(&[world.ack(1..2)]));
}

#[test]
fn full_topic_refuses_the_whole_commit_and_counts_all_its_batches() {
    let mut world = world();
    let settings = TopicSettings { messages_max: 3, ..TopicSettings::default() };
    world.shell.create_topic("short", settings);
    let two = Part::Publish("short", &["a", "b"]);
    world.refused(&[two.clone(), two.clone()], ErrorCode::TooLarge, Some((1, NO_MESSAGE)));
    committed(world.commit(&[world.ack(0..1), two.clone()]));

    world.refused(&[world.ack(1..2), two], ErrorCode::StorageFull, Some((1, NO_MESSAGE)));
}

#[test]
fn oldest_messages_make_room_for_all_batches_of_a_commit() {
    let mut world = world();
    let (overflow, usual) = (Overflow::DropOldest, TopicSettings::default());
    world.shell.create_topic("short", TopicSettings { overflow, messages_max: 3, ..usual });
    world.commit(&[Part::Publish("short", &["a", "b", "c"])]);

    let two = [Part::Publish("short", &["d"]), world.ack(0..1), Part::Publish("short", &["e"])];
    let committed = committed(world.commit(&two));

    let bases = committed.published.iter().map(|published| published.base.unwrap().0);
    assert_eq!(bases.collect::<Vec<_>>(), [3, 4]);
    assert_eq!(world.shell.topic("short").start, Offset(2));
    world.shell.check_replay();
}

#[test]
fn commit_of_written_topics_waits_for_the_write_only() {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    shell.create_topic("fast", settings.clone());
    shell.create_topic("quick", settings);
    let mut sender = shell.open_producer(None);
    shell.prompt = false;

    let parts = [Part::Publish("fast", &["a"]), Part::Publish("quick", &["b"])];
    let committed = committed(shell.commit(&mut sender, &parts));

    assert_eq!(committed.durability, Durability::Written);
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Written(shell.last()));
    assert_eq!(fetch(&mut shell, "fast"), 0);
    shell.progress(shell.last(), shell.committed);
    assert_eq!((fetch(&mut shell, "fast"), fetch(&mut shell, "quick")), (1, 1));
}

#[test]
fn nobody_sees_half_of_a_commit_whose_topics_differ_in_durability() {
    let mut world = world();
    let shell = &mut world.shell;
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    let fast = shell.create_topic("fast", settings.clone()).id;
    shell.create_topic("quick", settings);
    shell.prompt = false;
    let parts = [Part::Publish("fast", &["a"]), Part::Publish("audit", &["b"])];
    let result = committed(shell.commit(&mut world.sender, &parts));
    let index = shell.last();
    assert_eq!(result.durability, Durability::Synced);
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(index));

    // What comes behind it in the written topic is told and seen after it, and so is a commit that
    // reaches another topic, too.
    receipt(shell.publish(&mut world.sender, fast, &["c"]));
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(shell.last()));
    let parts = [Part::Publish("fast", &["d"]), Part::Publish("quick", &["e"])];
    assert_eq!(committed(shell.commit(&mut world.sender, &parts)).durability, Durability::Synced);
    shell.progress(shell.last(), shell.committed);
    let seen = ["fast", "audit", "quick"].map(|topic| fetch(shell, topic));
    assert_eq!(seen, [0, 0, 0], "written, and not committed");
    shell.progress(shell.last(), index);
    assert_eq!(["fast", "audit", "quick"].map(|topic| fetch(shell, topic)), [1, 1, 0]);
    shell.progress(shell.last(), shell.last());
    assert_eq!(["fast", "audit", "quick"].map(|topic| fetch(shell, topic)), [3, 1, 1]);
}

#[test]
fn receipts_of_a_written_topic_leave_in_their_order_behind_a_commit() {
    let mut world = world();
    let shell = &mut world.shell;
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    let fast = shell.create_topic("fast", settings).id;
    shell.prompt = false;
    let parts = [Part::Publish("fast", &["a"]), Part::Publish("audit", &["b"])];
    committed(shell.commit(&mut world.sender, &parts));
    let commit = shell.last();
    let again = world.sender.next(fast);
    receipt(shell.publish(&mut world.sender, fast, &["c"]));
    let behind = shell.last();
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(behind));
    shell.progress(behind, commit);

    // Sent again it waits as well, and what comes behind it does not leave before it.
    assert!(receipt(shell.publish_as(&again, &["c"])).duplicate);
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(behind));
    receipt(shell.publish(&mut world.sender, fast, &["d"]));
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(shell.last()));
    assert_eq!(fetch(shell, "fast"), 1);

    shell.progress(shell.last(), shell.last());
    receipt(shell.publish(&mut world.sender, fast, &["e"]));
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Written(shell.last()));
}

#[test]
fn consumers_and_waiting_readers_get_what_a_commit_publishes() {
    let mut world = world();
    let topic = world.shell.topic("audit").id;
    let subscribe = message::Subscribe {
        consumer: posthouse_protocol::ConsumerId(1),
        topic: name("orders"),
        subscription: name("billing"),
    };
    world.shell.send(BOB, subscribe);
    let consumer = posthouse_protocol::ConsumerId(1);
    world.shell.send(BOB, message::Credit { consumer, messages: 9, bytes: 1 << 20, taken: 0 });
    world.shell.settle_all(world.queue, 0..4, Verdict::Ack);
    let from = Position::Offset(Offset(0));
    let (bytes_max, messages_max, wait_ms) = (1 << 20, 10, 1_000);
    world.shell.send(BOB, message::Fetch { topic, from, bytes_max, messages_max, wait_ms });
    let (delivered, fetched) = (world.shell.deliveries.len(), world.shell.fetched.len());

    world.commit(&[Part::Publish("orders", &["o4"]), Part::Publish("audit", &["a0"])]);

    let deliver = &world.shell.deliveries[delivered];
    assert_eq!(deliver.runs[0].first, Offset(4));
    assert_eq!(world.shell.fetched[fetched].ranges, [Offset(0)..Offset(1)]);
}

#[test]
fn nack_in_a_commit_counts_and_comes_again() {
    let mut world = world();
    committed(world.commit(&[world.settle(Verdict::Nack, 0..1), world.ack(1..4)]));
    let delivered = world.shell.deliveries.len();
    world.shell.advance(60_000);
    world.shell.hand_out(world.queue, 0..4);

    let again = &world.shell.deliveries[delivered].runs[0];

    assert_eq!((again.first, again.count, again.attempt.0), (Offset(0), 1, 1));
    world.shell.check_replay();
}

#[test]
fn nack_in_a_commit_is_not_seen_before_the_commit_is_on_disk() {
    let mut world = world();
    let consumer = posthouse_protocol::ConsumerId(1);
    let (topic, subscription) = (name("orders"), name("billing"));
    world.shell.send(BOB, message::Subscribe { consumer, topic, subscription });
    world.shell.send(BOB, message::Credit { consumer, messages: 9, bytes: 1 << 20, taken: 0 });
    world.shell.prompt = false;
    let delivered = world.shell.deliveries.len();
    let parts = [world.settle(Verdict::Nack, 0..1), Part::Publish("audit", &["a"])];
    committed(world.commit(&parts));
    world.shell.advance(2_000);

    let again = &world.shell.deliveries[delivered];
    assert_eq!((again.runs[0].first, again.runs[0].attempt.0), (Offset(0), 1));
    assert_eq!(again.gate, Gate::Committed(world.shell.last()));
}

#[test]
fn number_that_was_left_out_is_never_called_a_repeat() {
    let mut world = world();
    let parts = [Part::Publish("audit", &["a0"])];
    committed(world.commit(&parts));
    let left_out = world.sender.next_commit(&parts);
    world.sender.last = world.sender.last.next();
    let (mut request, tail) = world.sender.next_commit(&[Part::Publish("audit", &["a1"])]);
    request.prev = left_out.0.prev;
    committed(world.shell.commit_as(&request, &tail));

    let reply = world.shell.commit_as(&left_out.0, &left_out.1);

    assert_eq!(fault(reply), (ErrorCode::SequenceReused, None));
    assert_eq!(world.shell.topic("audit").end, Offset(2));
}

#[test]
fn empty_commit_takes_its_number() {
    let mut world = world();
    let before = world.sender.last;
    let committed = committed(world.commit(&[]));

    assert_eq!((committed.published.len(), committed.duplicate), (0, false));
    assert_eq!(world.shell.open_producer(Some("shop")).last, before.next());
}

#[test]
fn fenced_and_unknown_producers_commit_nothing() {
    let mut world = world();
    let old = world.sender;
    let parts = [Part::Publish("audit", &["a"])];
    let (request, tail) = old.next_commit(&parts);
    world.sender = world.shell.open_producer(Some("shop"));
    assert_eq!(code_of(world.shell.commit_as(&request, &tail)).0, ErrorCode::Fenced);
    let nobody = message::Commit { producer: posthouse_protocol::ProducerId(99), ..request };
    assert_eq!(code_of(world.shell.commit_as(&nobody, &tail)).0, ErrorCode::UnknownProducer);
    let (request, _) = world.sender.next_commit(&parts);
    let cut = world.shell.commit_as(&request, &Bytes::new());
    assert_eq!(code_of(cut).0, ErrorCode::Malformed);
    assert_eq!(world.shell.topic("audit").end, Offset(0));
}

/// How many messages of a topic can be read.
fn fetch(shell: &mut Shell, topic: &str) -> u64 {
    let topic = shell.topic(topic).id;
    let from = Position::Offset(Offset(0));
    let (bytes_max, messages_max, wait_ms) = (1 << 20, 100, 0);
    shell.send(BOB, message::Fetch { topic, from, bytes_max, messages_max, wait_ms });
    let ranges = &shell.fetched.last().expect("answered").ranges;
    ranges.iter().map(|range| range.end.0 - range.start.0).sum()
}

#[test]
fn hand_out_of_a_written_topic_waits_for_the_commit_that_published_it() {
    let mut world = world();
    let shell = &mut world.shell;
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    shell.create_topic("fast", settings);
    shell.create_subscription("fast", "work", SubscriptionSettings::default());
    let (topic, subscription) = (name("fast"), name("work"));
    let consumer = posthouse_protocol::ConsumerId(1);
    shell.send(BOB, message::Subscribe { consumer, topic, subscription });
    shell.send(BOB, message::Credit { consumer, messages: 9, bytes: 1 << 20, taken: 0 });
    shell.prompt = false;

    let parts = [Part::Publish("fast", &["a"]), Part::Publish("audit", &["b"])];
    committed(shell.commit(&mut world.sender, &parts));

    let deliver = shell.deliveries.last().expect("handed out at once");
    assert_eq!(deliver.gate, Gate::Committed(shell.last()));
}
