//! One partition: which offsets it has given out, and which of them still hold a message.

use super::milestone::Milestones;
use crate::ranges::RangeSet;
use posthouse_protocol::{Offset, PartitionId, TopicId};
use std::ops::Range;

/// How many offsets a partition that ever was `written` skips after an unclean stop. Whatever was
/// given out and lost lies inside, so nothing is given out twice.
pub(crate) const UNCLEAN_SKIP: u64 = 1 << 32;

/// The durable state of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) topic: TopicId,
    /// Everything below is forgotten for good: purged, beyond a limit, or released.
    pub(crate) start: Offset,
    /// The offset that the next message gets.
    pub(crate) next: Offset,
    /// Offsets from `start` on that hold nothing: skipped, or released before the set of
    /// subscriptions changed.
    pub(crate) empty: RangeSet,
    /// Whether its topic ever was `written`. That it took such a publish is not enough: the first one
    /// may be told, seen, and lost without a trace.
    pub(crate) ever_written: bool,
    pub(crate) milestones: Milestones,
}

impl Partition {
    pub(super) fn new(id: PartitionId, topic: TopicId) -> Self {
        Self {
            id,
            topic,
            start: Offset::ZERO,
            next: Offset::ZERO,
            empty: RangeSet::new(),
            ever_written: false,
            milestones: Milestones::default(),
        }
    }

    /// Forgets everything below `start`.
    pub(super) fn trim(&mut self, start: Offset) {
        let start = self.empty.absorb(self.start.max(start));
        self.start = start.min(self.next.max(self.start));
        self.milestones.forget_below(self.start);
    }

    /// Passes over offsets that will never hold a message.
    pub(super) fn skip(&mut self, count: u64) -> Range<Offset> {
        let skipped = self.next..self.next.plus(count);
        self.next = skipped.end;
        if self.start == skipped.start {
            self.start = skipped.end;
        } else {
            self.empty.insert(skipped.clone());
        }
        skipped
    }

    /// How many messages lie in `range`, settlements not counted.
    pub(crate) fn held_len(&self, range: Range<Offset>) -> u64 {
        let range = range.start.max(self.start)..range.end.min(self.next);
        range.end.distance_from(range.start) - self.empty.len_in(range)
    }

    /// Roughly how many bytes lie in `range`.
    pub(crate) fn bytes_in(&self, range: Range<Offset>) -> u64 {
        let end = self.milestones.bytes_before(range.end, self.next);
        end.saturating_sub(self.milestones.bytes_before(range.start, self.next))
    }
}
