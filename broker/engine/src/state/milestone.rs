//! When and at which byte some of a partition's messages arrived.
//!
//! A bounded list: retention, sizes and positions in time are as exact as its spacing, which is
//! at most a 64th of what the partition holds. It is thinned by rule, never by chance, because it
//! is part of the folded state.

use posthouse_protocol::{Offset, Timestamp, wire_struct};
use std::collections::VecDeque;

/// Most milestones of one partition. 32 bytes each, and 100,000 topics are ordinary: the spacing
/// is what retention by age and bytes, and places in time, are exact to.
pub(crate) const MILESTONES_MAX: usize = 32;

wire_struct! {
    /// The start of a batch.
    pub struct Milestone {
        /// Its first offset.
        pub offset: Offset,
        /// When it arrived.
        pub at: Timestamp,
        /// When the batch before it arrived; zero if it was the first.
        pub at_before: Timestamp,
        /// Bytes of all batches before it, since the partition was made.
        pub bytes_before: u64,
    }
}

/// The milestones of one partition, ascending in all fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Milestones {
    pub(super) list: VecDeque<Milestone>,
    /// Fewest offsets between two neighbours from now on.
    pub(super) spacing: u64,
    /// Bytes of all batches so far.
    pub(super) bytes_end: u64,
    /// When the last batch arrived.
    pub(super) last_at: Timestamp,
    /// From which offset on a batch gets a milestone: `spacing` behind the last one. Follows from the
    /// others; it is here so that a batch that gets none need not look at the list, which with
    /// thousands of topics is in no cache.
    due: Offset,
}

impl Default for Milestones {
    fn default() -> Self {
        let (list, last_at) = (VecDeque::new(), Timestamp::ZERO);
        Self::new(list, 1, 0, last_at)
    }
}

impl Milestones {
    pub(super) fn new(
        list: VecDeque<Milestone>,
        spacing: u64,
        bytes_end: u64,
        last_at: Timestamp,
    ) -> Self {
        let mut milestones = Self { list, spacing, bytes_end, last_at, due: Offset::ZERO };
        milestones.place_next();
        milestones
    }

    fn place_next(&mut self) {
        let last = self.list.back();
        self.due = last.map_or(Offset::ZERO, |last| last.offset.plus(self.spacing));
    }

    /// Notes a batch. `start` is the first offset still of interest.
    pub(crate) fn push(&mut self, offset: Offset, at: Timestamp, bytes: u32, start: Offset) {
        // The wall clock may step back; what is stored must ascend.
        let at_before = self.last_at;
        self.last_at = at_before.max(at);
        if offset >= self.due {
            if self.is_full() {
                self.thin(start);
            }
            let (at, bytes_before) = (self.last_at, self.bytes_end);
            self.list.push_back(Milestone { offset, at, at_before, bytes_before });
            self.place_next();
        }
        self.bytes_end += u64::from(bytes);
    }

