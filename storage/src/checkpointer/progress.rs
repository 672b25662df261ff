//! Figures that the checkpointer publishes for the space budget.

use super::Checkpointer;
use crate::fold::Fold;
use crate::shared::{Segment, Shared};
use crate::space::Space;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How far folding is. Read by other threads without a lock; the values need not fit each other.
#[derive(Debug, Default)]
pub struct Progress {
    folded_bytes: AtomicU64,
    checkpoint_bytes: AtomicU64,
    history_bytes: AtomicU64,
    adopted_bytes: AtomicU64,
    is_out_of_space: AtomicBool,
}

impl Progress {
    /// Where in the journal, in bytes since the store was opened, the newest checkpoint stands.
    #[must_use]
    pub fn folded_bytes(&self) -> u64 {
        self.folded_bytes.load(Ordering::Relaxed)
    }

    /// Size of the newest checkpoint.
    #[must_use]
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint_bytes.load(Ordering::Relaxed)
    }

    /// Length of the segments that runs have adopted.
    #[must_use]
    pub fn adopted_bytes(&self) -> u64 {
        self.adopted_bytes.load(Ordering::Relaxed)
    }

    /// Whether a write has found no room, and no new segment was made since: what the file system
    /// counts as free, beyond a quota for example, cannot be had then.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.is_out_of_space.load(Ordering::Relaxed)
    }

    pub(super) fn note_out_of_space(&self, is_out: bool) {
        self.is_out_of_space.store(is_out, Ordering::Relaxed);
    }

    /// The store's room now; nothing counts as free while it is [out of space](Self::is_out_of_space).
    ///
    /// # Errors
    ///
    /// The file system cannot say how much is free.
    pub fn space(&self, shared: &Shared) -> io::Result<Space> {
        let mut space = self.counted_space(shared)?;
        if self.is_out_of_space() {
            space.free_bytes = 0;
        }
        Ok(space)
    }

    fn counted_space(&self, shared: &Shared) -> io::Result<Space> {
        let options = &shared.options;
        let ready = (shared.ready_count() + shared.spare_count()) as u64;
        Ok(Space {
            free_bytes: shared.fs.free_bytes()?,
            ready_bytes: ready.saturating_mul(options.segment_bytes),
            unfolded_bytes: shared.written_bytes().saturating_sub(self.folded_bytes()),
            unfolded_bytes_max: options.unfolded_bytes_max,
            index_bytes: shared.view().unfolded.bytes(),
            index_bytes_max: options.index_bytes_max,
            segment_bytes: options.segment_bytes,
            checkpoint_bytes: self.checkpoint_bytes(),
            history_bytes: self.history_bytes.load(Ordering::Relaxed),
        })
    }
}

impl<F: Fold> Checkpointer<F> {
    pub(super) fn publish_progress(&mut self, now: Duration) {
        let manifest = self.shared.manifest();
        let checkpoint = manifest.checkpoints.last();
        let folded = checkpoint.map_or_else(Default::default, |checkpoint| checkpoint.index);
        let bytes = checkpoint.map_or(0, |checkpoint| checkpoint.bytes);
        let history = self.history(&manifest, now);
        // What a run has adopted is not set free with the history.
        let freed = history.iter().filter(|segment| !manifest.is_adopted(segment.id));
        let history_bytes = freed.map(|segment| segment.size).sum();
        let adopted = self.runs.all().iter().filter_map(|run| run.adopted());
        let adopted_bytes = adopted.map(|segment| segment.size).sum();
        self.progress.checkpoint_bytes.store(bytes, Ordering::Relaxed);
        self.progress.history_bytes.store(history_bytes, Ordering::Relaxed);
        self.progress.adopted_bytes.store(adopted_bytes, Ordering::Relaxed);
        let folded_bytes = {
            let view = self.shared.view();
            let mut unfolded = view.segments.values().filter(|segment| is_after(segment, folded));
            unfolded.find_map(|segment| segment.start()).map(|start| start.bytes_before)
        };
        let folded_bytes = folded_bytes.unwrap_or_else(|| self.shared.written_bytes());
        self.progress.folded_bytes.store(folded_bytes, Ordering::Relaxed);
    }

    /// Whether history must go because space is short. Room that was made since is tried first.
    pub(super) fn is_short(&self) -> bool {
        let is_short = |space: Space| space.is_short();
        self.lacks_room || self.progress.counted_space(&self.shared).is_ok_and(is_short)
    }
}

fn is_after(segment: &Segment, folded: posthouse_protocol::LogIndex) -> bool {
    segment.end().is_none_or(|end| end.last > folded)
}
