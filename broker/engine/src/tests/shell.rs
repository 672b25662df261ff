//! A shell in memory: carries out effects, keeps the journal, and checks what every shell may rely on.

use crate::effect::{Append, Deliver, Effect, Fetch, Gate};
use crate::event::{self, Event};
use crate::input::{ConnectionId, Input, LoadPurpose, Space, WindowEntry};
use crate::{Engine, Now, State, Time};
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message, MessageRef};
use posthouse_protocol::message::{
    self, Committed, Operation, Receipt, Refused, SubscriptionInfo, TopicInfo,
};
use posthouse_protocol::settings::{Durability, Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    ConsumerId, CorrelationId, ErrorCode, LogIndex, MessageId, Name, Offset, PartitionId,
    ProducerEpoch, ProducerId, Reply, Request, Sequence, StartEpoch, SubscriptionId, Timestamp,
    TopicId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A reply or push that the engine asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) connection: ConnectionId,
    pub(crate) correlation: CorrelationId,
    pub(crate) reply: Reply,
    pub(crate) gate: Gate,
}

#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) frames: Vec<Append>,
    pub(crate) written: LogIndex,
    pub(crate) committed: LogIndex,
    pub(crate) answers: Vec<Answer>,
    pub(crate) deliveries: Vec<Deliver>,
    pub(crate) fetched: Vec<Fetch>,
    /// Everything as it came, for comparing two runs.
    pub(crate) trace: Vec<String>,
    /// Loads that were asked for and not answered.
    pub(crate) loads: Vec<Effect>,
    /// Whether loads are answered, and frames committed, at once.
    pub(crate) prompt: bool,
    /// Messages in waiting rooms that cannot be read.
    pub(crate) unreadable: BTreeSet<Offset>,
    epoch: StartEpoch,
    correlation: u32,
}

pub(crate) const ALICE: ConnectionId = ConnectionId(1);
pub(crate) const BOB: ConnectionId = ConnectionId(2);
/// Hands out for tests that are about something else.
pub(crate) const CAROL: ConnectionId = ConnectionId(3);

impl Shell {
    /// A broker that has started for the first time.
    pub(crate) fn new() -> Self {
        let mut shell = Self {
            engine: Engine::new(State::default(), LogIndex::ZERO),
            now: Now { mono: Time(1_000_000), wall: Timestamp(1_700_000_000_000) },
            frames: Vec::new(),
            written: LogIndex::ZERO,
            committed: LogIndex::ZERO,
            answers: Vec::new(),
            deliveries: Vec::new(),
            fetched: Vec::new(),
            trace: Vec::new(),
            loads: Vec::new(),
            prompt: true,
            unreadable: BTreeSet::new(),
            epoch: StartEpoch(1),
            correlation: 0,
        };
        shell.input(Input::Start { epoch: StartEpoch(1), clean: true, damaged: false });
        shell
    }

