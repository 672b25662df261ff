//! What damage does to the state: frames that are lost leave events behind that do not fit.
//!
//! Until a frame is lost, every event must fit exactly. From then on what cannot be explained
//! otherwise is taken for a consequence: offsets that were passed over hold nothing and are settled
//! everywhere, a name given twice has lost its first owner in between, and events about something
//! unknown are left out. Numbers never fall behind what the journal shows to have been given.

use super::{Partition, State, Subscription, Topic, WaitingRoom};
use crate::event::{self, Event};
use posthouse_protocol::{
    IdMap, LogIndex, Offset, PartitionId, ProducerId, StartEpoch, SubscriptionId, Timestamp,
    TopicId,
};
use std::ops::Range;

/// How many ids of each kind a start passes over, for each of its skips.
const ID_SKIP: u32 = 1 << 20;
/// So many lost frames make one skip more: the ids that they gave must fit in.
const FRAMES_PER_SKIP: u64 = 1 << 18;

impl State {
    /// Frames `first` to `last` are damaged and will never be applied.
    pub fn lost(&mut self, first: LogIndex, last: LogIndex) {
        self.index = last;
        self.is_lossy = true;
        self.lost = self.lost.saturating_add(last.0.saturating_sub(first.0).saturating_add(1));
    }

    /// How many skips the start `epoch` makes, so that nothing is given again that was given in
    /// frames that are lost; 0 if none can be. `damaged` says that some may be lost unnoticed.
    pub(crate) fn skips_of(&self, epoch: StartEpoch, damaged: bool) -> u32 {
        // Above one if a start has left no word of what it found.
        let starts = u64::from(epoch.0.saturating_sub(self.start_epoch.0));
        if !damaged && self.lost == 0 && starts <= 1 {
            return 0;
        }
        // Each lost frame may have been a start that skipped, too.
        let of_starts = starts.saturating_add(self.owed).min(self.lost.saturating_add(1)).max(1);
        u32::try_from(of_starts + self.lost / FRAMES_PER_SKIP).unwrap_or(u32::MAX)
    }

    /// A start `epochs` after the one before has made skips for `known` lost frames. Damage found
    /// later is not among them: the next start must make skips for it.
    pub(super) fn explain(&mut self, epochs: u64, known: u64) {
        self.lost = self.lost.saturating_sub(known);
        let lost_starts = epochs.min(self.lost.saturating_add(1));
        self.owed = if self.lost == 0 { 0 } else { self.owed.saturating_add(lost_starts) };
    }

    /// Passes over ids that lost frames may have given.
    pub(super) fn skip_ids(&mut self, skips: u32) {
        let count = ID_SKIP.saturating_mul(skips);
        let last = &mut self.last_ids;
        last.topic = TopicId(last.topic.0.saturating_add(count));
        last.partition = PartitionId(last.partition.0.saturating_add(count));
        last.subscription = SubscriptionId(last.subscription.0.saturating_add(count));
        last.producer = ProducerId(last.producer.0.saturating_add(u64::from(count)));
    }

    /// After a loss, makes the state one that `event` fits; false if the event has lost what it is
    /// about.
    pub(super) fn fit(&mut self, time: Timestamp, event: &Event) -> bool {
        match event {
            Event::Started(_) => true,
            Event::TopicCreated(event) => {
                if let Some(id) = self.topic_ids.get(&event.topic).copied() {
                    // Cannot fail: it is there.
                    let _ = self.topic_deleted(&event::TopicDeleted { id });
                }
                true
            }
            Event::TopicAltered(event) => self.reach(event.id, Offset::ZERO),
            Event::TopicTrimmed(event) => self.reach(event.id, event.start),
            Event::TopicDeleted(event) => self.reach(event.id, Offset::ZERO),
            Event::SubscriptionCreated(event) => self.fit_subscription(event),
            Event::SubscriptionDeleted(event) => self.reach_in(event.id, Offset::ZERO),
            Event::ProducerOpened(event) => {
                let owner = event.name.as_ref().and_then(|name| self.producer_ids.get(name));
                if let Some(id) = owner.copied().filter(|id| *id != event.id) {
                    // Cannot fail: it is there.
                    let _ = self.producer_forgotten(&event::ProducerForgotten { id });
                }
                true
            }
            Event::ProducerForgotten(event) => self.knows_producer(event.id),
            Event::Published(event) => {
                let sender = event.sender.as_ref().map(|sender| sender.producer);
                let is_known = sender.is_some_and(|id| self.knows_producer(id));
                let has_place = self.reach(event.topic, event.base);
                if !has_place && is_known {
                    // Its message is lost with the topic, and its number was used nevertheless.
                    let (sender, placed) = (event.sender.as_ref(), event.placed());
                    let _ = self.accept(time, sender, &placed, event.written);
                }
                has_place
            }
            Event::HandedOut(event) => {
                let ends = event.runs.iter().map(|run| run.first.plus(u64::from(run.count)));
                self.reach_in(event.subscription, ends.max().unwrap_or_default())
            }
            Event::Settled(event) => {
                let ends = event.runs.iter().map(|run| run.first.plus(run.count));
                self.reach_in(event.subscription, ends.max().unwrap_or_default())
            }
            Event::Failed(event) => self.reach_in(event.subscription, event.offset.next()),
            Event::Rejected(event) => self.reach_in(event.subscription, event.offset.next()),
            Event::DeadLettered(event) => self.reach_in(event.subscription, event.offset.next()),
            Event::CursorSaved(event) => self.reach_in(event.subscription, event.offset),
            Event::Committed(event) => self.knows_producer(event.producer),
            Event::Delayed(event) => self.fit_delayed(time, event),
            Event::DelayEnded(event) => {
                let ends = event.runs.iter().map(|run| run.first.plus(run.count));
                self.reach_room(event.partition, ends.max().unwrap_or_default())
            }
        }
    }

