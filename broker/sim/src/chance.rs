//! Throwing dice, with a few words more than the storage's own.

use posthouse_storage::fs::dice::Dice;

/// What the simulation asks of dice.
pub(crate) trait Chance {
    /// A number in `low..=high`.
    fn between(&mut self, low: u64, high: u64) -> u64;

    /// An index below `len`, which must not be 0.
    fn index(&mut self, len: usize) -> usize;

    /// Dice of their own for a part of the run, so that more throws in it do not change the others.
    fn split(&mut self) -> Dice;
}

impl Chance for Dice {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    fn split(&mut self) -> Dice {
        Self::new(self.throw())
    }
}
