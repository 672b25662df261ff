//! Publishes: order of checks, repeats, limits, gates.

use super::shell::*;
use crate::Gate;
use bytes::Bytes;
use posthouse_protocol::batch::Priority;
use posthouse_protocol::message::{self, TopicAlter};
use posthouse_protocol::settings::{Durability, TopicSettings};
use posthouse_protocol::{ErrorCode, Offset, ProducerId, Reply, Sequence, Timestamp, TopicId};

#[test]
fn receipt_of_a_synced_topic_waits_for_the_commit_of_its_own_frame() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);

    let reply = shell.publish(&mut sender, topic, &["a", "b"]);

    let receipt = receipt(reply);
    assert_eq!((receipt.base, receipt.count), (Some(Offset(0)), 2));
    assert_eq!((receipt.durability, receipt.duplicate), (Durability::Synced, false));
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(shell.last()));
    shell.check_replay();
}

#[test]
fn receipt_of_a_written_topic_waits_for_the_write_only() {
    let (mut shell, topic, mut sender) = orders(Durability::Written);

    let reply = shell.publish(&mut sender, topic, &["a"]);

    assert_eq!(receipt(reply).durability, Durability::Written);
    assert_eq!(shell.answers.last().unwrap().gate, Gate::Written(shell.last()));
}

#[test]
fn repeat_gets_the_first_receipt_and_stores_nothing() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let request = sender.next(topic);
    let first = receipt(shell.publish(&mut sender, topic, &["a"]));
    let first_gate = shell.answers.last().unwrap().gate;
    shell.publish(&mut sender, topic, &["b"]);
    let frames = shell.frames.len();

    let again = receipt(shell.publish_as(&request, &["a"]));

    assert_eq!(again, message::Receipt { duplicate: true, ..first });
    assert_eq!(shell.answers.last().unwrap().gate, first_gate);
    assert_eq!(shell.frames.len(), frames);
}

#[test]
fn repeat_is_answered_even_if_the_topic_is_gone_and_the_disk_full() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let request = sender.next(topic);
    shell.publish(&mut sender, topic, &["a"]);
    shell.request(message::TopicDelete { topic: name("orders") });
    shell.set_space(0, 0);

    assert!(receipt(shell.publish_as(&request, &["a"])).duplicate);
}

#[test]
fn repeat_with_other_content_is_refused() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let request = sender.next(topic);
    shell.publish(&mut sender, topic, &["a"]);

    let (code, _) = code_of(shell.publish_as(&request, &["x"]));

    assert_eq!(code, ErrorCode::SequenceReused);
}

#[test]
fn repeat_in_another_topic_is_refused() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let other = shell.create_topic("other", TopicSettings::default()).id;
    let request = sender.next(topic);
    shell.publish(&mut sender, topic, &["a"]);

    let moved = message::Publish { topic: other, ..request };

    assert_eq!(code_of(shell.publish_as(&moved, &["a"])).0, ErrorCode::SequenceReused);
}

#[test]
fn repeat_too_old_for_its_result_is_still_a_duplicate() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let request = sender.next(topic);
    for _ in 0..65 {
        shell.publish(&mut sender, topic, &["a"]);
    }

    let again = receipt(shell.publish_as(&request, &["a"]));

    assert_eq!((again.base, again.duplicate), (None, true));
    shell.check_replay();
}

#[test]
fn publish_after_a_refused_one_is_out_of_sequence_until_that_one_is_retried() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    shell.set_space(0, 0);
    let first = sender.next(topic);
    let (code, _) = code_of(shell.publish_as(&first, &["a"]));
    assert_eq!(code, ErrorCode::StorageFull);
    let second = message::Publish { sequence: Sequence(2), prev: Sequence(1), ..first.clone() };
    shell.set_space(u64::MAX, u64::MAX);

    assert_eq!(code_of(shell.publish_as(&second, &["b"])).0, ErrorCode::OutOfSequence);
    assert!(!receipt(shell.publish_as(&first, &["a"])).duplicate);
    assert_eq!(receipt(shell.publish_as(&second, &["b"])).base, Some(Offset(1)));
}

#[test]
fn sequence_may_leap_as_long_as_the_chain_holds() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let leap = message::Publish { sequence: Sequence(100), ..sender.next(topic) };
    receipt(shell.publish_as(&leap, &["a"]));
    let next =
        message::Publish { sequence: Sequence(101), prev: Sequence(100), ..sender.next(topic) };

    assert_eq!(receipt(shell.publish_as(&next, &["b"])).base, Some(Offset(1)));
    shell.check_replay();
}

#[test]
fn sequence_that_was_left_out_is_refused_and_not_called_a_duplicate() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let first = sender.next(topic);
    receipt(shell.publish_as(&first, &["a"]));
    let leap = |sequence| message::Publish { sequence, prev: first.sequence, ..first.clone() };
    receipt(shell.publish_as(&leap(Sequence(5)), &["b"]));

    let (code, text) = code_of(shell.publish_as(&leap(Sequence(3)), &["c"]));

    assert_eq!(code, ErrorCode::SequenceReused);
    assert!(text.contains("left out"), "{text}");
    assert!(receipt(shell.publish_as(&first, &["a"])).duplicate);
}

#[test]
fn refusal_that_reveals_state_waits_for_what_it_reveals() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    shell.prompt = false;
    let request = sender.next(topic);
    let correlation = shell.send_batch(ALICE, request.clone(), batch_of(&["a"]));
    let published = shell.last();
    let wrong = message::Publish { prev: Sequence(7), sequence: Sequence(9), ..request };
    let refused = shell.send_batch(ALICE, wrong, batch_of(&["b"]));

    assert_eq!(shell.answer_to(correlation).gate, Gate::Committed(published));
    assert_eq!(shell.answer_to(refused).gate, Gate::Committed(published));
}

