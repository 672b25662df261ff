//! Consecutive messages with their sizes: what tails, windows and leases are made of.
//!
//! A span moves whole from a publish to an acknowledgement, so most work costs the same for one
//! message as for a thousand. Splitting one never copies its sizes.

use posthouse_protocol::Offset;
use std::ops::Range;
use std::sync::Arc;

/// A stretch of offsets that [`Disjoint`](super::disjoint::Disjoint) can keep.
pub(super) trait Stretch: Sized {
    /// The first offset.
    fn first(&self) -> Offset;
    /// One past the last offset.
    fn end(&self) -> Offset;
    /// Takes off and returns the part below `at`, which lies inside.
    fn split_before(&mut self, at: Offset) -> Self;

    /// How many offsets.
    fn messages(&self) -> u64 {
        self.end().distance_from(self.first())
    }
}

/// Consecutive messages; never empty.
#[derive(Clone, Debug)]
pub(super) struct Span {
    first: Offset,
    count: u32,
    sizes: Sizes,
}

/// Bytes of each message, as credit counts them.
#[derive(Clone, Debug)]
enum Sizes {
    /// All have this size.
    Same(u32),
    /// Sizes differ; the span's first message is the one at `start`.
    Each { all: Arc<[u32]>, start: u32 },
}

impl Span {
    /// `count` messages of `bytes` bytes each.
    pub(super) const fn uniform(first: Offset, count: u32, bytes: u32) -> Self {
        Self { first, count, sizes: Sizes::Same(bytes) }
    }

    /// Messages of the given sizes; `None` if there are none.
    pub(super) fn from_sizes(first: Offset, sizes: &[u32]) -> Option<Self> {
        let bytes = *sizes.first()?;
        let count = u32::try_from(sizes.len()).ok()?;
        if sizes.iter().all(|size| *size == bytes) {
            return Some(Self::uniform(first, count, bytes));
        }
        Some(Self { first, count, sizes: Sizes::Each { all: Arc::from(sizes), start: 0 } })
    }

    /// How many messages.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// The offsets.
    pub(super) const fn offsets(&self) -> Range<Offset> {
        self.first..self.first.plus(self.count as u64)
    }

    /// Bytes of all messages together.
    pub(super) fn bytes(&self) -> u64 {
        match &self.sizes {
            Sizes::Same(bytes) => u64::from(*bytes) * u64::from(self.count),
            Sizes::Each { .. } => self.each().map(u64::from).sum(),
        }
    }

    /// How many messages from the front fit into `bytes`.
    pub(super) fn fitting(&self, bytes: u64) -> u32 {
        match &self.sizes {
            Sizes::Same(0) => self.count,
            Sizes::Same(each) => u32::try_from(bytes / u64::from(*each))
                .map_or(self.count, |fitting| fitting.min(self.count)),
            Sizes::Each { .. } => {
                let mut left = bytes;
                let fits = |size: &u32| match left.checked_sub(u64::from(*size)) {
                    Some(rest) => {
                        left = rest;
                        true
                    }
                    None => false,
                };
                u32::try_from(self.each().take_while(fits).count()).unwrap_or(self.count)
            }
        }
    }

    /// Appends `next` if it follows directly and all sizes are the same; says whether it did.
    pub(super) fn try_extend(&mut self, next: &Self) -> bool {
        let (Sizes::Same(ours), Sizes::Same(theirs)) = (&self.sizes, &next.sizes) else {
            return false;
        };
        let Some(count) = self.count.checked_add(next.count) else { return false };
        if ours != theirs || self.end() != next.first {
            return false;
        }
        self.count = count;
        true
    }

    fn each(&self) -> impl Iterator<Item = u32> + '_ {
        let (all, start, same): (&[u32], u32, u32) = match &self.sizes {
            Sizes::Same(bytes) => (&[], 0, *bytes),
            Sizes::Each { all, start } => (all, *start, 0),
        };
        (start..start.saturating_add(self.count)).map(move |index| {
            usize::try_from(index).ok().and_then(|index| all.get(index)).copied().unwrap_or(same)
        })
    }
}

impl Stretch for Span {
    fn first(&self) -> Offset {
        self.first
    }

    fn end(&self) -> Offset {
        self.first.plus(u64::from(self.count))
    }

    fn split_before(&mut self, at: Offset) -> Self {
        debug_assert!(self.first < at && at < self.end(), "a split leaves something on both sides");
        let count = u32::try_from(at.distance_from(self.first)).unwrap_or(self.count);
        let front = Self { first: self.first, count, sizes: self.sizes.clone() };
        self.first = at;
        self.count -= count;
        if let Sizes::Each { start, .. } = &mut self.sizes {
            *start += count;
        }
        front
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_with_their_messages_when_a_span_is_split() {
        let mut back = Span::from_sizes(Offset(10), &[1, 2, 3, 4]).unwrap();
        let front = back.split_before(Offset(13));
        assert_eq!((front.offsets(), front.bytes()), (Offset(10)..Offset(13), 6));
        assert_eq!((back.offsets(), back.bytes()), (Offset(13)..Offset(14), 4));
    }

    #[test]
    fn only_whole_messages_fit() {
        let mixed = Span::from_sizes(Offset(0), &[5, 1, 9]).unwrap();
        assert_eq!([4, 5, 14, 15, 99].map(|bytes| mixed.fitting(bytes)), [0, 1, 2, 3, 3]);
        let same = Span::uniform(Offset(0), 3, 5);
        assert_eq!([4, 5, 14, 15, 99].map(|bytes| same.fitting(bytes)), [0, 1, 2, 3, 3]);
        assert_eq!(Span::uniform(Offset(0), 3, 0).fitting(0), 3);
    }

    #[test]
    fn neighbours_of_one_size_become_one_span() {
        let mut span = Span::uniform(Offset(0), 2, 5);
        assert!(span.try_extend(&Span::uniform(Offset(2), 3, 5)));
        assert!(!span.try_extend(&Span::uniform(Offset(6), 1, 5)), "a gap");
        assert!(!span.try_extend(&Span::uniform(Offset(5), 1, 6)), "another size");
        assert_eq!(span.offsets(), Offset(0)..Offset(5));
    }
}
