//! Bugs planted on purpose, so that the history checker can be seen to find them.
//!
//! Without the feature `planted-bugs` every question is answered `false` at compile time.

/// A bug that can be planted, by its name in `POSTHOUSE_PLANTED_BUG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// `forget-acks`: settlements look done but never reach the journal.
    ForgetAcks,
    /// `reuse-offset`: the last offset of a batch is given out a second time.
    ReuseOffset,
    /// `lose-prev-check`: a gap in a producer's sequence is accepted.
    LosePrevCheck,
    /// `split-commit`: a commit is two frames, its first publish and the rest.
    SplitCommit,
}

/// Whether `bug` is planted in this process.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Whether `bug` is planted in this process.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("POSTHOUSE_PLANTED_BUG").as_deref() {
        Ok("forget-acks") => Some(Bug::ForgetAcks),
        Ok("reuse-offset") => Some(Bug::ReuseOffset),
        Ok("lose-prev-check") => Some(Bug::LosePrevCheck),
        Ok("split-commit") => Some(Bug::SplitCommit),
        Ok(_) | Err(_) => None,
    });
    *chosen == Some(bug)
}
