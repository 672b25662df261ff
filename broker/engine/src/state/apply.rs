//! The fold: what each event does to the state.

use super::losses::skip_offsets;
use super::partition::UNCLEAN_SKIP;
use super::producer::{Accepted, AcceptedCommit, Kept};
use super::{
    Failure, HandedRun, Partition, Producer, Rejection, State, Subscription, Topic, WaitingRoom,
};
use crate::bugs::{Bug, planted};
use crate::event::{self, Event};
use posthouse_protocol::settings::{Durability, TopicSettings};
use posthouse_protocol::{
    LogIndex, Offset, PartitionId, ProducerId, SubscriptionId, Timestamp, TopicId,
};
use std::fmt;

/// An event does not fit the state: the journal is not the one that this state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyError {
    /// The frame.
    pub index: LogIndex,
    /// What does not fit.
    pub conflict: Conflict,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The event names a topic that does not exist.
    NoTopic(TopicId),
    /// The event names a partition that does not exist.
    NoPartition(PartitionId),
    /// The event names a subscription that does not exist.
    NoSubscription(SubscriptionId),
    /// The event names a producer that does not exist.
    NoProducer(ProducerId),
    /// The event gives an id or a name that was given before.
    Repeated,
    /// The event places messages elsewhere than at the partition's end, or names offsets beyond it.
    Place {
        /// The offset named.
        found: Offset,
        /// The partition's end.
        next: Offset,
    },
}

impl State {
    /// Applies one event of the frame `index`, which was made at `time`.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; the state is then of no further use.
    pub fn apply(
        &mut self,
        index: LogIndex,
        time: Timestamp,
        event: &Event,
    ) -> Result<(), ApplyError> {
        self.index = index;
        if self.is_lossy && !self.fit(time, event) {
            return Ok(());
        }
        self.apply_event(time, event).map_err(|conflict| ApplyError { index, conflict })?;
        if self.is_lossy {
            self.tidy(event);
        }
        Ok(())
    }

    fn apply_event(&mut self, time: Timestamp, event: &Event) -> Result<(), Conflict> {
        match event {
            Event::Started(event) => self.started(event),
            Event::TopicCreated(event) => self.topic_created(event),
            Event::TopicAltered(event) => self.topic_altered(event),
            Event::TopicTrimmed(event) => self.topic_trimmed(event),
            Event::TopicDeleted(event) => self.topic_deleted(event),
            Event::SubscriptionCreated(event) => self.subscription_created(event),
            Event::SubscriptionDeleted(event) => self.subscription_deleted(event),
            Event::ProducerOpened(event) => self.producer_opened(time, event),
            Event::ProducerForgotten(event) => self.producer_forgotten(event),
            Event::Published(event) => self.published(time, event),
            Event::HandedOut(event) => self.handed_out(event),
            Event::Settled(event) => self.settled(event),
            Event::Failed(event) => self.failed(event),
            Event::Rejected(event) => self.rejected(time, event),
            Event::DeadLettered(event) => self.dead_lettered(event),
            Event::CursorSaved(event) => self.cursor_saved(event),
            Event::Committed(event) => self.committed(time, event),
            Event::Delayed(event) => self.delayed(time, event),
            Event::DelayEnded(event) => self.delay_ended(event),
        }
    }

    fn started(&mut self, event: &event::Started) -> Result<(), Conflict> {
        if event.epoch <= self.start_epoch {
            return Err(Conflict::Repeated);
        }
        let epochs = u64::from(event.epoch.0.saturating_sub(self.start_epoch.0));
        self.start_epoch = event.epoch;
        self.explain(epochs, event.lost);
        let is_damaged = event.skips > 0;
        if is_damaged {
            self.skip_ids(event.skips);
        } else if event.clean {
            return Ok(());
        }
        let count = UNCLEAN_SKIP.saturating_mul(u64::from(event.skips.max(1)));
        if is_damaged {
            self.waiting.skip(count);
        }
        let partitions = self.partitions.values_mut();
        for partition in partitions.filter(|partition| is_damaged || partition.ever_written) {
            let topic = self.topics.get(&partition.topic);
            skip_offsets(partition, count, topic, &mut self.subscriptions);
        }
        Ok(())
    }

