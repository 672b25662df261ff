//! Time as the relay's machine counts it: an input, never a clock.

use std::time::Duration;

/// Milliseconds since the relay was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    /// So much later.
    pub(crate) fn after(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long since `earlier`.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The present, and random bits to spread attempts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// When it is.
    pub(crate) at: Time,
    /// Fresh every time.
    pub(crate) random: u64,
}
