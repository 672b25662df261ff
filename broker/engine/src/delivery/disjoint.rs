//! Stretches of offsets that do not overlap, found by any offset inside.

use super::span::Stretch;
use posthouse_protocol::Offset;
use std::collections::BTreeMap;
use std::ops::Range;

/// A map from offsets to what is known of them, one entry per stretch.
#[derive(Debug)]
pub(super) struct Disjoint<T> {
    stretches: BTreeMap<Offset, T>,
    messages: u64,
}

impl<T> Default for Disjoint<T> {
    fn default() -> Self {
        Self { stretches: BTreeMap::new(), messages: 0 }
    }
}

impl<T: Stretch> Disjoint<T> {
    /// How many offsets are in it.
    pub(super) const fn messages(&self) -> u64 {
        self.messages
    }

    /// How many stretches they are kept in.
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// Adds a stretch that overlaps no other.
    pub(super) fn insert(&mut self, stretch: T) {
        debug_assert!(
            self.overlapping(stretch.first()..stretch.end()).next().is_none(),
            "a message is in one place only"
        );
        self.messages += stretch.messages();
        self.stretches.insert(stretch.first(), stretch);
    }

    /// Takes the lowest stretch.
    pub(super) fn pop_first(&mut self) -> Option<T> {
        let (_, stretch) = self.stretches.pop_first()?;
        self.messages -= stretch.messages();
        Some(stretch)
    }

    /// The stretch that ends where `offset` begins.
    pub(super) fn ending_at(&mut self, offset: Offset) -> Option<&mut T> {
        let (_, stretch) = self.stretches.range_mut(..offset).next_back()?;
        (stretch.end() == offset).then_some(stretch)
    }

    /// Adds the offsets by which the stretch given by [`Self::ending_at`] was extended.
    pub(super) const fn extended_by(&mut self, messages: u64) {
        self.messages += messages;
    }

    /// One past the highest offset; `None` if it is empty.
    pub(super) fn end(&self) -> Option<Offset> {
        self.stretches.last_key_value().map(|(_, stretch)| stretch.end())
    }

    /// All stretches, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.stretches.values()
    }

    /// The stretches that have an offset in `range`, ascending, not clipped.
    pub(super) fn overlapping(&self, range: Range<Offset>) -> impl Iterator<Item = &T> {
        let before = self.stretches.range(..range.start).next_back().map(|(_, stretch)| stretch);
        let inside = (range.start < range.end)
            .then(|| self.stretches.range(range.clone()).map(|(_, stretch)| stretch));
        before
            .filter(move |stretch| stretch.end() > range.start && range.start < range.end)
            .into_iter()
            .chain(inside.into_iter().flatten())
    }

    /// Takes out everything in `range` for which `wanted` holds, cut at the edges of `range`,
    /// and passes it to `sink` in ascending order.
    ///
    /// `wanted` must give the same answer for every part of a stretch.
    pub(super) fn take_if(
        &mut self,
        range: Range<Offset>,
        wanted: impl Fn(&T) -> bool,
        mut sink: impl FnMut(T),
    ) {
        let mut at = range.start;
        while let Some(first) = self.first_overlapping(at..range.end) {
            let Some(mut stretch) = self.stretches.remove(&first) else { return };
            at = stretch.end();
            if !wanted(&stretch) {
                self.stretches.insert(first, stretch);
                continue;
            }
            if first < range.start {
                let front = stretch.split_before(range.start);
                self.stretches.insert(first, front);
            }
            if stretch.end() > range.end {
                let taken = stretch.split_before(range.end);
                self.stretches.insert(range.end, stretch);
                stretch = taken;
            }
            self.messages -= stretch.messages();
            sink(stretch);
        }
    }

    /// Takes out everything in `range`.
    pub(super) fn take(&mut self, range: Range<Offset>, sink: impl FnMut(T)) {
        self.take_if(range, |_| true, sink);
    }

    fn first_overlapping(&self, range: Range<Offset>) -> Option<Offset> {
        self.overlapping(range).next().map(Stretch::first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::Span;
    use super::*;

    #[test]
    fn taking_a_middle_leaves_both_sides() {
        let mut map = Disjoint::default();
        map.insert(span(0, 10));
        map.insert(span(20, 10));
        assert_eq!(taken(&mut map, 5..25), [(5, 10), (20, 25)]);
        assert_eq!(left(&map), [(0, 5), (25, 30)]);
        assert_eq!(taken(&mut map, 1..2), [(1, 2)]);
        assert_eq!(left(&map), [(0, 1), (2, 5), (25, 30)]);
        assert_eq!(map.messages(), 9);
        assert_eq!(taken(&mut map, 5..25), []);
    }

    #[test]
    fn what_is_not_wanted_stays_whole() {
        let mut map = Disjoint::default();
        map.insert(span(0, 10));
        map.insert(span(10, 10));
        let mut out = Vec::new();
        map.take_if(Offset(5)..Offset(15), |s: &Span| s.first() >= Offset(10), |s| out.push(s));
        assert_eq!(out.len(), 1);
        assert_eq!(left(&map), [(0, 10), (15, 20)]);
    }

    fn span(first: u64, count: u32) -> Span {
        Span::uniform(Offset(first), count, 1)
    }

    fn taken(map: &mut Disjoint<Span>, range: Range<u64>) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        map.take(Offset(range.start)..Offset(range.end), |s| out.push((s.first().0, s.end().0)));
        out
    }

    fn left(map: &Disjoint<Span>) -> Vec<(u64, u64)> {
        map.iter().map(|s| (s.first().0, s.end().0)).collect()
    }
}
