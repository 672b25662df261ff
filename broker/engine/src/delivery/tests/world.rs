//! An engine with a journal and messages in memory, clients without sockets, and a clock that is a
//! field.

use crate::effect::{Append, Effect, Effects, Gate};
use crate::event::{decode_all, encode_all};
use crate::input::{ConnectionId, Input, LoadPurpose, Space, WindowEntry};
use crate::state::{State, Subscription};
use crate::{Engine, Now, Time};
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message};
use posthouse_protocol::message::{self, DeliveryRun, RefusedRun, Verdict};
use posthouse_protocol::settings::{Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    ConsumerId, CorrelationId, Fence, LogIndex, Name, Offset, PartitionId, ProducerEpoch,
    ProducerId, Reply, Request, Sequence, StartEpoch, SubscriptionId, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// The connection on which the tests publish and administer.
pub(super) const ADMIN: u64 = 1000;

/// One message as a consumer got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub connection: u64,
    pub consumer: u32,
    pub subscription: SubscriptionId,
    pub offset: u64,
    pub fence: Fence,
    pub attempt: u32,
}

/// Where the messages of a queue are.
#[derive(Debug)]
pub(super) struct Places {
    pub front: Offset,
    pub ready: Vec<Range<Offset>>,
    pub delayed: Vec<Range<Offset>>,
    pub leases: Vec<(Offset, Fence)>,
}

