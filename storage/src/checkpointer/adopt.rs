//! Which segments a fold adopts: those that are mostly needed, in long extents.
//!
//! An adopted segment stays where it lies and gets an index as its run, so that a stream that is
//! kept is written to the disk once. Two things speak against that. What is not needed of the
//! segment takes room until the whole is freed or rewritten. And in a run that was copied the
//! batches of a partition follow one another, whoever published in between: reading one partition
//! of a segment that many share would read the others' batches as well.

use super::source::{Found, Source, source};
use crate::run::format::padded;

/// Quarters of the file that must be needed.
const NEEDED_QUARTERS: u64 = 3;
/// An extent should be at least this part of the file on average: 64 KiB of 64 MiB, which a disk
/// that has to seek reads as fast as it seeks, about.
const EXTENT_PART: u64 = 1024;
/// Batches with no more than this between them make one extent: heads of frames, with their events,
/// and small batches that are not needed any more.
const GAP_BYTES_MAX: u64 = 4096;

/// The batches that have to be copied, by partition and base, and those of segments to be adopted,
/// by source and then the same.
pub(super) fn split(sources: &[Source], mut batches: Vec<Found>) -> (Vec<Found>, Vec<Found>) {
    if sources.iter().all(|source| source.segment.is_none()) {
        return (batches, Vec::new());
    }
    batches.sort_unstable_by_key(|batch| (batch.source, batch.position));
    let of_source = batches.chunk_by(|one, other| one.source == other.source);
    let chosen = of_source.filter(|batches| is_worth_it(sources, batches));
    let chosen: Vec<u32> =
        chosen.filter_map(|batches| batches.first()).map(|batch| batch.source).collect();
    let is_chosen = |batch: &Found| chosen.binary_search(&batch.source).is_ok();
    let (mut adopted, mut copied): (Vec<_>, Vec<_>) = batches.into_iter().partition(is_chosen);
    copied.sort_unstable_by_key(|batch| (batch.partition, batch.base));
    adopted.sort_unstable_by_key(|batch| (batch.source, batch.partition, batch.base));
    (copied, adopted)
}

/// Whether the segment with these batches, all that are needed of it by position, should be adopted.
fn is_worth_it(sources: &[Source], batches: &[Found]) -> bool {
    let first = batches.first();
    let segment = first
        .and_then(|first| source(sources, first.source))
        .and_then(|source| source.segment.as_ref());
    let Some(segment) = segment else {
        return false;
    };
    let needed: u64 = batches.iter().map(|batch| padded(u64::from(batch.len))).sum();
    let is_mostly_needed = needed.saturating_mul(4) >= segment.size.saturating_mul(NEEDED_QUARTERS);
    let extent_min = segment.size / EXTENT_PART;
    is_mostly_needed && needed >= extents(batches).saturating_mul(extent_min)
}

/// How many extents these batches, sorted by position, make.
fn extents(batches: &[Found]) -> u64 {
    let pairs = batches.iter().zip(batches.iter().skip(1));
    let is_break = |(one, next): &(&Found, &Found)| {
        let end = one.position.saturating_add(u64::from(one.len));
        one.partition != next.partition || next.position.saturating_sub(end) > GAP_BYTES_MAX
    };
    1 + pairs.filter(is_break).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimFs;
    use crate::fs::{File, Fs};
    use crate::names::FileId;
    use crate::run::Adopted;
    use bytes::Bytes;
    use posthouse_protocol::{Offset, PartitionId};
    use std::sync::Arc;

    const SIZE: u64 = 1 << 20;
    /// Bytes between two batches of a stretch.
    const HEAD: u64 = 160;

    #[test]
    fn segment_that_one_partition_fills_is_adopted() {
        let (copied, adopted) = split(&sources(1), stretches(0, &[(1, 900, 1000)]));

        assert_eq!((copied.len(), adopted.len()), (0, 900));
    }

    #[test]
    fn segment_of_which_less_than_three_quarters_are_needed_is_copied() {
        let needed = |count| split(&sources(1), stretches(0, &[(1, count, 1000)])).1.len();

        assert_eq!(needed(787), 787, "787,000 of 1,048,576");
        assert_eq!(needed(786), 0, "786,000");
    }

    #[test]
    fn finely_interleaved_partitions_are_copied() {
        let by_turns = |count, len| {
            let stretches: Vec<_> = (0..count).map(|turn| (turn % 2, 1, len)).collect();
            split(&sources(1), self::stretches(0, &stretches)).1.len()
        };

        assert_eq!(by_turns(890, 1000), 0, "extents of 1,000 bytes");
        assert_eq!(by_turns(800, 1032), 800, "of 1,032, and the least is 1,024");
    }

    #[test]
    fn long_gaps_end_an_extent() {
        let mut batches = stretches(0, &[(1, 890, 1000)]);
        let extents_of = |batches: &[Found]| extents(batches);
        assert_eq!(extents_of(&batches), 1);

        batches.iter_mut().skip(400).for_each(|batch| batch.position += GAP_BYTES_MAX);

        assert_eq!(extents_of(&batches), 2);
    }

    #[test]
    fn each_segment_is_decided_by_itself_and_all_batches_are_sorted() {
        let mut batches = stretches(1, &[(2, 400, 1000), (1, 400, 1000)]);
        batches.extend(stretches(0, &[(9, 10, 1000)]));
        batches.extend(stretches(2, &[(3, 10, 1000), (1, 890, 1000)]));

        let (copied, adopted) = split(&sources(3), batches);

        assert_eq!((copied.len(), adopted.len()), (10, 1700));
        assert!(copied.iter().all(|batch| batch.source == 0));
        let key = |batch: &Found| (batch.source, batch.partition, batch.base);
        assert!(adopted.is_sorted_by_key(key));
    }

    #[test]
    fn what_is_no_segment_is_never_adopted() {
        let run = Source { bytes: Bytes::new(), segment: None };

        let (copied, adopted) = split(&[run], stretches(0, &[(1, 900, 1000)]));

        assert_eq!((copied.len(), adopted.len()), (900, 0));
    }

    /// So many segments.
    fn sources(count: u64) -> Vec<Source> {
        let disk = SimFs::new();
        let file: Arc<dyn File> = disk.create("file").unwrap();
        file.set_len(SIZE).unwrap();
        let map = file.map(SIZE).unwrap();
        let segment = |id| Adopted { id: FileId(id), size: SIZE, map: map.clone() };
        let sources =
            (0..count).map(|id| Source { bytes: Bytes::new(), segment: Some(segment(id)) });
        sources.collect()
    }

    /// Batches one behind the other: of which partition, how many, how long.
    fn stretches(source: u32, of: &[(u32, u64, u32)]) -> Vec<Found> {
        let mut position = 4096;
        let mut batches = Vec::new();
        for (partition, count, len) in of.iter().copied() {
            for _ in 0..count {
                position += HEAD;
                let (partition, base) = (PartitionId(partition), Offset(position));
                batches.push(Found { partition, count: 1, base, position, len, crc: 0, source });
                position += u64::from(len).next_multiple_of(8);
            }
        }
        batches
    }
}
