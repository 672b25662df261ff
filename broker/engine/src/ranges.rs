//! Sets of offsets kept as half-open ranges.
//!
//! Neighbouring ranges are always merged, so a set has one representation and two equal sets
//! compare equal. A million holes are a million map entries, nothing worse.

use posthouse_protocol::Offset;
use posthouse_protocol::codec::Source;
use posthouse_protocol::{DecodeError, codec::Sink};
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First offset of each range to the end of it; disjoint and not touching.
    ranges: BTreeMap<Offset, Offset>,
    /// How many offsets there are in all.
    len: u64,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), len: 0 }
    }

    /// How many offsets it holds.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges it takes.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether it holds `offset`.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.range_at(offset).is_some()
    }

    /// The range that holds `offset`.
    #[must_use]
    pub fn range_at(&self, offset: Offset) -> Option<Range<Offset>> {
        let (start, end) = self.ranges.range(..=offset).next_back()?;
        (offset < *end).then_some(*start..*end)
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<Offset>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// The parts of the set that lie in `window`, ascending.
    pub fn iter_in(&self, window: Range<Offset>) -> impl Iterator<Item = Range<Offset>> {
        let first = self.range_at(window.start).map_or(window.start, |range| range.start);
        self.ranges
            .range(first..)
            .map(move |(start, end)| (*start).max(window.start)..(*end).min(window.end))
            .take_while(|range| range.start < range.end)
    }

    /// The parts of `window` that are not in the set, ascending.
    pub fn gaps_in(&self, window: Range<Offset>) -> impl Iterator<Item = Range<Offset>> {
        let end = window.end;
        let mut next = window.start;
        let held = self.iter_in(window).chain(std::iter::once(end..end));
        held.filter_map(move |range| {
            let gap = next..range.start;
            next = range.end;
            (gap.start < gap.end).then_some(gap)
        })
    }

    /// How many offsets of `window` it holds.
    #[must_use]
    pub fn len_in(&self, window: Range<Offset>) -> u64 {
        self.iter_in(window).map(|range| range.end.distance_from(range.start)).sum()
    }

    /// Adds a range; nothing happens if it is empty.
    pub fn insert(&mut self, range: Range<Offset>) {
        if range.start >= range.end {
            return;
        }
        let mut merged = range;
        // Whatever starts at or before the end and reaches the start is swallowed.
        while let Some((start, end)) = self.ranges.range(..=merged.end).next_back() {
            let (start, end) = (*start, *end);
            if end < merged.start {
                break;
            }
            self.ranges.remove(&start);
            self.len -= end.distance_from(start);
            merged = merged.start.min(start)..merged.end.max(end);
        }
        self.len += merged.end.distance_from(merged.start);
        self.ranges.insert(merged.start, merged.end);
    }

    /// Takes out everything below `offset`.
    pub fn remove_below(&mut self, offset: Offset) {
        while let Some(first) = self.ranges.first_entry() {
            let (start, end) = (*first.key(), *first.get());
            if start >= offset {
                return;
            }
            first.remove();
            self.len -= end.distance_from(start);
            if end > offset {
                self.ranges.insert(offset, end);
                self.len += end.distance_from(offset);
                return;
            }
        }
    }

    /// Takes out everything below `floor` and the range that then starts at it, and returns where
    /// that one ends: the floor that a reader of this set has reached.
    pub fn absorb(&mut self, floor: Offset) -> Offset {
        if self.ranges.is_empty() {
            return floor;
        }
        self.remove_below(floor);
        if let Some(first) = self.ranges.first_entry()
            && *first.key() == floor
        {
            let end = first.remove();
            self.len -= end.distance_from(floor);
            return end;
        }
        floor
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (few, many) =
            if self.range_count() <= other.range_count() { (self, other) } else { (other, self) };
        let mut both = Self::new();
        for range in few.iter().flat_map(|range| many.iter_in(range)) {
            both.insert(range);
        }
        both
    }

    /// Appends the set: the number of ranges, then for each how far it lies behind the end of the
    /// one before and how long it is, as numbers of 7 bits a byte.
    pub(crate) fn encode<S: Sink>(&self, out: &mut S) {
        put_varint(out, self.ranges.len() as u64);
        let mut last = Offset::ZERO;
        for (start, end) in &self.ranges {
            put_varint(out, start.distance_from(last));
            put_varint(out, end.distance_from(*start));
            last = *end;
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(
        source: &mut Source<'_>,
        field: &'static str,
    ) -> Result<Self, DecodeError> {
        let count = varint(source, field)?;
        let mut set = Self::new();
        let mut last = Offset::ZERO;
        for position in 0..count {
            let (distance, len) = (varint(source, field)?, varint(source, field)?);
            let touches = distance == 0 && position > 0;
            let start = last.0.checked_add(distance).filter(|_| len > 0 && !touches);
            let end = start.and_then(|start| start.checked_add(len));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(DecodeError::Invalid { field, found: distance });
            };
            set.ranges.insert(Offset(start), Offset(end));
            set.len += len;
            last = Offset(end);
        }
        Ok(set)
    }
}

/// Appends a number, 7 bits a byte, low bits first, the high bit set on all bytes but the last.
pub(crate) fn put_varint<S: Sink>(out: &mut S, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.put_u8(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

/// Reads what [`put_varint`] wrote.
pub(crate) fn varint(source: &mut Source<'_>, field: &'static str) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = source.u8(field)?;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return Err(DecodeError::Invalid { field, found: u64::from(byte) });
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Invalid { field, found: value })
}

#[cfg(test)]
mod tests;
