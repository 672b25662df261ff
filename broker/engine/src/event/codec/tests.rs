//! The bytes of every kind of event, against a file that is never made again in silence.

use super::*;
use crate::event::{OffsetRun, Placed, Sender};
use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::settings::{SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    Attempt, Fence, Name, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, StartEpoch,
    SubscriptionId, Timestamp, TopicId,
};
use proptest::prelude::*;
use std::fmt::Write as _;

const GOLDEN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/events.hex"));

#[test]
fn every_kind_of_event_has_its_golden_bytes() {
    let mut produced = String::new();
    for event in samples() {
        let mut bytes = Vec::new();
        encode_all(std::slice::from_ref(&event), &mut bytes);
        let name = Event::KINDS.iter().find(|(kind, _)| *kind == event.kind()).unwrap().1;
        write!(produced, "{name}").unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let space = if matches!(at, 0 | 1 | 5) { " " } else { "" };
            write!(produced, "{space}{byte:02x}").unwrap();
        }
        produced.push('\n');
    }
    let golden: String = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();

    assert_eq!(
        produced, golden,
        "the bytes of events have changed; this is what they are:\n{produced}"
    );
}

#[test]
fn golden_bytes_decode_to_the_events() {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let bytes: Vec<u8> = lines.flat_map(|line| unhex(line.split_once(' ').unwrap().1)).collect();

    assert_eq!(decode_all(&bytes), Ok(samples()));
}

#[test]
fn every_kind_has_a_sample() {
    let mut kinds: Vec<u8> = samples().iter().map(Event::kind).collect();
    kinds.dedup();
    let all: Vec<u8> = Event::KINDS.iter().map(|(kind, _)| *kind).collect();

    assert_eq!(kinds, all);
}

#[test]
fn unknown_kind_and_fields_left_over_are_refused() {
    let unknown = [200, 0, 0, 0, 0];
    assert_eq!(decode_all(&unknown), Err(DecodeError::Invalid { field: "event.kind", found: 200 }));
    let long = [5, 5, 0, 0, 0, 1, 0, 0, 0, 9];
    assert_eq!(decode_all(&long), Err(DecodeError::Trailing { bytes: 1 }));
}

proptest! {
    #[test]
    fn damaged_bytes_decode_or_fail_without_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        encode_all(&samples(), &mut bytes);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = decode_all(&bytes);
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// One event of each kind or more, in the order of the kinds.
fn samples() -> Vec<Event> {
    let mut samples = catalog_samples();
    samples.append(&mut delivery_samples());
    samples
}

fn catalog_samples() -> Vec<Event> {
    let (topic, subscription, offset) = (TopicId(3), SubscriptionId(4), Offset(0x0102_0304));
    let text = |text: &str| Name::new(text).unwrap();
    vec![
        Event::Started(Started { epoch: StartEpoch(2), clean: true, skips: 3, lost: 0 }),
        Event::TopicCreated(TopicCreated {
            id: topic,
            topic: text("orders"),
            partition: PartitionId(5),
            settings: TopicSettings::default(),
            dead_of: Some(subscription),
        }),
        Event::TopicAltered(TopicAltered { id: topic, settings: TopicSettings::default() }),
        Event::TopicTrimmed(TopicTrimmed { id: topic, start: offset }),
        Event::TopicDeleted(TopicDeleted { id: topic }),
        Event::SubscriptionCreated(SubscriptionCreated {
            id: subscription,
            topic,
            subscription: text("billing"),
            settings: SubscriptionSettings::default(),
            start: offset,
        }),
        Event::SubscriptionDeleted(SubscriptionDeleted { id: subscription }),
        Event::ProducerOpened(ProducerOpened {
            id: ProducerId(6),
            name: Some(text("shop")),
            epoch: ProducerEpoch(7),
        }),
        Event::ProducerOpened(ProducerOpened {
            id: ProducerId(6),
            name: None,
            epoch: ProducerEpoch(7),
        }),
        Event::ProducerForgotten(ProducerForgotten { id: ProducerId(6) }),
        Event::Published(Published {
            topic,
            base: offset,
            count: 8,
            bytes: 900,
            written: true,
            sender: Some(Sender {
                producer: ProducerId(6),
                sequence: Sequence(10),
                digest: 0xaabb_ccdd,
            }),
        }),
        Event::Published(Published {
            topic,
            base: offset,
            count: 8,
            bytes: 900,
            written: false,
            sender: None,
        }),
    ]
}

fn delivery_samples() -> Vec<Event> {
    let (subscription, offset) = (SubscriptionId(4), Offset(0x0102_0304));
    let fence = Fence { epoch: StartEpoch(2), counter: 0x11 };
    vec![
        Event::HandedOut(HandedOut {
            subscription,
            runs: vec![DeliveryRun { first: offset, fence, count: 12 }],
        }),
        Event::Settled(Settled {
            subscription,
            runs: vec![OffsetRun { first: offset, count: 13 }],
        }),
        Event::Failed(Failed {
            subscription,
            offset,
            attempt: Attempt(14),
            retry_at: Timestamp(15),
            reason: "lease ended".to_owned(),
        }),
        Event::Rejected(Rejected {
            subscription,
            offset,
            attempt: Attempt(14),
            reason: "no such order".to_owned(),
        }),
        Event::DeadLettered(DeadLettered { subscription, offset }),
        Event::CursorSaved(CursorSaved { subscription, offset }),
        Event::Committed(Committed {
            producer: ProducerId(6),
            sequence: Sequence(11),
            digest: 0x1122_3344,
            written: true,
            published: vec![
                Placed { topic: TopicId(3), base: Some(offset), count: 8 },
                Placed { topic: TopicId(7), base: None, count: 1 },
            ],
        }),
        Event::Delayed(Delayed {
            topic: TopicId(3),
            partition: PartitionId(8),
            base: offset,
            due: vec![Timestamp(15), Timestamp(16)],
            written: true,
            sender: Some(Sender {
                producer: ProducerId(6),
                sequence: Sequence(12),
                digest: 0xaabb_ccdd,
            }),
        }),
        Event::DelayEnded(DelayEnded {
            partition: PartitionId(8),
            runs: vec![OffsetRun { first: offset, count: 1 }],
        }),
    ]
}
