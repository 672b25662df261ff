//! One history: random steps made into inputs.

use super::super::shell::*;
use super::kept;
use crate::{Input, input::ConnectionId};
use bytes::Bytes;
use posthouse_protocol::message::{self, DeliveryRun, Verdict};
use posthouse_protocol::settings::{
    Durability, Mode, Overflow, Position, Retention, SubscriptionSettings, TopicSettings,
};
use posthouse_protocol::{
    ConsumerId, CorrelationId, ErrorCode, Fence, LogIndex, Name, Offset, ProducerEpoch, Reply,
    Request, Sequence, SubscriptionId, TopicId,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const TOPICS: usize = 3;
const SUBSCRIPTIONS: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Publish { topic: usize, sender: usize, count: usize, delay: Delay },
    Commit { sender: usize, parts: Vec<Part> },
    Repeat { sender: usize, back: usize },
    BreakChain { topic: usize, sender: usize },
    OpenProducer { sender: usize },
    Catalog(CatalogStep),
    Subscribe { connection: u64, topic: usize, subscription: usize },
    Credit { connection: u64, topic: usize, subscription: usize, more: u64, taken: u64 },
    Unsubscribe { connection: u64, topic: usize, subscription: usize },
    Settle { back: usize, part: u8, verdict: u8 },
    Extend { back: usize },
    SaveCursor { topic: usize, subscription: usize, offset: u64 },
    Fetch { topic: usize, from: u64, wait: u32 },
    Redrive { topic: usize, subscription: usize },
    Disconnect { connection: u64 },
    Advance { millis: u64 },
    Progress { written: u64, committed: u64 },
    AnswerLoads,
    Catch,
    Restart { clean: bool, extra: u64 },
}

/// Milliseconds until messages of a batch are due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delay {
    /// They have no time.
    None,
    /// The first, and how much later each one after it.
    Some(i64, u64),
    /// The first has a time, the others do not.
    Mixed(u64),
}

fn delay() -> impl Strategy<Value = Delay> {
    prop_oneof![
        30 => Just(Delay::None),
        9 => (-500..20_000_i64, 0..5_000_u64).prop_map(|(first, more)| Delay::Some(first, more)),
        1 => (1..20_000_u64).prop_map(Delay::Mixed),
    ]
}

/// An operation of a commit.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Publish { topic: usize, count: usize, delay: Delay },
    Settle { back: usize, part: u8, verdict: u8 },
    SaveCursor { topic: usize, subscription: usize, offset: u64 },
}

