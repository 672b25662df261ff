//! Giving files back.
//!
//! A file is touched only after both slots of the manifest name it as retired
//! and nobody holds a slice of it; a spare, in which nothing counts, after one
//! does. One file at a time: large deletions slow later syncs for seconds.
//!
//! A segment goes when neither the journal nor a run has it any more: one that was
//! adopted leaves the journal with the history and stays until the run is gone.

use super::error::CheckpointError;
use super::job::Dropped;
use super::{Checkpointer, RETRY, Task};
use crate::fold::Fold;
use crate::fs::Map;
use crate::manifest::Manifest;
use crate::names::{FileId, FileKind, FileName};
use crate::run::Run;
use crate::shared::Segment;
use crate::spare::{self, SpareError};
use posthouse_protocol::LogIndex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Spare files kept besides the ready segments: what a few folds at full speed set free and the
/// journal takes again, so that no file has to be filled with zeros.
const SPARES_MAX: usize = 8;
/// The same when space is short.
const SPARES_MIN: usize = 1;
/// How often to look whether a retired file is still read.
const POLL: Duration = Duration::from_millis(100);

/// Files on their way out.
#[derive(Debug, Default)]
pub(super) struct Free {
    /// Named no more by the newest slot of the manifest, perhaps still by the other.
    pub(super) dropped: Vec<Dropped>,
    /// Named as retired by both slots; a spare, which nobody reads, by the newest.
    retired: VecDeque<Retired>,
    /// When a folded segment became history.
    history_since: BTreeMap<FileId, Duration>,
}

#[derive(Debug)]
struct Retired {
    name: FileName,
    /// Shared as long as somebody reads the file.
    map: Option<Map>,
    since: Duration,
}

impl Free {
    /// Begins with what the manifest names as retired, which perhaps only its newest slot does,
    /// and with checkpoints newer than the one at `folded`: recovery could not use them.
    pub(super) fn new(manifest: &Manifest, folded: LogIndex) -> Self {
        let unusable = manifest.checkpoints.iter().filter(|entry| entry.index > folded);
        let unusable = unusable.map(|entry| FileName::new(FileKind::Checkpoint, entry.id));
        let names = manifest.retired.iter().copied().chain(unusable);
        let dropped = names.map(|name| Dropped { name, map: None }).collect();
        Self { dropped, ..Self::default() }
    }

    /// When the next retired file should be looked at again.
    pub(super) fn next_deadline(&self, now: Duration) -> Option<Duration> {
        (!self.retired.is_empty()).then(|| now.saturating_add(POLL))
    }
}

impl<F: Fold> Checkpointer<F> {
    /// Frees one file that nothing needs, or names some as not needed; says whether there were any.
    pub(super) fn make_room(&mut self, now: Duration) -> Result<bool, CheckpointError> {
        Ok(self.recycle(now)? || self.retire_spare(now)? || self.retire(now)?)
    }

    /// Makes a segment ready for the journal if one is wanted; says whether it did. A full disk is
    /// no error: everything else goes on, and may make room.
    pub(super) fn make_ready(&mut self, now: Duration) -> Result<bool, CheckpointError> {
        let wanted = self.shared.options.segments_ready;
        if self.shared.ready_count() >= wanted || now < self.ready_at {
            return Ok(false);
        }
        self.task = Task::Ready;
        let had_spare = self.shared.spare_count() > 0;
        let error = match spare::prepare(&self.shared) {
            Ok(made) => {
                self.lacks_room &= !made;
                // One made of a spare does not show that there is room again.
                if made && !had_spare {
                    self.progress.note_out_of_space(false);
                }
                return Ok(made);
            }
            Err(SpareError::Manifest(source)) => CheckpointError::Manifest(source),
            Err(SpareError::File { id, source }) => {
                let file = Some(FileName::new(FileKind::Segment, id));
                CheckpointError::Io { file, source }
            }
        };
        if error.is_out_of_space() {
            self.ready_at = now.saturating_add(RETRY);
            self.lacks_room = true;
            self.progress.note_out_of_space(true);
            return Ok(false);
        }
        Err(error)
    }

