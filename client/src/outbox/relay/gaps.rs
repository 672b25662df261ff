//! Ids below the highest row seen under which no row has been seen yet.
//!
//! A database numbers rows when they are inserted, and shows them when they are committed: a lower
//! id may appear after a higher one. Each such id is asked for again for a while; after that it was
//! rolled back, most likely, and if it was not, the sweep finds it.

use super::time::Time;
use crate::outbox::{RowId, RowRange};
use std::collections::BTreeMap;

/// Ranges of ids to ask for again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gaps {
    /// By their first id; they do not touch each other's ids.
    ranges: BTreeMap<RowId, Gap>,
    /// At most so many.
    ranges_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Gap {
    last: RowId,
    until: Time,
}

impl Gaps {
    pub(crate) const fn new(ranges_max: usize) -> Self {
        Self { ranges: BTreeMap::new(), ranges_max }
    }

    /// Asks for these ids until then. Beyond the bound, the range that has the least time left is
    /// left to the sweep.
    pub(crate) fn open(&mut self, first: RowId, last: RowId, until: Time) {
        self.ranges.insert(first, Gap { last, until });
        if self.ranges.len() > self.ranges_max {
            let oldest = self.ranges.iter().min_by_key(|(_, gap)| gap.until);
            let oldest = oldest.map(|(first, _)| *first);
            oldest.and_then(|first| self.ranges.remove(&first));
        }
    }

    /// The row has been seen.
    pub(crate) fn close(&mut self, id: RowId) {
        let Some((first, gap)) = self.range_of(id) else { return };
        self.ranges.remove(&first);
        if first < id {
            self.ranges.insert(first, Gap { last: RowId(id.0 - 1), until: gap.until });
        }
        if id < gap.last {
            self.open(RowId(id.0 + 1), gap.last, gap.until);
        }
    }

    fn range_of(&self, id: RowId) -> Option<(RowId, Gap)> {
        let (first, gap) = self.ranges.range(..=id).next_back()?;
        (id <= gap.last).then_some((*first, *gap))
    }

    /// Whether this id is asked for.
    pub(crate) fn contains(&self, id: RowId) -> bool {
        self.range_of(id).is_some()
    }

    /// Drops what has been asked for long enough.
    pub(crate) fn expire(&mut self, now: Time) {
        self.ranges.retain(|_, gap| now < gap.until);
    }

    /// How many ranges fit.
    pub(crate) const fn most(&self) -> usize {
        self.ranges_max
    }

    /// All of them, ascending.
    pub(crate) fn ranges(&self) -> Vec<RowRange> {
        let range = |(first, gap): (&RowId, &Gap)| RowRange { first: *first, last: gap.last };
        self.ranges.iter().map(range).collect()
    }

    /// Forgets all.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_seen_in_the_middle_leaves_both_sides() {
        let mut gaps = Gaps::new(10);
        gaps.open(RowId(5), RowId(9), Time(100));

        gaps.close(RowId(7));
        gaps.close(RowId(5));
        gaps.close(RowId(20));

        assert_eq!(pairs(&gaps), [(6, 6), (8, 9)]);
        assert!(gaps.contains(RowId(8)) && !gaps.contains(RowId(7)));
    }

    #[test]
    fn gap_ends_with_its_time() {
        let mut gaps = Gaps::new(10);
        gaps.open(RowId(1), RowId(2), Time(100));
        gaps.open(RowId(5), RowId(5), Time(200));

        gaps.expire(Time(100));

        assert_eq!(pairs(&gaps), [(5, 5)]);
    }

    #[test]
    fn beyond_the_bound_the_one_with_the_least_time_left_goes() {
        let mut gaps = Gaps::new(2);
        gaps.open(RowId(9), RowId(9), Time(1));
        gaps.open(RowId(1), RowId(5), Time(2));

        gaps.close(RowId(3));

        assert_eq!(pairs(&gaps), [(1, 2), (4, 5)]);
    }

    fn pairs(gaps: &Gaps) -> Vec<(u64, u64)> {
        gaps.ranges().iter().map(|range| (range.first.0, range.last.0)).collect()
    }
}
