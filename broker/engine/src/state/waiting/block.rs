//! Messages of a waiting room next to each other, 8 bytes each.
//!
//! An entry is one number: the time at which the message is due, then how far its offset lies
//! behind the block's first one. So the smallest entry is due first, and of those due together it is
//! the one that came first.

use posthouse_protocol::{Offset, Timestamp};
use std::ops::Range;

/// Most messages of a block. Finding the next one that is due looks at all of them.
const BLOCK_MAX: usize = 512;
/// A block of no more than this is joined with a neighbour if it can be.
pub(super) const BLOCK_SMALL: usize = BLOCK_MAX / 4;
/// Most messages of a block that was joined: there is room for what the last block still gets.
const JOINED_MAX: usize = BLOCK_MAX / 8 * 5;
/// Bits of an entry that tell the offset.
const PLACE_BITS: u32 = 20;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// The latest time that an entry can hold, in the year 2527. What is due later is due then.
pub(super) const DUE_MAX: Timestamp = Timestamp(u64::MAX >> PLACE_BITS);

/// Some messages, by ascending offset.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Offsets count from here.
    first: Offset,
    entries: Vec<u64>,
    /// The smallest entry; of no meaning in an empty block.
    head: u64,
}

/// When a message is due, and its offset.
pub(crate) type Waiting = (Timestamp, Offset);

impl Block {
    /// A block of one message.
    pub(super) fn new(due: Timestamp, offset: Offset) -> Self {
        let head = due.min(DUE_MAX).0 << PLACE_BITS;
        Self { first: offset, entries: vec![head], head }
    }

    pub(super) const fn first(&self) -> Offset {
        self.first
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is due first; of no meaning in an empty block.
    pub(super) const fn head(&self) -> Waiting {
        self.waiting(self.head)
    }

    /// The messages, by ascending offset.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Offset, Timestamp)> {
        self.entries.iter().map(|entry| {
            let (due, offset) = self.waiting(*entry);
            (offset, due)
        })
    }

    /// Those at `offset` and behind it, by ascending offset.
    pub(super) fn iter_from(&self, offset: Offset) -> impl Iterator<Item = (Offset, Timestamp)> {
        self.iter().skip(self.position(offset))
    }

    /// The message at `offset`, if it waits here.
    pub(super) fn get(&self, offset: Offset) -> Option<Waiting> {
        let entry = self.entries.get(self.position(offset))?;
        Some(self.waiting(*entry)).filter(|(_, found)| *found == offset)
    }

    /// What is due at `at`.
    pub(super) fn due_by(&self, at: Timestamp) -> impl Iterator<Item = Waiting> {
        let waiting = self.entries.iter().map(|entry| self.waiting(*entry));
        waiting.filter(move |(due, _)| *due <= at)
    }

    /// Adds a message behind the others; false if it has to have another block.
    pub(super) fn push(&mut self, due: Timestamp, offset: Offset) -> bool {
        if self.entries.len() >= BLOCK_MAX || offset.distance_from(self.first) > PLACE_MASK {
            return false;
        }
        if self.entries.len() == self.entries.capacity() {
            // By half, so that what is added and removed in turn does not move each time.
            let more = (self.entries.len() / 2).max(4).min(BLOCK_MAX - self.entries.len());
            self.entries.reserve_exact(more);
        }
        let entry = self.entry((due.min(DUE_MAX), offset));
        self.head = self.head.min(entry);
        self.entries.push(entry);
        true
    }

    /// Takes out what lies in `range`.
    pub(super) fn remove(&mut self, range: &Range<Offset>) {
        let places = self.position(range.start)..self.position(range.end);
        let had_head = range.contains(&self.head().1);
        self.entries.drain(places);
        if had_head {
            self.head = self.entries.iter().copied().min().unwrap_or_default();
        }
        if self.entries.len() < self.entries.capacity() / 8 * 5 {
            self.entries.shrink_to_fit();
        }
    }

    /// Whether all of `next`, whose offsets lie behind those here, has room here.
    pub(super) fn can_join(&self, next: &Self) -> bool {
        let end = next.entries.last().map_or(next.first, |entry| next.waiting(*entry).1);
        let is_near = end.distance_from(self.first) <= PLACE_MASK;
        is_near && self.len() + next.len() <= JOINED_MAX
    }

    /// Takes over all of `next`, if [`Self::can_join`].
    pub(super) fn join(&mut self, next: &Self) {
        let shift = next.first.distance_from(self.first);
        self.entries.reserve_exact(next.len());
        self.entries.extend(next.entries.iter().map(|entry| entry + shift));
        self.head = self.head.min(next.head + shift);
    }

    /// How many entries come before `offset`.
    fn position(&self, offset: Offset) -> usize {
        let place = offset.0.saturating_sub(self.first.0);
        self.entries.partition_point(|entry| entry & PLACE_MASK < place)
    }

    const fn waiting(&self, entry: u64) -> Waiting {
        (Timestamp(entry >> PLACE_BITS), Offset(self.first.0 + (entry & PLACE_MASK)))
    }

    const fn entry(&self, (due, offset): Waiting) -> u64 {
        due.0 << PLACE_BITS | (offset.0 - self.first.0)
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(super) const fn memory(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<u64>()
    }
}