fn part() -> impl Strategy<Value = Part> {
    let (topic, subscription) = (0..TOPICS, 0..SUBSCRIPTIONS);
    prop_oneof![
        4 => (topic.clone(), 1..5_usize, delay())
            .prop_map(|(topic, count, delay)| Part::Publish { topic, count, delay }),
        4 => (0..8_usize, 0..8_u8, 0..8_u8)
            .prop_map(|(back, part, verdict)| Part::Settle { back, part, verdict }),
        1 => (topic, subscription, 0..20_u64).prop_map(|(topic, subscription, offset)| {
            Part::SaveCursor { topic, subscription, offset }
        }),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let (topic, subscription, sender) = (0..TOPICS, 0..SUBSCRIPTIONS, 0..3_usize);
    let place = (topic.clone(), subscription.clone());
    let reader = (1_u64..4, topic.clone(), subscription);
    prop_oneof![
        12 => (topic.clone(), sender.clone(), 1..5_usize, delay()).prop_map(
            |(topic, sender, count, delay)| Step::Publish { topic, sender, count, delay }
        ),
        8 => (sender.clone(), prop::collection::vec(part(), 0..4))
            .prop_map(|(sender, parts)| Step::Commit { sender, parts }),
        2 => (sender.clone(), 0..70_usize)
            .prop_map(|(sender, back)| Step::Repeat { sender, back }),
        1 => (topic.clone(), sender.clone())
            .prop_map(|(topic, sender)| Step::BreakChain { topic, sender }),
        1 => sender.prop_map(|sender| Step::OpenProducer { sender }),
        12 => catalog_step().prop_map(Step::Catalog),
        5 => reader.clone().prop_map(|(connection, topic, subscription)| {
            Step::Subscribe { connection, topic, subscription }
        }),
        8 => (reader.clone(), 0..12_u64, 0..4_u64).prop_map(|(reader, more, taken)| {
            let (connection, topic, subscription) = reader;
            Step::Credit { connection, topic, subscription, more, taken }
        }),
        1 => reader.prop_map(|(connection, topic, subscription)| {
            Step::Unsubscribe { connection, topic, subscription }
        }),
        12 => (0..8_usize, 0..8_u8, 0..8_u8)
            .prop_map(|(back, part, verdict)| Step::Settle { back, part, verdict }),
        1 => (0..8_usize).prop_map(|back| Step::Extend { back }),
        2 => (place.clone(), 0..20_u64).prop_map(|((topic, subscription), offset)| {
            Step::SaveCursor { topic, subscription, offset }
        }),
        1 => (topic, 0..20_u64, 0..2_u32)
            .prop_map(|(topic, from, wait)| Step::Fetch { topic, from, wait: wait * 500 }),
        1 => place.prop_map(|(topic, subscription)| Step::Redrive { topic, subscription }),
        2 => (1_u64..4).prop_map(|connection| Step::Disconnect { connection }),
        4 => (0..40_000_u64).prop_map(|millis| Step::Advance { millis }),
        4 => (0..6_u64, 0..6_u64)
            .prop_map(|(written, committed)| Step::Progress { written, committed }),
        3 => Just(Step::AnswerLoads),
        4 => Just(Step::Catch),
        2 => (any::<bool>(), 0..6_u64).prop_map(|(clean, extra)| Step::Restart { clean, extra }),
    ]
}

#[derive(Clone, Debug)]
pub(super) enum CatalogStep {
    CreateTopic { topic: usize, kind: u8 },
    AlterTopic { topic: usize, kind: u8 },
    DeleteTopic { topic: usize },
    PurgeTopic { topic: usize },
    CreateSubscription { topic: usize, subscription: usize, kind: u8 },
    DeleteSubscription { topic: usize, subscription: usize },
}

fn catalog_step() -> impl Strategy<Value = CatalogStep> {
    let topic = 0..TOPICS;
    let place = (0..TOPICS, 0..SUBSCRIPTIONS);
    prop_oneof![
        3 => (topic.clone(), 0..6_u8).prop_map(|(topic, kind)| CatalogStep::CreateTopic { topic, kind }),
        1 => (topic.clone(), 0..6_u8).prop_map(|(topic, kind)| CatalogStep::AlterTopic { topic, kind }),
        1 => topic.clone().prop_map(|topic| CatalogStep::DeleteTopic { topic }),
        1 => topic.prop_map(|topic| CatalogStep::PurgeTopic { topic }),
        4 => (place.clone(), 0..4_u8).prop_map(|((topic, subscription), kind)| {
            CatalogStep::CreateSubscription { topic, subscription, kind }
        }),
        1 => place
            .prop_map(|(topic, subscription)| CatalogStep::DeleteSubscription { topic, subscription }),
    ]
}

/// A publish or commit that was accepted, to be repeated.
#[derive(Clone, Debug)]
struct Sent {
    correlation: CorrelationId,
    epoch: ProducerEpoch,
    sequence: Sequence,
    request: Request,
    batch: Bytes,
}

/// A repeat gets the first result, or none.
pub(super) fn check_repeat(first: &Reply, again: &Reply) {
    match (first, again) {
        (Reply::Receipt(first), Reply::Receipt(again)) => {
            assert!(again.duplicate);
            assert!(again.base.is_none() || again.base == first.base);
        }
        (Reply::Committed(first), Reply::Committed(again)) => {
            assert!(again.duplicate);
            assert_eq!(again.published.len(), first.published.len());
            for (again, first) in again.published.iter().zip(&first.published) {
                assert!(again.base.is_none() || again.base == first.base);
                assert_eq!(again.count, first.count);
            }
        }
        (_, Reply::Refused(refused)) => {
            let gone = [ErrorCode::Fenced, ErrorCode::UnknownProducer].map(ErrorCode::number);
            assert!(gone.contains(&refused.code), "{refused:?}");
        }
        (_, again) => panic!("{again:?}"),
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) shell: Shell,
    /// The topics of every publish and commit, one for each batch.
    pub(super) asked: BTreeMap<CorrelationId, Vec<TopicId>>,
    pub(super) restarted: bool,
    senders: Vec<Sender>,
    sent: Vec<Vec<Sent>>,
    credit: BTreeMap<(u64, ConsumerId), u64>,
    published: u32,
}

impl Run {
    pub(super) fn new() -> Self {
        let mut shell = Shell::new();
        shell.create_topic("t0", topic_settings(0));
        shell.create_subscription("t0", "s0", subscription_settings(0));
        shell.create_topic("t1", topic_settings(2));
        shell.create_subscription("t1", "s0", subscription_settings(0));
        let senders =
            [None, Some("p1"), Some("p2")].map(|producer| shell.open_producer(producer)).to_vec();
        shell.prompt = false;
        let (asked, credit) = (BTreeMap::new(), BTreeMap::new());
        let sent = vec![Vec::new(); senders.len()];
        Self { shell, asked, restarted: false, senders, sent, credit, published: 0 }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { topic, sender, count, delay } => {
                self.publish(topic, sender, (count, delay));
            }
            Step::Commit { sender, ref parts } => self.commit(sender, parts),
            Step::Repeat { sender, back } => self.repeat(sender, back),
            Step::BreakChain { topic, sender } => self.break_chain(topic, sender),
            Step::OpenProducer { sender } => self.open_producer(sender),
            Step::Catalog(ref step) => self.catalog_step(step),
            Step::Subscribe { connection, topic, subscription } => {
                let consumer = consumer(topic, subscription);
                let (topic, subscription) = (topic_name(topic), subscription_name(subscription));
                let subscribe = message::Subscribe { consumer, topic, subscription };
                self.credit.insert((connection, consumer), 0);
                self.shell.send(ConnectionId(connection), subscribe);
            }
            Step::Credit { connection, topic, subscription, more, taken } => {
                let consumer = consumer(topic, subscription);
                let messages = self.credit.entry((connection, consumer)).or_default();
                *messages += more;
                let (messages, bytes) = (*messages, *messages * 60);
                let credit = message::Credit { consumer, messages, bytes, taken };
                self.shell.send(ConnectionId(connection), credit);
            }
            Step::Unsubscribe { connection, topic, subscription } => {
                let consumer = consumer(topic, subscription);
                self.shell.send(ConnectionId(connection), message::Unsubscribe { consumer });
            }
            Step::Settle { back, part, verdict } => self.settle(back, part, verdict),
            Step::Extend { back } => {
                if let Some((subscription, deliveries)) = self.delivered(back, 0) {
                    let extend = message::Extend { subscription, lease_ms: 5_000, deliveries };
                    self.shell.send(ALICE, extend);
                }
            }
            Step::SaveCursor { topic, subscription, offset } => {
                if let Some(subscription) = self.subscription(topic, subscription) {
                    let offset = Offset(offset);
                    self.shell.send(ALICE, message::CursorSave { subscription, offset });
                }
            }
            Step::Fetch { topic, from, wait } => {
                let topic = self.topic(topic);
                let from = Position::Offset(Offset(from));
                let (bytes_max, messages_max) = (1000, 10);
                let fetch = message::Fetch { topic, from, bytes_max, messages_max, wait_ms: wait };
                self.shell.send(BOB, fetch);
            }
            Step::Redrive { topic, subscription } => {
                let (topic, subscription) = (topic_name(topic), subscription_name(subscription));
                self.shell.send(ALICE, message::DeadRedrive { topic, subscription, limit: 3 });
            }
            Step::Disconnect { connection } => {
                self.credit.retain(|(held, _), _| *held != connection);
                self.shell.input(Input::Disconnected { connection: ConnectionId(connection) });
            }
            Step::Advance { millis } => self.shell.advance(millis),
            Step::Progress { written, committed } => self.progress(written, committed),
            Step::AnswerLoads => self.shell.answer_loads(),
            Step::Catch => self.shell.settle(),
            Step::Restart { clean, extra } => self.restart(clean, extra),
        }
    }

    fn catalog_step(&mut self, step: &CatalogStep) {
        let request: Request = match *step {
            CatalogStep::CreateTopic { topic, kind } => {
                let (topic, settings) = (topic_name(topic), topic_settings(kind));
                message::TopicCreate { topic, settings }.into()
            }
            CatalogStep::AlterTopic { topic, kind } => {
                let (topic, settings) = (topic_name(topic), topic_settings(kind));
                message::TopicAlter { topic, settings }.into()
            }
            CatalogStep::DeleteTopic { topic } => {
                message::TopicDelete { topic: topic_name(topic) }.into()
            }
            CatalogStep::PurgeTopic { topic } => {
                message::TopicPurge { topic: topic_name(topic) }.into()
            }
            CatalogStep::CreateSubscription { topic, subscription, kind } => {
                let start = if kind == 3 { Position::Latest } else { Position::Earliest };
                let settings = subscription_settings(kind);
                let (topic, subscription) = (topic_name(topic), subscription_name(subscription));
                message::SubscriptionCreate { topic, subscription, settings, start }.into()
            }
            CatalogStep::DeleteSubscription { topic, subscription } => {
                let (topic, subscription) = (topic_name(topic), subscription_name(subscription));
                message::SubscriptionDelete { topic, subscription }.into()
            }
        };
        self.shell.send(ALICE, request);
    }

    fn publish(&mut self, topic: usize, sender: usize, messages: (usize, Delay)) {
        let topic = self.topic(topic);
        let request = self.senders[sender].next(topic);
        let batch = self.new_batch(messages);
        self.send(sender, vec![topic], request.into(), batch);
    }

    fn new_batch(&mut self, (count, delay): (usize, Delay)) -> Bytes {
        self.published += 1;
        let now = self.shell.now.wall.0;
        let due = |at: u64| match delay {
            Delay::None => 0,
            Delay::Some(first, more) => now.saturating_add_signed(first) + at * more,
            Delay::Mixed(first) => {
                if at == 0 {
                    now + first
                } else {
                    0
                }
            }
        };
        let messages: Vec<(String, u64)> =
            (0..count as u64).map(|at| (format!("{}.{at}", self.published), due(at))).collect();
        let messages: Vec<_> = messages.iter().map(|(body, due)| (body.as_str(), *due)).collect();
        batch_due(&messages)
    }

    fn send(&mut self, sender: usize, topics: Vec<TopicId>, request: Request, batch: Bytes) {
        let connection = ConnectionId(1 + sender as u64 % 3);
        let frames = self.shell.frames.len();
        let correlation = self.shell.send_batch(connection, request.clone(), batch.clone());
        self.asked.insert(correlation, topics);
        let Sender { epoch, last, .. } = self.senders[sender];
        let sequence = last.next();
        let reply = &self.shell.answer_to(correlation).reply;
        if let Reply::Receipt(message::Receipt { duplicate: false, .. })
        | Reply::Committed(message::Committed { duplicate: false, .. }) = reply
        {
            self.senders[sender].last = sequence;
            self.sent[sender].push(Sent { correlation, epoch, sequence, request, batch });
        } else if let Reply::Refused(_) = reply {
            assert_eq!(self.shell.frames.len(), frames, "what is refused changes nothing");
        }
    }

    fn commit(&mut self, sender: usize, parts: &[Part]) {
        let (mut topics, mut tail) = (Vec::new(), Vec::new());
        let mut operations = Vec::new();
        for part in parts {
            match *part {
                Part::Publish { topic, count, delay } => {
                    let batch = self.new_batch((count, delay));
                    topics.push(self.topic(topic));
                    let bytes = u32::try_from(batch.len()).unwrap();
                    let publish = message::CommitPublish { topic: topic_name(topic), bytes };
                    operations.push(message::Operation::Publish(publish));
                    tail.extend_from_slice(&batch);
                }
                Part::Settle { back, part, verdict } => {
                    let settle = self.settlement(back, part, verdict);
                    operations.extend(settle.map(message::Operation::Settle));
                }
                Part::SaveCursor { topic, subscription, offset } => {
                    if let Some(subscription) = self.subscription(topic, subscription) {
                        let save = message::CursorSave { subscription, offset: Offset(offset) };
                        operations.push(message::Operation::CursorSave(save));
                    }
                }
            }
        }
        let Sender { id: producer, epoch, last: prev } = self.senders[sender];
        let sequence = prev.next();
        let commit = message::Commit { producer, epoch, sequence, prev, operations };
        self.send(sender, topics, commit.into(), tail.into());
    }

    fn repeat(&mut self, sender: usize, back: usize) {
        let sent = self.sent[sender].iter().rev().nth(back).cloned();
        let Some(Sent { correlation, request, batch, .. }) = sent else { return };
        let again = self.shell.send_batch(ALICE, request, batch);
        let topics = self.asked.get(&correlation).cloned().unwrap_or_default();
        self.asked.insert(again, topics);
        let (first, again) = (self.shell.answer_to(correlation), self.shell.answer_to(again));
        check_repeat(&first.reply, &again.reply);
    }

    fn break_chain(&mut self, topic: usize, sender: usize) {
        let request = self.senders[sender].next(self.topic(topic));
        let prev = Sequence(request.prev.0 + 5);
        let sequence = Sequence(prev.0 + 1);
        let wrong = message::Publish { prev, sequence, ..request };
        let reply = self.shell.publish_as(&wrong, &["x"]);
        assert!(matches!(reply, Reply::Refused(_)), "a gap is never accepted");
    }

    fn open_producer(&mut self, sender: usize) {
        let producer = [None, Some("p1"), Some("p2")][sender];
        let before = self.senders[sender];
        self.senders[sender] = self.shell.open_producer(producer);
        if self.senders[sender].id != before.id {
            self.sent[sender].clear();
        }
    }

    fn delivered(&self, back: usize, part: u8) -> Option<(SubscriptionId, Vec<DeliveryRun>)> {
        let deliver = self.shell.deliveries.iter().rev().nth(back)?;
        let runs = deliver.runs.iter().map(|run| {
            let skipped = u32::from(part & 3).min(run.count - 1);
            let counter = run.fence_counter + u64::from(skipped);
            let fence = Fence { epoch: deliver.fence_epoch, counter };
            let left = run.count - skipped;
            let count = if part & 4 == 0 { left } else { 1 };
            DeliveryRun { first: run.first.plus(u64::from(skipped)), fence, count }
        });
        Some((deliver.subscription, runs.collect()))
    }

    fn settle(&mut self, back: usize, part: u8, verdict: u8) {
        if let Some(settle) = self.settlement(back, part, verdict) {
            self.shell.send(ConnectionId(1), settle);
        }
    }

    fn settlement(&self, back: usize, part: u8, verdict: u8) -> Option<message::Settle> {
        let (subscription, deliveries) = self.delivered(back, part)?;
        let (verdict, delay_ms) = match verdict {
            0..4 => (Verdict::Ack, 0),
            4 => (Verdict::Nack, message::BACKOFF),
            5 => (Verdict::Nack, 3_000),
            6 => (Verdict::Release, 0),
            _ => (Verdict::Reject, 0),
        };
        let reason = String::from("why");
        Some(message::Settle { subscription, verdict, delay_ms, reason, deliveries })
    }

    fn progress(&mut self, written: u64, committed: u64) {
        let last = self.shell.last().0;
        let written = (self.shell.written.0 + written).min(last);
        let committed = (self.shell.committed.0 + committed).min(written);
        self.shell.progress(LogIndex(written), LogIndex(committed));
    }

    fn restart(&mut self, clean: bool, extra: u64) {
        let kept = if clean { self.shell.last() } else { kept(&self.shell, extra) };
        self.shell.restart_from(kept, clean);
        self.resume();
    }

    /// Starts again without the frames in `lost`.
    pub(super) fn lose(&mut self, lost: &BTreeSet<LogIndex>) {
        self.shell.restart_without(lost);
        self.sent.iter_mut().for_each(Vec::clear);
        self.resume();
    }

    fn resume(&mut self) {
        self.credit.clear();
        self.restarted = true;
        let state = self.shell.engine.state();
        for (sender, sent) in self.senders.iter_mut().zip(&mut self.sent) {
            let known = state.producers.get(&sender.id);
            let last = known.map_or(Sequence::ZERO, |producer| producer.last);
            sender.last = last;
            sent.retain(|sent| sent.sequence <= last);
        }
        self.published += 1000;
    }

    /// What each producer's latest results are, to be asked for again.
    pub(super) fn accepted_suffixes(&self) -> Vec<(Request, Bytes, Reply)> {
        let mut all = Vec::new();
        for (sender, sent) in self.senders.iter().zip(&self.sent) {
            let known = self.shell.engine.state().producers.get(&sender.id);
            if known.is_none_or(|producer| producer.epoch != sender.epoch) {
                continue;
            }
            for sent in sent.iter().filter(|sent| sent.epoch == sender.epoch) {
                let first = self.shell.answer_to(sent.correlation).reply.clone();
                all.push((sent.request.clone(), sent.batch.clone(), first));
            }
        }
        all
    }

    fn topic(&self, topic: usize) -> TopicId {
        let found = self.shell.engine.state().topic_named(&topic_name(topic));
        found.map_or(TopicId(999), |topic| topic.id)
    }

    fn subscription(&self, topic: usize, subscription: usize) -> Option<SubscriptionId> {
        let (topic, subscription) = (topic_name(topic), subscription_name(subscription));
        let found = self.shell.engine.state().subscription_named(&topic, &subscription);
        found.map(|subscription| subscription.id)
    }
}