    /// Names what is not needed any more as retired, in both slots; says whether there was anything.
    fn retire(&mut self, now: Duration) -> Result<bool, CheckpointError> {
        let manifest = self.shared.manifest();
        let segments = self.surplus_history(&manifest, now);
        let dead = self.survey.dead();
        if segments.is_empty() && dead.is_empty() && self.free.dropped.is_empty() {
            return Ok(false);
        }
        self.task = Task::Retire;
        let retired = self.take_out(&manifest, &segments, &dead);
        let last = segments.iter().filter_map(|segment| segment.end()).map(|end| end.last).max();
        let leaving = Leaving {
            segments: segments.iter().map(|segment| segment.id).collect(),
            retired: retired.iter().map(|file| file.name).collect(),
            journal_first: last.map(LogIndex::next),
        };
        drop(segments);
        self.shared.commit_both(|manifest| leaving.enter(manifest))?;
        self.free.dropped.clear();
        let waiting =
            retired.into_iter().map(|Dropped { name, map }| Retired { name, map, since: now });
        self.free.retired.extend(waiting);
        self.publish_progress(now);
        Ok(true)
    }

    /// Takes segments and runs out of the readers' view and gives everything to be retired.
    fn take_out(
        &mut self,
        manifest: &Manifest,
        segments: &[Arc<Segment>],
        dead: &[FileId],
    ) -> Vec<Dropped> {
        let is_dead = |run: &Run| dead.contains(&run.identity().id);
        let mut retiring = self.free.dropped.clone();
        for run in self.runs.all().iter().filter(|run| is_dead(run)) {
            let name = FileName::new(FileKind::Run, run.identity().id);
            retiring.push(Dropped { name, map: Some(run.map().clone()) });
        }
        retiring.extend(self.unused_segments(manifest, segments, dead));
        for segment in segments {
            self.free.history_since.remove(&segment.id);
        }
        self.survey.forget(dead);
        self.runs = self.runs.with(super::without(&self.runs, is_dead));
        let mut view = self.shared.change_view();
        view.runs = Arc::new(self.runs.clone());
        for segment in segments {
            view.segments.remove(&segment.id);
        }
        retiring
    }

    /// The segments that nobody has any more once the journal has left `segments` and the runs
    /// `dead` are gone.
    fn unused_segments(
        &self,
        manifest: &Manifest,
        segments: &[Arc<Segment>],
        dead: &[FileId],
    ) -> Vec<Dropped> {
        let mut left = manifest.clone();
        left.journal.retain(|entry| !segments.iter().any(|segment| segment.id == entry.id));
        left.runs.retain(|entry| !dead.contains(&entry.id));
        let runs = self.runs.all().iter().filter(|run| dead.contains(&run.identity().id));
        let adopted = runs.filter_map(|run| run.adopted());
        let candidates = segments.iter().map(|segment| (segment.id, &segment.map));
        let candidates = candidates.chain(adopted.map(|segment| (segment.id, &segment.map)));
        let unused: BTreeMap<FileId, &Map> =
            candidates.filter(|(id, _)| !left.uses_segment(*id)).collect();
        let dropped = unused.into_iter().map(|(id, map)| Dropped {
            name: FileName::new(FileKind::Segment, id),
            map: Some(map.clone()),
        });
        dropped.collect()
    }

    /// Recycles or removes one retired file that nobody reads; says whether there was one.
    fn recycle(&mut self, now: Duration) -> Result<bool, CheckpointError> {
        let patience = self.shared.options.recycle_patience;
        let is_due = |file: &Retired| !file.is_read() || now.saturating_sub(file.since) >= patience;
        let Some(number) = self.free.retired.iter().position(is_due) else {
            return Ok(false);
        };
        self.task = Task::Recycle;
        let Some(file) = self.free.retired.get(number) else {
            return Ok(false);
        };
        let (name, is_read) = (file.name, file.is_read());
        if !is_read && self.make_spare(name)? {
            self.ready_at = now;
        } else {
            self.remove(name)?;
        }
        self.free.retired.remove(number);
        // Who found no room looks again before more is given up.
        self.lacks_room = false;
        self.publish_progress(now);
        Ok(true)
    }

    /// Names a spare as retired when space is short, for nothing but the journal can use it; says
    /// whether there was one more than are kept then.
    fn retire_spare(&mut self, now: Duration) -> Result<bool, CheckpointError> {
        if self.shared.spare_count() <= SPARES_MIN || !self.is_short() {
            return Ok(false);
        }
        self.task = Task::Retire;
        let retired = self.shared.commit(|manifest| {
            // A segment may have been made of one since.
            if manifest.spares.len() <= SPARES_MIN {
                return None;
            }
            let spare = manifest.spares.pop()?;
            let name = FileName::new(FileKind::Spare, spare);
            manifest.retired.push(name);
            Some(name)
        })?;
        let waiting = retired.map(|name| Retired { name, map: None, since: now });
        self.free.retired.extend(waiting);
        Ok(true)
    }

