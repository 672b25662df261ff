//! What a relay is told before it starts.

use std::hash::{Hash, Hasher};
use std::time::Duration;

/// Figures and policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How long the lease lasts; it is prolonged when a third of it is over.
    pub(crate) lease: Duration,
    /// Wait between attempts to take a lease that somebody else has.
    pub(crate) standby: Duration,
    /// Most claims under way.
    pub(crate) depth: usize,
    /// Most rows of a claim.
    pub(crate) rows_max: u32,
    /// Most bytes of a claim that has more than one row.
    pub(crate) bytes_max: u64,
    /// Most ranges of ids that are asked for again.
    pub(crate) gaps_max: usize,
    /// How long each is asked for.
    pub(crate) gap_life: Duration,
    /// Shortest wait between looks at the table.
    pub(crate) poll_min: Duration,
    /// Longest wait between looks at the table.
    pub(crate) poll_max: Duration,
    /// Shortest wait between sweeps.
    pub(crate) sweep_min: Duration,
    /// Ids that a sweep reads at a time.
    pub(crate) sweep_rows: u32,
    /// First wait after a failure.
    pub(crate) backoff_min: Duration,
    /// Longest wait after a failure.
    pub(crate) backoff_max: Duration,
    /// How many failures in a row prolong the wait.
    pub(crate) failures_counted: u32,
    /// What becomes of a row that no broker takes.
    pub(crate) on_poison: OnPoison,
    /// Whether to go on with a broker that has lost acknowledged messages.
    pub(crate) broker_restored: Doubt,
    /// Whether to send rows as they are now if they were changed after they were claimed.
    pub(crate) rows_changed: Doubt,
    /// Whether to make a copied database an outbox of its own, rather than halt.
    pub(crate) copied: Doubt,
    /// A mistake that the tests must find.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub(crate) mistake: Option<Mistake>,
}

/// They never change, so machines with different ones are never compared.
impl Hash for Settings {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// What to do when going on may not be what the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Doubt {
    /// End and say why.
    Halt,
    /// Go on.
    GoOn,
}

/// What becomes of a row that the broker will never take as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnPoison {
    /// It is set aside with the reason, and the others go on.
    #[default]
    Park,
    /// The relay ends with an error that names it.
    Halt,
}

/// Mistakes that somebody might make in this algorithm.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// A claim's sequence is its highest row id.
    RowIdAsSequence,
    /// Ids below the highest seen are not asked for again.
    CursorWithoutGaps,
    /// Claims of an earlier holder are dropped and their rows claimed anew.
    ClaimsNotResumed,
    /// A claim is changed without a new epoch first.
    ParkWithoutFence,
    /// What a look found is used under another lease than it was asked under.
    StaleLookUsed,
    /// A row that was deleted is forgotten while a look may still find it.
    RowsLetGoEarly,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            standby: Duration::from_secs(1),
            depth: 3,
            rows_max: 2000,
            bytes_max: 1 << 20,
            gaps_max: 4096,
            gap_life: Duration::from_secs(60),
            poll_min: Duration::from_millis(20),
            poll_max: Duration::from_secs(1),
            sweep_min: Duration::from_secs(10),
            sweep_rows: 10_000,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            failures_counted: 16,
            on_poison: OnPoison::Park,
            broker_restored: Doubt::Halt,
            rows_changed: Doubt::Halt,
            copied: Doubt::Halt,
            #[cfg(any(test, feature = "planted-bugs"))]
            mistake: None,
        }
    }
}
