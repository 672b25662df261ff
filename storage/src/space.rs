//! How much room there is, and whether a publish may take some of it.
//!
//! "Full" is an answer given before state changes. An admitted byte needs room
//! twice, in the journal and, until it is folded, in a run; that its segment will be
//! adopted and needs no run is not reckoned with. What settlements and
//! the checkpointer need to make room again is never given to publishes.

use std::fmt;

/// Runs, checkpoints and segments that are kept free for settlements and checkpointing.
const SEGMENTS_RESERVED: u64 = 2;
/// A checkpoint grows with what is in flight; the next one may be this much larger.
const CHECKPOINT_GROWTH_BYTES: u64 = 1 << 20;

/// The room of a store at one moment. A plain value: the engine decides on it without looking
/// at a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written to the file system.
    pub free_bytes: u64,
    /// Bytes of zeroed segments and spares that are ready: taken already, and empty.
    pub ready_bytes: u64,
    /// Journal that no checkpoint contains yet.
    pub unfolded_bytes: u64,
    /// The ring: unfolded journal at which publishes are refused.
    pub unfolded_bytes_max: u64,
    /// Memory that the index of unfolded batches takes.
    pub index_bytes: u64,
    /// The index's limit.
    pub index_bytes_max: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Size of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// Journal that is folded and kept as history only; the first to go when space is short.
    pub history_bytes: u64,
}

/// The answer to a publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// There is room.
    #[default]
    Granted,
    /// The disk is full; it recovers by itself when messages are settled or room is made.
    Full {
        /// Room that must be there.
        needed: u64,
        /// Room that is there.
        found: u64,
    },
    /// The checkpointer is behind; try again soon.
    Overloaded {
        /// Unfolded bytes, or bytes of their index.
        used: u64,
        /// What they may be.
        limit: u64,
    },
}

impl Space {
    /// Room that publishes never get: two segments for settlements, one checkpoint, one run.
    #[must_use]
    pub const fn reserve(&self) -> u64 {
        let segments = (SEGMENTS_RESERVED + 1).saturating_mul(self.segment_bytes);
        let checkpoint = self.checkpoint_bytes.saturating_mul(2);
        segments.saturating_add(checkpoint).saturating_add(CHECKPOINT_GROWTH_BYTES)
    }

    /// Room that must be there to admit `bytes` more: their place in the journal and in a run,
    /// the place in a run of everything unfolded, and the reserve.
    #[must_use]
    pub const fn needed_for(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(2).saturating_add(self.unfolded_bytes).saturating_add(self.reserve())
    }

    /// Room that is there: free, or taken ahead of time, or freed on demand.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.free_bytes.saturating_add(self.ready_bytes).saturating_add(self.history_bytes)
    }

    /// Whether a publish of `bytes` may be admitted. After [`Admission::Full`] half as much again
    /// must be free, so that a store at the edge does not change its mind with every message.
    #[must_use]
    pub fn admit(&self, bytes: u64, before: Admission) -> Admission {
        let used = self.unfolded_bytes.saturating_add(bytes);
        if used > self.unfolded_bytes_max {
            return Admission::Overloaded { used, limit: self.unfolded_bytes_max };
        }
        if self.index_bytes >= self.index_bytes_max {
            let (used, limit) = (self.index_bytes, self.index_bytes_max);
            return Admission::Overloaded { used, limit };
        }
        let mut needed = self.needed_for(bytes);
        if matches!(before, Admission::Full { .. }) {
            needed = needed.saturating_add(self.reserve() / 2);
        }
        let found = self.room();
        if found < needed { Admission::Full { needed, found } } else { Admission::Granted }
    }

    /// Whether history should be given up for room.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        let needed = self.needed_for(0);
        self.free_bytes.saturating_add(self.ready_bytes) < needed.saturating_add(needed / 2)
    }

    /// How much of the full publish credit to grant, in thousandths: all of it up to half the
    /// ring, then less and less, nothing when the ring is full.
    #[must_use]
    pub const fn publish_credit_permille(&self) -> u64 {
        let max = self.unfolded_bytes_max;
        let half = max / 2;
        let used = if self.unfolded_bytes > max { max } else { self.unfolded_bytes };
        if used <= half || max == half {
            return 1000;
        }
        (max - used).saturating_mul(1000) / (max - half)
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted => write!(f, "granted"),
            Self::Full { needed, found } => {
                write!(f, "storage is full needed={needed} found={found}")
            }
            Self::Overloaded { used, limit } => {
                write!(f, "checkpointer is behind used={used} limit={limit}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn roomy() -> Space {
        Space {
            free_bytes: 1000 * MIB,
            unfolded_bytes_max: 100 * MIB,
            index_bytes_max: 64 * MIB,
            segment_bytes: 64 * MIB,
            ..Space::default()
        }
    }

    #[test]
    fn the_reserve_is_never_given_to_publishes() {
        let reserve = roomy().reserve();
        let space = Space { free_bytes: reserve + 10, ..roomy() };

        assert_eq!(space.admit(5, Admission::Granted), Admission::Granted);
        let refused = space.admit(6, Admission::Granted);
        assert_eq!(refused, Admission::Full { needed: reserve + 12, found: reserve + 10 });
    }

    #[test]
    fn unfolded_bytes_keep_their_room_in_a_run() {
        let space = Space { free_bytes: roomy().reserve() + 10, unfolded_bytes: 10, ..roomy() };

        assert_eq!(space.admit(0, Admission::Granted), Admission::Granted);
        assert!(matches!(space.admit(1, Admission::Granted), Admission::Full { .. }));
    }

    #[test]
    fn a_full_store_admits_again_only_with_room_to_spare() {
        let full = Admission::Full { needed: 0, found: 0 };
        let reserve = roomy().reserve();
        let space = |free_bytes| Space { free_bytes, ..roomy() };

        assert_eq!(space(reserve + 2).admit(1, Admission::Granted), Admission::Granted);
        assert!(matches!(space(reserve + 2).admit(1, full), Admission::Full { .. }));
        assert_eq!(space(reserve + reserve / 2 + 2).admit(1, full), Admission::Granted);
    }

    #[test]
    fn a_full_ring_or_index_is_overload_not_full() {
        let ring = Space { unfolded_bytes: 100 * MIB, ..roomy() };
        assert!(matches!(ring.admit(1, Admission::Granted), Admission::Overloaded { .. }));
        let index = Space { index_bytes: 64 * MIB, ..roomy() };
        assert!(matches!(index.admit(1, Admission::Granted), Admission::Overloaded { .. }));
    }

    #[test]
    fn credit_falls_from_half_the_ring_on() {
        let credit = |unfolded| {
            Space { unfolded_bytes: unfolded * MIB, ..roomy() }.publish_credit_permille()
        };

        assert_eq!([credit(0), credit(50), credit(75), credit(100)], [1000, 1000, 500, 0]);
        assert_eq!(credit(500), 0);
    }
}
