//! Real processes, real databases, a proxy between them, and what they did.
//!
//! Nothing here sleeps for its own sake: a trial waits for a line, for an exit, or for a question to be
//! answered differently. Whatever takes longer than [`PATIENCE`] fails with what the processes said.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub(crate) mod base;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod stage;

use std::time::Duration;

/// Longest wait for anything. Far above what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
