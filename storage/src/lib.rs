//! Journal, runs, checkpoints, recovery and retention.
//!
//! Knows batches, not queues: events are opaque bytes that a [`Fold`] given by
//! the caller understands. The bytes on disk are described in
//! `docs/STORAGE_FORMAT.md`.

mod bugs;
mod salt;

pub mod checkpoint;
pub mod checkpointer;
pub mod fold;
pub mod frame;
pub mod fs;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod manifest;
pub mod names;
pub mod options;
pub mod reader;
pub mod recover;
pub mod run;
pub mod segment;
pub mod shared;
pub mod space;
pub mod spare;
pub mod store;

pub use checkpointer::{Checkpointer, Progress, Step, Task};
pub use fold::Fold;
pub use frame::{BatchDraft, FrameDraft};
pub use journal::{AppendError, Journal, SyncDone, SyncError, SyncJob};
pub use options::Options;
pub use reader::{ReadError, Reader, StoredBatch};
pub use recover::{OpenError, RecoveryReport};
pub use shared::Shared;
pub use space::Space;
pub use store::Store;
