//! The fold's refusals, and the bytes of the state.

use super::*;
use crate::event::{
    Committed, CursorSaved, DelayEnded, Delayed, Event, Failed, HandedOut, OffsetRun, Placed,
    ProducerOpened, Published, Rejected, Sender, Settled, Started, SubscriptionCreated,
    TopicCreated, TopicDeleted, TopicTrimmed,
};
use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::settings::{SubscriptionSettings, TopicSettings};
use posthouse_protocol::{Attempt, DecodeError, Fence, Offset, ProducerEpoch, Sequence, Timestamp};
use proptest::prelude::*;
use std::fmt::Write as _;

const GOLDEN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state.hex"));
const TOPIC: TopicId = TopicId(1);
const PARTITION: PartitionId = PartitionId(1);
const QUEUE: SubscriptionId = SubscriptionId(1);
const SENDER: ProducerId = ProducerId(1);

#[test]
fn state_has_its_golden_bytes() {
    let mut bytes = Vec::new();
    damaged().encode(&mut bytes);
    let mut produced = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(produced, "{byte:02x}").unwrap());
        produced.push('\n');
    }
    let golden: String = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();

    assert_eq!(
        produced, golden,
        "the bytes of the state have changed; this is what they are:\n{produced}"
    );
}

#[test]
fn golden_bytes_decode_to_the_state() {
    let digits: String = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();

    assert_eq!(State::decode(&bytes), Ok(damaged()));
}

#[test]
fn state_of_another_version_is_refused() {
    let mut bytes = Vec::new();
    sample().encode(&mut bytes);
    bytes[0] = 1;

    let refused = DecodeError::Invalid { field: "state.version", found: 1 };
    assert_eq!(State::decode(&bytes), Err(refused));
    assert!(State::decode(&[]).is_err());
}

#[test]
fn empty_state_is_small_and_round_trips() {
    let mut bytes = Vec::new();
    State::default().encode(&mut bytes);

    assert!(bytes.len() < 64);
    assert_eq!(State::decode(&bytes), Ok(State::default()));
}

#[test]
fn million_holes_take_two_bytes_each() {
    let mut state = sample();
    let partition = state.partitions.get_mut(&PARTITION).unwrap();
    partition.next = Offset(3_000_000);
    let subscription = state.subscriptions.get_mut(&QUEUE).unwrap();
    for hole in 10..1_000_010 {
        subscription.settle(Offset(hole * 2)..Offset(hole * 2 + 1));
    }
    let mut bytes = Vec::new();
    state.encode(&mut bytes);

    assert!(bytes.len() < 2_100_000, "{}", bytes.len());
    assert_eq!(State::decode(&bytes), Ok(state));
}

proptest! {
    #[test]
    fn damaged_bytes_decode_or_fail_without_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = State::decode(&bytes);
    }
}

#[test]
fn events_that_do_not_fit_are_refused_with_their_frame() {
    let publish = |base| {
        let (bytes, written, sender) = (100, false, None);
        Event::Published(Published { topic: TOPIC, base, count: 1, bytes, written, sender })
    };
    let cases = [
        (publish(Offset(99)), Conflict::Place { found: Offset(99), next: Offset(8) }),
        (Event::TopicDeleted(TopicDeleted { id: TopicId(9) }), Conflict::NoTopic(TopicId(9))),
        (
            Event::TopicTrimmed(TopicTrimmed { id: TOPIC, start: Offset(9) }),
            Conflict::Place { found: Offset(9), next: Offset(8) },
        ),
        (
            Event::CursorSaved(CursorSaved { subscription: SubscriptionId(9), offset: Offset(1) }),
            Conflict::NoSubscription(SubscriptionId(9)),
        ),
        (
            Event::Settled(Settled {
                subscription: QUEUE,
                runs: vec![OffsetRun { first: Offset(7), count: 2 }],
            }),
            Conflict::Place { found: Offset(9), next: Offset(8) },
        ),
        (
            Event::Started(Started { epoch: StartEpoch(1), clean: true, skips: 0, lost: 0 }),
            Conflict::Repeated,
        ),
        (created(), Conflict::Repeated),
    ];
    for (event, conflict) in cases {
        let refused = sample().apply(LogIndex(77), Timestamp(1), &event);
        assert_eq!(refused, Err(ApplyError { index: LogIndex(77), conflict }), "{event:?}");
    }
}