    /// Hands in one input as a round of its own.
    pub(crate) fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.engine.handle(self.now, input, &mut effects);
        self.engine.flush(self.now, &mut effects);
        self.carry_out(effects);
        if self.prompt {
            self.settle();
        }
    }

    /// Commits and answers loads until nothing more happens.
    pub(crate) fn settle(&mut self) {
        while self.committed < self.last() || !self.loads.is_empty() {
            self.progress(self.last(), self.last());
            self.answer_loads();
        }
    }

    pub(crate) fn progress(&mut self, written: LogIndex, committed: LogIndex) {
        (self.written, self.committed) = (written, committed);
        let mut effects = Vec::new();
        self.engine.handle(self.now, Input::Progress { written, committed }, &mut effects);
        self.engine.flush(self.now, &mut effects);
        self.carry_out(effects);
    }

    pub(crate) fn answer_loads(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            let input = self.loaded(load);
            let mut effects = Vec::new();
            self.engine.handle(self.now, input, &mut effects);
            self.engine.flush(self.now, &mut effects);
            self.carry_out(effects);
        }
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.frames.last().map_or(LogIndex::ZERO, |frame| frame.index)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.trace.push(format!("{effect:?}"));
            match effect {
                Effect::Append(frame) => {
                    assert_eq!(frame.index, self.last().next(), "frames are dense");
                    self.check_batches(&frame);
                    self.frames.push(frame);
                }
                Effect::Reply { connection, correlation, reply, gate } => {
                    self.check_gate(&reply, gate);
                    self.answers.push(Answer { connection, correlation, reply, gate });
                }
                Effect::Deliver(deliver) => {
                    assert!(deliver.gate != Gate::Now, "a delivery depends on its hand-out");
                    self.deliveries.push(deliver);
                }
                Effect::Fetch(fetch) => self.fetched.push(fetch),
                load @ (Effect::LoadWindow { .. }
                | Effect::LoadMessage { .. }
                | Effect::LoadDue { .. }) => {
                    self.loads.push(load);
                }
            }
        }
    }

    /// Every batch is named by an event of its frame.
    fn check_batches(&self, frame: &Append) {
        let names = |event: &&Event| matches!(event, Event::Published(_) | Event::Delayed(_));
        let published = frame.events.iter().filter(names);
        assert_eq!(published.count(), frame.batches.len());
        for batch in &frame.batches {
            let view = BatchView::parse(&batch.bytes).expect("a sound batch");
            assert_eq!(view.count(), batch.count);
        }
    }

    /// What a topic answers never leaves before its frame has got as far as the answer says; it may
    /// leave later, behind a commit.
    fn check_gate(&self, reply: &Reply, gate: Gate) {
        let (Reply::Receipt(Receipt { durability, duplicate, .. })
        | Reply::Committed(Committed { durability, duplicate, .. })) = reply
        else {
            return;
        };
        match (durability, gate) {
            (Durability::Synced, Gate::Committed(index))
            | (Durability::Written, Gate::Written(index) | Gate::Committed(index)) => {
                assert!(*duplicate || index == self.last(), "the gate is the publish's own frame");
                assert!(LogIndex::ZERO < index && index <= self.last());
            }
            (_, gate) => panic!("{reply:?} leaves at {gate:?}"),
        }
    }

    fn loaded(&self, load: Effect) -> Input {
        match load {
            Effect::LoadWindow { subscription, partition, from, end, entries_max } => {
                let all = self.stored(partition);
                let found = all.range(from..end.max(from)).take(entries_max);
                let entries: Vec<WindowEntry> = found
                    .map(|(offset, message)| WindowEntry {
                        offset: *offset,
                        bytes: u32::try_from(message.1).unwrap(),
                        damaged: false,
                    })
                    .collect();
                let next = if entries.len() == entries_max {
                    entries.last().map_or(end, |entry| entry.offset.next())
                } else {
                    end
                };
                Input::WindowLoaded { subscription, from, entries, next }
            }
            Effect::LoadMessage { purpose, partition, offset, headers } => {
                let stored = self.stored(partition).remove(&offset);
                let batch = stored.map(|(mut message, _)| {
                    match purpose {
                        LoadPurpose::DeadLetter { .. } => message.headers.extend(headers),
                        LoadPurpose::Redrive { .. } => message
                            .headers
                            .retain(|(name, _)| !name.starts_with(b"posthouse-dead-")),
                    }
                    let mut builder = BatchBuilder::new();
                    builder.push(&message).unwrap();
                    builder.finish(Timestamp(1))
                });
                Input::MessageLoaded { purpose, batch }
            }
            Effect::LoadDue { partition, offsets, bytes_max, .. } => {
                let stored = self.stored(partition);
                let mut builder = BatchBuilder::new();
                let (mut found, mut unreadable) = (Vec::new(), Vec::new());
                for at in offsets {
                    if self.unreadable.contains(&at) {
                        unreadable.push(at);
                        continue;
                    }
                    builder.push(&stored[&at].0).unwrap();
                    found.push(at);
                    if builder.len() >= bytes_max {
                        break;
                    }
                }
                let batch = (!builder.is_empty()).then(|| builder.finish(Timestamp(1)));
                let damaged = Vec::new();
                Input::DueLoaded { partition, offsets: found, damaged, unreadable, batch }
            }
            Effect::Append(_) | Effect::Reply { .. } | Effect::Deliver(_) | Effect::Fetch(_) => {
                panic!("nothing is loaded for this effect")
            }
        }
    }

    /// Every message ever stored in a partition, and its length.
    pub(crate) fn stored(&self, partition: PartitionId) -> BTreeMap<Offset, (Message, usize)> {
        let batches = self.frames.iter().flat_map(|frame| &frame.batches);
        let mut stored = BTreeMap::new();
        for batch in batches.filter(|batch| batch.partition == partition) {
            let view = BatchView::parse(&batch.bytes).unwrap();
            for (at, message) in (0_u64..).zip(view.messages()) {
                let bytes = message.entry.bytes().len() + message.body.len();
                stored.insert(batch.base.plus(at), (owned(&message), bytes));
            }
        }
        stored
    }

    /// Sends a request and returns its correlation.
    pub(crate) fn send(
        &mut self,
        connection: ConnectionId,
        request: impl Into<Request>,
    ) -> CorrelationId {
        self.send_batch(connection, request, Bytes::new())
    }

    pub(crate) fn send_batch(
        &mut self,
        connection: ConnectionId,
        request: impl Into<Request>,
        batch: Bytes,
    ) -> CorrelationId {
        self.correlation += 1;
        let (correlation, request) = (CorrelationId(self.correlation), request.into());
        self.input(Input::Request { connection, correlation, request, batch });
        correlation
    }

    /// The answer to a request.
    pub(crate) fn answer_to(&self, correlation: CorrelationId) -> &Answer {
        let found = self.answers.iter().find(|answer| answer.correlation == correlation);
        found.expect("the request was answered")
    }

    /// Sends a request and returns the answer.
    pub(crate) fn request(&mut self, request: impl Into<Request>) -> Reply {
        let correlation = self.send(ALICE, request);
        self.answer_to(correlation).reply.clone()
    }

    /// Sends a request that is refused, and returns why.
    pub(crate) fn refused(&mut self, request: impl Into<Request>) -> (ErrorCode, String) {
        code_of(self.request(request))
    }

    pub(crate) fn create_topic(&mut self, topic: &str, settings: TopicSettings) -> TopicInfo {
        let Reply::TopicInfo(info) =
            self.request(message::TopicCreate { topic: name(topic), settings })
        else {
            panic!("no TopicInfo")
        };
        info
    }

    pub(crate) fn topic(&mut self, topic: &str) -> TopicInfo {
        let Reply::TopicInfo(info) = self.request(message::TopicDescribe { topic: name(topic) })
        else {
            panic!("no TopicInfo")
        };
        info
    }

    pub(crate) fn create_subscription(
        &mut self,
        topic: &str,
        subscription: &str,
        settings: SubscriptionSettings,
    ) -> SubscriptionInfo {
        let (topic, subscription) = (name(topic), name(subscription));
        let start = Position::Earliest;
        let create = message::SubscriptionCreate { topic, subscription, settings, start };
        let Reply::SubscriptionInfo(info) = self.request(create) else {
            panic!("no SubscriptionInfo")
        };
        info
    }

    pub(crate) fn subscription(&mut self, topic: &str, subscription: &str) -> SubscriptionInfo {
        let (topic, subscription) = (name(topic), name(subscription));
        let Reply::SubscriptionInfo(info) =
            self.request(message::SubscriptionDescribe { topic, subscription })
        else {
            panic!("no SubscriptionInfo")
        };
        info
    }

    pub(crate) fn open_producer(&mut self, producer: Option<&str>) -> Sender {
        let Reply::ProducerOpened(opened) =
            self.request(message::ProducerOpen { name: producer.map(name), epoch: None })
        else {
            panic!("no ProducerOpened")
        };
        Sender { id: opened.producer, epoch: opened.epoch, last: opened.last }
    }

    /// Publishes as the next of `sender`.
    pub(crate) fn publish(
        &mut self,
        sender: &mut Sender,
        topic: TopicId,
        bodies: &[&str],
    ) -> Reply {
        let request = sender.next(topic);
        let reply = self.publish_as(&request, bodies);
        if matches!(reply, Reply::Receipt(_)) {
            sender.last = request.sequence;
        }
        reply
    }

    pub(crate) fn publish_as(&mut self, request: &message::Publish, bodies: &[&str]) -> Reply {
        let correlation = self.send_batch(ALICE, request.clone(), batch_of(bodies));
        self.answer_to(correlation).reply.clone()
    }

    /// Publishes messages that are due at these times as the next of `sender`.
    pub(crate) fn publish_due(
        &mut self,
        sender: &mut Sender,
        topic: TopicId,
        due: &[(&str, u64)],
    ) -> Reply {
        let request = sender.next(topic);
        let correlation = self.send_batch(ALICE, request.clone(), batch_due(due));
        let reply = self.answer_to(correlation).reply.clone();
        if matches!(reply, Reply::Receipt(_)) {
            sender.last = request.sequence;
        }
        reply
    }

    /// Commits as the next of `sender`.
    pub(crate) fn commit(&mut self, sender: &mut Sender, parts: &[Part<'_>]) -> Reply {
        let (request, tail) = sender.next_commit(parts);
        let reply = self.commit_as(&request, &tail);
        if matches!(reply, Reply::Committed(_)) {
            sender.last = request.sequence;
        }
        reply
    }

    pub(crate) fn commit_as(&mut self, request: &message::Commit, tail: &Bytes) -> Reply {
        let correlation = self.send_batch(ALICE, request.clone(), tail.clone());
        self.answer_to(correlation).reply.clone()
    }

    /// What was handed out of `range` and is not settled, under the highest fences.
    pub(crate) fn handed(
        &self,
        id: SubscriptionId,
        range: Range<u64>,
    ) -> Vec<message::DeliveryRun> {
        let found = self.engine.state().subscriptions.get(&id).unwrap();
        let parts = found.handed_in(Offset(range.start)..Offset(range.end));
        let run = |(part, fence): (Range<Offset>, _)| message::DeliveryRun {
            first: part.start,
            fence,
            count: u32::try_from(part.end.distance_from(part.start)).unwrap(),
        };
        parts.map(run).collect()
    }

    /// Lets time pass on both clocks, and wakes the engine whenever it asked for it.
    pub(crate) fn advance(&mut self, millis: u64) {
        let until = self.now.mono.plus_millis(millis);
        while let Some(deadline) = self.engine.next_deadline().filter(|at| *at <= until) {
            self.move_to(deadline.max(self.now.mono));
            let before = self.engine.next_deadline();
            self.input(Input::Deadline);
            assert_ne!(
                self.engine.next_deadline(),
                before,
                "a deadline that has come is done with"
            );
        }
        self.move_to(until);
    }

    fn move_to(&mut self, at: Time) {
        let passed = at.since(self.now.mono);
        let millis = u64::try_from(passed.as_micros().div_ceil(1000)).unwrap();
        self.now = Now { mono: at, wall: self.now.wall.plus_millis(millis) };
    }

    /// Lets a consumer of its own take messages until `range` was handed out, and end.
    pub(crate) fn hand_out(&mut self, id: SubscriptionId, range: Range<u64>) {
        let found = self.engine.state().subscriptions.get(&id).unwrap();
        let subscription = found.name.clone();
        let topic = self.engine.state().topics.get(&found.topic).unwrap().name.clone();
        let consumer = ConsumerId(77);
        self.send(CAROL, message::Subscribe { consumer, topic, subscription });
        let (messages, bytes) = (range.end, 1 << 30);
        self.send(CAROL, message::Credit { consumer, messages, bytes, taken: 0 });
        self.send(CAROL, message::Unsubscribe { consumer });
    }

    /// Settles `range`, each message under the highest fence that was handed out for it.
    pub(crate) fn settle_all(
        &mut self,
        subscription: SubscriptionId,
        range: Range<u64>,
        verdict: message::Verdict,
    ) -> Vec<message::RefusedRun> {
        let deliveries = self.handed(subscription, range);
        let (delay_ms, reason) = (message::BACKOFF, String::new());
        let settle = message::Settle { subscription, verdict, delay_ms, reason, deliveries };
        let Reply::Settled(settled) = self.request(settle) else { panic!("no Settled") };
        settled.refused
    }

    /// The state that recovery would fold from the journal, through bytes.
    pub(crate) fn replayed(&self) -> State {
        let mut state = State::default();
        for frame in &self.frames {
            apply_frame(&mut state, frame);
        }
        state
    }

    /// Stops and starts again from the journal, of which the frames after `kept` are lost.
    pub(crate) fn restart_from(&mut self, kept: LogIndex, clean: bool) {
        self.frames.retain(|frame| frame.index <= kept);
        let last = self.last();
        (self.written, self.committed) = (last, last);
        self.loads.clear();
        self.engine = Engine::new(self.replayed(), last);
        self.epoch = self.epoch.next();
        self.input(Input::Start { epoch: self.epoch, clean, damaged: false });
    }

    /// Stops and starts again from the journal, of which the frames in `lost` are damaged.
    pub(crate) fn restart_without(&mut self, lost: &BTreeSet<LogIndex>) {
        let mut state = State::default();
        for frame in &self.frames {
            if lost.contains(&frame.index) {
                state.lost(frame.index, frame.index);
            } else {
                apply_frame(&mut state, frame);
            }
        }
        self.loads.clear();
        self.engine = Engine::new(state, self.last());
        self.epoch = self.epoch.next();
        self.input(Input::Start { epoch: self.epoch, clean: false, damaged: false });
    }

    pub(crate) fn restart(&mut self, clean: bool) {
        self.restart_from(self.last(), clean);
    }

    pub(crate) fn set_space(&mut self, disk_bytes: u64, ring_bytes: u64) {
        self.input(Input::Space(Space { frame_bytes_max: 1 << 20, disk_bytes, ring_bytes }));
    }

    /// Recovery finds what is live, and bytes keep it.
    pub(crate) fn check_replay(&self) {
        let live = self.engine.state();
        assert_eq!(&self.replayed(), live, "replay finds the live state");
        let mut bytes = Vec::new();
        live.encode(&mut bytes);
        assert_eq!(State::decode(&bytes).as_ref(), Ok(live), "a checkpoint keeps the state");
    }
}

