//! The laws, under random histories: conservation, lease uniqueness, credit, harmless deadlines,
//! determinism, and replay.

use super::world::{ADMIN, Got, World, name};
use crate::input::Input;
use posthouse_protocol::message::{self, Verdict};
use posthouse_protocol::settings::SubscriptionSettings;
use posthouse_protocol::{Fence, Offset};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One thing that a client, the disk or the clock does.
#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<usize>),
    Subscribe(u64),
    Grant { connection: u64, messages: u64, bytes: u64, taken: u64 },
    Settle { verdict: Verdict, first: usize, count: usize, delay_ms: u64 },
    Extend { first: usize, count: usize, lease_ms: u64 },
    Unsubscribe(u64),
    Disconnect(u64),
    Advance(u64),
    EarlyDeadline,
    HoldAnswers(bool),
    Answer(usize),
    HoldProgress(bool),
    Redrive,
    Purge,
    Restart(bool),
}

const CONNECTIONS: u64 = 3;

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        5 => Just(Verdict::Ack),
        3 => Just(Verdict::Nack),
        2 => Just(Verdict::Release),
        1 => Just(Verdict::Reject),
    ];
    prop_oneof![
        6 => prop::collection::vec(0_usize..300, 1..12).prop_map(Step::Publish),
        1 => prop::collection::vec(Just(7_usize), 1..400).prop_map(Step::Publish),
        4 => (1..=CONNECTIONS).prop_map(Step::Subscribe),
        8 => (1..=CONNECTIONS, 0_u64..40, 0_u64..4_000, 0_u64..40).prop_map(
            |(connection, messages, bytes, taken)| Step::Grant { connection, messages, bytes, taken }
        ),
        10 => (verdict, any::<usize>(), 1_usize..20, prop_oneof![Just(u64::MAX), 0..5_000_u64])
            .prop_map(|(verdict, first, count, delay_ms)| Step::Settle {
                verdict, first, count, delay_ms
            }),
        2 => (any::<usize>(), 1_usize..10, 0_u64..90_000).prop_map(|(first, count, lease_ms)| {
            Step::Extend { first, count, lease_ms }
        }),
        1 => (1..=CONNECTIONS).prop_map(Step::Unsubscribe),
        1 => (1..=CONNECTIONS).prop_map(Step::Disconnect),
        5 => prop_oneof![0_u64..100, 0..2_000_u64, 0..100_000_u64].prop_map(Step::Advance),
        1 => Just(Step::EarlyDeadline),
        1 => any::<bool>().prop_map(Step::HoldAnswers),
        3 => (0_usize..4).prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::HoldProgress),
        1 => Just(Step::Redrive),
        1 => prop_oneof![8 => Just(Step::EarlyDeadline), 1 => Just(Step::Purge)],
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

/// What a consumer knows of its credit.
#[derive(Clone, Copy, Debug, Default)]
struct Purse {
    messages: u64,
    bytes: u64,
    taken: u64,
    sent: u64,
    sent_bytes: u64,
}

/// A world and what its clients know.
struct History {
    world: World,
    /// Every delivery so far.
    all: Vec<Got>,
    /// Each message's highest fence so far.
    fences: BTreeMap<u64, Fence>,
    purses: BTreeMap<u64, Purse>,
    sizes: Vec<u64>,
}

