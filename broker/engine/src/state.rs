//! What must survive: everything here changes only by [`State::apply`].
//!
//! Recovery, checkpoint and live running share that one function, so whatever a live engine knows
//! here is known after a restart. No clock and no position in a file is in it.

mod apply;
mod codec;
mod handed;
mod losses;
mod milestone;
mod partition;
mod producer;
mod retained;
mod subscription;
mod topic;
mod waiting;

#[cfg(test)]
mod tests;

pub use apply::{ApplyError, Conflict};
use handed::HandedRun;
pub(crate) use partition::Partition;
pub(crate) use producer::{Kept, Producer};
pub(crate) use subscription::{Failure, Rejection, Subscription};
pub(crate) use topic::Topic;
pub(crate) use waiting::{Waiting, WaitingRoom, WaitingRooms};

use posthouse_protocol::{
    IdMap, LogIndex, Name, PartitionId, ProducerId, StartEpoch, SubscriptionId, TopicId,
};
use std::collections::BTreeMap;

/// The durable state of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The frame applied last.
    pub(crate) index: LogIndex,
    /// Of the start that is running.
    pub(crate) start_epoch: StartEpoch,
    pub(crate) topics: IdMap<TopicId, Topic>,
    pub(crate) topic_ids: BTreeMap<Name, TopicId>,
    pub(crate) partitions: IdMap<PartitionId, Partition>,
    /// Of messages that are not due.
    pub(crate) waiting: WaitingRooms,
    pub(crate) subscriptions: IdMap<SubscriptionId, Subscription>,
    pub(crate) producers: BTreeMap<ProducerId, Producer>,
    pub(crate) producer_ids: BTreeMap<Name, ProducerId>,
    /// The highest ids ever given.
    pub(crate) last_ids: LastIds,
    /// Whether frames were ever lost: what does not fit since then may be their fault.
    pub(crate) is_lossy: bool,
    /// How many were lost of which no start has known.
    pub(crate) lost: u64,
    /// Skips that may have been made by starts that are lost, and that no start has known of.
    pub(crate) owed: u64,
}

posthouse_protocol::wire_struct! {
    /// The highest id of each kind that was ever given; what is deleted is never named again.
    pub struct LastIds {
        /// Of a topic.
        pub topic: TopicId,
        /// Of a partition.
        pub partition: PartitionId,
        /// Of a subscription.
        pub subscription: SubscriptionId,
        /// Of a producer.
        pub producer: ProducerId,
    }
}

impl Default for LastIds {
    fn default() -> Self {
        Self {
            topic: TopicId::ZERO,
            partition: PartitionId::ZERO,
            subscription: SubscriptionId::ZERO,
            producer: ProducerId::ZERO,
        }
    }
}

impl State {
    /// The frame applied last.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }

    /// The start epoch that is running, or ran last.
    #[must_use]
    pub const fn start_epoch(&self) -> StartEpoch {
        self.start_epoch
    }

    /// All partitions, waiting rooms included, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        let mut all: Vec<_> = self.partitions.keys().collect();
        all.extend(self.waiting.iter().map(|room| room.id));
        all.sort_unstable();
        all.into_iter()
    }

    /// The partitions among these in which delayed messages wait, each with the topic that they are
    /// for.
    pub fn waiting_rooms(&self) -> impl Iterator<Item = (PartitionId, TopicId)> {
        self.waiting.iter().map(|room| (room.id, room.topic))
    }

    pub(crate) fn topic_named(&self, name: &Name) -> Option<&Topic> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    pub(crate) fn subscription_named(&self, topic: &Name, name: &Name) -> Option<&Subscription> {
        let id = self.topic_named(topic)?.subscriptions.get(name)?;
        self.subscriptions.get(id)
    }

    /// The subscriptions of a topic in the order of their names.
    pub(crate) fn subscriptions_of(&self, topic: TopicId) -> impl Iterator<Item = &Subscription> {
        let ids =
            self.topics.get(&topic).into_iter().flat_map(|topic| topic.subscriptions.values());
        ids.filter_map(|id| self.subscriptions.get(id))
    }
}
