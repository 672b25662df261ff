//! One fold or compaction from its batches to the swap of the view.

use super::error::CheckpointError;
use super::fold::Folded;
use super::rewrite::{self, Rewrite};
use super::{DamagedBatch, Task, without};
use crate::checkpoint::{Checkpoint, Identity};
use crate::fold::Fold;
use crate::fs::{File, Map};
use crate::manifest::{CheckpointEntry, Manifest, RunEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::run::{Run, Runs};
use crate::shared::Shared;
use std::io;
use std::sync::Arc;

/// New files in the making, and what to do with them.
#[derive(Debug)]
pub(super) struct Job {
    purpose: Purpose,
    phase: Phase,
    rewrite: Rewrite,
}

#[derive(Debug)]
enum Purpose {
    /// Everything up to `last` is folded.
    Fold { last: FileId, saved: Option<Saved> },
    /// The new runs stand for these.
    Compact { replaced: Vec<FileId> },
}

/// A checkpoint that was written and is not yet part of the store.
#[derive(Debug)]
struct Saved {
    entry: CheckpointEntry,
    file: Arc<dyn File>,
}

#[derive(Debug)]
enum Phase {
    Save,
    Copy,
    Seal,
    Name,
    Verify,
    Commit(Vec<Arc<Run>>),
    Swap { new: Vec<Arc<Run>>, dropped: Vec<FileName> },
}

/// What a finished job leaves.
#[derive(Debug)]
pub(super) struct Done {
    /// All runs of the store.
    pub(super) runs: Runs,
    /// Files that the manifest names no more.
    pub(super) dropped: Vec<Dropped>,
    pub(super) damaged: Vec<DamagedBatch>,
}

/// A file that the newest slot of the manifest names no more, but for its being retired; the other
/// one still may.
#[derive(Clone, Debug)]
pub(super) struct Dropped {
    pub(super) name: FileName,
    /// Shared as long as somebody reads the file.
    pub(super) map: Option<Map>,
}

impl Job {
    pub(super) const fn fold(rewrite: Rewrite, last: FileId) -> Self {
        Self { purpose: Purpose::Fold { last, saved: None }, phase: Phase::Save, rewrite }
    }

    pub(super) const fn compact(rewrite: Rewrite, replaced: Vec<FileId>) -> Self {
        Self { purpose: Purpose::Compact { replaced }, phase: Phase::Save, rewrite }
    }

    pub(super) const fn task(&self) -> Task {
        match self.phase {
            Phase::Save => Task::Save,
            Phase::Copy => Task::Copy,
            Phase::Seal => Task::Seal,
            Phase::Name => Task::Name,
            Phase::Verify => Task::Verify,
            Phase::Commit(_) => Task::Commit,
            Phase::Swap { .. } => Task::Swap,
        }
    }

    /// Does one bounded piece; gives what is left behind once all is done.
    pub(super) fn advance<F: Fold>(
        &mut self,
        shared: &Shared,
        folded: &Folded<F>,
        runs: &Runs,
    ) -> Result<Option<Done>, CheckpointError> {
        match &mut self.phase {
            Phase::Save => {
                self.check_room(shared)?;
                self.save(shared, folded)?;
                self.phase = Phase::Copy;
            }
            Phase::Copy => {
                if self.rewrite.copy(shared)? {
                    self.phase = Phase::Seal;
                }
            }
            Phase::Seal => {
                self.rewrite.seal()?;
                self.phase = Phase::Name;
            }
            Phase::Name => {
                self.name(shared)?;
                self.phase = Phase::Verify;
            }
            Phase::Verify => {
                if self.rewrite.verify()? {
                    self.verify_checkpoint(shared)?;
                    self.phase = Phase::Commit(self.rewrite.open()?);
                }
            }
            Phase::Commit(new) => {
                let new = std::mem::take(new);
                let dropped = self.commit(shared, &new)?;
                self.phase = Phase::Swap { new, dropped };
            }
            Phase::Swap { new, dropped } => {
                let (new, dropped) = (std::mem::take(new), std::mem::take(dropped));
                return Ok(Some(self.swap(shared, runs, new, &dropped)));
            }
        }
        Ok(None)
    }

    /// Does not begin what the disk has no room for: writing half of it would take the room that
    /// settlements need.
    fn check_room(&self, shared: &Shared) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io { file: None, source };
        let free = shared.fs.free_bytes().map_err(io)?;
        if free < self.rewrite.bytes() {
            return Err(io(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn save<F: Fold>(
        &mut self,
        shared: &Shared,
        folded: &Folded<F>,
    ) -> Result<(), CheckpointError> {
        let Purpose::Fold { saved, .. } = &mut self.purpose else {
            return Ok(());
        };
        let id = shared.take_file_id();
        let name = FileName::new(FileKind::Checkpoint, id);
        let salt = shared.fresh_salt(id);
        let Folded { state, index, term, time } = folded;
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        let checkpoint = Checkpoint { index: *index, term: *term, time: *time, state: bytes };
        let file = rewrite::create(shared, name)?;
        // Entered before it is written, so that giving up removes it.
        let entry = CheckpointEntry { id, salt, index: *index, bytes: 0 };
        let saved = saved.insert(Saved { entry, file: Arc::clone(&file) });
        let identity = Identity { store: shared.store, id, salt };
        saved.entry.bytes = checkpoint
            .write(&*file, &identity)
            .map_err(|source| CheckpointError::Io { file: Some(name), source })?;
        Ok(())
    }

    fn name(&self, shared: &Shared) -> Result<(), CheckpointError> {
        if let Some(saved) = self.saved() {
            rewrite::rename(shared, saved.name())?;
        }
        self.rewrite.name(shared)?;
        shared.fs.sync_dir().map_err(|source| CheckpointError::Io { file: None, source })
    }

    fn verify_checkpoint(&self, shared: &Shared) -> Result<(), CheckpointError> {
        let Some(Saved { entry, file }) = self.saved() else {
            return Ok(());
        };
        let CheckpointEntry { id, salt, .. } = *entry;
        let io_error = |source| CheckpointError::Io {
            file: Some(FileName::new(FileKind::Checkpoint, id)),
            source,
        };
        file.drop_cache().map_err(io_error)?;
        let identity = Identity { store: shared.store, id, salt };
        let read = Checkpoint::read(&**file, &identity);
        read.map(|_| ()).map_err(|source| CheckpointError::Checkpoint { id, source })
    }

    /// Commit B; gives the files that the manifest named until now and names no more.
    fn commit(&self, shared: &Shared, new: &[Arc<Run>]) -> Result<Vec<FileName>, CheckpointError> {
        let dropped = shared.commit(|manifest| match &self.purpose {
            Purpose::Fold { saved, .. } => {
                manifest.runs.extend(new.iter().map(|run| rewrite::entry(run)));
                saved
                    .as_ref()
                    .map_or_else(Vec::new, |saved| enter_checkpoint(manifest, saved.entry))
            }
            Purpose::Compact { replaced } => enter_compaction(manifest, replaced, new),
        })?;
        Ok(dropped)
    }

    /// Shows readers the new files, in one step. Batches that are in them and still in the journal's
    /// index are found once.
    fn swap(
        &mut self,
        shared: &Shared,
        runs: &Runs,
        new: Vec<Arc<Run>>,
        dropped: &[FileName],
    ) -> Done {
        let is_dropped =
            |run: &Run| dropped.contains(&FileName::new(FileKind::Run, run.identity().id));
        let mut all = without(runs, is_dropped);
        all.extend(new);
        let with_map = |name: FileName| {
            let map = runs.all().iter().find_map(|run| map_of(run, name));
            Dropped { name, map }
        };
        let dropped = dropped.iter().copied().map(with_map).collect();
        let runs = runs.with(all);
        shared.change_view().runs = Arc::new(runs.clone());
        if let Purpose::Fold { last, .. } = self.purpose {
            forget_unfolded(shared, last);
        }
        Done { runs, dropped, damaged: std::mem::take(&mut self.rewrite.damaged) }
    }

    fn saved(&self) -> Option<&Saved> {
        match &self.purpose {
            Purpose::Fold { saved, .. } => saved.as_ref(),
            Purpose::Compact { .. } => None,
        }
    }

    /// The names of everything made or begun.
    pub(super) fn leftovers(&self) -> Vec<FileName> {
        let checkpoint = self.saved().map(Saved::name);
        let checkpoint = checkpoint.into_iter().flat_map(|name| [name, name.temporary()]);
        checkpoint.chain(self.rewrite.leftovers()).collect()
    }

    /// What was being written, and the last segment folded, for a fold to go on with; `None` for a
    /// compaction, which nothing waits for.
    pub(super) fn into_fold(self) -> Option<(Rewrite, FileId)> {
        match self.purpose {
            Purpose::Fold { last, .. } => Some((self.rewrite, last)),
            Purpose::Compact { .. } => None,
        }
    }
}

impl Saved {
    const fn name(&self) -> FileName {
        FileName::new(FileKind::Checkpoint, self.entry.id)
    }
}

fn enter_checkpoint(manifest: &mut Manifest, entry: CheckpointEntry) -> Vec<FileName> {
    manifest.checkpoints.push(entry);
    let surplus = manifest.checkpoints.len().saturating_sub(2);
    let dropped = manifest.checkpoints.drain(..surplus);
    dropped.map(|entry| FileName::new(FileKind::Checkpoint, entry.id)).collect()
}

/// Gives the files that the manifest named until now: the replaced runs, and the segments that only
/// they had adopted. Unlike runs, segments that nobody names are not understood as leftovers by a
/// start, so these are named as retired at once.
fn enter_compaction(
    manifest: &mut Manifest,
    replaced: &[FileId],
    new: &[Arc<Run>],
) -> Vec<FileName> {
    let is_replaced = |entry: &RunEntry| replaced.contains(&entry.id);
    let place = manifest.runs.iter().position(is_replaced);
    let (gone, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut manifest.runs).into_iter().partition(is_replaced);
    manifest.runs = kept;
    let place = place.unwrap_or_default().min(manifest.runs.len());
    let entries: Vec<_> = new.iter().map(|run| rewrite::entry(run)).collect();
    manifest.runs.splice(place..place, entries);
    let adopted = gone.iter().filter_map(|entry| entry.adopted);
    let unused = adopted.filter(|id| !manifest.uses_segment(*id));
    let segments: Vec<FileName> = unused.map(|id| FileName::new(FileKind::Segment, id)).collect();
    manifest.retired.extend(&segments);
    let runs = gone.iter().map(|entry| FileName::new(FileKind::Run, entry.id));
    runs.chain(segments).collect()
}

/// The map of a file that `run` reads from.
fn map_of(run: &Run, name: FileName) -> Option<Map> {
    match name.kind {
        FileKind::Run => (run.identity().id == name.id).then(|| run.map().clone()),
        FileKind::Segment => {
            let adopted = run.adopted().filter(|segment| segment.id == name.id);
            adopted.map(|segment| segment.map.clone())
        }
        FileKind::Checkpoint | FileKind::Spare => None,
    }
}

/// Forgets what the runs have now, a few partitions at a time: the core thread waits for each of
/// these changes of the view.
fn forget_unfolded(shared: &Shared, last: FileId) {
    /// What takes some tens of microseconds.
    const PARTITIONS: usize = 512;
    let mut next = None;
    loop {
        next = shared.change_view().unfolded.forget_upto(last, next, PARTITIONS);
        if next.is_none() {
            return;
        }
        std::thread::yield_now();
    }
}
