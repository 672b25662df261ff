//! What a history amounts to, kept as plain sets: slow, short, and not made from the same parts.

use crate::State;
use crate::effect::Append;
use crate::event::{Event, HandedOut, Published, SubscriptionCreated};
use posthouse_protocol::settings::{Durability, Retention};
use posthouse_protocol::{LogIndex, Offset, PartitionId, SubscriptionId, Timestamp, TopicId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Model {
    topics: BTreeMap<TopicId, Topic>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// First offset and frame of every batch ever stored, and whether the topic was `written`.
    batches: BTreeMap<(TopicId, Offset), (LogIndex, bool)>,
    /// What waits of each topic, and until when.
    waiting: BTreeMap<PartitionId, (TopicId, BTreeMap<u64, Timestamp>)>,
    /// What was handed out since the last look, none of which was settled at that moment.
    handed_out: BTreeSet<(SubscriptionId, Offset)>,
}

#[derive(Debug)]
struct Topic {
    partition: PartitionId,
    retention: Retention,
    next: u64,
    ever_written: bool,
    /// What is there, releases left out.
    present: BTreeSet<u64>,
}

#[derive(Debug)]
struct Subscription {
    topic: TopicId,
    unsettled: BTreeSet<u64>,
}

impl Model {
    pub(super) fn apply(&mut self, frame: &Append) {
        for event in &frame.events {
            self.apply_event(frame.index, event);
        }
        self.check_delays(frame);
        self.release();
    }

    fn apply_event(&mut self, index: LogIndex, event: &Event) {
        match event {
            Event::Started(event) if !event.clean || event.skips > 0 => {
                for topic in self.topics.values_mut() {
                    if topic.ever_written || event.skips > 0 {
                        topic.next += u64::from(event.skips.max(1)) << 32;
                    }
                }
            }
            Event::TopicCreated(event) => {
                let retention = event.settings.retention;
                let (partition, present) = (event.partition, BTreeSet::new());
                let ever_written = event.settings.durability == Durability::Written;
                let topic = Topic { partition, retention, next: 0, ever_written, present };
                self.topics.insert(event.id, topic);
            }
            Event::TopicAltered(event) => {
                let topic = self.topic(event.id);
                topic.retention = event.settings.retention;
                topic.ever_written |= event.settings.durability == Durability::Written;
            }
            Event::TopicTrimmed(event) => {
                let start = event.start.0;
                self.topic(event.id).present.retain(|offset| *offset >= start);
                let of_it = self.subscriptions.values_mut().filter(|it| it.topic == event.id);
                for subscription in of_it {
                    subscription.unsettled = subscription.unsettled.split_off(&start);
                }
            }
            Event::TopicDeleted(event) => {
                self.topics.remove(&event.id);
                self.waiting.retain(|_, (topic, _)| *topic != event.id);
                self.subscriptions.retain(|_, subscription| subscription.topic != event.id);
            }
            Event::SubscriptionCreated(event) => self.subscription_created(event),
            Event::SubscriptionDeleted(event) => {
                self.subscriptions.remove(&event.id);
            }
            Event::Published(event) => self.published(index, event),
            Event::Settled(event) => {
                for run in &event.runs {
                    for offset in run.first.0..run.first.0 + run.count {
                        self.settle(event.subscription, offset);
                    }
                }
            }
            Event::HandedOut(event) => self.handed_out(event),
            Event::DeadLettered(event) => self.settle(event.subscription, event.offset.0),
            Event::CursorSaved(event) => {
                let found = self.subscriptions.get_mut(&event.subscription).expect("exists");
                let present = &self.topics.get(&found.topic).expect("a topic").present;
                found.unsettled = present.range(event.offset.0..).copied().collect();
            }
            Event::Delayed(event) => {
                let fresh = (event.topic, BTreeMap::new());
                let (_, waiting) = self.waiting.entry(event.partition).or_insert(fresh);
                waiting.extend((event.base.0..).zip(event.due.iter().copied()));
            }
            Event::Started(_)
            | Event::DelayEnded(_)
            | Event::ProducerOpened(_)
            | Event::ProducerForgotten(_)
            | Event::Failed(_)
            | Event::Rejected(_)
            | Event::Committed(_) => {}
        }
        self.release();
    }

    /// What leaves a waiting room is due and published in the same frame, each message once, or
    /// purged with its topic.
    fn check_delays(&mut self, frame: &Append) {
        let is_purge = frame
            .events
            .iter()
            .all(|event| matches!(event, Event::TopicTrimmed(_) | Event::DelayEnded(_)));
        for event in &frame.events {
            let Event::DelayEnded(event) = event else { continue };
            let (topic, waiting) = self.waiting.get_mut(&event.partition).expect("a room");
            let ranges = event.runs.iter().map(|run| run.first.0..run.first.0 + run.count);
            let gone: Vec<u64> = ranges.flatten().filter(|at| waiting.contains_key(at)).collect();
            let mut published = 0;
            for event in &frame.events {
                if let Event::Published(event) = event
                    && event.topic == *topic
                {
                    published += event.count as usize;
                }
            }
            assert!(is_purge || gone.len() == published, "{gone:?} leave and {published} come");
            for at in gone {
                let due = waiting.remove(&at).expect("it waits");
                assert!(is_purge || due <= frame.time, "published before it is due");
            }
        }
    }

    fn subscription_created(&mut self, event: &SubscriptionCreated) {
        let topic = self.topics.get(&event.topic).expect("a topic");
        let unsettled = topic.present.range(event.start.0..).copied().collect();
        self.subscriptions.insert(event.id, Subscription { topic: event.topic, unsettled });
    }

    fn published(&mut self, index: LogIndex, event: &Published) {
        let topic = self.topics.get_mut(&event.topic).expect("a topic");
        assert_eq!(topic.next, event.base.0, "offsets are dense and never given again");
        let offsets = topic.next..topic.next + u64::from(event.count);
        topic.next = offsets.end;
        topic.ever_written |= event.written;
        topic.present.extend(offsets.clone());
        self.batches.insert((event.topic, event.base), (index, event.written));
        for subscription in self.subscriptions.values_mut() {
            if subscription.topic == event.topic {
                subscription.unsettled.extend(offsets.clone());
            }
        }
    }

    fn topic(&mut self, id: TopicId) -> &mut Topic {
        self.topics.get_mut(&id).expect("a topic")
    }

    /// By the order of the frames, so that what follows in the same step is no excuse.
    fn handed_out(&mut self, event: &HandedOut) {
        let id = event.subscription;
        let unsettled = &self.subscriptions.get(&id).expect("a subscription").unsettled;
        for run in &event.runs {
            for offset in run.first.0..run.first.0 + u64::from(run.count) {
                assert!(
                    unsettled.contains(&offset),
                    "{offset} of {id} is handed out although settled"
                );
                self.handed_out.insert((id, Offset(offset)));
            }
        }
    }

    fn settle(&mut self, id: SubscriptionId, offset: u64) {
        let subscription = self.subscriptions.get_mut(&id).expect("a subscription");
        subscription.unsettled.remove(&offset);
    }

    /// Takes away what every subscription has settled, for good.
    fn release(&mut self) {
        for (id, topic) in &mut self.topics {
            let readers: Vec<_> =
                self.subscriptions.values().filter(|reader| reader.topic == *id).collect();
            if topic.retention == Retention::Settled && !readers.is_empty() {
                let wanted = |at: &u64| readers.iter().any(|reader| reader.unsettled.contains(at));
                topic.present.retain(|offset| wanted(offset));
            }
        }
    }

    /// The state says the same, message by message.
    pub(super) fn check(&self, state: &State) {
        assert_eq!(self.topics.len(), state.topics.len());
        assert_eq!(self.subscriptions.len(), state.subscriptions.len());
        for (id, topic) in &self.topics {
            let needed = state.needed(topic.partition);
            let needed: BTreeSet<u64> =
                needed.iter().flat_map(|range| range.start.0..range.end.0).collect();
            assert_eq!(needed, topic.present, "what topic {id} has");
            let retained = state.retained(topic.partition).expect("a partition");
            assert_eq!(retained.messages(), topic.present.len() as u64);
            assert_eq!(state.partitions[&topic.partition].next.0, topic.next);
        }
        for (id, (topic, waiting)) in &self.waiting {
            let room = state.waiting.get(*id).expect("a waiting room");
            assert_eq!(state.topics[topic].waiting_room, Some(*id));
            let due: BTreeMap<u64, _> = room.iter().map(|(at, due)| (at.0, due)).collect();
            assert_eq!(&due, waiting, "what waits for topic {topic}");
            let needed = state.needed(*id).into_iter().flat_map(|range| range.start.0..range.end.0);
            assert!(needed.eq(waiting.keys().copied()), "what waits stays readable");
        }
        let waiting = self.waiting.values().map(|(_, waiting)| waiting.len());
        assert_eq!(waiting.sum::<usize>(), state.waiting.messages());
        for (id, subscription) in &self.subscriptions {
            self.check_subscription(state, *id, subscription);
        }
    }

    fn check_subscription(&self, state: &State, id: SubscriptionId, expected: &Subscription) {
        let found = state.subscriptions.get(&id).expect("a subscription");
        let next = Offset(self.topics[&expected.topic].next);
        assert_eq!(found.backlog(next), expected.unsettled.len() as u64, "backlog of {id}");
        for offset in expected.unsettled.iter().copied().map(Offset) {
            assert!(!found.is_settled(offset), "{offset} of {id} is not settled");
        }
        let places = found
            .handed_in(Offset::ZERO..Offset::MAX)
            .flat_map(|(part, _)| part.start.0..part.end.0);
        let places: BTreeSet<u64> = places.collect();
        assert!(places.is_subset(&expected.unsettled), "only unsettled messages are handed out");
        for offset in found.failures.keys().chain(found.rejected.keys()) {
            assert!(expected.unsettled.contains(&offset.0), "{offset} has failed and is settled");
        }
        for offset in found.rejected.keys() {
            assert!(!places.contains(&offset.0), "{offset} is rejected and handed out");
            assert!(!found.failures.contains_key(offset), "{offset} is rejected and delayed");
        }
    }

    pub(super) fn frame_of(&self, topic: TopicId, base: Offset) -> Option<LogIndex> {
        self.batches.get(&(topic, base)).map(|(index, _)| *index)
    }

    /// The frame of the message at `offset`, and whether it may be seen before that is committed.
    pub(super) fn source_of(&self, partition: PartitionId, offset: Offset) -> (LogIndex, bool) {
        let of = |(_, topic): &(&TopicId, &Topic)| topic.partition == partition;
        let (topic, _) = self.topics.iter().find(of).expect("a topic");
        let before = self.batches.range((*topic, Offset::ZERO)..=(*topic, offset));
        *before.last().expect("a stored message").1
    }

    pub(super) fn is_written(&self, topic: TopicId, base: Offset) -> bool {
        self.batches.get(&(topic, base)).is_some_and(|(_, written)| *written)
    }

    /// Whether a message is unsettled, or was so when it was handed out in the last step.
    pub(super) fn was_unsettled(&self, id: SubscriptionId, offset: Offset) -> bool {
        let now = self.subscriptions.get(&id);
        now.is_none_or(|subscription| subscription.unsettled.contains(&offset.0))
            || self.handed_out.contains(&(id, offset))
    }

    pub(super) fn forget_past(&mut self) {
        self.handed_out.clear();
    }
}