#[test]
fn refusal_that_follows_from_the_request_leaves_at_once() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let mut urgent = plain("a");
    urgent.priority = Priority(9);
    let correlation = shell.send_batch(ALICE, sender.next(topic), batch(&[urgent]));

    let answer = shell.answer_to(correlation);
    assert_eq!(answer.gate, Gate::Now);
    assert_eq!(code_of(answer.reply.clone()).0, ErrorCode::Unsupported);
}

#[test]
fn expiry_is_refused_until_built() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let mut expiring = plain("a");
    expiring.expires_at = Timestamp(5);

    let correlation = shell.send_batch(ALICE, sender.next(topic), batch(&[expiring]));
    let reply = shell.answer_to(correlation).reply.clone();
    assert_eq!(code_of(reply).0, ErrorCode::Unsupported);
}

#[test]
fn body_above_the_topics_limit_is_refused_with_the_limit() {
    let mut shell = Shell::new();
    let settings = TopicSettings { message_bytes_max: 3, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);

    receipt(shell.publish(&mut sender, topic, &["abc"]));
    let (code, text) = code_of(shell.publish(&mut sender, topic, &["abcd"]));

    assert_eq!(code, ErrorCode::TooLarge);
    assert_eq!(text, "a body of 4 bytes is above the topic's limit of 3");
}

#[test]
fn body_above_the_brokers_limit_is_refused_whatever_its_topic_allows() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut sender = shell.open_producer(None);
    shell.engine.set_message_bytes_max(3);

    receipt(shell.publish(&mut sender, topic, &["abc"]));
    let (code, text) = code_of(shell.publish(&mut sender, topic, &["abcd"]));
    assert_eq!(code, ErrorCode::TooLarge);
    assert_eq!(text, "a body of 4 bytes is above the broker's limit of 3");
    let due = shell.now.wall.0 + 1_000;
    let reply = shell.publish_due(&mut sender, topic, &[("abcd", due)]);
    assert_eq!(code_of(reply).0, ErrorCode::TooLarge);
    let parts = [Part::Publish("orders", &["abc", "abcd"])];
    assert_eq!(fault(shell.commit(&mut sender, &parts)), (ErrorCode::TooLarge, Some((0, 1))));
}

#[test]
fn unknown_topic_and_unknown_producer_are_told_apart() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);

    let nowhere = code_of(shell.publish(&mut sender, TopicId(99), &["a"])).0;
    let nobody = message::Publish { producer: ProducerId(99), ..sender.next(topic) };

    assert_eq!(nowhere, ErrorCode::NotFound);
    assert_eq!(code_of(shell.publish_as(&nobody, &["a"])).0, ErrorCode::UnknownProducer);
}

#[test]
fn short_ring_asks_for_patience_and_a_full_disk_for_room() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    shell.set_space(u64::MAX, 100);
    let Reply::Refused(ring) = shell.publish(&mut sender, topic, &["a"]) else { panic!() };
    shell.set_space(100, u64::MAX);
    let Reply::Refused(disk) = shell.publish(&mut sender, topic, &["a"]) else { panic!() };

    assert_eq!(ring.code, ErrorCode::Overloaded.number());
    assert_eq!(disk.code, ErrorCode::StorageFull.number());
    assert!(ring.retry_after_ms > 0 && disk.retry_after_ms > 0);
}

#[test]
fn room_is_used_up_by_what_is_admitted() {
    // A frame takes its bytes once in the journal and once more in a run.
    for (disk_bytes, ring_bytes) in [(2_000, u64::MAX), (u64::MAX, 1_000)] {
        let (mut shell, topic, mut sender) = orders(Durability::Synced);
        shell.set_space(disk_bytes, ring_bytes);

        let accepted = (0..10)
            .filter(|_| matches!(shell.publish(&mut sender, topic, &["a"]), Reply::Receipt(_)))
            .count();

        assert_eq!(accepted, 2);
    }
}

#[test]
fn draining_broker_refuses_new_work_but_repeats_results() {
    let (mut shell, topic, mut sender) = orders(Durability::Synced);
    let first = sender.next(topic);
    shell.publish(&mut sender, topic, &["a"]);
    shell.input(crate::Input::Drain);

    assert!(receipt(shell.publish_as(&first, &["a"])).duplicate);
    assert_eq!(code_of(shell.publish(&mut sender, topic, &["b"])).0, ErrorCode::ShuttingDown);
}

#[test]
fn change_of_durability_counts_from_the_next_publish_on() {
    let (mut shell, topic, mut sender) = orders(Durability::Written);
    let request = sender.next(topic);
    shell.publish(&mut sender, topic, &["a"]);
    let settings = TopicSettings::default();
    shell.request(TopicAlter { topic: name("orders"), settings });

    let second = receipt(shell.publish(&mut sender, topic, &["b"]));
    let again = receipt(shell.publish_as(&request, &["a"]));

    assert_eq!(second.durability, Durability::Synced);
    assert_eq!(again.durability, Durability::Written);
}

#[test]
fn bytes_that_are_no_batch_are_malformed() {
    let (mut shell, topic, sender) = orders(Durability::Synced);
    let correlation = shell.send_batch(ALICE, sender.next(topic), Bytes::from_static(b"PHB1"));

    let reply = shell.answer_to(correlation).reply.clone();
    assert_eq!(code_of(reply).0, ErrorCode::Malformed);
}

fn orders(durability: Durability) -> (Shell, TopicId, Sender) {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let sender = shell.open_producer(None);
    (shell, topic, sender)
}
