//! Real processes and real text, for the process tests.
//!
//! Nothing here sleeps: a test waits for a line, for an exit, or for a question to be answered
//! differently. Whatever takes longer than [`PATIENCE`] fails with what the processes said.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why on standard error"
)]

pub(crate) mod broker;
pub(crate) mod command;
pub(crate) mod corpus;

use std::time::Duration;

/// Longest wait for anything. Far above what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