    fn fit_delayed(&mut self, time: Timestamp, event: &event::Delayed) -> bool {
        let sender = event.sender.as_ref();
        let is_known = sender.is_some_and(|sender| self.knows_producer(sender.producer));
        if !self.reach(event.topic, Offset::ZERO) {
            self.reach_room(event.partition, event.base);
            if is_known {
                // Its messages are lost with the topic, and its number was used nevertheless.
                let _ = self.accept(time, sender, &event.placed(), event.written);
            }
            return false;
        }
        let Some(topic) = self.topics.get_mut(&event.topic) else { return false };
        if topic.waiting_room != Some(event.partition) {
            if let Some(other) = topic.waiting_room.replace(event.partition) {
                self.waiting.close(other);
            }
            self.waiting.open(WaitingRoom::new(event.partition, event.topic, event.base));
        }
        self.reach_room(event.partition, event.base)
    }

    /// Whether there is such a waiting room; if so, everything below `offset` has been given.
    fn reach_room(&mut self, id: PartitionId, offset: Offset) -> bool {
        self.last_ids.partition = self.last_ids.partition.max(id);
        self.waiting.reach(id, offset);
        self.waiting.get(id).is_some()
    }

    fn fit_subscription(&mut self, event: &event::SubscriptionCreated) -> bool {
        if !self.reach(event.topic, event.start) {
            self.last_ids.subscription = self.last_ids.subscription.max(event.id);
            return false;
        }
        let topic = self.topics.get(&event.topic);
        let owner = topic.and_then(|topic| topic.subscriptions.get(&event.subscription));
        if let Some(id) = owner.copied() {
            // Cannot fail: it is there.
            let _ = self.subscription_deleted(&event::SubscriptionDeleted { id });
        }
        true
    }

    /// Forgets what `event` notes of messages that are settled here and were not where it was made.
    pub(super) fn tidy(&mut self, event: &Event) {
        let one = |offset: Offset| offset..offset.next();
        match event {
            Event::HandedOut(event) => {
                for run in &event.runs {
                    let range = run.first..run.first.plus(u64::from(run.count));
                    self.forget_settled(event.subscription, range);
                }
            }
            Event::Failed(event) => self.forget_settled(event.subscription, one(event.offset)),
            Event::Rejected(event) => self.forget_settled(event.subscription, one(event.offset)),
            Event::Started(_)
            | Event::TopicCreated(_)
            | Event::TopicAltered(_)
            | Event::TopicTrimmed(_)
            | Event::TopicDeleted(_)
            | Event::SubscriptionCreated(_)
            | Event::SubscriptionDeleted(_)
            | Event::ProducerOpened(_)
            | Event::ProducerForgotten(_)
            | Event::Published(_)
            | Event::Settled(_)
            | Event::DeadLettered(_)
            | Event::CursorSaved(_)
            | Event::Committed(_)
            | Event::Delayed(_)
            | Event::DelayEnded(_) => {}
        }
    }

    fn forget_settled(&mut self, subscription: SubscriptionId, range: Range<Offset>) {
        if let Some(subscription) = self.subscriptions.get_mut(&subscription) {
            subscription.forget_settled(range);
        }
    }

    /// Whether there is such a topic; if so, everything below `offset` has been given.
    fn reach(&mut self, topic: TopicId, offset: Offset) -> bool {
        self.last_ids.topic = self.last_ids.topic.max(topic);
        let Some(topic) = self.topics.get(&topic) else { return false };
        if let Some(partition) = self.partitions.get_mut(&topic.partition)
            && partition.next < offset
        {
            let count = offset.distance_from(partition.next);
            skip_offsets(partition, count, Some(topic), &mut self.subscriptions);
        }
        true
    }

    /// Whether there is such a subscription; if so, everything below `offset` has been given.
    fn reach_in(&mut self, subscription: SubscriptionId, offset: Offset) -> bool {
        self.last_ids.subscription = self.last_ids.subscription.max(subscription);
        let topic = self.subscriptions.get(&subscription).map(|subscription| subscription.topic);
        topic.is_some_and(|topic| self.reach(topic, offset))
    }

    fn knows_producer(&mut self, producer: ProducerId) -> bool {
        self.last_ids.producer = self.last_ids.producer.max(producer);
        self.producers.contains_key(&producer)
    }
}

/// Passes over `count` offsets of a partition: they hold nothing, and nobody waits for them.
pub(super) fn skip_offsets(
    partition: &mut Partition,
    count: u64,
    topic: Option<&Topic>,
    subscriptions: &mut IdMap<SubscriptionId, Subscription>,
) {
    let skipped = partition.skip(count);
    for id in topic.into_iter().flat_map(|topic| topic.subscriptions.values()) {
        if let Some(subscription) = subscriptions.get_mut(id) {
            subscription.settle(skipped.clone());
        }
    }
}
