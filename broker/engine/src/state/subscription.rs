//! The durable part of a subscription: what is settled, handed out, failed and rejected.
//!
//! An offset below the ack floor or in `settled` is done with. Of the others, `handed` knows the
//! highest fence given out, `failures` those that failed and may be handed out again, `rejected`
//! those that wait to become dead letters. Leases, credit and consumers are volatile and live in
//! `delivery`.

use super::handed::HandedRuns;
use crate::event;
use crate::ranges::RangeSet;
use posthouse_protocol::settings::SubscriptionSettings;
use posthouse_protocol::{
    Attempt, Fence, Name, Offset, PartitionId, SubscriptionId, Timestamp, TopicId, wire_struct,
};
use std::collections::BTreeMap;
use std::ops::Range;

wire_struct! {
    /// A message that failed and may be handed out again.
    pub struct Failure {
        /// How often it has failed.
        pub attempt: Attempt,
        /// Not handed out before.
        pub retry_at: Timestamp,
        /// Why it failed last.
        pub reason: String,
        /// The highest fence handed out when it failed: under it, the failure is counted.
        pub fence: Fence,
    }

    /// A message that waits to become a dead letter.
    pub struct Rejection {
        /// How often it has failed.
        pub attempt: Attempt,
        /// Why it failed last.
        pub reason: String,
        /// When it was rejected.
        pub at: Timestamp,
    }
}

/// The durable state of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) name: Name,
    pub(crate) settings: SubscriptionSettings,
    /// Where its dead letters go, once there was one.
    pub(crate) dead_topic: Option<TopicId>,
    /// Everything below is settled.
    pub(crate) floor: Offset,
    /// What is settled above the floor.
    pub(crate) settled: RangeSet,
    /// Unsettled messages that were handed out, with their highest fences.
    pub(crate) handed: HandedRuns,
    /// Unsettled messages that have failed.
    pub(crate) failures: BTreeMap<Offset, Failure>,
    /// Unsettled messages that are to become dead letters.
    pub(crate) rejected: BTreeMap<Offset, Rejection>,
}

impl Subscription {
    pub(super) fn new(event: &event::SubscriptionCreated, partition: PartitionId) -> Self {
        Self {
            id: event.id,
            topic: event.topic,
            partition,
            name: event.subscription.clone(),
            settings: event.settings.clone(),
            dead_topic: None,
            floor: event.start,
            settled: RangeSet::new(),
            handed: HandedRuns::default(),
            failures: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// Everything below is settled.
    pub(crate) const fn ack_floor(&self) -> Offset {
        self.floor
    }

    /// Whether `offset` is done with.
    pub(crate) fn is_settled(&self, offset: Offset) -> bool {
        offset < self.floor || self.settled.contains(offset)
    }

    /// The first offset from `from` on that is not settled; perhaps beyond the partition's end.
    pub(crate) fn next_unsettled(&self, from: Offset) -> Offset {
        let from = from.max(self.floor);
        self.settled.range_at(from).map_or(from, |range| range.end)
    }

    /// The first settled offset above `from`, which is not settled; [`Offset::MAX`] if there is none.
    pub(crate) fn unsettled_end(&self, from: Offset) -> Offset {
        let above = self.settled.iter_in(from..Offset::MAX).next();
        above.map_or(Offset::MAX, |range| range.start)
    }

    /// What was handed out in `window` and is not settled, ascending, with the fence of each start.
    pub(crate) fn handed_in(
        &self,
        window: Range<Offset>,
    ) -> impl Iterator<Item = (Range<Offset>, Fence)> {
        self.handed.iter_in(window)
    }

    /// Messages not settled, where `next` is the partition's end.
    pub(crate) fn backlog(&self, next: Offset) -> u64 {
        next.distance_from(self.floor).saturating_sub(self.settled.len())
    }

    /// Settles a range for good.
    pub(super) fn settle(&mut self, range: Range<Offset>) {
        if range.start <= self.floor {
            self.floor = self.settled.absorb(self.floor.max(range.end));
        } else {
            self.settled.insert(range.clone());
        }
        self.forget(range);
    }

    /// Puts the cursor where a reader says; everything below is settled, nothing above except what
    /// is `empty` in the partition.
    pub(super) fn place(&mut self, offset: Offset, empty: &RangeSet) {
        self.settled = empty.clone();
        self.floor = self.settled.absorb(offset);
    }

    /// Drops what is noted of messages in `range` that are settled.
    pub(super) fn forget_settled(&mut self, range: Range<Offset>) {
        let Range { mut start, end } = range;
        if start < self.floor {
            self.forget(start..end.min(self.floor));
        }
        loop {
            let part = self.settled.iter_in(start..end).next();
            let Some(part) = part else { return };
            start = part.end;
            self.forget(part);
        }
    }

    fn forget(&mut self, range: Range<Offset>) {
        self.handed.remove(range.clone());
        forget_in(&mut self.failures, &range);
        forget_in(&mut self.rejected, &range);
    }
}

/// Takes the entries of `range` out of `map`.
fn forget_in<T>(map: &mut BTreeMap<Offset, T>, range: &Range<Offset>) {
    if range.start >= range.end {
        return;
    }
    while let Some((offset, _)) = map.range(range.clone()).next() {
        let offset = *offset;
        map.remove(&offset);
    }
}
