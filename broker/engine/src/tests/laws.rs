//! The laws that every history obeys: replay, determinism, conservation, dedup, gates.
//!
//! A history is a list of steps with small numbers, so that it shrinks well. Frames are written and
//! committed, and loads answered, only when a step says so.

mod model;
mod steps;

use super::shell::*;
use crate::event::{Event, Published};
use crate::{Gate, Input, State};
use model::Model;
use posthouse_protocol::message::{self, Verdict};
use posthouse_protocol::{
    ConsumerId, LogIndex, Offset, PartitionId, Reply, SubscriptionId, TopicId,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use steps::{Run, Step, check_repeat, step};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn history_obeys_the_laws(steps in prop::collection::vec(step(), 1..70)) {
        let mut run = Run::new();
        let mut checks = Checks::default();
        for step in &steps {
            run.step(step);
            checks.after_step(&mut run);
        }
        run.shell.settle();
        checks.after_step(&mut run);
        check_dedup(&mut run);
        drain(&mut run);
        run.shell.check_replay();
    }

    #[test]
    fn whatever_frames_are_lost_the_others_fit(
        steps in prop::collection::vec(step(), 1..50),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        later in prop::collection::vec(step(), 1..30),
        damaged_later in any::<bool>(),
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(step));
        run.shell.settle();
        let mut gone: BTreeSet<LogIndex> =
            lost.iter().map(|at| LogIndex(1 + at.index(run.shell.frames.len()) as u64)).collect();
        run.lose(&gone);
        check_loss(&run, &gone);
        later.iter().filter(|step| !matches!(step, Step::Restart { .. })).for_each(|step| run.step(step));
        if damaged_later {
            // Of what was made upon the first loss, too.
            let more = lost.iter().map(|at| at.index(run.shell.frames.len()) as u64);
            gone.extend(more.map(|at| LogIndex(1 + at)));
        }
        run.shell.settle();
        run.lose(&gone);
        check_loss(&run, &gone);
    }

    #[test]
    fn same_inputs_have_the_same_effects(steps in prop::collection::vec(step(), 1..40)) {
        let trace = |steps: &[Step]| {
            let mut run = Run::new();
            steps.iter().for_each(|step| run.step(step));
            run.shell.trace
        };
        prop_assert_eq!(trace(&steps), trace(&steps));
    }
}

/// What was published lies below the partition's end, and is held only if it is there.
fn check_place(state: &State, event: &Published, is_lost: bool) {
    let Some(topic) = state.topics.get(&event.topic) else { return };
    let partition = &state.partitions[&topic.partition];
    let end = event.base.plus(u64::from(event.count));
    assert!(end <= partition.next, "{end} of topic {} is given again", event.topic);
    let is_held = event.base >= partition.start && !partition.empty.contains(event.base);
    assert!(!is_lost || !is_held, "a lost message is held");
}

/// A start upon lost frames gives nothing again, and its state can be kept in a checkpoint.
fn check_loss(run: &Run, gone: &BTreeSet<LogIndex>) {
    let shell = &run.shell;
    let state = shell.engine.state();
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    assert_eq!(State::decode(&bytes).as_ref(), Ok(state), "a checkpoint keeps the state");
    for frame in &shell.frames {
        for event in &frame.events {
            if let Event::TopicCreated(event) = event {
                assert!(event.id <= state.last_ids.topic);
                assert!(event.partition <= state.last_ids.partition);
            }
            if let Event::Delayed(event) = event {
                assert!(event.partition <= state.last_ids.partition);
                let end = event.base.plus(event.due.len() as u64);
                let room = state.waiting.get(event.partition);
                assert!(room.is_none_or(|room| end <= room.next), "{end} is given again");
                let mut waits = (event.base.0..end.0)
                    .map(Offset)
                    .filter(|at| room.is_some_and(|room| room.at(*at).is_some()));
                assert!(
                    !gone.contains(&frame.index) || waits.next().is_none(),
                    "a lost message waits"
                );
            }
            if let Event::SubscriptionCreated(event) = event {
                assert!(event.id <= state.last_ids.subscription);
            }
            if let Event::ProducerOpened(event) = event {
                assert!(event.id <= state.last_ids.producer);
            }
            if let Event::Published(event) = event {
                check_place(state, event, gone.contains(&frame.index));
            }
        }
    }
    check_notes(state);
}

/// Nothing is noted of a message that is settled, or that was never given.
fn check_notes(state: &State) {
    for subscription in state.subscriptions.values() {
        let handed = subscription.handed_in(Offset::ZERO..Offset::MAX);
        let handed = handed.map(|(part, _)| part.start);
        let noted = subscription.failures.keys().chain(subscription.rejected.keys()).copied();
        for offset in handed.chain(noted) {
            assert!(!subscription.is_settled(offset), "{offset} is settled");
            assert!(offset < state.partitions[&subscription.partition].next);
        }
    }
}

