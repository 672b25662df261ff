//! How far the load has come, so that kills can be aimed.

use crate::support::PATIENCE;
use std::sync::{Condvar, Mutex};

/// What the load does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// A message was handed to the client.
    Submitted,
    /// A receipt came.
    Accepted,
    /// A delivery was taken.
    Taken,
    /// A settlement was confirmed.
    Settled,
}

impl Deed {
    pub(crate) const ALL: [Self; 4] = [Self::Submitted, Self::Accepted, Self::Taken, Self::Settled];
}

/// Counts of deeds that can be waited for.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    counts: Mutex<[u64; 4]>,
    changed: Condvar,
}

impl Progress {
    pub(crate) fn count(&self, deed: Deed) {
        self.counts.lock().unwrap()[deed as usize] += 1;
        self.changed.notify_one();
    }

    /// How often it was done.
    pub(crate) fn of(&self, deed: Deed) -> u64 {
        self.counts.lock().unwrap()[deed as usize]
    }

    /// Waits until it was done `more` times more.
    pub(crate) fn wait(&self, deed: Deed, more: u64) {
        let counts = self.counts.lock().unwrap();
        let until = counts[deed as usize] + more;
        let waiting = |counts: &mut [u64; 4]| counts[deed as usize] < until;
        let (counts, waited) = self.changed.wait_timeout_while(counts, PATIENCE, waiting).unwrap();
        assert!(!waited.timed_out(), "the load stands still at {counts:?}, {deed:?}");
    }
}