fn consumer(topic: usize, subscription: usize) -> ConsumerId {
    ConsumerId(u32::try_from(topic * SUBSCRIPTIONS + subscription).unwrap() + 1)
}

fn topic_name(topic: usize) -> Name {
    name(&format!("t{topic}"))
}

fn subscription_name(subscription: usize) -> Name {
    name(&format!("s{subscription}"))
}

fn topic_settings(kind: u8) -> TopicSettings {
    let usual = TopicSettings::default();
    match kind {
        0 | 1 => usual,
        2 => TopicSettings { durability: Durability::Written, ..usual },
        3 => TopicSettings { retention: Retention::Limits, messages_max: 7, ..usual },
        4 => TopicSettings { overflow: Overflow::DropOldest, messages_max: 6, ..usual },
        _ => TopicSettings { age_ms_max: 60_000, durability: Durability::Written, ..usual },
    }
}

fn subscription_settings(kind: u8) -> SubscriptionSettings {
    let usual = SubscriptionSettings::default();
    match kind {
        0 => SubscriptionSettings { attempts_max: 2, ..usual },
        1 => SubscriptionSettings { mode: Mode::Stream, ..usual },
        2 => SubscriptionSettings { attempts_max: 1, dead_letter: false, ..usual },
        _ => usual,
    }
}
