//! From a data directory after any stop to a state and a journal that goes on.
//!
//! Follows `docs/STORAGE_FORMAT.md`, section Recovery. In short: best manifest,
//! newest checkpoint that verifies, walk over the journal after it, then commit D:
//! one manifest slot with the journal's end, the next start epoch and a segment to
//! go on in. Nothing is removed but files that were never part of the store, and
//! nothing at all is written, removed or renamed before the journal was read, so
//! that a refused start leaves everything as it was, and a crash in here changes
//! nothing for the next attempt.

mod damage;
mod files;
mod report;
mod scan;
mod start;
mod tail;

pub use damage::{CorruptRange, TornTail};
pub use report::{OpenError, Origin, RecoveryReport};

use crate::checkpoint::{self, Checkpoint};
use crate::fold::Fold;
use crate::frame::FrameView;
use crate::fs::Fs;
use crate::index::{IndexEntry, UnfoldedIndex};
use crate::journal::Continuation;
use crate::manifest::{CheckpointEntry, Fence, Manifest, ManifestSlots, SegmentEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::options::Options;
use crate::salt::derive_salt;
use crate::shared::Segment;
use crate::spare::{self, Filling, Order, SpareError};
use posthouse_protocol::{LogIndex, StartEpoch, Timestamp};
use std::sync::Arc;
use tail::Tail;

/// What recovery hands over.
#[derive(Debug)]
pub(crate) struct Recovered<F> {
    pub(crate) state: F,
    /// The checkpoint that was used, as the checkpointer goes on from it.
    pub(crate) base: Base<F>,
    pub(crate) report: RecoveryReport,
    pub(crate) slots: ManifestSlots,
    /// Segments with frames, oldest first.
    pub(crate) used: Vec<Segment>,
    /// Segments to go on in; at least one.
    pub(crate) ready: Vec<Segment>,
    pub(crate) unfolded: UnfoldedIndex,
    pub(crate) written_bytes: u64,
    pub(crate) from: Continuation,
}

/// A state as a checkpoint holds it.
#[derive(Debug)]
pub(crate) struct Base<F> {
    pub(crate) state: F,
    pub(crate) index: LogIndex,
    pub(crate) term: StartEpoch,
    pub(crate) time: Timestamp,
}

/// Recovers the store in `fs`, or makes a new one if there is none.
pub(crate) fn recover<F: Fold>(
    fs: &Arc<dyn Fs>,
    options: &Options,
) -> Result<Recovered<F>, OpenError> {
    let mut start = start::load(&**fs, options)?;
    let sorted = files::sort(&**fs, start.slots.current(), start.lost.is_some())
        .map_err(OpenError::io("sorting files"))?;
    let manifest = with_segments(start.slots.current(), &sorted.segments);

    let (mut replay, base, checkpoint_damaged) = load_checkpoint::<F>(&**fs, &manifest)?;
    let reading = (options.segment_bytes, start.lost.is_some());
    let mut tail = Tail::read(&**fs, &manifest, replay.folded, reading)?;
    let walked = tail.walk(&manifest, &mut replay)?;
    replay.lose_below(walked.next());
    tail.sync().map_err(OpenError::io("syncing what was read"))?;
    let orphans =
        sorted.tidy(&**fs, &manifest, &checkpoint_damaged).map_err(OpenError::io("tidying up"))?;
    start.slots.complete(&**fs).map_err(OpenError::io("making the manifest"))?;
    fs.sync_dir().map_err(OpenError::io("syncing the directory"))?;

    let lost = u32::from(start.lost.is_some());
    let epoch = manifest.start_epoch.max(tail.term).0.saturating_add(1 + lost);
    let from =
        Continuation { term: StartEpoch(epoch), next: walked.next(), prev_crc: walked.prev_crc() };
    let report = RecoveryReport {
        start_epoch: from.term,
        origin: start.origin,
        clean: manifest.clean && start.lost.is_none() && walked.torn.is_none(),
        manifest_damaged: start.lost.take(),
        checkpoint: replay.folded,
        checkpoint_damaged,
        last: LogIndex(from.next.0 - 1),
        mark: tail.mark,
        torn: walked.torn,
        corrupt: walked.corrupt,
        replayed_frames: replay.frames,
        replayed_bytes: replay.bytes,
        damaged_headers: tail.damaged_headers(),
        missing: std::mem::take(&mut tail.missing),
        runs_damaged: Vec::new(),
        orphans,
    };
    let mut parts =
        tail.into_segments(manifest.store, |id| derive_salt(&options.seed, from.term, id))?;
    let commit = Commit { parts: &parts, from, report: &report, leftovers: &sorted.retired };
    let made = commit.run(&**fs, options, &mut start.slots, &manifest)?;
    parts.ready.extend(made);
    Ok(Recovered {
        state: replay.state,
        base,
        report,
        slots: start.slots,
        used: parts.used,
        ready: parts.ready,
        unfolded: replay.unfolded,
        written_bytes: parts.written_bytes,
        from,
    })
}

/// The state while frames are applied to it.
#[derive(Debug)]
struct Replay<F> {
    state: F,
    /// Frames up to here are in the checkpoint.
    folded: LogIndex,
    /// The next frame that the state has to hear of.
    next: LogIndex,
    unfolded: UnfoldedIndex,
    frames: u64,
    bytes: u64,
}

impl<F: Fold> Replay<F> {
    fn apply(
        &mut self,
        segment: FileId,
        position: u64,
        frame: &FrameView<'_>,
    ) -> Result<(), OpenError> {
        if frame.index <= self.folded {
            return Ok(());
        }
        self.lose_below(frame.index);
        self.next = frame.index.next();
        self.state
            .apply(frame.index, frame.term, frame.time, frame.events)
            .map_err(|source| OpenError::Events { index: frame.index, source: Box::new(source) })?;
        for batch in frame.batches {
            let at = position + u64::from(batch.position);
            let entry = IndexEntry {
                base: batch.base,
                segment,
                position: u32::try_from(at).unwrap_or(u32::MAX),
                len: batch.len,
                count: batch.count,
                header_crc: batch.header_crc,
            };
            self.unfolded.insert(batch.partition, entry);
        }
        self.frames += 1;
        self.bytes += frame.len();
        Ok(())
    }

    /// Indexes have no holes: the frames before `index` that were not applied are fenced.
    fn lose_below(&mut self, index: LogIndex) {
        if self.next < index {
            self.state.lost(self.next, LogIndex(index.0 - 1));
            self.next = index;
        }
    }
}

/// With segments that the manifest does not know, or knows otherwise.
fn with_segments(manifest: &Manifest, segments: &[SegmentEntry]) -> Manifest {
    let mut manifest = manifest.clone();
    for entry in segments {
        manifest.next_file = manifest.next_file.max(entry.id.next());
        manifest.journal.retain(|known| known.id != entry.id);
        manifest.journal.push(*entry);
    }
    manifest.journal.sort_unstable_by_key(|entry| entry.id);
    manifest
}

/// The state to replay upon, the same for the checkpointer, and checkpoints that cannot be used.
type Loaded<F> = (Replay<F>, Base<F>, Vec<FileId>);

/// The newest checkpoint that verifies, else the older one, else the empty state: as far as the
/// journal reaches back. Gives the ones that could not be used.
fn load_checkpoint<F: Fold>(fs: &dyn Fs, manifest: &Manifest) -> Result<Loaded<F>, OpenError> {
    let mut damaged = Vec::new();
    for entry in manifest.checkpoints.iter().rev() {
        match read_checkpoint::<F>(fs, manifest, entry) {
            Ok((state, base)) => {
                return Ok((replay_from(state, entry.index, manifest)?, base, damaged));
            }
            Err(_) => damaged.push(entry.id),
        }
    }
    let base = Base {
        state: F::empty(),
        index: LogIndex::ZERO,
        term: StartEpoch::ZERO,
        time: Timestamp::ZERO,
    };
    Ok((replay_from(F::empty(), LogIndex::ZERO, manifest)?, base, damaged))
}

fn replay_from<F>(state: F, folded: LogIndex, manifest: &Manifest) -> Result<Replay<F>, OpenError> {
    let (needed, first) = (folded.next(), manifest.journal_first);
    if first > needed {
        return Err(OpenError::JournalShort { needed, first });
    }
    let unfolded = UnfoldedIndex::default();
    Ok(Replay { state, folded, next: needed, unfolded, frames: 0, bytes: 0 })
}

/// The state twice: to be replayed upon, and for the checkpointer.
fn read_checkpoint<F: Fold>(
    fs: &dyn Fs,
    manifest: &Manifest,
    entry: &CheckpointEntry,
) -> Result<(F, Base<F>), OpenError> {
    let id = entry.id;
    let name = FileName::new(FileKind::Checkpoint, id).to_string();
    let file = fs.open(&name).map_err(OpenError::io("opening a checkpoint"))?;
    file.drop_cache().map_err(OpenError::io("reading a checkpoint"))?;
    let identity = checkpoint::Identity { store: manifest.store, id, salt: entry.salt };
    let read = Checkpoint::read(&*file, &identity)
        .map_err(|source| OpenError::Checkpoint { id, source: Box::new(source) })?;
    let Checkpoint { index, term, time, state } = read;
    let decoded = F::decode(&state)
        .map_err(|source| OpenError::Checkpoint { id, source: Box::new(source) })?;
    // The bytes of a large state are no longer needed once there are two of it.
    drop(state);
    Ok((decoded.clone(), Base { state: decoded, index, term, time }))
}

/// Commit D: from here on the recovered journal is what there was.
struct Commit<'a> {
    parts: &'a tail::Segments,
    from: Continuation,
    report: &'a RecoveryReport,
    /// Files that the newest manifest does not name.
    leftovers: &'a [FileName],
}

