//! Producers: epochs and forgetting.

use super::shell::*;
use crate::Input;
use posthouse_protocol::message;
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{ErrorCode, ProducerEpoch, Sequence};

const HOUR: u64 = 3_600_000;

#[test]
fn named_producer_keeps_its_sequence_and_fences_its_predecessor() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut first = shell.open_producer(Some("billing"));
    shell.publish(&mut first, topic, &["a"]);

    let mut second = shell.open_producer(Some("billing"));

    assert_eq!(second.id, first.id);
    assert_eq!(second.epoch, ProducerEpoch(2));
    assert_eq!(second.last, Sequence(1));
    assert_eq!(code_of(shell.publish(&mut first, topic, &["b"])).0, ErrorCode::Fenced);
    receipt(shell.publish(&mut second, topic, &["b"]));
    shell.check_replay();
}

#[test]
fn epoch_never_opened_is_unknown() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let sender = shell.open_producer(Some("billing"));
    let ahead = message::Publish { epoch: ProducerEpoch(9), ..sender.next(topic) };

    assert_eq!(code_of(shell.publish_as(&ahead, &["a"])).0, ErrorCode::UnknownProducer);
}

#[test]
fn unnamed_producer_is_forgotten_an_hour_after_its_last_connection() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic, &["a"]);
    shell.advance(2 * HOUR);
    receipt(shell.publish(&mut sender, topic, &["b"]));

    shell.input(Input::Disconnected { connection: ALICE });
    shell.advance(HOUR - 1);
    assert_eq!(shell.engine.state().producers.len(), 1);
    shell.advance(1);

    assert_eq!(shell.engine.state().producers.len(), 0);
    assert_eq!(code_of(shell.publish(&mut sender, topic, &["c"])).0, ErrorCode::UnknownProducer);
    shell.check_replay();
}

#[test]
fn another_connection_keeps_an_unnamed_producer() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut sender = shell.open_producer(None);
    shell.send_batch(BOB, sender.next(topic), batch_of(&["a"]));
    sender.last = Sequence(1);

    shell.input(Input::Disconnected { connection: ALICE });
    shell.advance(2 * HOUR);

    shell.send_batch(BOB, sender.next(topic), batch_of(&["b"]));
    assert_eq!(shell.engine.state().producers.len(), 1);
}

#[test]
fn hour_starts_anew_after_a_restart() {
    let mut shell = Shell::new();
    shell.open_producer(None);
    shell.open_producer(Some("billing"));
    shell.input(Input::Disconnected { connection: ALICE });
    shell.advance(HOUR - 1);
    shell.restart(true);
    shell.advance(HOUR - 1);
    assert_eq!(shell.engine.state().producers.len(), 2);
    shell.advance(1);

    assert_eq!(shell.engine.state().producers.len(), 1);
    assert_eq!(shell.open_producer(Some("billing")).epoch, ProducerEpoch(2));
}
