//! How a broker ends, and with which exit code.

use std::fmt;

/// Why the broker stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to, and everything was drained and made durable.
    Clean,
    /// The disk failed a write or a sync. What was in flight has an unknown outcome; what was
    /// acknowledged is safe. Start again once the disk is well.
    Disk(String),
    /// It did not start; [`StartError`](crate::StartError) has said why.
    Refused(String),
    /// A bug: an invariant was violated.
    Bug(String),
}

impl Exit {
    /// The process's exit code: 0, 1, 74 (`EX_IOERR`) or 70 (`EX_SOFTWARE`).
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Refused(_) => 1,
            Self::Disk(_) => 74,
            Self::Bug(_) => 70,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("stopped cleanly"),
            Self::Refused(text) => f.write_str(text),
            Self::Disk(text) => write!(
                f,
                "the disk failed: {text}; everything acknowledged is on disk, everything in flight has an unknown outcome"
            ),
            Self::Bug(text) => write!(f, "stopped by a bug: {text}"),
        }
    }
}
