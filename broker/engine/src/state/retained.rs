//! Which messages a topic still has: what is held and, with retention `settled`, not yet settled
//! by everybody.
//!
//! Walked lazily, range by range, because a topic may have a million holes.

use super::{Partition, State, Subscription, Topic};
use crate::ranges::RangeSet;
use posthouse_protocol::settings::Retention;
use posthouse_protocol::{Offset, PartitionId, Timestamp};
use std::ops::Range;

/// One partition as its readers may see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retained<'a> {
    state: &'a State,
    partition: &'a Partition,
    topic: &'a Topic,
}

impl State {
    /// The half-open offset ranges of `partition` that must stay readable, ascending, disjoint.
    #[must_use]
    pub fn needed(&self, partition: PartitionId) -> Vec<Range<Offset>> {
        self.needed_in(partition, Offset::ZERO..Offset::MAX)
    }

    /// As far as they lie in `within`.
    #[must_use]
    pub fn needed_in(&self, partition: PartitionId, within: Range<Offset>) -> Vec<Range<Offset>> {
        if let Some(room) = self.waiting.get(partition) {
            return room.needed(within);
        }
        let retained = self.retained(partition);
        retained.map_or_else(Vec::new, |retained| retained.iter_in(within).collect())
    }

    pub(crate) fn retained(&self, partition: PartitionId) -> Option<Retained<'_>> {
        let partition = self.partitions.get(&partition)?;
        let topic = self.topics.get(&partition.topic)?;
        Some(Retained { state: self, partition, topic })
    }

    /// Makes permanent what is released now, before the subscriptions or the rule change: once
    /// released, a message never comes back.
    pub(super) fn settle_release(&mut self, partition: PartitionId) {
        let Some(retained) = self.retained(partition).filter(Retained::is_by_settlement) else {
            return;
        };
        let mut empty = RangeSet::new();
        let mut last = retained.partition.start;
        for range in retained.iter(Offset::ZERO) {
            empty.insert(last..range.start);
            last = range.end;
        }
        empty.insert(last..retained.partition.next);
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.empty = empty;
            partition.trim(partition.start);
        }
    }
}

impl<'a> Retained<'a> {
    /// Whether settlements release messages here.
    fn is_by_settlement(&self) -> bool {
        self.topic.settings.retention == Retention::Settled && !self.topic.subscriptions.is_empty()
    }

    /// The first message still there, or the partition's end.
    pub(crate) fn start(&self) -> Offset {
        self.iter(Offset::ZERO).next().map_or(self.partition.next, |range| range.start)
    }

    /// The ranges from `from` on, ascending, disjoint and not touching.
    pub(crate) fn iter(self, from: Offset) -> impl Iterator<Item = Range<Offset>> + 'a {
        self.iter_in(from..Offset::MAX)
    }

    /// What of the ranges lies in `within`.
    fn iter_in(self, within: Range<Offset>) -> impl Iterator<Item = Range<Offset>> + 'a {
        let mut from = within.start.max(self.partition.start);
        std::iter::from_fn(move || {
            let mut range = self.next_part(from).filter(|range| range.start < within.end)?;
            while range.end < within.end
                && let Some(more) = self.next_part(range.end)
                && more.start == range.end
            {
                range.end = more.end;
            }
            range.end = range.end.min(within.end);
            from = range.end;
            Some(range)
        })
    }

    /// The first retained range from `from` on, or the front part of it.
    fn next_part(&self, mut from: Offset) -> Option<Range<Offset>> {
        let (held, next) = (&self.partition.empty, self.partition.next);
        loop {
            from = held.range_at(from).map_or(from, |range| range.end);
            if from >= next {
                return None;
            }
            let held_end = held.iter_in(from..next).next().map_or(next, |range| range.start);
            if !self.is_by_settlement() {
                return Some(from..held_end);
            }
            let wanted = self.subscriptions().map(|s| s.next_unsettled(from)).min();
            let start = wanted.unwrap_or(next);
            if start < held_end {
                let waiting = self.subscriptions().filter(|s| !s.is_settled(start));
                let end = waiting.map(|s| s.unsettled_end(start)).max().unwrap_or(start);
                return Some(start..end.min(held_end));
            }
            from = start.max(held_end);
        }
    }

    fn subscriptions(&self) -> impl Iterator<Item = &'a Subscription> {
        self.state.subscriptions_of(self.topic.id)
    }

    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        let all = Offset::ZERO..Offset::MAX;
        if !self.is_by_settlement() {
            return self.partition.held_len(all);
        }
        let mut subscriptions = self.subscriptions();
        match (subscriptions.next(), subscriptions.next()) {
            // What is empty counts as settled in every subscription.
            (Some(only), None) => only.backlog(self.partition.next),
            _ => self.iter(Offset::ZERO).map(|range| range.end.distance_from(range.start)).sum(),
        }
    }

    /// Roughly when the message at `offset` arrived; zero if there is none.
    pub(crate) fn arrived_at(&self, offset: Offset) -> Timestamp {
        if offset >= self.partition.next {
            return Timestamp::ZERO;
        }
        self.partition.milestones.arrived_by(offset)
    }

    /// Whether there is room for `count` more under a limit of `messages_max`. Counts exactly only
    /// when it is close.
    pub(crate) fn has_room_for(&self, count: u64, messages_max: u64) -> bool {
        messages_max == u64::MAX
            || self.partition.held_len(self.span()).saturating_add(count) <= messages_max
            || self.messages().saturating_add(count) <= messages_max
    }

    /// Whether there is room for `bytes` more under a limit of `bytes_max`.
    pub(crate) fn has_bytes_for(&self, bytes: u64, bytes_max: u64) -> bool {
        bytes_max == u64::MAX
            || self.partition.bytes_in(self.span()).saturating_add(bytes) <= bytes_max
            || self.bytes().saturating_add(bytes) <= bytes_max
    }

    /// From the lowest ack floor on, or from the partition's start: at least what is retained.
    fn span(&self) -> Range<Offset> {
        let floor = self.subscriptions().map(Subscription::ack_floor).min();
        let floor = floor.filter(|_| self.is_by_settlement());
        floor.unwrap_or(Offset::ZERO).max(self.partition.start)..self.partition.next
    }

    /// Where to start in order to keep the last `messages_max` messages.
    pub(crate) fn start_with_at_most(&self, messages_max: u64) -> Offset {
        let mut excess = self.messages().saturating_sub(messages_max);
        for range in self.iter(Offset::ZERO) {
            let len = range.end.distance_from(range.start);
            if excess < len {
                return range.start.plus(excess);
            }
            excess -= len;
        }
        self.partition.next
    }

    /// Where to start in order to keep at most `bytes_max` bytes.
    pub(crate) fn start_within(&self, bytes_max: u64) -> Offset {
        self.partition.milestones.first_with_at_most(bytes_max, self.partition.next)
    }

    /// Roughly how many bytes there are: holes count as if messages were of equal size.
    pub(crate) fn bytes(&self) -> u64 {
        let span = self.start()..self.partition.next;
        let held = self.partition.held_len(span.clone());
        let bytes = u128::from(self.partition.bytes_in(span));
        let share = bytes * u128::from(self.messages()) / u128::from(held.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}