impl History {
    fn new() -> Self {
        let settings = SubscriptionSettings { attempts_max: 4, ..SubscriptionSettings::default() };
        Self {
            world: World::with(settings),
            all: Vec::new(),
            fences: BTreeMap::new(),
            purses: BTreeMap::new(),
            sizes: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        self.act(step);
        self.note_sizes();
        for got in self.world.take() {
            self.check_delivery(got, step);
            self.all.push(got);
        }
        self.check_conservation();
    }

    fn act(&mut self, step: &Step) {
        let world = &mut self.world;
        match step {
            Step::Publish(bodies) => {
                // Receipts of a held-back disk are sent to nobody that waits here.
                world.publish("t", bodies);
            }
            Step::Subscribe(connection) => {
                if !self.purses.contains_key(connection) {
                    world.subscribe(*connection, 1);
                    self.purses.insert(*connection, Purse::default());
                }
            }
            Step::Grant { connection, messages, bytes, taken } => {
                let Some(purse) = self.purses.get_mut(connection) else { return };
                purse.messages += messages;
                purse.bytes += bytes;
                purse.taken = purse.taken.max((*taken).min(purse.sent));
                let (totals, taken) = ((purse.messages, purse.bytes), purse.taken);
                world.grant_bytes(*connection, 1, totals, taken);
            }
            Step::Settle { verdict, first, count, delay_ms } => {
                let got = some(&self.all, *first, *count);
                world.settle_after(*verdict, *delay_ms, &got);
            }
            Step::Extend { first, count, lease_ms } => {
                let got = some(&self.all, *first, *count);
                if !got.is_empty() {
                    world.extend(*lease_ms, &got);
                }
            }
            Step::Unsubscribe(connection) => {
                world.unsubscribe(*connection, 1);
                self.purses.remove(connection);
            }
            Step::Disconnect(connection) => {
                world.disconnect(*connection);
                self.purses.remove(connection);
            }
            Step::Advance(millis) => world.advance(*millis),
            Step::EarlyDeadline => come_early(world),
            Step::HoldAnswers(holds) => {
                world.holds_answers = *holds;
                world.input(Input::Deadline);
            }
            Step::Answer(position) => world.answer(*position),
            Step::HoldProgress(holds) => {
                world.holds_progress = *holds;
                if !holds {
                    world.progress();
                }
            }
            Step::Redrive => {
                let (topic, subscription) = (name("t"), name("s"));
                let redrive = message::DeadRedrive { topic, subscription, limit: 3 };
                world.tell(ADMIN, redrive, bytes::Bytes::new());
            }
            Step::Purge => {
                world.ask(ADMIN, message::TopicPurge { topic: name("t") });
            }
            Step::Restart(clean) => {
                world.restart(*clean);
                self.purses.clear();
            }
        }
    }

    /// Takes note of the sizes of what was published, redriven messages included.
    fn note_sizes(&mut self) {
        let partition = self.world.durable().partition;
        for size in self.world.sizes_from(partition, self.sizes.len() as u64) {
            self.sizes.push(size);
        }
    }

    fn check_delivery(&mut self, got: Got, step: &Step) {
        let before = self.fences.insert(got.offset, got.fence);
        assert!(
            before.is_none_or(|before| before < got.fence),
            "fences of a message rise: {got:?}"
        );
        let size = self.sizes[got.offset as usize];
        let Some(purse) = self.purses.get_mut(&got.connection) else {
            panic!("delivered to nobody: {got:?}");
        };
        purse.sent += 1;
        purse.sent_bytes += size;
        assert!(purse.sent <= purse.messages, "credit in messages is never exceeded: {purse:?}");
        if purse.sent_bytes > purse.bytes && !matches!(step, Step::Advance(_)) {
            let all_taken = purse.sent == purse.taken + 1;
            let leases = self.world.leases_of(got.connection);
            assert!(all_taken || leases <= 1, "a large message goes alone: {purse:?} {leases}");
        }
    }

    /// Every message is in exactly one place: settled, rejected, ahead, ready, delayed or in flight.
    fn check_conservation(&self) {
        let engine = &self.world.engine;
        let subscription = self.world.durable();
        let next = engine.state().partitions[&subscription.partition].next;
        assert_eq!(next.0, self.sizes.len() as u64);
        let Some(places) = self.world.places_of(subscription.id) else { return };
        for offset in (subscription.ack_floor().0..next.0).map(Offset) {
            let found = places.of(offset);
            let is_open =
                !subscription.is_settled(offset) && !subscription.rejected.contains_key(&offset);
            match offset < places.front {
                true if is_open => assert_eq!(found.len(), 1, "{offset} is in {found:?}"),
                _ => assert_eq!(found, [] as [&str; 0], "{offset} is in {found:?}"),
            }
        }
        for (offset, fence) in &places.leases {
            let handed = subscription.handed.fence_of(*offset);
            assert_eq!(handed, Some(*fence), "the lease has the highest fence");
            assert_eq!(self.fences.get(&offset.0), Some(fence), "and so has the last delivery");
        }
    }

    /// Consumers with endless credit that ack get everything that is not settled or waits to be a
    /// dead letter.
    fn check_that_it_drains(&mut self) {
        self.world.holds_answers = false;
        self.world.holds_progress = false;
        self.world.progress();
        while !self.world.answers.is_empty() {
            self.world.answer(0);
        }
        for connection in 1..=CONNECTIONS {
            self.world.disconnect(connection);
        }
        self.purses.clear();
        self.world.take();
        self.world.subscribe(9, 1);
        let mut sent = 0;
        for _ in 0..1_000 {
            self.world.grant(9, 1, u64::MAX, sent);
            self.world.advance(10_000);
            let got = self.world.take();
            sent += got.len() as u64;
            self.world.settle(Verdict::Ack, &got);
            let next = self.sizes.len() as u64;
            if self.world.durable().ack_floor() >= Offset(next) {
                return;
            }
        }
        panic!("something is stuck: {:?}", self.world.durable());
    }
}

/// A deadline that has not come, twice.
fn come_early(world: &mut World) {
    let before = (world.last(), world.engine.next_deadline());
    world.input(Input::Deadline);
    world.input(Input::Deadline);
    if before.1.is_none_or(|at| at > world.now.mono) {
        assert_eq!(world.last(), before.0, "an early deadline changes nothing");
        assert_eq!(world.got, []);
    }
}

fn some(all: &[Got], first: usize, count: usize) -> Vec<Got> {
    // Mostly what was delivered lately.
    let recent = all.len().saturating_sub(if first.is_multiple_of(4) { usize::MAX } else { 30 });
    let from = recent + (first / 4).checked_rem(all.len() - recent).unwrap_or(0);
    all.iter().skip(from).take(count).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_in_one_place_and_nothing_is_lost(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut history = History::new();
        for step in &steps {
            history.run(step);
        }
        prop_assert_eq!(&history.world.replay(), history.world.engine.state());
        history.note_sizes();
        history.check_that_it_drains();
    }

    #[test]
    fn same_history_has_the_same_effects(steps in prop::collection::vec(step(), 1..40)) {
        let (mut first, mut second) = (History::new(), History::new());
        for step in &steps {
            first.run(step);
            second.run(step);
        }
        prop_assert_eq!(&first.all, &second.all);
        prop_assert_eq!(&first.world.frames, &second.world.frames);
        prop_assert_eq!(&first.world.replies, &second.world.replies);
    }
}
