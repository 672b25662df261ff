//! Writing the journal: append, sync, roll.
//!
//! Belongs to the core thread. An append is one positioned vectored write of
//! frame heads, encoded into a reused buffer, and of batches where they are, but
//! for small ones, which are copied to their head. Two
//! positions matter: everything up to `written` is in the page cache, everything
//! up to `durable` is on disk. A sync covers what was written before it began;
//! appends may go on meanwhile.
//!
//! The first failed write or sync poisons the journal: what is on disk is then
//! unknown, every later call says so, and the process must end.

use crate::bugs::{Bug, planted};
use crate::frame::{
    ALIGN, FrameDraft, HEADER_LEN as FRAME_HEADER_LEN, Kind, Stamp, encode_head, padded, padding,
};
use crate::index::IndexEntry;
use crate::manifest::{ManifestError, SegmentEnd};
use crate::names::FileId;
use crate::segment::{FOOTER_LEN, HEADER_LEN};
use crate::shared::{Segment, SegmentStart, Shared};
use crate::spare::{self, SpareError};
use posthouse_protocol::{LogIndex, PartitionId, StartEpoch, Timestamp};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The writing end of the journal.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    term: StartEpoch,
    active: Arc<Segment>,
    /// Where the next frame goes in `active`.
    position: u64,
    /// The next frame's index.
    next: LogIndex,
    prev_crc: u32,
    /// Segments that were left and that no sync has covered since, footer included.
    left: Vec<Arc<Segment>>,
    syncs: Syncs,
    poisoned: bool,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Syncs {
    /// Whether anything was written since the last sync began.
    wanted: bool,
    /// Whether a sync runs elsewhere.
    running: bool,
    /// How many have begun since the active segment did.
    begun: u64,
}

/// Bytes of batches up to which a frame is copied to its head: two more parts of a vectored write
/// cost more than the copy.
const COPIED_BYTES_MAX: usize = 1024;

/// Whether the batches of a frame are written from the buffer of its head.
fn is_copied(frame: &FrameDraft) -> bool {
    frame.batches.iter().map(|batch| batch.bytes.len()).sum::<usize>() <= COPIED_BYTES_MAX
}

/// Buffers that keep their memory from group to group.
#[derive(Debug, Default)]
struct Scratch {
    heads: Vec<u8>,
    head_lens: Vec<usize>,
    parts: Vec<IoSlice<'static>>,
    entries: Vec<(PartitionId, IndexEntry)>,
}

/// Where a journal goes on after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Continuation {
    pub(crate) term: StartEpoch,
    pub(crate) next: LogIndex,
    pub(crate) prev_crc: u32,
}

impl Journal {
    /// Starts a fresh segment; one must be ready.
    pub(crate) fn start(shared: Arc<Shared>, from: &Continuation) -> Result<Self, AppendError> {
        let active = begin_ready(&shared, from.next)?;
        Ok(Self {
            shared,
            term: from.term,
            active,
            position: HEADER_LEN as u64,
            next: from.next,
            prev_crc: from.prev_crc,
            left: Vec::new(),
            syncs: Syncs::default(),
            poisoned: false,
            scratch: Scratch::default(),
        })
    }