/// What is checked after each step, each frame once.
#[derive(Default)]
struct Checks {
    /// Folded frame by frame, each time through bytes: every split point of the history.
    folded: State,
    frames: usize,
    model: Model,
    answers: usize,
    deliveries: usize,
    fetched: usize,
    /// Receipts on their way: what they speak of, and when they leave.
    receipts: Vec<(TopicId, Offset, Gate)>,
}

impl Checks {
    fn after_step(&mut self, run: &mut Run) {
        if run.restarted {
            let Self { answers, deliveries, fetched, .. } = *self;
            *self = Self { answers, deliveries, fetched, ..Self::default() };
            run.restarted = false;
        }
        for frame in run.shell.frames.iter().skip(self.frames) {
            apply_frame(&mut self.folded, frame);
            let mut bytes = Vec::new();
            self.folded.encode(&mut bytes);
            self.folded = State::decode(&bytes).expect("a checkpoint decodes");
            self.model.apply(frame);
        }
        self.frames = run.shell.frames.len();
        assert_eq!(&self.folded, run.shell.engine.state(), "replay finds the live state");
        self.model.check(run.shell.engine.state());
        self.check_answers(run);
        self.check_deliveries(run);
    }

    /// A receipt never leaves before the frame that it speaks of, and a repeat names the same place.
    fn check_answers(&mut self, run: &Run) {
        for answer in run.shell.answers.iter().skip(self.answers) {
            let bases = if let Reply::Receipt(receipt) = &answer.reply {
                vec![receipt.base]
            } else if let Reply::Committed(committed) = &answer.reply {
                committed.published.iter().map(|published| published.base).collect()
            } else {
                continue;
            };
            let Some(topics) = run.asked.get(&answer.correlation) else { continue };
            let (Gate::Committed(gate) | Gate::Written(gate)) = answer.gate else {
                panic!("a receipt leaves at once")
            };
            assert_eq!(topics.len(), bases.len());
            for (topic, base) in topics.iter().zip(bases) {
                let Some(base) = base else { continue };
                let index =
                    self.model.frame_of(*topic, base).expect("a receipt names a stored batch");
                assert!(gate >= index, "a receipt leaves at {gate}, before its frame {index}");
                let written = matches!(answer.gate, Gate::Written(_));
                let may = self.model.is_written(*topic, base);
                assert!(!written || may, "synced, but not committed");
                self.receipts.push((*topic, base, answer.gate));
            }
        }
        self.answers = run.shell.answers.len();
        self.check_readable(run);
    }

    /// What a receipt speaks of can be read when it has left, and those of a topic leave in the order
    /// of its offsets: who got one sends again only what comes behind it.
    fn check_readable(&mut self, run: &Run) {
        let Shell { engine, written, committed, .. } = &run.shell;
        let has_left = |gate: &Gate| match gate {
            Gate::Now => true,
            Gate::Written(index) => index <= written.max(committed),
            Gate::Committed(index) => index <= committed,
        };
        let left: Vec<_> = self.receipts.extract_if(.., |(.., gate)| has_left(gate)).collect();
        for (topic, base, _) in left {
            let before = self.receipts.iter().find(|(at, other, _)| *at == topic && *other < base);
            assert_eq!(before, None, "its receipt leaves after that of {base}");
            let Some(topic) = engine.state().topics.get(&topic) else { continue };
            let end = engine.visible_end(topic.partition);
            assert!(base < end, "{base} has a receipt, and readers see {end} as the end");
        }
    }

    /// Only unsettled messages are handed out, at once to one consumer.
    fn check_deliveries(&mut self, run: &Run) {
        for deliver in run.shell.deliveries.iter().skip(self.deliveries) {
            for part in &deliver.runs {
                for at in 0..u64::from(part.count) {
                    let offset = part.first.plus(at);
                    assert!(
                        self.model.was_unsettled(deliver.subscription, offset),
                        "{offset} of {} is handed out although settled",
                        deliver.subscription
                    );
                    self.check_seen(run, (deliver.partition, offset), deliver.gate);
                }
            }
        }
        for fetch in run.shell.fetched.iter().skip(self.fetched) {
            for range in &fetch.ranges {
                for offset in (range.start.0..range.end.0).map(Offset) {
                    self.check_seen(run, (fetch.partition, offset), fetch.gate);
                }
            }
        }
        self.fetched = run.shell.fetched.len();
        self.deliveries = run.shell.deliveries.len();
        self.model.forget_past();
    }
}

