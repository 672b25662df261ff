//! Copying batches into new runs: whole batches, same bytes, each checked on the way. Those of an
//! adopted segment are checked in the same way and stay where they are.
//!
//! Used by folds and by compactions. Until the caller commits the manifest,
//! the files made here are part of nothing, and a crash wastes only work.

use super::adopt;
use super::error::CheckpointError;
use super::source::{Found, Source, State, judge, source};
use crate::fs::File;
use crate::manifest::RunEntry;
use crate::names::{FileId, FileKind, FileName};
use crate::run::format::ENTRY_LEN;
use crate::run::{Adopted, Copied, Header, Identity, Run, Verification, Writer};
use crate::shared::Shared;
use posthouse_protocol::{LogIndex, Offset, PartitionId};
use std::sync::Arc;

/// Most bytes copied, checked, or read back, in one step.
const STEP_BYTES: u64 = 4 << 20;
/// A partition with at least this part of a segment gets a file of its own: 4 MiB of 64.
const OWN_FILE_PART: u64 = 16;

/// A batch that was damaged when it came into a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedBatch {
    /// Its partition.
    pub partition: PartitionId,
    /// Its first offset.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// Whether header or index are damaged, so that nothing of it can be read; else it was taken as
    /// it is and the messages concerned fail their own checksums.
    pub is_lost: bool,
}

/// New runs in the making.
#[derive(Debug)]
pub(super) struct Rewrite {
    after: LogIndex,
    through: LogIndex,
    sources: Vec<Source>,
    /// To be copied: by partition and base; only what is needed.
    batches: Vec<Found>,
    next: usize,
    /// To be indexed where they lie, after that: by source, partition and base.
    adopted: Vec<Found>,
    next_adopted: usize,
    present: Option<Present>,
    own: Option<Making>,
    mixed: Option<Making>,
    /// The index over this source.
    adopting: Option<(u32, Making)>,
    made: Vec<Made>,
    verifying: Option<(usize, Verification)>,
    /// Every file begun, for a rewrite that is given up.
    begun: Vec<FileName>,
    pub(super) damaged: Vec<DamagedBatch>,
}

/// The partition being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Present {
    partition: PartitionId,
    has_own_file: bool,
}

#[derive(Debug)]
struct Making {
    name: FileName,
    file: Arc<dyn File>,
    adopted: Option<Adopted>,
    writer: Writer,
}

#[derive(Debug)]
struct Made {
    name: FileName,
    file: Arc<dyn File>,
    adopted: Option<Adopted>,
    header: Header,
}

