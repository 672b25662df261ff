//! What the broker has promised: every frame that left it, read over its shoulder.
//!
//! A promise counts from the moment at which its frame left, whether or not it ever arrived. After
//! every recovery the ledger is held against what the recovered broker would serve.

mod audit;
mod commits;

use crate::wire;
use bytes::Bytes;
use commits::{Committing, Whole};
use posthouse_engine::Input;
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::batch::{BatchView, MessageRef};
use posthouse_protocol::message::{
    CursorSave, Deliver, DeliveryRun, Fetched, Settle, Settled, Verdict,
};
use posthouse_protocol::settings::{Durability, Mode};
use posthouse_protocol::tail::Part;
use posthouse_protocol::{
    ConsumerId, CorrelationId, Name, Offset, PartitionId, ProducerId, Reply, Request, Sequence,
    SubscriptionId, Timestamp, TopicId,
};
use std::collections::{BTreeMap, BTreeSet};

/// Promises, by topic.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    topics: BTreeMap<TopicId, Topic>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    asked: BTreeMap<(ConnectionId, CorrelationId), Asked>,
    consumers: BTreeMap<(ConnectionId, ConsumerId), SubscriptionId>,
    topic_ids: BTreeMap<Name, TopicId>,
    subscription_ids: BTreeMap<(TopicId, Name), SubscriptionId>,
    /// Messages that were seen at a second offset: redriven ones.
    moved: BTreeSet<[u8; 16]>,
    /// Delayed messages, with the number of the frame that says first that they were accepted.
    delayed: BTreeMap<(TopicId, [u8; 16]), Promise>,
    /// Where a message was seen first.
    places: BTreeMap<(TopicId, [u8; 16]), u64>,
    /// Every commit that was ever asked for, by producer and sequence.
    commits: BTreeMap<(ProducerId, Sequence), Whole>,
    /// Frames that have left.
    left: u64,
    /// Promises that contradict each other.
    pub(crate) contradictions: Vec<String>,
}

#[derive(Debug)]
struct Topic {
    partition: PartitionId,
    is_synced: bool,
    is_dead_letters: bool,
    /// Number of the frame that says that it was made.
    since: u64,
    messages: BTreeMap<u64, Promise>,
}

/// A message is at an offset.
#[derive(Clone, Copy, Debug)]
struct Promise {
    id: [u8; 16],
    crc: u32,
    /// Number of the frame that says so first.
    since: u64,
}

#[derive(Debug)]
struct Subscription {
    topic: TopicId,
    mode: Mode,
    /// Settled for certain, with the number of the frame that says so.
    settled: BTreeMap<u64, u64>,
    /// Somebody asked for it to be settled.
    perhaps: BTreeSet<u64>,
    /// Saved cursors, with the number of the frame that says so.
    cursors: Vec<(u64, Offset)>,
    cursor_perhaps: Offset,
}

/// What is known of a message that is sent.
#[derive(Clone, Copy, Debug)]
struct Content {
    id: [u8; 16],
    crc: u32,
    is_delayed: bool,
}

/// A request whose answer is a promise.
#[derive(Debug)]
enum Asked {
    Publish { topic: TopicId, messages: Vec<Content> },
    Settle { subscription: SubscriptionId, verdict: Verdict, runs: Vec<DeliveryRun> },
    Cursor { subscription: SubscriptionId, offset: Offset },
    Fetch { topic: TopicId },
    Commit(Committing),
}

