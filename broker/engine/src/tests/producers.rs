//! Producers: epochs and forgetting.

use super::shell::*;
use crate::Input;
use crate::producers::NAMED_MAX;
use posthouse_protocol::message;
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{ErrorCode, ProducerEpoch, Reply, Sequence};

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

#[test]
fn epoch_that_a_client_asks_for_is_taken_over_kept_or_fenced() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let open = |shell: &mut Shell, epoch| {
        shell.request(message::ProducerOpen {
            name: Some(name("outbox")),
            epoch: Some(ProducerEpoch(epoch)),
        })
    };
    let opened = |reply| {
        let Reply::ProducerOpened(opened) = reply else { panic!("{reply:?}") };
        Sender { id: opened.producer, epoch: opened.epoch, last: opened.last }
    };
    let mut first = opened(open(&mut shell, 7));
    receipt(shell.publish(&mut first, topic, &["a"]));
    let frames = shell.frames.len();

    let again = opened(open(&mut shell, 7));
    assert_eq!((again.id, again.epoch.0, again.last.0), (first.id, 7, 1));
    assert_eq!(shell.frames.len(), frames, "the same epoch once more changes nothing");
    receipt(shell.publish(&mut first, topic, &["b"]));

    let (code, text) = code_of(open(&mut shell, 6));
    assert_eq!(code, ErrorCode::Fenced);
    assert!(text.contains("epoch 7"), "{text}");

    let mut second = opened(open(&mut shell, 9));
    assert_eq!((second.id, second.epoch.0, second.last.0), (first.id, 9, 2));
    assert_eq!(code_of(shell.publish(&mut first, topic, &["c"])).0, ErrorCode::Fenced);
    receipt(shell.publish(&mut second, topic, &["c"]));
    assert_eq!(shell.open_producer(Some("outbox")).epoch, ProducerEpoch(10));
    for epoch in [0, u32::MAX] {
        assert_eq!(code_of(open(&mut shell, epoch)).0, ErrorCode::Invalid);
    }
    let unnamed = message::ProducerOpen { name: None, epoch: Some(ProducerEpoch(3)) };
    assert_eq!(shell.refused(unnamed).0, ErrorCode::Invalid);
    shell.check_replay();
}

#[test]
fn named_producers_are_described_listed_and_retired() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut sender = shell.open_producer(Some("b"));
    for producer in [Some("c"), None, Some("a")] {
        shell.open_producer(producer);
    }
    shell.advance(5_000);
    receipt(shell.publish(&mut sender, topic, &["x"]));
    let at = shell.now.wall;
    shell.advance(5_000);

    let Reply::ProducerInfo(info) = shell.request(describe("b")) else { panic!("no info") };
    let found = (info.producer, info.name.clone(), info.epoch.0, info.last.0, info.last_at);
    assert_eq!(found, (sender.id, Some(name("b")), 1, 1, at));
    assert_eq!(names(&mut shell, None, 9), ["a", "b", "c"]);
    assert_eq!(names(&mut shell, Some("a"), 1), ["b"]);

    assert!(matches!(shell.request(retire("b")), Reply::Done(_)));

    assert_eq!(names(&mut shell, None, 9), ["a", "c"]);
    assert_eq!(shell.refused(retire("b")).0, ErrorCode::NotFound);
    assert_eq!(shell.refused(describe("b")).0, ErrorCode::NotFound);
    assert_eq!(code_of(shell.publish(&mut sender, topic, &["y"])).0, ErrorCode::UnknownProducer);
    let again = shell.open_producer(Some("b"));
    assert!(again.id > sender.id, "another producer of the same name");
    shell.check_replay();
}

#[test]
fn named_producers_have_a_quota() {
    let mut shell = Shell::new();
    for number in 0..NAMED_MAX {
        shell.open_producer(Some(&format!("p{number}")));
    }
    let open =
        |producer: Option<&str>| message::ProducerOpen { name: producer.map(name), epoch: None };

    assert_eq!(shell.refused(open(Some("more"))).0, ErrorCode::Overloaded);
    assert!(matches!(shell.request(open(Some("p7"))), Reply::ProducerOpened(_)));
    assert!(matches!(shell.request(open(None)), Reply::ProducerOpened(_)));
    shell.request(retire("p7"));
    assert!(matches!(shell.request(open(Some("more"))), Reply::ProducerOpened(_)));
}

fn describe(producer: &str) -> message::ProducerDescribe {
    message::ProducerDescribe { name: name(producer) }
}

fn retire(producer: &str) -> message::ProducerRetire {
    message::ProducerRetire { name: name(producer) }
}

fn names(shell: &mut Shell, after: Option<&str>, limit: u32) -> Vec<String> {
    let list = message::ProducerList { after: after.map(name), limit };
    let Reply::ProducerInfos(infos) = shell.request(list) else { panic!("no list") };
    infos.producers.iter().map(|info| info.name.as_ref().unwrap().to_string()).collect()
}
