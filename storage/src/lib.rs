//! Journal, runs, checkpoints, recovery and retention.
//!
//! Knows batches, not queues: events are opaque bytes that a [`Fold`] given by
//! the caller understands. The bytes on disk are described in
//! `docs/STORAGE_FORMAT.md`.

pub mod fs;