    /// Writes `frames` into the page cache, in order, and gives the last one's index. Readers find
    /// their batches at once; whether they may see them is for the caller to decide.
    ///
    /// # Errors
    ///
    /// [`AppendError`]. After `TooLarge` and `NoSegment` nothing was written and the journal goes on;
    /// after the others the outcome is unknown.
    pub fn append(&mut self, frames: &[FrameDraft]) -> Result<LogIndex, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        self.check_sizes(frames)?;
        self.reserve(frames)?;
        let mut rest = frames;
        while !rest.is_empty() {
            let (group, later) = rest.split_at(self.fitting(rest));
            if group.is_empty() {
                self.roll()?;
            } else {
                self.write_group(Kind::Data, group)?;
            }
            rest = later;
        }
        Ok(self.written())
    }

    /// Writes a frame with nothing but the durable position, so that an idle journal has no
    /// doubtful tail. It takes no index of its own. Sync it as any other.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn mark(&mut self, time: Timestamp) -> Result<LogIndex, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let mark = [FrameDraft { time, ..FrameDraft::default() }];
        self.reserve(&mark)?;
        if self.fitting(&mark) == 0 {
            self.roll()?;
        }
        self.write_group(Kind::Mark, &mark)?;
        Ok(self.written())
    }

    /// Every frame up to here is in the page cache.
    #[must_use]
    pub const fn written(&self) -> LogIndex {
        LogIndex(self.next.0 - 1)
    }

    /// Every frame up to here is on disk.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.shared.durable()
    }

    /// Whether a write or a sync failed.
    #[must_use]
    pub const fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; the journal is then poisoned.
    pub fn sync(&mut self) -> Result<LogIndex, SyncError> {
        if self.poisoned {
            return Err(SyncError::Poisoned);
        }
        let job = self.take_job();
        self.settle(job.run())
    }

    /// Starts a sync of everything written so far, to be run on another thread. `None` if one is
    /// running, if there is nothing to sync, or if the journal is poisoned.
    pub fn begin_sync(&mut self) -> Option<SyncJob> {
        if self.poisoned || self.syncs.running || !self.syncs.wanted {
            return None;
        }
        self.syncs.running = true;
        Some(self.take_job())
    }

    /// Ends a sync that [`Self::begin_sync`] started, and gives the durable position.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; the journal is then poisoned.
    pub fn finish_sync(&mut self, done: SyncDone) -> Result<LogIndex, SyncError> {
        self.syncs.running = false;
        if self.poisoned {
            return Err(SyncError::Poisoned);
        }
        self.settle(done)
    }

    /// Ends the active segment early if the checkpointer requested it, so that an idle journal can
    /// be folded. Does nothing if the segment is empty. Says whether it did.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn roll_if_requested(&mut self) -> Result<bool, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if !self.shared.take_roll_request() || self.position == HEADER_LEN as u64 {
            return Ok(false);
        }
        self.prepare_at_least(1)?;
        self.roll()?;
        Ok(true)
    }

    /// A clean stop: everything is durable, and the manifest says so. Stop the checkpointer first.
    ///
    /// # Errors
    ///
    /// [`CloseError`]; the next start then takes the stop for an unclean one.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.sync().map_err(CloseError::Sync)?;
        self.shared.commit(|manifest| manifest.clean = true).map_err(CloseError::Manifest)
    }

    fn check_sizes(&self, frames: &[FrameDraft]) -> Result<(), AppendError> {
        let limit = self.shared.options.frame_bytes_max();
        for (position, frame) in frames.iter().enumerate() {
            let bytes = frame.encoded_len();
            if bytes > limit {
                return Err(AppendError::TooLarge { position, bytes, limit });
            }
        }
        Ok(())
    }

    /// Sees to it that enough segments are ready for `frames`, so that nothing is written if not.
    fn reserve(&self, frames: &[FrameDraft]) -> Result<(), AppendError> {
        let capacity = self.shared.options.segment_bytes - HEADER_LEN as u64 - FOOTER_LEN;
        let mut room = self.room();
        let mut rolls = 0;
        for frame in frames {
            let bytes = frame.encoded_len();
            if bytes > room {
                rolls += 1;
                room = capacity;
            }
            room = room.saturating_sub(bytes);
        }
        if rolls == 0 { Ok(()) } else { self.prepare_at_least(rolls) }
    }

    fn prepare_at_least(&self, count: usize) -> Result<(), AppendError> {
        if self.shared.ready_count() >= count {
            return Ok(());
        }
        spare::prepare_at_least(&self.shared, count).map_err(AppendError::NoSegment)
    }

    /// Bytes left for frames in the active segment.
    fn room(&self) -> u64 {
        (self.active.size - FOOTER_LEN).saturating_sub(self.position)
    }

    /// How many of `frames` fit into the active segment.
    fn fitting(&self, frames: &[FrameDraft]) -> usize {
        let mut room = self.room();
        frames
            .iter()
            .take_while(|frame| {
                let bytes = frame.encoded_len();
                let fits = bytes <= room;
                room = room.saturating_sub(bytes);
                fits
            })
            .count()
    }

    fn write_group(&mut self, kind: Kind, frames: &[FrameDraft]) -> Result<(), AppendError> {
        let prev_crc = self.encode_heads(kind, frames);
        let mut parts = emptied(std::mem::take(&mut self.scratch.parts));
        let mut heads = self.scratch.heads.as_slice();
        // Of frames that are copied as a whole, all that follow one another are one part.
        let mut run = 0;
        for (frame, head_len) in frames.iter().zip(&self.scratch.head_lens) {
            run += *head_len;
            if is_copied(frame) {
                continue;
            }
            let (head, rest) = heads.split_at_checked(run).unwrap_or_default();
            (heads, run) = (rest, 0);
            parts.push(IoSlice::new(head));
            for batch in &frame.batches {
                parts.push(IoSlice::new(&batch.bytes));
                if !batch.bytes.len().is_multiple_of(ALIGN) {
                    parts.push(IoSlice::new(padding(batch.bytes.len())));
                }
            }
        }
        if run > 0 {
            parts.push(IoSlice::new(heads));
        }
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let written = self.active.file.write_at(self.position, &parts);
        self.scratch.parts = emptied(parts);
        self.check_write(written)?;

        self.syncs.wanted = true;
        self.position += len;
        if kind == Kind::Data {
            self.next = LogIndex(self.next.0 + frames.len() as u64);
        }
        self.prev_crc = prev_crc;
        self.publish_group(len);
        Ok(())
    }

    /// Fills the scratch buffers for `frames` and gives the last one's checksum.
    fn encode_heads(&mut self, kind: Kind, frames: &[FrameDraft]) -> u32 {
        let index = if kind == Kind::Data { self.next } else { self.written() };
        let scratch = &mut self.scratch;
        scratch.heads.clear();
        scratch.head_lens.clear();
        scratch.entries.clear();
        let durable = self.shared.durable();
        let mut position = self.position;
        let mut stamp = Stamp { kind, index, term: self.term, prev_crc: self.prev_crc, durable };
        for frame in frames {
            let start = scratch.heads.len();
            stamp.prev_crc = encode_head(self.active.key, &stamp, frame, &mut scratch.heads);
            stamp.index = stamp.index.next();
            position += (scratch.heads.len() - start) as u64;
            for batch in &frame.batches {
                let entry = IndexEntry {
                    base: batch.base,
                    segment: self.active.id,
                    position: u32::try_from(position).unwrap_or(u32::MAX),
                    len: u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX),
                    count: batch.count,
                    header_crc: batch.header_crc,
                };
                scratch.entries.push((batch.partition, entry));
                position += padded(batch.bytes.len());
            }
            if is_copied(frame) {
                for batch in &frame.batches {
                    scratch.heads.extend_from_slice(&batch.bytes);
                    scratch.heads.extend_from_slice(padding(batch.bytes.len()));
                }
            }
            scratch.head_lens.push(scratch.heads.len() - start);
        }
        stamp.prev_crc
    }

    fn publish_group(&mut self, len: u64) {
        if !self.scratch.entries.is_empty() {
            let mut view = self.shared.change_view();
            for (partition, entry) in self.scratch.entries.drain(..) {
                view.unfolded.insert(partition, entry);
            }
        }
        self.shared.advance_written(self.written(), len);
    }

    /// Ends the active segment and goes on in the next; one must be ready. Nothing waits: the next
    /// sync covers both.
    fn roll(&mut self) -> Result<(), AppendError> {
        let stamp = Stamp {
            kind: Kind::Footer,
            index: self.written(),
            term: self.term,
            prev_crc: self.prev_crc,
            durable: self.durable(),
        };
        let mut footer = Vec::with_capacity(FRAME_HEADER_LEN);
        let crc = encode_head(self.active.key, &stamp, &FrameDraft::default(), &mut footer);
        let next = begin_ready(&self.shared, self.next)?;
        let written = self.active.file.write_at(self.position, &[IoSlice::new(&footer)]);
        self.check_write(written)?;
        self.syncs.wanted = true;
        self.prev_crc = crc;
        let position = self.position + FOOTER_LEN;
        let ended = std::mem::replace(&mut self.active, next);
        self.position = HEADER_LEN as u64;
        self.shared.set_sync_bytes(position / std::mem::take(&mut self.syncs.begun).max(1));
        ended.finish(SegmentEnd { last: self.written(), position });
        self.left.push(ended);
        Ok(())
    }

    fn check_write(&mut self, written: io::Result<()>) -> Result<(), AppendError> {
        written.map_err(|source| {
            self.poisoned = true;
            AppendError::Write { file: self.active.id, position: self.position, source }
        })
    }

    fn take_job(&mut self) -> SyncJob {
        self.syncs.wanted = false;
        self.syncs.begun += 1;
        SyncJob { left: self.left.clone(), active: Arc::clone(&self.active), upto: self.written() }
    }

    fn settle(&mut self, done: SyncDone) -> Result<LogIndex, SyncError> {
        match done.result {
            Ok(()) => {
                // Not by index: a sync that began before a roll did not cover the footer.
                self.left.retain(|left| !done.left.iter().any(|synced| synced.id == left.id));
                self.shared.advance_durable(done.upto);
                Ok(self.durable())
            }
            Err(source) => {
                self.poisoned = true;
                Err(SyncError::Sync { upto: done.upto, source })
            }
        }
    }
}

