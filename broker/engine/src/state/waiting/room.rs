//! One waiting room: its messages in blocks by offset, and the blocks in the order of time.

use super::block::{BLOCK_SMALL, Block, DUE_MAX, Waiting};
use posthouse_protocol::{Offset, PartitionId, Timestamp, TopicId};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;

/// Messages whose times are no further apart are published in any order.
const NEAR_MS: u64 = 1_000;

/// The durable state of one waiting room.
#[derive(Clone, Debug)]
pub(crate) struct WaitingRoom {
    pub(crate) id: PartitionId,
    pub(crate) topic: TopicId,
    /// The offset that the next message gets here.
    pub(crate) next: Offset,
    /// What waits, by the first offset of each block; none is empty.
    blocks: BTreeMap<Offset, Block>,
    /// The first message of each block, in the order of time.
    heads: BTreeSet<Waiting>,
    /// Messages in all blocks.
    len: usize,
}

impl WaitingRoom {
    /// The latest time that is kept: in the year 2527. What is due later is due then.
    pub(crate) const DUE_MAX: Timestamp = DUE_MAX;

    pub(crate) const fn new(id: PartitionId, topic: TopicId, next: Offset) -> Self {
        Self { id, topic, next, blocks: BTreeMap::new(), heads: BTreeSet::new(), len: 0 }
    }

    /// How many messages wait.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The lowest offset that waits.
    pub(crate) fn first(&self) -> Option<Offset> {
        self.iter().next().map(|(offset, _)| offset)
    }