    /// Whether the next batch may make it thinner.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() == MILESTONES_MAX
    }

    /// Makes room: what is no longer of interest goes first, then every second one.
    fn thin(&mut self, start: Offset) {
        self.forget_below(start);
        if self.list.len() > MILESTONES_MAX / 2 {
            let mut position = 0_usize;
            self.list.retain(|_| {
                position += 1;
                position % 2 == 1
            });
            self.spacing = self.spacing.saturating_mul(2);
        }
    }

    /// Drops what is not needed to place `start` and everything after it.
    pub(crate) fn forget_below(&mut self, start: Offset) {
        let covered = |list: &VecDeque<Milestone>| list.get(1).is_some_and(|m| m.offset <= start);
        while covered(&self.list) {
            self.list.pop_front();
        }
        if self.list.len() < MILESTONES_MAX / 4 {
            self.spacing = (self.spacing / 2).max(1);
        }
        self.place_next();
    }

    /// Roughly how many bytes lie before `offset`; `next` is the partition's end.
    pub(crate) fn bytes_before(&self, offset: Offset, next: Offset) -> u64 {
        let after = self.list.partition_point(|milestone| milestone.offset <= offset);
        let end =
            self.list.get(after).map_or((next, self.bytes_end), |m| (m.offset, m.bytes_before));
        let Some(before) = after.checked_sub(1).and_then(|at| self.list.get(at)) else {
            return self.list.front().map_or(self.bytes_end, |first| first.bytes_before);
        };
        let (span, bytes) =
            (end.0.distance_from(before.offset), end.1.saturating_sub(before.bytes_before));
        let part = offset.distance_from(before.offset).min(span);
        let share = u128::from(bytes) * u128::from(part) / u128::from(span.max(1));
        before.bytes_before.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// The last known moment at which `offset` had not arrived or was just arriving.
    pub(crate) fn arrived_by(&self, offset: Offset) -> Timestamp {
        let after = self.list.partition_point(|milestone| milestone.offset <= offset);
        let known =
            after.checked_sub(1).and_then(|at| self.list.get(at)).or_else(|| self.list.front());
        known.map_or(Timestamp::ZERO, |milestone| milestone.at)
    }

    /// The furthest known offset such that everything below arrived before `at`; `next` is the
    /// partition's end.
    pub(crate) fn first_since(&self, at: Timestamp, next: Offset) -> Offset {
        if self.last_at < at {
            return next;
        }
        let after = self.list.partition_point(|milestone| milestone.at_before < at);
        // If even the first one came later, only what is forgotten may have come before.
        let last = self.list.get(after.saturating_sub(1));
        last.map_or(next, |milestone| milestone.offset)
    }

    /// The first milestone's offset with at most `bytes_max` bytes behind it, or `next`.
    pub(crate) fn first_with_at_most(&self, bytes_max: u64, next: Offset) -> Offset {
        let fits = |m: &Milestone| self.bytes_end.saturating_sub(m.bytes_before) <= bytes_max;
        let at = self.list.partition_point(|milestone| !fits(milestone));
        self.list.get(at).map_or(next, |milestone| milestone.offset)
    }

    /// The arrival that must become too old before anything from `start` on can be forgotten.
    pub(crate) fn oldest_to_forget(&self, start: Offset) -> Timestamp {
        let after = self.list.iter().find(|milestone| milestone.offset > start);
        after.map_or(self.last_at, |milestone| milestone.at_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(batches: u64) -> Milestones {
        let mut milestones = Milestones::default();
        for batch in 0..batches {
            milestones.push(Offset(batch * 10), Timestamp(batch), 1000, Offset::ZERO);
        }
        milestones
    }

    #[test]
    fn list_stays_bounded_and_evenly_spaced() {
        let milestones = filled(100_000);

        assert!(milestones.list.len() <= MILESTONES_MAX);
        assert!(milestones.list.len() >= MILESTONES_MAX / 2);
        let gaps: Vec<u64> = (milestones.list.iter().zip(milestones.list.iter().skip(1)))
            .map(|(a, b)| b.offset.distance_from(a.offset))
            .collect();
        assert!(gaps.iter().max().unwrap() <= &(gaps.iter().min().unwrap() * 2));
    }

    #[test]
    fn sizes_are_exact_for_even_batches() {
        let milestones = filled(100_000);
        let next = Offset(1_000_000);

        assert_eq!(milestones.bytes_end, 100_000_000);
        let half = milestones.bytes_before(Offset(500_000), next);
        assert!(half.abs_diff(50_000_000) < 100, "{half}");
        assert_eq!(milestones.bytes_before(next, next), 100_000_000);
    }

    #[test]
    fn place_in_time_is_never_too_late() {
        let milestones = filled(100_000);
        let next = Offset(1_000_000);
        let place = milestones.first_since(Timestamp(50_000), next);

        assert!(place <= Offset(500_000));
        assert!(place >= Offset(500_000 - 1_000_000 / 32));
        assert_eq!(milestones.first_since(Timestamp(100_000), next), next);
    }

    #[test]
    fn time_before_all_that_is_kept_is_the_place_of_the_first() {
        let mut milestones = filled(30);
        milestones.forget_below(Offset(205));

        assert_eq!(milestones.first_since(Timestamp(3), Offset(300)), Offset(200));
    }

    #[test]
    fn few_batches_are_placed_exactly() {
        let milestones = filled(30);
        let next = Offset(300);

        assert_eq!(milestones.first_since(Timestamp(20), next), Offset(200));
        assert_eq!(milestones.first_with_at_most(5_000, next), Offset(250));
    }

    #[test]
    fn clock_that_steps_back_does_not_disorder_the_list() {
        let mut milestones = Milestones::default();
        milestones.push(Offset(0), Timestamp(100), 1, Offset::ZERO);
        milestones.push(Offset(1), Timestamp(50), 1, Offset::ZERO);

        assert_eq!(milestones.arrived_by(Offset(1)), Timestamp(100));
    }

    #[test]
    fn trimming_makes_the_spacing_finer_again() {
        let mut milestones = filled(100_000);
        let coarse = milestones.spacing;
        milestones.forget_below(Offset(999_990));

        assert!(milestones.spacing < coarse);
    }
}