    fn topic_created(&mut self, event: &event::TopicCreated) -> Result<(), Conflict> {
        let is_new = event.id > self.last_ids.topic
            && event.partition > self.last_ids.partition
            && !self.topic_ids.contains_key(&event.topic);
        if !is_new {
            return Err(Conflict::Repeated);
        }
        self.last_ids.topic = event.id;
        self.last_ids.partition = event.partition;
        self.topic_ids.insert(event.topic.clone(), event.id);
        let mut partition = Partition::new(event.partition, event.id);
        partition.ever_written = is_written(&event.settings);
        self.partitions.insert(event.partition, partition);
        self.topics.insert(event.id, Topic::new(event));
        let source = event.dead_of.and_then(|id| self.subscriptions.get_mut(&id));
        if let Some(source) = source {
            source.dead_topic = Some(event.id);
        }
        Ok(())
    }

    fn topic_altered(&mut self, event: &event::TopicAltered) -> Result<(), Conflict> {
        let partition = self.topic(event.id)?.partition;
        self.settle_release(partition);
        self.partition_mut(partition)?.ever_written |= is_written(&event.settings);
        self.topic_mut(event.id)?.settings = event.settings.clone();
        Ok(())
    }

    fn topic_trimmed(&mut self, event: &event::TopicTrimmed) -> Result<(), Conflict> {
        let id = self.topic(event.id)?.partition;
        let partition = self.partition_mut(id)?;
        if event.start > partition.next {
            return Err(Conflict::Place { found: event.start, next: partition.next });
        }
        partition.trim(event.start);
        let start = partition.start;
        let topic = self.topics.get(&event.id);
        for id in topic.into_iter().flat_map(|topic| topic.subscriptions.values()) {
            if let Some(subscription) = self.subscriptions.get_mut(id) {
                subscription.settle(Offset::ZERO..start);
            }
        }
        Ok(())
    }

    pub(super) fn topic_deleted(&mut self, event: &event::TopicDeleted) -> Result<(), Conflict> {
        let topic = self.topics.remove(&event.id).ok_or(Conflict::NoTopic(event.id))?;
        self.topic_ids.remove(&topic.name);
        self.partitions.remove(&topic.partition);
        if let Some(room) = topic.waiting_room {
            self.waiting.close(room);
        }
        for id in topic.subscriptions.values() {
            self.subscriptions.remove(id);
        }
        let source = topic.dead_of.and_then(|id| self.subscriptions.get_mut(&id));
        if let Some(source) = source {
            source.dead_topic = None;
        }
        Ok(())
    }

    fn subscription_created(&mut self, event: &event::SubscriptionCreated) -> Result<(), Conflict> {
        let partition = self.topic(event.topic)?.partition;
        let taken = self.topic(event.topic)?.subscriptions.contains_key(&event.subscription);
        if event.id <= self.last_ids.subscription || taken {
            return Err(Conflict::Repeated);
        }
        self.settle_release(partition);
        let held = self.partition_mut(partition)?;
        if event.start > held.next {
            return Err(Conflict::Place { found: event.start, next: held.next });
        }
        let mut subscription = Subscription::new(event, partition);
        subscription.place(event.start.max(held.start), &held.empty);
        self.last_ids.subscription = event.id;
        self.subscriptions.insert(event.id, subscription);
        let name = event.subscription.clone();
        self.topic_mut(event.topic)?.subscriptions.insert(name, event.id);
        Ok(())
    }