impl Places {
    /// The names of the places where a message is.
    pub(super) fn of(&self, offset: Offset) -> Vec<&'static str> {
        let within = |ranges: &[Range<Offset>]| ranges.iter().any(|range| range.contains(&offset));
        let leased = self.leases.iter().any(|(held, _)| *held == offset);
        let places = [
            (within(&self.ready), "ready"),
            (within(&self.delayed), "delayed"),
            (leased, "leased"),
        ];
        places.into_iter().filter(|(found, _)| *found).map(|(_, name)| name).collect()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub engine: Engine,
    pub now: Now,
    pub frames: Vec<Append>,
    /// Everything delivered, in order.
    pub got: Vec<Got>,
    /// Gates of deliveries, in order.
    pub gates: Vec<Gate>,
    pub replies: Vec<(u64, CorrelationId, Reply)>,
    /// Gates of replies, in order.
    pub reply_gates: Vec<Gate>,
    /// Loads that were asked for.
    pub loads: Vec<Effect>,
    /// Messages whose bytes do not match their checksums.
    pub damaged: BTreeSet<(PartitionId, Offset)>,
    /// Answers that the shell has not given yet, while `holds_answers`.
    pub answers: VecDeque<Input>,
    pub holds_answers: bool,
    /// Whether the disk keeps up by itself.
    pub holds_progress: bool,
    stored: BTreeMap<(PartitionId, Offset), Bytes>,
    correlation: u32,
    producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Now { mono: Time(1), wall: Timestamp(1_000_000) };
        let mut world = Self {
            engine: Engine::new(State::default(), LogIndex::ZERO),
            now,
            frames: Vec::new(),
            got: Vec::new(),
            gates: Vec::new(),
            replies: Vec::new(),
            reply_gates: Vec::new(),
            loads: Vec::new(),
            damaged: BTreeSet::new(),
            answers: VecDeque::new(),
            holds_answers: false,
            holds_progress: false,
            stored: BTreeMap::new(),
            correlation: 0,
            producer: None,
        };
        world.start(1, true);
        world
    }

    /// A world with topic `t` and its subscription `s`.
    pub(super) fn with(settings: SubscriptionSettings) -> Self {
        let mut world = Self::new();
        world.topic("t", TopicSettings::default());
        world.subscription("t", "s", settings);
        world
    }

    fn start(&mut self, epoch: u32, clean: bool) {
        self.input(Input::Start { epoch: StartEpoch(epoch), clean, damaged: false });
        self.input(Input::Space(Space {
            frame_bytes_max: 1 << 20,
            disk_bytes: 1 << 40,
            ring_bytes: 1 << 40,
        }));
    }

    /// Ends the engine and starts another one from what the journal holds.
    pub(super) fn restart(&mut self, clean: bool) {
        let state = self.replay();
        assert_eq!(&state, self.engine.state(), "replay is live state");
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        let state = State::decode(&bytes).unwrap();
        let epoch = state.start_epoch().next();
        let last = self.frames.last().map_or(LogIndex::ZERO, |frame| frame.index);
        self.engine = Engine::new(state, last);
        self.answers.clear();
        self.producer = None;
        self.start(epoch.0, clean);
    }

    /// The state that a recovery would fold.
    pub(super) fn replay(&self) -> State {
        let mut state = State::default();
        for frame in &self.frames {
            let mut bytes = Vec::new();
            encode_all(&frame.events, &mut bytes);
            for event in decode_all(&bytes).unwrap() {
                state.apply(frame.index, frame.time, &event).unwrap();
            }
        }
        state
    }

    /// One input and everything that follows from it.
    pub(super) fn input(&mut self, input: Input) {
        let mut effects = Effects::new();
        self.engine.handle(self.now, input, &mut effects);
        self.settle_round(effects);
    }

    fn settle_round(&mut self, mut effects: Effects) {
        loop {
            self.engine.flush(self.now, &mut effects);
            if effects.is_empty() {
                return;
            }
            let appended = self.carry_out(std::mem::take(&mut effects));
            if appended && !self.holds_progress {
                let index = self.last();
                let progress = Input::Progress { written: index, committed: index };
                self.engine.handle(self.now, progress, &mut effects);
            }
            while let Some(answer) = self.answers.pop_front_if(|_| !self.holds_answers) {
                self.engine.handle(self.now, answer, &mut effects);
            }
        }
    }

    /// Gives the answer that has been held back at `position`, if there is one.
    pub(super) fn answer(&mut self, position: usize) {
        if let Some(answer) = self.answers.remove(position) {
            self.input(answer);
        }
    }

    /// The disk catches up.
    pub(super) fn progress(&mut self) {
        let index = self.last();
        self.input(Input::Progress { written: index, committed: index });
    }

    pub(super) fn last(&self) -> LogIndex {
        self.frames.last().map_or(LogIndex::ZERO, |frame| frame.index)
    }

    fn carry_out(&mut self, effects: Effects) -> bool {
        let frames = self.frames.len();
        for effect in effects {
            match effect {
                Effect::Append(append) => {
                    assert_eq!(append.index, self.last().next(), "frames are dense");
                    let mut events = Vec::new();
                    encode_all(&append.events, &mut events);
                    assert!(events.len() <= 64 << 10, "a frame fits the smallest segment");
                    for batch in &append.batches {
                        self.stored.insert((batch.partition, batch.base), batch.bytes.clone());
                    }
                    self.frames.push(append);
                }
                Effect::Reply { connection, correlation, reply, gate } => {
                    self.check_gate(gate);
                    self.reply_gates.push(gate);
                    self.replies.push((connection.0, correlation, reply));
                }
                Effect::Deliver(deliver) => {
                    self.check_gate(deliver.gate);
                    self.gates.push(deliver.gate);
                    for run in &deliver.runs {
                        for place in 0..u64::from(run.count) {
                            self.got.push(Got {
                                connection: deliver.connection.0,
                                consumer: deliver.consumer.0,
                                subscription: deliver.subscription,
                                offset: run.first.0 + place,
                                fence: Fence {
                                    epoch: deliver.fence_epoch,
                                    counter: run.fence_counter + place,
                                },
                                attempt: run.attempt.0,
                            });
                        }
                    }
                }
                Effect::Fetch(_) | Effect::LoadDue { .. } => {}
                Effect::LoadWindow { subscription, partition, from, end, entries_max } => {
                    self.loads.push(effect);
                    let answer = self.window(subscription, partition, from..end, entries_max);
                    self.answers.push_back(answer);
                }
                Effect::LoadMessage { purpose, partition, offset, ref headers } => {
                    let batch = self.message(purpose, (partition, offset), headers);
                    self.loads.push(effect);
                    self.answers.push_back(Input::MessageLoaded { purpose, batch });
                }
            }
        }
        self.frames.len() > frames
    }

    fn check_gate(&self, gate: Gate) {
        let (Gate::Written(index) | Gate::Committed(index)) = gate else { return };
        assert!(index <= self.last(), "a gate names a frame that exists");
    }

    fn window(
        &self,
        subscription: SubscriptionId,
        partition: PartitionId,
        range: Range<Offset>,
        entries_max: usize,
    ) -> Input {
        let from = range.start;
        let mut entries = Vec::new();
        let before = self.stored.range((partition, Offset::ZERO)..=(partition, from)).next_back();
        let start = before.map_or((partition, from), |(place, _)| *place);
        for ((_, base), batch) in self.stored.range(start..(partition, range.end)) {
            let view = BatchView::parse_trusted(batch).unwrap();
            for (offset, entry) in (base.0..).map(Offset).zip(view.entries()) {
                if range.contains(&offset) {
                    let bytes = entry.bytes().len() as u32 + entry.body_len;
                    let damaged = self.damaged.contains(&(partition, offset));
                    entries.push(WindowEntry { offset, bytes, damaged });
                }
            }
            if entries.len() > entries_max {
                break;
            }
        }
        let next = entries.get(entries_max).map_or(range.end, |entry| entry.offset);
        entries.truncate(entries_max);
        Input::WindowLoaded { subscription, from, entries, next }
    }

    fn message(
        &self,
        purpose: LoadPurpose,
        (partition, offset): (PartitionId, Offset),
        headers: &[(Bytes, Bytes)],
    ) -> Option<Bytes> {
        if self.damaged.contains(&(partition, offset)) {
            return None;
        }
        let before = (partition, Offset::ZERO)..=(partition, offset);
        let ((_, base), batch) = self.stored.range(before).next_back()?;
        let view = BatchView::parse(batch).unwrap();
        let message = view.messages().nth((offset.0 - base.0) as usize)?;
        let mut headers = headers.to_vec();
        if matches!(purpose, LoadPurpose::Redrive { .. }) {
            headers.clear();
        }
        let mut builder = BatchBuilder::new();
        let body = Bytes::copy_from_slice(message.body);
        builder
            .push(&Message { id: message.entry.id, headers, body, ..Message::default() })
            .unwrap();
        Some(builder.finish(self.now.wall))
    }

    /// Moves the clock on, stopping at every deadline on the way.
    pub(super) fn advance(&mut self, millis: u64) {
        let target = self.now.mono.plus_millis(millis);
        let mut stops = 0;
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= target) {
            self.set_time(at.max(self.now.mono));
            self.input(Input::Deadline);
            stops += 1;
            assert!(stops < 100_000, "deadlines come to an end");
        }
        self.set_time(target);
    }

    pub(super) fn set_time(&mut self, mono: Time) {
        let wall = Timestamp(1_000_000 + mono.0 / 1000);
        self.now = Now { mono, wall };
    }

    /// A request and the reply to it.
    pub(super) fn ask(&mut self, connection: u64, request: impl Into<Request>) -> Reply {
        let correlation = self.tell(connection, request, Bytes::new());
        let found = self.replies.iter().find(|(_, number, _)| *number == correlation);
        found.map(|(_, _, reply)| reply.clone()).expect("every request but credit has a reply")
    }

    /// A request that may be answered later.
    pub(super) fn tell(
        &mut self,
        connection: u64,
        request: impl Into<Request>,
        batch: Bytes,
    ) -> CorrelationId {
        self.correlation += 1;
        let correlation = CorrelationId(self.correlation);
        let connection = ConnectionId(connection);
        self.input(Input::Request { connection, correlation, request: request.into(), batch });
        correlation
    }

    pub(super) fn topic(&mut self, topic: &str, settings: TopicSettings) {
        let reply = self.ask(ADMIN, message::TopicCreate { topic: name(topic), settings });
        assert!(matches!(reply, Reply::TopicInfo(_)), "{reply:?}");
    }

    pub(super) fn subscription(&mut self, topic: &str, of: &str, settings: SubscriptionSettings) {
        let start = Position::Earliest;
        let create = message::SubscriptionCreate {
            topic: name(topic),
            subscription: name(of),
            settings,
            start,
        };
        let reply = self.ask(ADMIN, create);
        assert!(matches!(reply, Reply::SubscriptionInfo(_)), "{reply:?}");
    }

    /// Publishes a batch with bodies of these lengths.
    pub(super) fn publish(&mut self, topic: &str, bodies: &[usize]) {
        let (producer, epoch, prev) = match self.producer {
            Some(producer) => producer,
            None => match self.ask(ADMIN, message::ProducerOpen { name: None, epoch: None }) {
                Reply::ProducerOpened(opened) => (opened.producer, opened.epoch, opened.last),
                other => panic!("{other:?}"),
            },
        };
        let topic = self.engine.state().topic_named(&name(topic)).unwrap().id;
        let sequence = prev.next();
        let publish = message::Publish { topic, producer, epoch, sequence, prev };
        let correlation = self.tell(ADMIN, publish, batch(bodies));
        let reply = self.replies.iter().find(|(_, number, _)| *number == correlation).unwrap();
        assert!(matches!(reply.2, Reply::Receipt(_)), "{reply:?}");
        self.producer = Some((producer, epoch, sequence));
    }

    pub(super) fn subscribe(&mut self, connection: u64, consumer: u32) {
        self.subscribe_to(connection, consumer, ("t", "s"));
    }

    pub(super) fn subscribe_to(&mut self, connection: u64, consumer: u32, of: (&str, &str)) {
        let request = message::Subscribe {
            consumer: ConsumerId(consumer),
            topic: name(of.0),
            subscription: name(of.1),
        };
        let reply = self.ask(connection, request);
        assert!(matches!(reply, Reply::Subscribed(_)), "{reply:?}");
    }

    /// Grants `messages` and plenty of bytes in all.
    pub(super) fn grant(&mut self, connection: u64, consumer: u32, messages: u64, taken: u64) {
        self.grant_bytes(connection, consumer, (messages, 1 << 40), taken);
    }

    pub(super) fn grant_bytes(
        &mut self,
        connection: u64,
        consumer: u32,
        (messages, bytes): (u64, u64),
        taken: u64,
    ) {
        let consumer = ConsumerId(consumer);
        let credit = message::Credit { consumer, messages, bytes, taken };
        self.tell(connection, credit, Bytes::new());
    }

    /// Takes everything that was delivered since the last call.
    pub(super) fn take(&mut self) -> Vec<Got> {
        std::mem::take(&mut self.got)
    }

    /// Settles deliveries and returns what was refused.
    pub(super) fn settle(&mut self, verdict: Verdict, got: &[Got]) -> Vec<RefusedRun> {
        self.settle_after(verdict, message::BACKOFF, got)
    }

    pub(super) fn settle_after(
        &mut self,
        verdict: Verdict,
        delay_ms: u64,
        got: &[Got],
    ) -> Vec<RefusedRun> {
        let Some(first) = got.first() else { return Vec::new() };
        let request = message::Settle {
            subscription: first.subscription,
            verdict,
            delay_ms,
            reason: "because".to_owned(),
            deliveries: runs(got),
        };
        match self.ask(first.connection, request) {
            Reply::Settled(settled) => settled.refused,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn extend(&mut self, lease_ms: u64, got: &[Got]) -> Vec<RefusedRun> {
        let subscription = got[0].subscription;
        let request = message::Extend { subscription, lease_ms, deliveries: runs(got) };
        match self.ask(got[0].connection, request) {
            Reply::Settled(settled) => settled.refused,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn unsubscribe(&mut self, connection: u64, consumer: u32) {
        let reply = self.ask(connection, message::Unsubscribe { consumer: ConsumerId(consumer) });
        assert_eq!(reply, Reply::Done(message::Done {}));
    }

    pub(super) fn disconnect(&mut self, connection: u64) {
        self.input(Input::Disconnected { connection: ConnectionId(connection) });
    }

    pub(super) fn redrive(&mut self, limit: u32) -> Reply {
        let (topic, subscription) = (name("t"), name("s"));
        self.ask(ADMIN, message::DeadRedrive { topic, subscription, limit })
    }

    /// Where the messages of a subscription are, if it has consumers.
    pub(super) fn places_of(&self, id: SubscriptionId) -> Option<Places> {
        let queue = self.engine.deliveries().queues.get(&id)?;
        let epoch = self.engine.state().start_epoch();
        let (ready, delayed) = queue.ready.ranges();
        let leases =
            queue.in_flight.leases().map(|(offset, counter)| (offset, Fence { epoch, counter }));
        Some(Places { front: queue.window.front(), ready, delayed, leases: leases.collect() })
    }

    /// How many messages of subscription `s` a connection holds.
    pub(super) fn leases_of(&self, connection: u64) -> usize {
        let queue = self.engine.deliveries().queues.get(&self.durable().id);
        let held =
            queue.into_iter().flat_map(|queue| queue.in_flight.held_by(ConnectionId(connection)));
        held.sum()
    }

    /// The durable part of subscription `s` of topic `t`.
    pub(super) fn durable(&self) -> &Subscription {
        self.durable_of("t", "s")
    }

    pub(super) fn durable_of(&self, topic: &str, subscription: &str) -> &Subscription {
        let state = self.engine.state();
        state.subscription_named(&name(topic), &name(subscription)).expect("it was made")
    }

    /// Sizes of the messages of a partition from an offset on, as credit counts them.
    pub(super) fn sizes_from(&self, partition: PartitionId, from: u64) -> Vec<u64> {
        let mut sizes = Vec::new();
        for ((_, base), batch) in
            self.stored.range((partition, Offset(from))..(partition, Offset::MAX))
        {
            assert_eq!(base.0, from + sizes.len() as u64, "offsets are dense");
            let view = BatchView::parse_trusted(batch).unwrap();
            sizes.extend(view.entries().map(|e| e.bytes().len() as u64 + u64::from(e.body_len)));
        }
        sizes
    }

    /// Offsets from 0 to the end of topic `t` that subscription `s` has settled.
    pub(super) fn settled(&self) -> Vec<u64> {
        let subscription = self.durable();
        let end = self.engine.state().partitions[&subscription.partition].next.0;
        (0..end).filter(|offset| subscription.is_settled(Offset(*offset))).collect()
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// The offsets of deliveries.
pub(super) fn offsets(got: &[Got]) -> Vec<u64> {
    got.iter().map(|got| got.offset).collect()
}

pub(super) fn runs(got: &[Got]) -> Vec<DeliveryRun> {
    let mut runs: Vec<DeliveryRun> = Vec::new();
    for one in got {
        let next = |run: &DeliveryRun| {
            let count = u64::from(run.count);
            run.first.0 + count == one.offset && run.fence.plus(count) == one.fence
        };
        match runs.last_mut().filter(|run| next(run)) {
            Some(run) => run.count += 1,
            None => {
                let first = Offset(one.offset);
                runs.push(DeliveryRun { first, fence: one.fence, count: 1 });
            }
        }
    }
    runs
}

fn batch(bodies: &[usize]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for len in bodies {
        let message = Message { body: Bytes::from(vec![b'x'; *len]), ..Message::default() };
        builder.push(&message).unwrap();
    }
    builder.finish(Timestamp::ZERO)
}