    /// Makes a spare of the file if it has the common size and spares are wanted.
    fn make_spare(&self, name: FileName) -> Result<bool, CheckpointError> {
        let error = |source| CheckpointError::Io { file: Some(name), source };
        let wanted = if self.is_short() { SPARES_MIN } else { SPARES_MAX };
        if self.shared.manifest().spares.len() >= wanted {
            return Ok(false);
        }
        let size = match self.shared.fs.open(&name.to_string()).and_then(|file| file.size()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            size => size.map_err(error)?,
        };
        if size != self.shared.options.segment_bytes {
            return Ok(false);
        }
        let id = self.shared.take_file_id();
        let spare = FileName::new(FileKind::Spare, id);
        self.shared.fs.rename(&name.to_string(), &spare.to_string()).map_err(error)?;
        self.shared.fs.sync_dir().map_err(error)?;
        self.shared.commit(|manifest| {
            manifest.spares.push(id);
            manifest.retired.retain(|retired| *retired != name);
        })?;
        Ok(true)
    }

    fn remove(&self, name: FileName) -> Result<(), CheckpointError> {
        let error = |source| CheckpointError::Io { file: Some(name), source };
        match self.shared.fs.remove(&name.to_string()) {
            // A crash came between an earlier removal and its commit.
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(error)?,
        }
        self.shared.fs.sync_dir().map_err(error)?;
        self.shared.commit(|manifest| {
            manifest.retired.retain(|retired| *retired != name);
        })?;
        Ok(())
    }

    /// Segments that only history needs, oldest first: their frames are in both checkpoints.
    pub(super) fn history(&mut self, manifest: &Manifest, now: Duration) -> Vec<Arc<Segment>> {
        let older = manifest.checkpoints.iter().rev().nth(1);
        let older = older.map_or(LogIndex::ZERO, |checkpoint| checkpoint.index);
        let is_history =
            |segment: &&Arc<Segment>| segment.end().is_some_and(|end| end.last <= older);
        let history: Vec<Arc<Segment>> =
            self.shared.view().segments.values().filter(is_history).cloned().collect();
        for segment in &history {
            self.free.history_since.entry(segment.id).or_insert(now);
        }
        history
    }

    /// History beyond what is to be kept; when space is short, one segment at least, so that no more
    /// goes than is missing.
    fn surplus_history(&mut self, manifest: &Manifest, now: Duration) -> Vec<Arc<Segment>> {
        let mut history = self.history(manifest, now);
        let options = &self.shared.options;
        // What a run has adopted makes no room.
        let makes_room = history.iter().any(|segment| !manifest.is_adopted(segment.id));
        let least = usize::from(makes_room && self.is_short());
        let mut kept_bytes: u64 = history.iter().map(|segment| segment.size).sum();
        let surplus = history.iter().take_while(|segment| {
            let since = self.free.history_since.get(&segment.id).copied().unwrap_or(now);
            let is_old = now.saturating_sub(since) >= options.journal_keep_age;
            let is_surplus = is_old || kept_bytes > options.journal_keep_bytes;
            kept_bytes = kept_bytes.saturating_sub(segment.size);
            is_surplus
        });
        let count = surplus.count().max(least);
        history.truncate(count);
        history
    }
}

/// What a commit C takes out.
struct Leaving {
    /// Segments that the journal leaves. A run may still have them.
    segments: Vec<FileId>,
    retired: Vec<FileName>,
    journal_first: Option<LogIndex>,
}

impl Leaving {
    /// Changes nothing more when it is done again.
    fn enter(&self, manifest: &mut Manifest) {
        let is_retired = |kind, id| self.retired.contains(&FileName::new(kind, id));
        manifest.journal.retain(|entry| !self.segments.contains(&entry.id));
        manifest.runs.retain(|entry| !is_retired(FileKind::Run, entry.id));
        manifest.checkpoints.retain(|entry| !is_retired(FileKind::Checkpoint, entry.id));
        for name in &self.retired {
            if !manifest.retired.contains(name) {
                manifest.retired.push(*name);
            }
        }
        if let Some(first) = self.journal_first {
            manifest.journal_first = manifest.journal_first.max(first);
        }
    }
}

impl Retired {
    fn is_read(&self) -> bool {
        self.map.as_ref().is_some_and(Map::is_shared)
    }
}