/// Applies a frame as recovery does: from its bytes.
pub(crate) fn apply_frame(state: &mut State, frame: &Append) {
    let mut bytes = Vec::new();
    event::encode_all(&frame.events, &mut bytes);
    for event in event::decode_all(&bytes).expect("events decode") {
        state.apply(frame.index, frame.time, &event).expect("events fit");
    }
}

/// An operation of a commit.
#[derive(Clone, Debug)]
pub(crate) enum Part<'a> {
    Publish(&'a str, &'a [&'a str]),
    PublishDue(&'a str, &'a [(&'a str, u64)]),
    Settle(SubscriptionId, message::Verdict, Vec<message::DeliveryRun>),
    Save(SubscriptionId, u64),
}

impl Part<'_> {
    fn batch(&self) -> Bytes {
        match self {
            Self::Publish(_, bodies) => batch_of(bodies),
            Self::PublishDue(_, due) => batch_due(due),
            Self::Settle(..) | Self::Save(..) => Bytes::new(),
        }
    }
}

/// A producer as its client knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) last: Sequence,
}

impl Sender {
    pub(crate) fn next(&self, topic: TopicId) -> message::Publish {
        let (producer, epoch, prev) = (self.id, self.epoch, self.last);
        message::Publish { topic, producer, epoch, sequence: prev.next(), prev }
    }

    pub(crate) fn next_commit(&self, parts: &[Part<'_>]) -> (message::Commit, Bytes) {
        let mut tail = Vec::new();
        let operation = |part: &Part<'_>| match part {
            Part::Publish(topic, _) | Part::PublishDue(topic, _) => {
                let batch = part.batch();
                tail.extend_from_slice(&batch);
                let bytes = u32::try_from(batch.len()).unwrap();
                Operation::Publish(message::CommitPublish { topic: name(topic), bytes })
            }
            Part::Settle(subscription, verdict, deliveries) => Operation::Settle(message::Settle {
                subscription: *subscription,
                verdict: *verdict,
                delay_ms: message::BACKOFF,
                reason: String::from("why"),
                deliveries: deliveries.clone(),
            }),
            Part::Save(subscription, offset) => Operation::CursorSave(message::CursorSave {
                subscription: *subscription,
                offset: Offset(*offset),
            }),
        };
        let operations = parts.iter().map(operation).collect();
        let (producer, epoch, prev) = (self.id, self.epoch, self.last);
        let sequence = prev.next();
        (message::Commit { producer, epoch, sequence, prev, operations }, tail.into())
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn plain(body: &str) -> Message {
    let mut id = [0; 16];
    id.iter_mut().zip(body.bytes()).for_each(|(slot, byte)| *slot = byte);
    Message {
        id: MessageId(id),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..Message::default()
    }
}

pub(crate) fn batch_of(bodies: &[&str]) -> Bytes {
    batch(&bodies.iter().map(|body| plain(body)).collect::<Vec<_>>())
}

/// A batch of messages with the times at which they are due; 0 for none.
pub(crate) fn batch_due(due: &[(&str, u64)]) -> Bytes {
    let message = |(body, due): &(&str, u64)| Message { due_at: Timestamp(*due), ..plain(body) };
    batch(&due.iter().map(message).collect::<Vec<_>>())
}

pub(crate) fn batch(messages: &[Message]) -> Bytes {
    let mut builder = BatchBuilder::new();
    messages.iter().for_each(|message| builder.push(message).unwrap());
    builder.finish(Timestamp(1))
}

fn owned(message: &MessageRef<'_>) -> Message {
    let headers = message.entry.headers().unwrap().map(|header| {
        let (name, value) = header.unwrap();
        (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))
    });
    Message {
        id: message.entry.id,
        created_at: message.entry.created_at,
        key: message.entry.key.map(Bytes::copy_from_slice),
        headers: headers.collect(),
        priority: message.entry.priority,
        due_at: message.entry.due_at,
        expires_at: message.entry.expires_at,
        body: Bytes::copy_from_slice(message.body),
    }
}

pub(crate) fn code_of(reply: Reply) -> (ErrorCode, String) {
    let Reply::Refused(Refused { code, text, .. }) = reply else { panic!("not refused") };
    (ErrorCode::from_number(code).unwrap(), text)
}

pub(crate) fn committed(reply: Reply) -> Committed {
    let Reply::Committed(committed) = reply else { panic!("not committed: {reply:?}") };
    committed
}

/// Why a commit was refused: the code, and which operation and message is at fault.
pub(crate) fn fault(reply: Reply) -> (ErrorCode, Option<(u32, u32)>) {
    let Reply::Refused(Refused { code, at, .. }) = reply else { panic!("not refused: {reply:?}") };
    (ErrorCode::from_number(code).unwrap(), at.map(|at| (at.operation, at.message)))
}

pub(crate) fn receipt(reply: Reply) -> Receipt {
    let Reply::Receipt(receipt) = reply else { panic!("no receipt: {reply:?}") };
    receipt
}