fn begin_ready(shared: &Shared, base: LogIndex) -> Result<Arc<Segment>, AppendError> {
    let segment = shared.take_ready().ok_or(AppendError::NothingReady)?;
    segment.begin(SegmentStart { base, bytes_before: shared.written_bytes() });
    shared.change_view().segments.insert(segment.id, Arc::clone(&segment));
    Ok(segment)
}

/// An empty vector with the memory of `parts`, for slices of another life.
fn emptied<'a>(mut parts: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    parts.clear();
    // Collecting a vector's own iterator reuses its memory.
    parts.into_iter().map(|_| IoSlice::new(&[])).collect()
}

/// A sync to be run, on any thread.
#[derive(Debug)]
#[must_use]
pub struct SyncJob {
    left: Vec<Arc<Segment>>,
    active: Arc<Segment>,
    upto: LogIndex,
}

impl SyncJob {
    /// Waits for the disk.
    pub fn run(self) -> SyncDone {
        let result = if planted(Bug::SkipJournalSync) { Ok(()) } else { self.sync() };
        SyncDone { left: self.left, upto: self.upto, result }
    }

    /// Oldest first, and none after a failure: a later frame must not be durable before an earlier.
    fn sync(&self) -> io::Result<()> {
        self.left.iter().try_for_each(|segment| segment.file.sync())?;
        self.active.file.sync()
    }
}