impl Rewrite {
    /// Takes `batches`, sorted and all needed, out of `sources`, or adopts these.
    pub(super) fn new(
        after: LogIndex,
        through: LogIndex,
        sources: Vec<Source>,
        batches: Vec<Found>,
    ) -> Self {
        debug_assert!(batches.is_sorted_by_key(|batch| (batch.partition, batch.base)));
        let (batches, adopted) = adopt::split(&sources, batches);
        Self {
            after,
            through,
            sources,
            batches,
            next: 0,
            adopted,
            next_adopted: 0,
            present: None,
            own: None,
            mixed: None,
            adopting: None,
            made: Vec::new(),
            verifying: None,
            begun: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// About how many bytes the new files will take.
    pub(super) fn bytes(&self) -> u64 {
        let copied = self.batches.iter().map(|batch| u64::from(batch.len).next_multiple_of(8));
        let entries = self.batches.len() as u64 + self.adopted.len() as u64;
        copied.sum::<u64>() + entries * ENTRY_LEN
    }

    /// Copies a few MiB and syncs them, or checks as much of what is adopted; true once that is done
    /// for all.
    pub(super) fn copy(&mut self, shared: &Shared) -> Result<bool, CheckpointError> {
        let mut bytes = 0;
        while bytes < STEP_BYTES
            && let Some(found) = self.batches.get(self.next).copied()
        {
            bytes += u64::from(found.len);
            self.copy_one(shared, &found)?;
            self.next += 1;
        }
        while bytes < STEP_BYTES
            && let Some(found) = self.adopted.get(self.next_adopted).copied()
        {
            bytes += u64::from(found.len);
            self.adopt_one(shared, &found)?;
            self.next_adopted += 1;
        }
        for making in self.own.iter_mut().chain(&mut self.mixed) {
            let settled = making.writer.settle();
            settled.map_err(|source| making.name_in(source))?;
        }
        Ok(self.next == self.batches.len() && self.next_adopted == self.adopted.len())
    }

    /// Whether the batch goes to a file of its partition's own; decided when its first one comes.
    fn enter(&mut self, shared: &Shared, partition: PartitionId) -> Result<bool, CheckpointError> {
        if let Some(present) = self.present.filter(|present| present.partition == partition) {
            return Ok(present.has_own_file);
        }
        let rest = self.batches.get(self.next..).unwrap_or_default();
        let same = rest.iter().take_while(|batch| batch.partition == partition);
        let mut bytes = 0;
        let has_own_file = same.map(|batch| u64::from(batch.len)).any(|len| {
            bytes += len;
            bytes >= own_file_bytes(shared)
        });
        let own = self.own.take();
        self.finish(own)?;
        self.present = Some(Present { partition, has_own_file });
        Ok(has_own_file)
    }

    fn copy_one(&mut self, shared: &Shared, found: &Found) -> Result<(), CheckpointError> {
        let (batch, is_lost) = self.take(found);
        let making = self.making(shared, found)?;
        if is_lost {
            making.writer.push_lost(&batch);
            return Ok(());
        }
        let pushed = making.writer.push(&batch);
        pushed.map_err(|source| making.name_in(source))
    }

    fn adopt_one(&mut self, shared: &Shared, found: &Found) -> Result<(), CheckpointError> {
        let (batch, is_lost) = self.take(found);
        let making = self.indexing(shared, found.source)?;
        if is_lost {
            making.writer.push_lost(&batch);
        } else {
            making.writer.push_adopted(&batch, found.position);
        }
        Ok(())
    }

    /// Reads and checks a batch; says whether it is lost.
    fn take(&mut self, found: &Found) -> (Copied, bool) {
        let batch = found.read(&self.sources);
        let state = judge(&batch);
        let is_lost = state == State::Lost;
        // What was lost before is not news.
        if state != State::Sound && found.len > 0 {
            let &Found { partition, base, count, .. } = found;
            self.damaged.push(DamagedBatch { partition, base, count, is_lost });
        }
        (batch, is_lost)
    }

    /// The file that the batch is copied to.
    fn making(&mut self, shared: &Shared, found: &Found) -> Result<&mut Making, CheckpointError> {
        let has_own_file = self.enter(shared, found.partition)?;
        let slot = if has_own_file { &mut self.own } else { &mut self.mixed };
        let limit = shared.options.segment_bytes;
        let is_full = |making: &mut Making| making.writer.len() + u64::from(found.len) > limit;
        let full = slot.take_if(is_full);
        self.finish(full)?;
        let slot = if has_own_file { &mut self.own } else { &mut self.mixed };
        match slot {
            Some(making) => Ok(making),
            None => {
                let id = shared.take_file_id();
                self.begun.push(FileName::new(FileKind::Run, id));
                Ok(slot.insert(Making::start(shared, id, (self.after, self.through), None)?))
            }
        }
    }

    /// The index over the source `number`.
    fn indexing(&mut self, shared: &Shared, number: u32) -> Result<&mut Making, CheckpointError> {
        if self.adopting.as_ref().is_none_or(|(present, _)| *present != number) {
            // Only as many files are open as when batches are copied.
            self.seal()?;
        }
        match &mut self.adopting {
            Some((_, making)) => Ok(making),
            slot @ None => {
                let segment = source(&self.sources, number).and_then(|found| found.segment.clone());
                let id = shared.take_file_id();
                self.begun.push(FileName::new(FileKind::Run, id));
                let making = Making::start(shared, id, (self.after, self.through), segment)?;
                Ok(&mut slot.insert((number, making)).1)
            }
        }
    }

    /// Finishes the files that are still open.
    pub(super) fn seal(&mut self) -> Result<(), CheckpointError> {
        let adopting = self.adopting.take().map(|(_, making)| making);
        for making in [self.own.take(), self.mixed.take(), adopting] {
            self.finish(making)?;
        }
        Ok(())
    }

    /// Finishes a file, so that it takes no more memory.
    fn finish(&mut self, making: Option<Making>) -> Result<(), CheckpointError> {
        let Some(Making { name, file, adopted, writer }) = making else { return Ok(()) };
        let header =
            writer.finish().map_err(|source| CheckpointError::Io { file: Some(name), source })?;
        self.made.push(Made { name, file, adopted, header });
        Ok(())
    }

    /// Gives the files their final names; durable once the caller has synced the directory.
    pub(super) fn name(&self, shared: &Shared) -> Result<(), CheckpointError> {
        for made in &self.made {
            rename(shared, made.name)?;
        }
        Ok(())
    }

    /// Reads back a few MiB past the page cache; true once all is as it was written.
    pub(super) fn verify(&mut self) -> Result<bool, CheckpointError> {
        let (number, mut verification) = match self.verifying.take() {
            Some(verifying) => verifying,
            None => match self.made.first() {
                None => return Ok(true),
                Some(made) => (0, made.verification()?),
            },
        };
        let Some(made) = self.made.get(number) else {
            return Ok(true);
        };
        let is_read = verification.advance(STEP_BYTES).map_err(|source| made.error(source))?;
        if !is_read {
            self.verifying = Some((number, verification));
            return Ok(false);
        }
        let Some(following) = self.made.get(number + 1) else {
            return Ok(true);
        };
        self.verifying = Some((number + 1, following.verification()?));
        Ok(false)
    }

    /// Opens what was made, for the readers.
    pub(super) fn open(&self) -> Result<Vec<Arc<Run>>, CheckpointError> {
        let open = |made: &Made| {
            let run = Run::open(&*made.file, &made.header.identity, made.adopted.clone());
            run.map(Arc::new).map_err(|source| made.error(source))
        };
        self.made.iter().map(open).collect()
    }

    /// The names that files made or begun may have, for a rewrite that is given up.
    pub(super) fn leftovers(&self) -> impl Iterator<Item = FileName> + '_ {
        self.begun.iter().flat_map(|name| [*name, name.temporary()])
    }

    /// What is needed to begin again: the frame behind which it starts, the sources, the batches.
    pub(super) fn into_parts(mut self) -> (LogIndex, Vec<Source>, Vec<Found>) {
        self.batches.append(&mut self.adopted);
        (self.after, self.sources, self.batches)
    }
}

impl Making {
    /// A run of these frames, whose batches stay in `segment`, if there is one.
    fn start(
        shared: &Shared,
        id: FileId,
        (after, through): (LogIndex, LogIndex),
        segment: Option<Adopted>,
    ) -> Result<Self, CheckpointError> {
        let name = FileName::new(FileKind::Run, id);
        let file = create(shared, name)?;
        let salt = shared.fresh_salt(id);
        let adopted = segment.as_ref().map(|segment| segment.id);
        let identity = Identity { store: shared.store, id, salt, after, through, adopted };
        let target = Arc::clone(&file);
        let writer = match &segment {
            Some(segment) => Writer::adopting(target, identity, segment.size),
            None => Writer::new(target, identity),
        };
        Ok(Self { name, file, adopted: segment, writer })
    }