impl Checks {
    /// What is seen is as durable as what it came with asks: nobody sees half of a commit.
    fn check_seen(&self, run: &Run, (partition, offset): (PartitionId, Offset), gate: Gate) {
        if !run.shell.engine.state().partitions.contains_key(&partition) {
            return;
        }
        let (index, is_written) = self.model.source_of(partition, offset);
        let (mut written, mut committed) = (run.shell.written, run.shell.committed);
        match gate {
            Gate::Now => {}
            Gate::Written(at) => written = written.max(at),
            Gate::Committed(at) => committed = committed.max(at),
        }
        let reached = if is_written { written.max(committed) } else { committed };
        assert!(index <= reached, "{offset} of frame {index} is seen at {reached}");
    }
}

/// Resubmitting any suffix of a producer's publishes changes nothing.
fn check_dedup(run: &mut Run) {
    run.shell.settle();
    let before = (run.shell.frames.len(), run.shell.engine.state().clone());
    for (request, batch, first) in run.accepted_suffixes() {
        let correlation = run.shell.send_batch(ALICE, request, batch);
        check_repeat(&first, &run.shell.answer_to(correlation).reply);
    }
    assert_eq!(before.0, run.shell.frames.len());
    assert_eq!(&before.1, run.shell.engine.state());
}

/// Everything unsettled is handed out in the end, whatever has happened: nothing is lost, and
/// nothing is in two places.
fn drain(run: &mut Run) {
    let shell = &mut run.shell;
    for connection in [ALICE, BOB, CAROL] {
        shell.input(Input::Disconnected { connection });
    }
    shell.prompt = true;
    shell.settle();
    // Everything becomes due; what full topics do not take comes while they are drained.
    shell.advance(60_000);
    let queues: Vec<_> = shell.engine.state().subscriptions.values().cloned().collect();
    for queue in queues {
        if queue.settings.mode == posthouse_protocol::settings::Mode::Queue {
            drain_queue(shell, queue.id);
        }
    }
}

fn drain_queue(shell: &mut Shell, id: SubscriptionId) {
    let Some(found) = shell.engine.state().subscriptions.get(&id) else { return };
    let (consumer, subscription) = (ConsumerId(id.0), found.name.clone());
    let topic = shell.engine.state().topics.get(&found.topic).unwrap().name.clone();
    let mut waiting = unsettled(shell.engine.state(), id);
    let partition = found.partition;
    let mut end = shell.engine.state().partitions[&partition].next;
    let from = shell.deliveries.len();
    let subscribe = message::Subscribe { consumer, topic, subscription };
    assert!(matches!(shell.request(subscribe), Reply::Subscribed(_)));
    let (messages, bytes) = (1 << 40, 1 << 40);
    shell.send(ALICE, message::Credit { consumer, messages, bytes, taken: 0 });
    let mut seen = from;
    for _ in 0..200 {
        let next = shell.engine.state().partitions[&partition].next;
        let more = unsettled(shell.engine.state(), id);
        waiting.extend(more.range(end..));
        end = next;
        while let Some(deliver) = shell.deliveries.get(seen).cloned() {
            seen += 1;
            let mine = deliver.runs.iter().filter(|_| deliver.subscription == id);
            for part in mine {
                let offsets = part.first.0..part.first.0 + u64::from(part.count);
                for offset in offsets.clone().map(Offset) {
                    assert!(waiting.remove(&offset), "{offset} is handed out twice");
                }
                assert_eq!(shell.settle_all(id, offsets, Verdict::Ack), Vec::new());
            }
        }
        if waiting.is_empty() {
            break;
        }
        shell.advance(10_000);
    }
    assert!(waiting.is_empty(), "never handed out: {waiting:?}");
    let rest = shell.engine.state().subscriptions.get(&id).unwrap();
    assert_eq!(rest.backlog(shell.engine.state().partitions[&rest.partition].next), 0);
    shell.send(ALICE, message::Unsubscribe { consumer });
}

/// The unsettled offsets of a subscription, one by one, rejected ones left out.
fn unsettled(state: &State, id: SubscriptionId) -> BTreeSet<Offset> {
    let found = state.subscriptions.get(&id).unwrap();
    let retained = state.partitions.get(&found.partition).unwrap();
    let holding = retained.empty.gaps_in(retained.start..retained.next);
    let offsets = holding.flat_map(|range| (range.start.0..range.end.0).map(Offset));
    offsets.filter(|at| !found.is_settled(*at) && !found.rejected.contains_key(at)).collect()
}

/// Frames kept by a crash: everything committed, and perhaps some of the rest.
fn kept(shell: &Shell, extra: u64) -> LogIndex {
    LogIndex((shell.committed.0 + extra).min(shell.last().0))
}