    /// What waits by ascending offset, and until when.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Offset, Timestamp)> {
        self.blocks.values().flat_map(Block::iter)
    }

    /// The same, and how many they are.
    pub(crate) fn due(&self) -> (usize, impl Iterator<Item = (Offset, Timestamp)>) {
        (self.len, self.iter())
    }

    /// When the first message is due, if one waits.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.heads.first().map(|(due, _)| *due)
    }

    /// At most `count_max` messages that are due at `at`, the earliest first. None that is left is due
    /// more than a second before one of them; those closer together are taken block by block.
    pub(crate) fn due_by(&self, at: Timestamp, count_max: usize) -> Vec<Offset> {
        let front = (Timestamp::ZERO, Offset::ZERO);
        self.earliest(front, at, count_max, NEAR_MS).map(|(_, offset)| offset).collect()
    }

    /// The same, but none that is due before `from`, and none that is left is due before one of them.
    /// Of those due together the lowest offsets come first.
    pub(crate) fn due_from(
        &self,
        from: Waiting,
        at: Timestamp,
        count_max: usize,
    ) -> impl Iterator<Item = Waiting> {
        self.earliest(from, at, count_max, 0)
    }

    fn earliest(
        &self,
        from: Waiting,
        at: Timestamp,
        count_max: usize,
        near_ms: u64,
    ) -> impl Iterator<Item = Waiting> + use<> {
        let mut due = BinaryHeap::new();
        for head in self.heads.range(..=(at, Offset::MAX)) {
            let latest = due.peek().filter(|_| due.len() >= count_max);
            if latest.is_some_and(|latest| *latest <= (head.0.plus_millis(near_ms), head.1)) {
                break;
            }
            // Of a block of many that are due, most are later than what was found before.
            let block = self.block_at(head.1).into_iter().flat_map(|block| block.due_by(at));
            for waiting in block.filter(|waiting| *waiting >= from) {
                if due.len() < count_max {
                    due.push(waiting);
                } else if let Some(mut latest) = due.peek_mut().filter(|latest| waiting < **latest)
                {
                    *latest = waiting;
                }
            }
        }
        due.into_sorted_vec().into_iter()
    }

    /// The message at `offset`, if it still waits.
    pub(crate) fn at(&self, offset: Offset) -> Option<Waiting> {
        self.block_at(offset)?.get(offset)
    }

    /// What of `within` must stay readable: ascending, disjoint, not touching.
    pub(crate) fn needed(&self, within: Range<Offset>) -> Vec<Range<Offset>> {
        let mut needed: Vec<Range<Offset>> = Vec::new();
        let begin = self.block_at(within.start).map_or(within.start, Block::first);
        let blocks = self.blocks.range(begin..).map(|(_, block)| block);
        let offsets = blocks.flat_map(|block| block.iter_from(within.start));
        for (offset, _) in offsets.take_while(|(offset, _)| *offset < within.end) {
            match needed.last_mut() {
                Some(last) if last.end == offset => last.end = offset.next(),
                Some(_) | None => needed.push(offset..offset.next()),
            }
        }
        needed
    }

    /// Adds a message at the end.
    pub(crate) fn push(&mut self, due: Timestamp) {
        let offset = self.next;
        self.next = offset.next();
        self.len += 1;
        if let Some(mut last) = self.blocks.last_entry() {
            let before = last.get().head();
            if last.get_mut().push(due, offset) {
                let after = last.get().head();
                self.moved(before, after);
                return;
            }
        }
        let block = Block::new(due, offset);
        self.heads.insert(block.head());
        self.blocks.insert(offset, block);
    }

    /// Takes out what waits in `range`.
    pub(crate) fn remove(&mut self, range: &Range<Offset>) {
        let begin = self.block_at(range.start).map_or(range.start, Block::first);
        let mut rest = begin..range.end.max(begin);
        let mut small = Vec::new();
        while let Some((first, block)) = self.blocks.range_mut(rest.clone()).next() {
            let (first, before, len) = (*first, block.head(), block.len());
            rest.start = first.next();
            block.remove(range);
            let (after, left) = (block.head(), block.len());
            self.len -= len - left;
            if left == 0 {
                self.blocks.remove(&first);
                self.heads.remove(&before);
                continue;
            }
            self.moved(before, after);
            if left <= BLOCK_SMALL && left < len {
                small.push(first);
            }
        }
        small.into_iter().for_each(|first| self.join(first));
    }

    /// Joins the block at `first` with the one before it or else with the one behind it, if there
    /// is one that is small enough.
    fn join(&mut self, first: Offset) {
        let key = |(first, _): (&Offset, &Block)| *first;
        let before = self.blocks.range(..first).next_back().map(key);
        let behind = self.blocks.range(first.next()..).next().map(key);
        let pairs = [before.map(|before| (before, first)), behind.map(|behind| (first, behind))];
        let fits = |(first, second): &(Offset, Offset)| {
            let pair = self.blocks.get(first).zip(self.blocks.get(second));
            pair.is_some_and(|(first, second)| first.can_join(second))
        };
        if let Some((first, second)) = pairs.into_iter().flatten().find(fits) {
            self.join_two(first, second);
        }
    }

    fn join_two(&mut self, first: Offset, second: Offset) {
        let Some(second) = self.blocks.remove(&second) else { return };
        let Some(into) = self.blocks.get_mut(&first) else { return };
        let before = into.head();
        into.join(&second);
        let after = into.head();
        self.heads.remove(&second.head());
        self.moved(before, after);
    }

    /// Notes that another message of a block is due first now.
    fn moved(&mut self, before: Waiting, after: Waiting) {
        if before != after {
            self.heads.remove(&before);
            self.heads.insert(after);
        }
    }

    /// The block in which `offset` is if it waits.
    fn block_at(&self, offset: Offset) -> Option<&Block> {
        self.blocks.range(..=offset).next_back().map(|(_, block)| block)
    }

    pub(super) fn head(&self) -> Option<(Timestamp, PartitionId)> {
        self.next_due().map(|due| (due, self.id))
    }

    /// Blocks that cannot be joined with the one before because their offsets are too far apart.
    #[cfg(test)]
    pub(super) fn spread(&self) -> usize {
        let mut offsets = self.blocks.keys().copied();
        let mut last = offsets.next().unwrap_or_default();
        offsets.filter(|at| at.distance_from(std::mem::replace(&mut last, *at)) > 1 << 19).count()
    }

    /// Bytes of memory, without what the maps take for themselves.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let keys = size_of::<Offset>() + size_of::<Waiting>();
        self.blocks.values().map(|block| block.memory() + keys).sum()
    }
}

/// Equal rooms hold the same messages, whichever blocks they are in.
impl PartialEq for WaitingRoom {
    fn eq(&self, other: &Self) -> bool {
        let of = |room: &Self| (room.id, room.topic, room.next, room.len);
        of(self) == of(other) && self.iter().eq(other.iter())
    }
}

impl Eq for WaitingRoom {}