impl Commit<'_> {
    /// Gives the segment that had to be made, if none was ready.
    fn run(
        &self,
        fs: &dyn Fs,
        options: &Options,
        slots: &mut ManifestSlots,
        manifest: &Manifest,
    ) -> Result<Option<Segment>, OpenError> {
        let mut next = manifest.clone();
        self.enter(&mut next);
        let made = if self.parts.ready.is_empty() {
            let id = next.take_file_id();
            let reuse = next.spares.first().copied();
            let salt = derive_salt(&options.seed, next.start_epoch, id);
            let (store, size) = (next.store, options.segment_bytes);
            let order = Order { store, id, salt, size, reuse, filling: Filling::AtOnce };
            let made = spare::make(fs, &order)
                .map_err(|source| OpenError::Spare(SpareError::File { id, source }))?;
            order.enter(&mut next);
            Some(made)
        } else {
            None
        };
        // Where the journal goes on: the next recovery must know that this segment is in use, even
        // if its first frame is damaged then.
        let unused = |entry: &&mut SegmentEntry| entry.base.is_none() && entry.end.is_none();
        if let Some(entry) = next.journal.iter_mut().find(unused) {
            entry.base = Some(self.from.next);
        }
        let commit = |manifest: &mut Manifest| {
            next.generation = manifest.generation;
            *manifest = next;
        };
        slots.commit(commit).map_err(OpenError::Manifest)?;
        Ok(made)
    }

    fn enter(&self, next: &mut Manifest) {
        next.start_epoch = self.from.term;
        next.durable = self.report.last.max(next.durable);
        next.clean = false;
        next.journal = self.parts.used.iter().map(Segment::entry).collect();
        next.journal.extend(self.parts.ready.iter().map(Segment::entry));
        // Nothing in it counts as journal; what a run has of it does.
        let retired = self.parts.retired.iter().filter(|name| !next.is_adopted(name.id));
        let retired: Vec<FileName> = retired.copied().collect();
        next.retired.extend(retired);
        next.retired.extend(self.leftovers);
        let damaged = &self.report.checkpoint_damaged;
        next.checkpoints.retain(|checkpoint| !damaged.contains(&checkpoint.id));
        for range in &self.report.corrupt {
            if let CorruptRange::Frames { first, last } = *range {
                add_fence(&mut next.fences, Fence { first, last });
            }
        }
    }
}

fn add_fence(fences: &mut Vec<Fence>, fence: Fence) {
    let known = |old: &Fence| old.first <= fence.first && fence.last <= old.last;
    if !fences.iter().any(known) {
        fences.retain(|old| old.first < fence.first || fence.last < old.last);
        fences.push(fence);
        fences.sort_unstable_by_key(|fence| fence.first);
    }
}
