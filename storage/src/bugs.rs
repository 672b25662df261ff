//! Bugs planted on purpose, to see the tests go red. Never compiled into a broker.
//!
//! With the feature `planted-bugs`, `POSTHOUSE_PLANTED_BUG` names the one to plant.

/// A mistake that the power-loss tests must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A new segment's directory entry is not synced before the manifest names it.
    SkipDirectorySync,
    /// Recovery reads through the page cache, and takes what it sees for durable.
    RecoverThroughCache,
    /// A group counts as durable although its segment was not synced.
    SkipJournalSync,
}

/// Whether `bug` is planted.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("POSTHOUSE_PLANTED_BUG").unwrap_or_default());
    let name = match bug {
        Bug::SkipDirectorySync => "skip-directory-sync",
        Bug::RecoverThroughCache => "recover-through-cache",
        Bug::SkipJournalSync => "skip-journal-sync",
    };
    chosen == name
}

/// Whether `bug` is planted: never without the feature.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