impl Ledger {
    /// A client sends a request.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most requests promise nothing")]
    pub(crate) fn sent(&mut self, connection: ConnectionId, frame: &Bytes) {
        let Input::Request { correlation, request, batch, .. } =
            wire::read_request(connection, frame)
        else {
            return;
        };
        let asked = match request {
            Request::Publish(request) => {
                Asked::Publish { topic: request.topic, messages: messages_of(&batch) }
            }
            Request::Settle(request) => {
                self.may_settle(&request);
                let Settle { subscription, verdict, deliveries, .. } = request;
                Asked::Settle { subscription, verdict, runs: deliveries }
            }
            Request::Commit(request) => Asked::Commit(self.commit_asked(&request, &batch)),
            Request::CursorSave(request) => {
                self.may_save(&request);
                Asked::Cursor { subscription: request.subscription, offset: request.offset }
            }
            Request::Fetch(request) => Asked::Fetch { topic: request.topic },
            Request::Subscribe(request) => {
                let topic = self.topic_ids.get(&request.topic);
                let key = topic.map(|topic| (*topic, request.subscription));
                if let Some(id) = key.and_then(|key| self.subscription_ids.get(&key)) {
                    self.consumers.insert((connection, request.consumer), *id);
                }
                return;
            }
            _ => return,
        };
        self.asked.insert((connection, correlation), asked);
    }

    /// A frame has left the broker.
    pub(crate) fn left(&mut self, connection: ConnectionId, frame: &Bytes) {
        self.left += 1;
        let (correlation, reply, tail) = wire::read_reply(frame);
        let asked = self.asked.remove(&(connection, correlation));
        match (reply, asked) {
            (Reply::Deliver(deliver), _) => self.delivered(connection, &deliver, &tail),
            (Reply::Fetched(fetched), Some(Asked::Fetch { topic })) => {
                self.fetched(topic, &fetched, &tail);
            }
            (Reply::Receipt(receipt), Some(Asked::Publish { topic, messages })) => {
                self.accepted(topic, receipt.base, &messages);
            }
            (Reply::Settled(settled), Some(Asked::Settle { subscription, verdict, runs })) => {
                if verdict == Verdict::Ack {
                    self.settled(subscription, &runs, &settled);
                }
            }
            (Reply::Done(_), Some(Asked::Cursor { subscription, offset })) => {
                self.saved(subscription, offset);
            }
            (Reply::Committed(committed), Some(Asked::Commit(asked))) => {
                self.committed(asked, &committed);
            }
            (reply, _) => self.learn(reply),
        }
    }

    fn may_settle(&mut self, request: &Settle) {
        if matches!(request.verdict, Verdict::Ack | Verdict::Reject)
            && let Some(known) = self.subscriptions.get_mut(&request.subscription)
        {
            known.perhaps.extend(request.deliveries.iter().flat_map(offsets));
        }
    }

    fn may_save(&mut self, request: &CursorSave) {
        if let Some(known) = self.subscriptions.get_mut(&request.subscription) {
            known.cursor_perhaps = known.cursor_perhaps.max(request.offset);
        }
    }

    fn saved(&mut self, subscription: SubscriptionId, offset: Offset) {
        if let Some(known) = self.subscriptions.get_mut(&subscription) {
            known.cursors.push((self.left, offset));
        }
    }

    /// The power was lost: what was promised of `written` topics is excused.
    pub(crate) fn power_lost(&mut self) {
        let mut excused = BTreeSet::new();
        for (id, topic) in self.topics.iter_mut().filter(|(_, topic)| !topic.is_synced) {
            excused.insert(*id);
            topic.messages.values_mut().for_each(|promise| promise.since = u64::MAX);
        }
        for ((topic, _), promise) in &mut self.delayed {
            if excused.contains(topic) {
                promise.since = u64::MAX;
            }
        }
        for known in self.subscriptions.values_mut() {
            if excused.contains(&known.topic) {
                known.perhaps.extend(std::mem::take(&mut known.settled).into_keys());
                known.cursors.clear();
            }
        }
    }

