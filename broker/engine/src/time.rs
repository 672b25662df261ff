//! The two times: monotonic for deadlines, wall clock for what is stored.

use posthouse_protocol::Timestamp;
use std::time::Duration;

/// Microseconds since the shell started. Monotonic, an input, never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// This moment `millis` milliseconds later.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// How long after `earlier` this is; zero if before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The moment of an input, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For leases, backoff and every other wait.
    pub mono: Time,
    /// For what is stored: arrival times, retry times that survive a restart.
    pub wall: Timestamp,
}
