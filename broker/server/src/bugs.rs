//! Bugs planted on purpose, so that the suites can show that they find them.
//!
//! Without the feature `planted-bugs`, which nothing but the test suites enables, every question is
//! answered with a constant no.

/// A bug of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Replies leave without waiting for their gate.
    AckBeforeSync,
    /// Readers see what is written before it is synced.
    ServeUnsynced,
}

/// Whether `bug` is planted: `POSTHOUSE_PLANTED_BUG` names it.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| match std::env::var("POSTHOUSE_PLANTED_BUG").as_deref() {
        Ok("ack-before-sync") => Some(Bug::AckBeforeSync),
        Ok("serve-unsynced") => Some(Bug::ServeUnsynced),
        Ok(_) | Err(_) => None,
    });
    *planted == Some(bug)
}

/// No bug is planted.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