#[test]
fn settled_messages_leave_nothing_behind() {
    let mut state = sample();
    let runs = vec![OffsetRun { first: Offset(0), count: 8 }];
    let event = Event::Settled(Settled { subscription: QUEUE, runs });
    state.apply(LogIndex(99), Timestamp(1), &event).unwrap();

    let queue = &state.subscriptions[&QUEUE];
    assert_eq!(queue.floor, Offset(8));
    assert!(queue.settled.is_empty() && queue.failures.is_empty() && queue.rejected.is_empty());
    assert_eq!(queue.handed_in(Offset::ZERO..Offset::MAX).count(), 0);
    assert!(state.needed(PARTITION).is_empty());
}

fn created() -> Event {
    Event::TopicCreated(TopicCreated {
        id: TOPIC,
        topic: Name::new("orders").unwrap(),
        partition: PARTITION,
        settings: TopicSettings::default(),
        dead_of: None,
    })
}

/// A state that has lost frames, too.
fn damaged() -> State {
    let mut state = sample();
    state.lost(LogIndex(10), LogIndex(12));
    state
}

/// Three messages wait, and one of them does not any more.
fn delays() -> [Event; 2] {
    [
        Event::Delayed(Delayed {
            topic: TOPIC,
            partition: PartitionId(2),
            base: Offset(0),
            due: vec![Timestamp(1_700_000_002_000); 3],
            written: true,
            sender: None,
        }),
        Event::DelayEnded(DelayEnded {
            partition: PartitionId(2),
            runs: vec![OffsetRun { first: Offset(1), count: 1 }],
        }),
    ]
}

/// A state that has something of everything.
fn sample() -> State {
    let fence = Fence { epoch: StartEpoch(1), counter: 1 };
    let sender = Some(Sender { producer: SENDER, sequence: Sequence(1), digest: 0xaabb_ccdd });
    let (offset, attempt) = (Offset(4), Attempt(1));
    let events = [
        Event::Started(Started { epoch: StartEpoch(1), clean: true, skips: 0, lost: 0 }),
        created(),
        Event::SubscriptionCreated(SubscriptionCreated {
            id: QUEUE,
            topic: TOPIC,
            subscription: Name::new("billing").unwrap(),
            settings: SubscriptionSettings::default(),
            start: Offset(0),
        }),
        Event::ProducerOpened(ProducerOpened {
            id: SENDER,
            name: Some(Name::new("shop").unwrap()),
            epoch: ProducerEpoch(1),
        }),
        Event::Published(Published {
            topic: TOPIC,
            base: Offset(0),
            count: 8,
            bytes: 800,
            written: false,
            sender,
        }),
        Event::HandedOut(HandedOut {
            subscription: QUEUE,
            runs: vec![DeliveryRun { first: Offset(0), fence, count: 7 }],
        }),
        Event::Settled(Settled {
            subscription: QUEUE,
            runs: vec![
                OffsetRun { first: Offset(0), count: 2 },
                OffsetRun { first: Offset(3), count: 1 },
            ],
        }),
        Event::Failed(Failed {
            subscription: QUEUE,
            offset,
            attempt,
            retry_at: Timestamp(1_700_000_001_000),
            reason: "lease ended".to_owned(),
        }),
        Event::Rejected(Rejected {
            subscription: QUEUE,
            offset: Offset(5),
            attempt,
            reason: "no such order".to_owned(),
        }),
        Event::Committed(Committed {
            producer: SENDER,
            sequence: Sequence(2),
            digest: 0x1122_3344,
            written: true,
            published: vec![
                Placed { topic: TOPIC, base: Some(Offset(7)), count: 1 },
                Placed { topic: TOPIC, base: None, count: 3 },
            ],
        }),
    ];
    let mut state = State::default();
    for (index, event) in (1..).zip(events.iter().chain(&delays())) {
        state.apply(LogIndex(index), Timestamp(1_700_000_000_000 + index), event).unwrap();
    }
    state
}
