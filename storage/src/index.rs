//! Where the batches lie that are in the journal and not yet folded into runs.
//!
//! In memory only: derived from the frames, written by whoever appends and
//! rebuilt by recovery, so it is never evidence about the journal. 32 bytes a
//! batch; what it takes is part of the space budget, and publishes stop before
//! it outgrows that.

use crate::names::FileId;
use posthouse_protocol::{IdMap, Offset, PartitionId};
use std::collections::VecDeque;

/// One unfolded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of its first message.
    pub base: Offset,
    /// The segment that holds it.
    pub segment: FileId,
    /// Its first byte in the segment.
    pub position: u32,
    /// Its length.
    pub len: u32,
    /// How many messages it holds.
    pub count: u32,
    /// The batch's own checksum over header and index.
    pub header_crc: u32,
}

const _: () = assert!(size_of::<IndexEntry>() == 32, "the space budget counts 32 bytes a batch");

impl IndexEntry {
    /// One past its last offset.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.base.plus(self.count as u64)
    }
}

/// All unfolded batches, by partition.
#[derive(Debug, Default)]
pub struct UnfoldedIndex {
    partitions: IdMap<PartitionId, VecDeque<IndexEntry>>,
    batches: u64,
}

impl UnfoldedIndex {
    /// Adds a batch; within a partition they come in ascending order.
    pub fn insert(&mut self, partition: PartitionId, entry: IndexEntry) {
        let entries = self.partitions.get_or_insert_with(partition, VecDeque::new);
        debug_assert!(
            entries.back().is_none_or(|last| last.next_offset() <= entry.base),
            "offsets of partition={partition} ascend"
        );
        entries.push_back(entry);
        self.batches += 1;
    }

    /// Forgets batches in segments up to and including `last`: a run has them now, or nobody needs
    /// them. Goes through at most `most` partitions after `after`, and gives the one after which to
    /// go on, if there may be more.
    pub fn forget_upto(
        &mut self,
        last: FileId,
        after: Option<PartitionId>,
        most: usize,
    ) -> Option<PartitionId> {
        let (mut forgotten, mut seen, mut at) = (0, 0, None);
        let mut emptied = Vec::new();
        let from = after.map_or(PartitionId::ZERO, PartitionId::next);
        for (partition, entries) in self.partitions.iter_mut_from(from).take(most) {
            (seen, at) = (seen + 1, Some(partition));
            let kept_from = entries.partition_point(|entry| entry.segment <= last);
            entries.drain(..kept_from);
            forgotten += kept_from as u64;
            if entries.is_empty() {
                emptied.push(partition);
            } else if entries.capacity() > 64 && entries.len() < entries.capacity() / 4 {
                entries.shrink_to(entries.len() * 2);
            }
        }
        for partition in emptied {
            self.partitions.remove(&partition);
        }
        self.batches -= forgotten;
        at.filter(|_| seen == most)
    }

    /// The batches of `partition` that end after `from`, ascending.
    pub fn entries_from(
        &self,
        partition: PartitionId,
        from: Offset,
    ) -> impl Iterator<Item = IndexEntry> + '_ {
        let entries = self.partitions.get(&partition);
        let skipped = entries
            .map_or(0, |entries| entries.partition_point(|entry| entry.next_offset() <= from));
        entries.into_iter().flat_map(move |entries| entries.range(skipped..)).copied()
    }

    /// The oldest unfolded batch of `partition`.
    #[must_use]
    pub fn first(&self, partition: PartitionId) -> Option<&IndexEntry> {
        self.partitions.get(&partition)?.front()
    }

    /// How many batches there are.
    #[must_use]
    pub const fn batches(&self) -> u64 {
        self.batches
    }

    /// Memory taken, without what the maps themselves need.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.batches * size_of::<IndexEntry>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    #[test]
    fn lookup_finds_the_batch_that_holds_the_offset_or_the_next() {
        let mut index = UnfoldedIndex::default();
        index.insert(P, entry(10, 5, 1));
        index.insert(P, entry(20, 5, 2));

        let bases = |from| {
            index.entries_from(P, Offset(from)).map(|entry| entry.base.0).collect::<Vec<_>>()
        };

        assert_eq!(bases(0), [10, 20]);
        assert_eq!(bases(14), [10, 20]);
        assert_eq!(bases(15), [20]);
        assert_eq!(bases(24), [20]);
        assert!(bases(25).is_empty());
        assert_eq!(index.entries_from(PartitionId(4), Offset(0)).count(), 0);
    }

    #[test]
    fn folded_segments_are_forgotten_and_counted_out() {
        let mut index = UnfoldedIndex::default();
        index.insert(P, entry(10, 5, 1));
        index.insert(P, entry(20, 5, 2));
        index.insert(PartitionId(9), entry(0, 1, 1));

        let next = index.forget_upto(FileId(1), None, 1);
        assert_eq!((next, index.batches()), (Some(P), 2));
        assert_eq!(index.forget_upto(FileId(1), next, 2), None);

        assert_eq!(index.batches(), 1);
        assert_eq!(index.first(P).map(|entry| entry.base), Some(Offset(20)));
        assert_eq!(index.first(PartitionId(9)), None);
    }

    fn entry(base: u64, count: u32, segment: u64) -> IndexEntry {
        IndexEntry {
            base: Offset(base),
            segment: FileId(segment),
            position: 4096,
            len: 64,
            count,
            header_crc: 0,
        }
    }
}
