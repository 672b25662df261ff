//! Which messages were handed out, and the highest fence of each.
//!
//! Consecutive offsets that were handed out with consecutive fences are one entry, so that
//! handing out and acking a run of messages each touch one entry, whatever its length.

use crate::ranges::{put_varint, varint};
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::wire::Wire;
use posthouse_protocol::{DecodeError, Fence, Offset};
use std::collections::BTreeMap;
use std::ops::Range;

/// Offsets with fences, run-length encoded. Neighbours that continue each other are merged, so
/// that equal contents compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandedRuns {
    runs: BTreeMap<Offset, HandedRun>,
}

/// Consecutive offsets with consecutive fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandedRun {
    /// How many; at least 1.
    pub(crate) count: u64,
    /// The first one's fence.
    pub(crate) fence: Fence,
}

impl HandedRuns {
    /// The highest fence that `offset` was handed out with.
    pub(crate) fn fence_of(&self, offset: Offset) -> Option<Fence> {
        let (start, run) = self.runs.range(..=offset).next_back()?;
        let distance = offset.distance_from(*start);
        (distance < run.count).then(|| run.fence.plus(distance))
    }

    /// The parts that lie in `window`, ascending, each with the fence of its start.
    pub(crate) fn iter_in(
        &self,
        window: Range<Offset>,
    ) -> impl Iterator<Item = (Range<Offset>, Fence)> {
        let before = self.runs.range(..window.start).next_back();
        let within = self.runs.range(window.start..window.end.max(window.start));
        before.into_iter().chain(within).filter_map(move |(start, run)| {
            let part = (*start).max(window.start)..start.plus(run.count).min(window.end);
            let fence = run.fence.plus(part.start.distance_from(*start));
            (part.start < part.end).then_some((part, fence))
        })
    }

    /// Notes that `count` messages from `first` on were handed out, whatever was noted before.
    pub(crate) fn insert(&mut self, first: Offset, mut run: HandedRun) {
        let (mut first, end) = (first, first.plus(run.count));
        if first == end {
            return;
        }
        self.remove(first..end);
        if let Some((start, before)) = self.runs.range(..first).next_back()
            && start.plus(before.count) == first
            && before.fence.plus(before.count) == run.fence
        {
            first = *start;
            run = HandedRun { count: before.count + run.count, fence: before.fence };
        }
        if let Some(after) = self.runs.get(&end)
            && after.fence == run.fence.plus(run.count)
        {
            run.count += after.count;
            self.runs.remove(&end);
        }
        self.runs.insert(first, run);
    }

    /// Forgets what lies in `range`.
    pub(crate) fn remove(&mut self, range: Range<Offset>) {
        while let Some((start, run)) = self.runs.range(..range.end).next_back() {
            let (start, run) = (*start, *run);
            let end = start.plus(run.count);
            if end <= range.start {
                return;
            }
            self.runs.remove(&start);
            if end > range.end {
                let skipped = range.end.distance_from(start);
                let rest = HandedRun { count: run.count - skipped, fence: run.fence.plus(skipped) };
                self.runs.insert(range.end, rest);
            }
            if start < range.start {
                let count = range.start.distance_from(start);
                self.runs.insert(start, HandedRun { count, fence: run.fence });
            }
        }
    }

    /// Appends all of it.
    pub(crate) fn encode<S: Sink>(&self, out: &mut S) {
        put_varint(out, self.runs.len() as u64);
        for (first, run) in &self.runs {
            put_varint(out, first.0);
            put_varint(out, run.count);
            run.fence.encode(out);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        let field = "subscription.handed";
        let mut handed = Self::default();
        let mut end = Offset::ZERO;
        for _ in 0..varint(source, field)? {
            let first = Offset(varint(source, field)?);
            let count = varint(source, field)?;
            let fence = Fence::decode(source, field)?;
            if count == 0 || first < end || first.0.checked_add(count).is_none() {
                return Err(DecodeError::Invalid { field, found: first.0 });
            }
            end = first.plus(count);
            handed.runs.insert(first, HandedRun { count, fence });
        }
        Ok(handed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::StartEpoch;
    use proptest::prelude::*;

    fn fence(counter: u64) -> Fence {
        Fence { epoch: StartEpoch(1), counter }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_from_offset_to_fence(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..9, 0_u64..70), 0..60),
        ) {
            let mut handed = HandedRuns::default();
            let mut expected = BTreeMap::new();
            for (remove, first, count, counter) in steps {
                if remove {
                    handed.remove(Offset(first)..Offset(first + count));
                    (first..first + count).for_each(|at| { expected.remove(&at); });
                } else {
                    handed.insert(Offset(first), HandedRun { count, fence: fence(counter) });
                    expected.extend((0..count).map(|at| (first + at, counter + at)));
                }
            }
            let all: BTreeMap<u64, u64> = handed
                .iter_in(Offset::ZERO..Offset::MAX)
                .flat_map(|(part, fence)| {
                    (part.start.0..part.end.0).zip(fence.counter..)
                })
                .collect();
            prop_assert_eq!(&all, &expected);
            for at in 0..80 {
                let found = handed.fence_of(Offset(at)).map(|fence| fence.counter);
                prop_assert_eq!(found, expected.get(&at).copied());
            }
            let clipped: Vec<u64> = handed
                .iter_in(Offset(10)..Offset(40))
                .flat_map(|(part, _)| part.start.0..part.end.0)
                .collect();
            let wanted: Vec<u64> = expected.range(10..40).map(|(at, _)| *at).collect();
            prop_assert_eq!(clipped, wanted);
            let mut bytes = Vec::new();
            handed.encode(&mut bytes);
            prop_assert_eq!(HandedRuns::decode(&mut Source::new(&bytes)), Ok(handed));
        }
    }

    #[test]
    fn runs_that_continue_each_other_become_one_in_any_order() {
        let mut forward = HandedRuns::default();
        forward.insert(Offset(0), HandedRun { count: 2, fence: fence(10) });
        forward.insert(Offset(2), HandedRun { count: 2, fence: fence(12) });
        let mut backward = HandedRuns::default();
        backward.insert(Offset(2), HandedRun { count: 2, fence: fence(12) });
        backward.insert(Offset(0), HandedRun { count: 2, fence: fence(10) });

        assert_eq!(forward, backward);
        assert_eq!(forward.runs.len(), 1);
    }
}
