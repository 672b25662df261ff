//! The state that the journal folds into. Storage keeps it opaque.

use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use std::ops::Range;

/// The state folded out of the journal: recovery, checkpoint and replay are all this function.
///
/// `apply` must be pure and deterministic: the same events in the same order give the same bytes
/// from `encode`. And an offset of a batch that was once not needed is never needed again: what a
/// checkpoint released may be gone before the next one is made.
pub trait Fold: Clone + Send + Sized + 'static {
    /// Why events or bytes are not understood.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The state before the first frame.
    fn empty() -> Self;

    /// Applies the events of one frame.
    ///
    /// # Errors
    ///
    /// The events are not understood. Opening the store then fails; nothing is skipped.
    fn apply(
        &mut self,
        index: LogIndex,
        term: StartEpoch,
        time: Timestamp,
        events: &[u8],
    ) -> Result<(), Self::Error>;

    /// Frames `first` to `last` are damaged: they were durable, and will never be applied.
    ///
    /// Comes at the frames' place among the others, for each lost frame once; whether one call
    /// names several or each has its own must make no difference.
    fn lost(&mut self, first: LogIndex, last: LogIndex);

    /// Appends the whole state to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads what [`Fold::encode`] wrote.
    ///
    /// # Errors
    ///
    /// The bytes are not understood.
    fn decode(bytes: &[u8]) -> Result<Self, Self::Error>;

    /// All partitions, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// The half-open offset ranges of `partition` that must stay readable, as far as they lie in
    /// `within`: ascending, disjoint.
    fn needed(&self, partition: PartitionId, within: Range<Offset>) -> Vec<Range<Offset>>;
}

/// Whether any of `ranges` (ascending, disjoint, half-open) meets `start..end`.
#[must_use]
pub fn overlaps(ranges: &[Range<Offset>], start: Offset, end: Offset) -> bool {
    let first = ranges.partition_point(|range| range.end <= start);
    ranges.get(first).is_some_and(|range| range.start < end && range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Vec<Range<Offset>> {
        pairs.iter().map(|(start, end)| Offset(*start)..Offset(*end)).collect()
    }

    #[test]
    fn a_batch_meets_a_range_when_they_share_an_offset() {
        let needed = ranges(&[(2, 4), (10, 11)]);

        let met = |start, end| overlaps(&needed, Offset(start), Offset(end));

        assert!(!met(0, 2));
        assert!(met(0, 3));
        assert!(met(3, 9));
        assert!(!met(4, 10));
        assert!(met(10, 11));
        assert!(!met(11, 99));
    }

    #[test]
    fn an_empty_range_needs_nothing() {
        assert!(!overlaps(&ranges(&[(5, 5)]), Offset(0), Offset(9)));
    }
}