    pub(super) fn subscription_deleted(
        &mut self,
        event: &event::SubscriptionDeleted,
    ) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.id)?;
        let (topic, partition) = (subscription.topic, subscription.partition);
        self.settle_release(partition);
        let deleted = self.subscriptions.remove(&event.id);
        let topic = self.topic_mut(topic)?;
        if let Some(deleted) = deleted {
            topic.subscriptions.remove(&deleted.name);
        }
        Ok(())
    }

    fn producer_opened(
        &mut self,
        time: Timestamp,
        event: &event::ProducerOpened,
    ) -> Result<(), Conflict> {
        if let Some(known) = self.producers.get_mut(&event.id) {
            known.epoch = event.epoch;
            known.last_at = known.last_at.max(time);
            return Ok(());
        }
        // After a loss it may be known from what it sent only.
        if event.id <= self.last_ids.producer && !self.is_lossy {
            return Err(Conflict::Repeated);
        }
        self.last_ids.producer = self.last_ids.producer.max(event.id);
        if let Some(name) = &event.name {
            self.producer_ids.insert(name.clone(), event.id);
        }
        self.producers.insert(event.id, Producer::new(event, time));
        Ok(())
    }

    pub(super) fn producer_forgotten(
        &mut self,
        event: &event::ProducerForgotten,
    ) -> Result<(), Conflict> {
        let producer = self.producers.remove(&event.id).ok_or(Conflict::NoProducer(event.id))?;
        if let Some(name) = producer.name {
            self.producer_ids.remove(&name);
        }
        Ok(())
    }

    fn published(&mut self, time: Timestamp, event: &event::Published) -> Result<(), Conflict> {
        let topic = self.topics.get(&event.topic).ok_or(Conflict::NoTopic(event.topic))?;
        let id = topic.partition;
        let partition = self.partitions.get_mut(&id).ok_or(Conflict::NoPartition(id))?;
        if event.base != partition.next {
            return Err(Conflict::Place { found: event.base, next: partition.next });
        }
        let reused = event.sender.as_ref().is_some_and(|sender| sender.digest % 4 == 0);
        let count = u64::from(event.count) - u64::from(reused && planted(Bug::ReuseOffset));
        partition.next = event.base.plus(count);
        partition.ever_written |= event.written;
        let floors = topic.subscriptions.values().filter_map(|id| self.subscriptions.get(id));
        let wants_start = partition.milestones.is_full();
        let start = wants_start.then(|| floors.map(Subscription::ack_floor).min()).flatten();
        let start = start.unwrap_or(Offset::ZERO).max(partition.start);
        partition.milestones.push(event.base, time, event.bytes, start);
        match self.accept(time, event.sender.as_ref(), &event.placed(), event.written) {
            Err(Conflict::NoProducer(_)) if self.is_lossy => Ok(()),
            accepted => accepted,
        }
    }

    /// Notes for the sender that its publish was accepted.
    pub(super) fn accept(
        &mut self,
        time: Timestamp,
        sender: Option<&event::Sender>,
        placed: &event::Placed,
        written: bool,
    ) -> Result<(), Conflict> {
        let Some(sender) = sender else { return Ok(()) };
        let event::Placed { topic, base, count } = *placed;
        let (sequence, digest, index) = (sender.sequence, sender.digest, self.index);
        let accepted = Accepted { sequence, topic, base, count, digest, written, index };
        let kept = Kept::Publish(accepted);
        self.keep(time, sender.producer, kept)
    }

    fn delayed(&mut self, time: Timestamp, event: &event::Delayed) -> Result<(), Conflict> {
        let (is_lossy, last) = (self.is_lossy, self.last_ids.partition);
        let topic = self.topic_mut(event.topic)?;
        match topic.waiting_room {
            Some(id) if id == event.partition => {}
            None if event.partition > last || is_lossy => {
                topic.waiting_room = Some(event.partition);
                self.last_ids.partition = last.max(event.partition);
                let room = WaitingRoom::new(event.partition, event.topic, Offset::ZERO);
                self.waiting.open(room);
            }
            Some(_) | None => return Err(Conflict::Repeated),
        }
        let next = self.room(event.partition)?.next;
        if event.base != next {
            return Err(Conflict::Place { found: event.base, next });
        }
        self.waiting.add(event.partition, &event.due);
        match self.accept(time, event.sender.as_ref(), &event.placed(), event.written) {
            Err(Conflict::NoProducer(_)) if self.is_lossy => Ok(()),
            accepted => accepted,
        }
    }

    fn delay_ended(&mut self, event: &event::DelayEnded) -> Result<(), Conflict> {
        let next = self.room(event.partition)?.next;
        for run in &event.runs {
            let end = run.first.plus(run.count);
            if end > next {
                return Err(Conflict::Place { found: end, next });
            }
            self.waiting.remove(event.partition, &(run.first..end));
        }
        Ok(())
    }

    fn room(&self, id: PartitionId) -> Result<&WaitingRoom, Conflict> {
        self.waiting.get(id).ok_or(Conflict::NoPartition(id))
    }

    fn committed(&mut self, time: Timestamp, event: &event::Committed) -> Result<(), Conflict> {
        let kept = Kept::Commit(AcceptedCommit {
            sequence: event.sequence,
            digest: event.digest,
            written: event.written,
            index: self.index,
            published: event.published.clone(),
        });
        self.keep(time, event.producer, kept)
    }

    fn keep(&mut self, time: Timestamp, id: ProducerId, kept: Kept) -> Result<(), Conflict> {
        let producer = self.producers.get_mut(&id).ok_or(Conflict::NoProducer(id))?;
        producer.accept(time, kept);
        Ok(())
    }

    fn handed_out(&mut self, event: &event::HandedOut) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.subscription)?;
        for run in &event.runs {
            let handed = HandedRun { count: u64::from(run.count), fence: run.fence };
            subscription.handed.insert(run.first, handed);
        }
        Ok(())
    }

    fn settled(&mut self, event: &event::Settled) -> Result<(), Conflict> {
        let subscription = self.subscriptions.get_mut(&event.subscription);
        let subscription = subscription.ok_or(Conflict::NoSubscription(event.subscription))?;
        let id = subscription.partition;
        let next = self.partitions.get(&id).ok_or(Conflict::NoPartition(id))?.next;
        for run in &event.runs {
            let end = run.first.plus(run.count);
            if end > next {
                return Err(Conflict::Place { found: end, next });
            }
            subscription.settle(run.first..end);
        }
        Ok(())
    }

    fn failed(&mut self, event: &event::Failed) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.subscription)?;
        let failure = Failure {
            attempt: event.attempt,
            retry_at: event.retry_at,
            reason: event.reason.clone(),
            fence: subscription.handed.fence_of(event.offset).unwrap_or_default(),
        };
        subscription.failures.insert(event.offset, failure);
        Ok(())
    }

    fn rejected(&mut self, time: Timestamp, event: &event::Rejected) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.subscription)?;
        subscription.handed.remove(event.offset..event.offset.next());
        subscription.failures.remove(&event.offset);
        let (attempt, reason) = (event.attempt, event.reason.clone());
        subscription.rejected.insert(event.offset, Rejection { attempt, reason, at: time });
        Ok(())
    }

    fn dead_lettered(&mut self, event: &event::DeadLettered) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.subscription)?;
        subscription.settle(event.offset..event.offset.next());
        Ok(())
    }

    fn cursor_saved(&mut self, event: &event::CursorSaved) -> Result<(), Conflict> {
        let subscription = self.subscription_mut(event.subscription)?;
        if event.offset >= subscription.floor {
            subscription.settle(Offset::ZERO..event.offset);
            return Ok(());
        }
        let id = subscription.partition;
        self.settle_release(id);
        let partition = self.partitions.get(&id).ok_or(Conflict::NoPartition(id))?;
        let subscription = self.subscriptions.get_mut(&event.subscription);
        if let Some(subscription) = subscription {
            subscription.place(event.offset.max(partition.start), &partition.empty);
        }
        Ok(())
    }

    fn topic(&self, id: TopicId) -> Result<&Topic, Conflict> {
        self.topics.get(&id).ok_or(Conflict::NoTopic(id))
    }

    fn topic_mut(&mut self, id: TopicId) -> Result<&mut Topic, Conflict> {
        self.topics.get_mut(&id).ok_or(Conflict::NoTopic(id))
    }

    fn partition_mut(&mut self, id: PartitionId) -> Result<&mut Partition, Conflict> {
        self.partitions.get_mut(&id).ok_or(Conflict::NoPartition(id))
    }

    fn subscription_mut(&mut self, id: SubscriptionId) -> Result<&mut Subscription, Conflict> {
        self.subscriptions.get_mut(&id).ok_or(Conflict::NoSubscription(id))
    }
}

/// Whether a topic's publishes may be told to have happened before they are durable.
const fn is_written(settings: &TopicSettings) -> bool {
    matches!(settings.durability, Durability::Written)
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event does not fit the state index={}: {}", self.index, self.conflict)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTopic(id) => write!(f, "no topic={id}"),
            Self::NoPartition(id) => write!(f, "no partition={id}"),
            Self::NoSubscription(id) => write!(f, "no subscription={id}"),
            Self::NoProducer(id) => write!(f, "no producer={id}"),
            Self::Repeated => f.write_str("id, name or epoch given before"),
            Self::Place { found, next } => write!(f, "offset={found} partition ends at={next}"),
        }
    }
}

impl std::error::Error for ApplyError {}