    /// What the broker's start has made of connections and requests under way: nothing.
    pub(crate) fn forget_connections(&mut self) {
        self.asked.clear();
        self.consumers.clear();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most replies teach nothing")]
    fn learn(&mut self, reply: Reply) {
        match reply {
            Reply::TopicInfo(info) => {
                self.topic_ids.insert(info.topic.clone(), info.id);
                self.topics.entry(info.id).or_insert_with(|| Topic {
                    partition: info.partition,
                    is_synced: info.settings.durability == Durability::Synced,
                    is_dead_letters: info.topic.as_str().ends_with(".dead"),
                    since: self.left,
                    messages: BTreeMap::new(),
                });
            }
            Reply::SubscriptionInfo(info) => {
                self.subscription_ids.insert((info.topic, info.subscription), info.id);
                self.subscriptions.entry(info.id).or_insert_with(|| Subscription {
                    topic: info.topic,
                    mode: info.settings.mode,
                    settled: BTreeMap::new(),
                    perhaps: BTreeSet::new(),
                    cursors: Vec::new(),
                    cursor_perhaps: Offset::ZERO,
                });
            }
            _ => {}
        }
    }

    fn delivered(&mut self, connection: ConnectionId, deliver: &Deliver, tail: &Bytes) {
        let subscription = self.consumers.get(&(connection, deliver.consumer));
        let known = subscription.and_then(|id| self.subscriptions.get(id));
        let Some(topic) = known.map(|known| known.topic) else { return };
        let parts = deliver.parts(tail).expect("deliveries take apart");
        for (slice, part) in deliver.slices.iter().zip(&parts) {
            self.seen(topic, slice.slice.first, part);
        }
    }

    fn fetched(&mut self, topic: TopicId, fetched: &Fetched, tail: &Bytes) {
        let parts = fetched.parts(tail).expect("fetched slices take apart");
        for (slice, part) in fetched.slices.iter().zip(&parts) {
            self.seen(topic, slice.first, part);
        }
    }

    fn seen(&mut self, topic: TopicId, first: Offset, part: &Part) {
        for (offset, message) in (first.0..).zip(part.messages()) {
            self.promise(topic, offset, message.entry.id.0, crc32fast::hash(message.body));
        }
    }

    /// A batch was accepted: its messages are where it says, or wait if they may.
    fn accepted(&mut self, topic: TopicId, base: Option<Offset>, messages: &[Content]) {
        if let Some(base) = base {
            for (offset, content) in (base.0..).zip(messages) {
                self.promise(topic, offset, content.id, content.crc);
            }
            return;
        }
        let since = self.left;
        for content in messages.iter().filter(|content| content.is_delayed) {
            let Content { id, crc, .. } = *content;
            self.delayed.entry((topic, id)).or_insert(Promise { id, crc, since });
        }
    }

    fn promise(&mut self, topic: TopicId, offset: u64, id: [u8; 16], crc: u32) {
        let place = *self.places.entry((topic, id)).or_insert(offset);
        if place != offset {
            self.moved.insert(id);
        }
        let since = self.left;
        let Some(known) = self.topics.get_mut(&topic) else { return };
        let held = known.messages.entry(offset).or_insert(Promise { id, crc, since });
        held.since = held.since.min(since);
        if (held.id, held.crc) != (id, crc) {
            self.contradictions.push(format!("topic {topic} offset {offset} is two messages"));
        }
    }

    fn settled(&mut self, subscription: SubscriptionId, runs: &[DeliveryRun], reply: &Settled) {
        let refused: BTreeSet<u64> = reply
            .refused
            .iter()
            .flat_map(|run| run.first.0..run.first.0 + u64::from(run.count))
            .collect();
        let Some(known) = self.subscriptions.get_mut(&subscription) else { return };
        for offset in runs.iter().flat_map(offsets).filter(|offset| !refused.contains(offset)) {
            known.settled.entry(offset).or_insert(self.left);
        }
    }
}

fn offsets(run: &DeliveryRun) -> std::ops::Range<u64> {
    run.first.0..run.first.0 + u64::from(run.count)
}

fn messages_of(batch: &Bytes) -> Vec<Content> {
    let view = BatchView::parse_trusted(batch).expect("clients send sound batches");
    let content = |message: MessageRef<'_>| Content {
        id: message.entry.id.0,
        crc: crc32fast::hash(message.body),
        is_delayed: message.entry.due_at != Timestamp::ZERO,
    };
    view.messages().map(content).collect()
}