/// How a sync went.
#[derive(Debug)]
#[must_use]
pub struct SyncDone {
    left: Vec<Arc<Segment>>,
    upto: LogIndex,
    result: io::Result<()>,
}

/// Frames were not appended.
#[derive(Debug)]
pub enum AppendError {
    /// A frame is above the limit. Definite: nothing was written.
    TooLarge {
        /// Which of the frames.
        position: usize,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// There is no segment to go on in, and none could be made. Definite: nothing was written; it
    /// may be tried again.
    NoSegment(SpareError),
    /// No segment was ready although one had been made sure of.
    NothingReady,
    /// Writing failed. Unknown: some of the frames may be on disk.
    Write {
        /// The segment.
        file: FileId,
        /// Where the write began.
        position: u64,
        /// The cause.
        source: io::Error,
    },
    /// An earlier write or sync failed.
    Poisoned,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { position, bytes, limit } => {
                write!(f, "frame too large frame={position} bytes={bytes} limit={limit}")
            }
            Self::NoSegment(source) => write!(f, "no segment ready: {source}"),
            Self::NothingReady => write!(f, "no segment ready"),
            Self::Write { file, position, source } => {
                write!(f, "journal write failed file={file} position={position}: {source}")
            }
            Self::Poisoned => write!(f, "journal is poisoned by an earlier failure"),
        }
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoSegment(source) => Some(source),
            Self::Write { source, .. } => Some(source),
            Self::TooLarge { .. } | Self::NothingReady | Self::Poisoned => None,
        }
    }
}

/// Frames may or may not be durable; nobody knows.
#[derive(Debug)]
pub enum SyncError {
    /// The sync failed.
    Sync {
        /// The last frame it was to cover.
        upto: LogIndex,
        /// The cause.
        source: io::Error,
    },
    /// An earlier write or sync failed.
    Poisoned,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync { upto, source } => {
                write!(f, "journal sync failed upto={upto}: {source}")
            }
            Self::Poisoned => write!(f, "journal is poisoned by an earlier failure"),
        }
    }
}

impl std::error::Error for SyncError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sync { source, .. } => Some(source),
            Self::Poisoned => None,
        }
    }
}

/// The stop was not a clean one.
#[derive(Debug)]
pub enum CloseError {
    /// The last sync failed.
    Sync(SyncError),
    /// The manifest could not be committed.
    Manifest(ManifestError),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync(source) => source.fmt(f),
            Self::Manifest(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for CloseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sync(source) => Some(source),
            Self::Manifest(source) => Some(source),
        }
    }
}