    const fn name_in(&self, source: std::io::Error) -> CheckpointError {
        CheckpointError::Io { file: Some(self.name), source }
    }
}

impl Made {
    fn verification(&self) -> Result<Verification, CheckpointError> {
        Verification::start(Arc::clone(&self.file), &self.header)
            .map_err(|source| self.error(source))
    }

    const fn error(&self, source: crate::run::OpenError) -> CheckpointError {
        CheckpointError::Run { id: self.name.id, source }
    }
}

/// What the manifest says about an open run.
pub(super) fn entry(run: &Run) -> RunEntry {
    let identity = run.identity();
    RunEntry {
        id: identity.id,
        salt: identity.salt,
        after: identity.after,
        upto: identity.through,
        bytes: run.len(),
        adopted: identity.adopted,
    }
}

/// A partition with at least this much gets a file of its own.
pub(super) fn own_file_bytes(shared: &Shared) -> u64 {
    shared.options.segment_bytes / OWN_FILE_PART
}

/// Creates the file under its temporary name.
pub(super) fn create(shared: &Shared, name: FileName) -> Result<Arc<dyn File>, CheckpointError> {
    let created = shared.fs.create(&name.temporary().to_string());
    created.map_err(|source| CheckpointError::Io { file: Some(name), source })
}

/// Gives a file its final name.
pub(super) fn rename(shared: &Shared, name: FileName) -> Result<(), CheckpointError> {
    let renamed = shared.fs.rename(&name.temporary().to_string(), &name.to_string());
    renamed.map_err(|source| CheckpointError::Io { file: Some(name), source })
}
