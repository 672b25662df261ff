//! The segments of the journal: which have to be read, and what becomes of each.

use super::Replay;
use super::files::{open_if_there, pass_cache, read_all, read_sparse};
use super::report::OpenError;
use super::scan::{Content, Survey, Walk, Walked, survey};
use crate::fold::Fold;
use crate::frame::{FrameKey, HEADER_LEN as FRAME_HEADER_LEN, Salt};
use crate::fs::{File, Fs};
use crate::manifest::{Manifest, SegmentEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::segment::{HEADER_LEN, Header, StoreId};
use crate::shared::{Segment, SegmentStart};
use posthouse_protocol::{DecodeError, LogIndex, StartEpoch};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Bytes of segments that are kept for the second pass; of an empty end, no memory is taken.
const HELD_BYTES_MAX: u64 = 128 << 20;

/// The journal's segments while they are recovered.
#[derive(Debug)]
pub(super) struct Tail {
    pieces: Vec<Piece>,
    /// D: the highest durable position named anywhere.
    pub(super) mark: LogIndex,
    /// The highest term of any frame.
    pub(super) term: StartEpoch,
    pub(super) missing: Vec<FileId>,
    store: StoreId,
    /// Of the segment `loaded`.
    buffer: Vec<u8>,
    loaded: Option<FileId>,
    /// Bytes of segments kept from the first pass for the second.
    held: u64,
}

/// One segment.
#[derive(Debug)]
struct Piece {
    entry: SegmentEntry,
    file: Arc<dyn File>,
    size: u64,
    header_sound: bool,
    /// Whether it was read past the page cache, which then holds what the disk has.
    read: bool,
    /// What was read, if it is kept.
    content: Option<Vec<u8>>,
    fate: Fate,
}

/// What a segment is.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// All of it is in the checkpoint; it is not read.
    History,
    /// It has to be read.
    Surveyed(Survey),
    /// It was never written to, and can be.
    Ready,
    /// It has frames that count.
    Walked(Walked),
    /// Nothing in it counts; it is never written to again before it gets a new salt.
    Retired,
}

/// The segments after recovery.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) used: Vec<Segment>,
    pub(super) ready: Vec<Segment>,
    pub(super) retired: Vec<FileName>,
    pub(super) written_bytes: u64,
}

impl Tail {
    /// Opens all segments and reads those that the checkpoint does not cover. `lost` says that a
    /// manifest slot could not be read.
    pub(super) fn read(
        fs: &dyn Fs,
        manifest: &Manifest,
        folded: LogIndex,
        (segment_bytes, lost): (u64, bool),
    ) -> Result<Self, OpenError> {
        let mut tail = Self {
            pieces: Vec::with_capacity(manifest.journal.len()),
            mark: manifest.durable,
            term: StartEpoch::ZERO,
            missing: Vec::new(),
            store: manifest.store,
            buffer: Vec::new(),
            loaded: None,
            held: 0,
        };
        for entry in &manifest.journal {
            tail.open(fs, entry, folded)?;
        }
        tail.survey(lost)?;
        tail.find_ready(segment_bytes);
        Ok(tail)
    }

    fn open(
        &mut self,
        fs: &dyn Fs,
        entry: &SegmentEntry,
        folded: LogIndex,
    ) -> Result<(), OpenError> {
        let io = OpenError::io("opening a segment");
        let name = FileName::new(FileKind::Segment, entry.id);
        let Some(file) = open_if_there(fs, name).map_err(&io)? else {
            self.missing.push(entry.id);
            return Ok(());
        };
        let size = file.size().map_err(&io)?;
        let covered = entry.end.is_some_and(|end| end.last <= folded);
        let fate = if covered { Fate::History } else { Fate::Surveyed(Survey::default()) };
        let (entry, header_sound, read, content) = (*entry, true, false, None);
        self.pieces.push(Piece { entry, file, size, header_sound, read, content, fate });
        Ok(())
    }

    /// The first pass.
    fn survey(&mut self, lost: bool) -> Result<(), OpenError> {
        let mut in_use = true;
        for at in 0..self.pieces.len() {
            if !lost && self.is_known(at) {
                in_use = true;
                continue;
            }
            if !in_use && self.is_untouched(at)? {
                continue;
            }
            let Some(content) = self.load(at)? else { continue };
            let found = survey(&content);
            if let Some(piece) = self.pieces.get_mut(at) {
                piece.fate = Fate::Surveyed(found);
            }
            in_use = found.closed;
            self.mark = self.mark.max(found.durable);
            self.term = self.term.max(found.term);
        }
        Ok(())
    }

    /// Whether the newest manifest knows that the journal has left a segment. Its frames were written
    /// before that manifest was, so that none names a durable position or a term above the manifest's,
    /// and the second pass is enough.
    fn is_known(&mut self, at: usize) -> bool {
        let Some(piece) = self.pieces.get_mut(at) else { return false };
        let SegmentEntry { base: first @ Some(_), end: Some(_), .. } = piece.entry else {
            return false;
        };
        if let Fate::Surveyed(found) = &mut piece.fate {
            *found = Survey { first, closed: true, ..Survey::default() };
        }
        true
    }

    /// Whether a segment that was made ahead was never written to. It need not be read to the end:
    /// the one before it has no footer, and nothing begins like a frame where its first frame would
    /// be, so that no frame in it can be durable. A torn one further on is forgotten with the salt.
    fn is_untouched(&self, at: usize) -> Result<bool, OpenError> {
        let Some(piece) = self.pieces.get(at) else { return Ok(false) };
        let SegmentEntry { base: None, end: None, salt, .. } = piece.entry else {
            return Ok(false);
        };
        let front_bytes = 2 * HEADER_LEN as u64;
        let dropped = piece.file.drop_cache_of_first(front_bytes);
        dropped.map_err(OpenError::io("reading a segment"))?;
        let mut front = [0; FRAME_HEADER_LEN];
        let read = piece.file.read_at(HEADER_LEN as u64, &mut front);
        Ok(read.is_ok() && front.get(4..8) != Some(&FrameKey::new(&salt).magic()))
    }

    /// The content of a segment that has to be read; `None` for the others.
    fn load(&mut self, at: usize) -> Result<Option<Content<'_>>, OpenError> {
        let Self { pieces, store, buffer, loaded, held, .. } = self;
        let Some(piece) = pieces.get_mut(at) else { return Ok(None) };
        if !matches!(piece.fate, Fate::Surveyed(_)) {
            return Ok(None);
        }
        let id = piece.entry.id;
        if piece.content.is_none() && *loaded != Some(id) {
            let io = OpenError::io("reading a segment");
            // What lies behind the end does not count.
            let most = piece.size.min(piece.entry.end.map_or(u64::MAX, |end| end.position));
            if !std::mem::replace(&mut piece.read, true) {
                pass_cache(&*piece.file).map_err(&io)?;
            }
            if piece.entry.end.is_none() && *held + most <= HELD_BYTES_MAX {
                *held += most;
                piece.content = Some(read_sparse(&*piece.file, most).map_err(&io)?);
            } else {
                *loaded = None;
                read_all(&*piece.file, most, buffer).map_err(&io)?;
                *loaded = Some(id);
            }
            let header = Header::decode(piece.content.as_deref().unwrap_or(buffer));
            piece.header_sound = piece.is_described_by(header, *store);
        }
        let bytes = piece.content.as_deref().unwrap_or(buffer);
        Ok(Some(Content { id, key: FrameKey::new(&piece.entry.salt), bytes }))
    }

    /// Segments at the end without a single frame can still be written to, unless frames that were
    /// durable should be in them.
    fn find_ready(&mut self, segment_bytes: u64) {
        let mark = self.mark;
        for piece in self.pieces.iter_mut().rev() {
            let Fate::Surveyed(Survey { first: None, .. }) = piece.fate else { break };
            let empty =
                piece.entry.end.is_none() && piece.entry.base.is_none_or(|base| base > mark);
            if !empty {
                break;
            }
            // Its header does not matter, as it gets a new one.
            piece.header_sound = true;
            let usable = piece.size == segment_bytes;
            piece.fate = if usable { Fate::Ready } else { Fate::Retired };
        }
    }

    /// The second pass: decides what counts, and applies it to `replay`.
    pub(super) fn walk<F: Fold>(
        &mut self,
        manifest: &Manifest,
        replay: &mut Replay<F>,
    ) -> Result<Walk, OpenError> {
        let first = self.pieces.iter().find(|piece| matches!(piece.fate, Fate::Surveyed(_)));
        let needed = replay.folded.next();
        let base = first.and_then(|piece| piece.entry.base).filter(|base| *base <= needed);
        let mut walk = Walk::new(self.mark, base.unwrap_or(needed), manifest.fences.clone());
        for at in 0..self.pieces.len() {
            let cut = self.first_after(at);
            let Some(content) = self.load(at)? else { continue };
            let id = content.id;
            let walked =
                walk.segment(&content, cut, |position, frame| replay.apply(id, position, frame))?;
            if let Some(piece) = self.pieces.get_mut(at) {
                piece.content = None;
                let nothing = walked.frames == 0 && walked.end.last.next() == walked.base;
                let kept = piece.entry.base.is_some_and(|base| base <= self.mark);
                piece.fate = if nothing && !kept { Fate::Retired } else { Fate::Walked(walked) };
            }
        }
        walk.finish();
        if let Some(Piece { fate: Fate::Walked(walked), .. }) =
            self.pieces.iter_mut().rev().find(|piece| matches!(piece.fate, Fate::Walked(_)))
        {
            walked.end.last = LogIndex(walk.next().0 - 1);
        }
        Ok(walk)
    }

    /// The first index of any later segment: a newer segment is right about its frames.
    fn first_after(&self, at: usize) -> LogIndex {
        let later = self.pieces.iter().skip(at + 1);
        let firsts = later.filter_map(|piece| match piece.fate {
            Fate::Surveyed(survey) => survey.first,
            Fate::History | Fate::Ready | Fate::Walked(_) | Fate::Retired => None,
        });
        firsts.min().unwrap_or(LogIndex::MAX)
    }

    /// Makes durable what was read: a killed process leaves frames that are only in the cache.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.pieces
            .iter()
            .filter(|piece| matches!(piece.fate, Fate::Walked(_)))
            .try_for_each(|piece| piece.file.sync())
    }

    pub(super) fn damaged_headers(&self) -> Vec<FileId> {
        let damaged = self.pieces.iter().filter(|piece| !piece.header_sound);
        damaged.map(|piece| piece.entry.id).collect()
    }

    /// Maps what will be read or written from now on. Segments to be written to get a new salt, of
    /// which the manifest is still to be told: what a crash may have left in them is no frame then.
    pub(super) fn into_segments(
        self,
        store: StoreId,
        fresh_salt: impl Fn(FileId) -> Salt,
    ) -> Result<Segments, OpenError> {
        let mut segments = Segments {
            used: Vec::with_capacity(self.pieces.len()),
            ready: Vec::new(),
            retired: Vec::new(),
            written_bytes: 0,
        };
        for piece in self.pieces {
            let bytes_before = segments.written_bytes;
            match piece.fate {
                Fate::Retired => {
                    segments.retired.push(FileName::new(FileKind::Segment, piece.entry.id));
                }
                Fate::Ready => {
                    let salt = fresh_salt(piece.entry.id);
                    segments.ready.push(piece.head_anew(store, salt)?);
                }
                Fate::Walked(walked) => {
                    let segment = piece.map()?;
                    segment.begin(SegmentStart { base: walked.base, bytes_before });
                    segment.finish(walked.end);
                    segments.written_bytes += walked.end.position - HEADER_LEN as u64;
                    segments.used.push(segment);
                }
                Fate::History | Fate::Surveyed(_) => {
                    let (base, end) = (piece.entry.base, piece.entry.end);
                    let segment = piece.map()?;
                    segment.begin(SegmentStart { base: base.unwrap_or_default(), bytes_before });
                    if let Some(end) = end {
                        segment.finish(end);
                    }
                    segments.used.push(segment);
                }
            }
        }
        Ok(segments)
    }
}

impl Piece {
    fn is_described_by(&self, header: Result<Header, DecodeError>, store: StoreId) -> bool {
        header.is_ok_and(|header| {
            header.store == store && header.id == self.entry.id && header.salt == self.entry.salt
        })
    }

    fn head_anew(mut self, store: StoreId, salt: Salt) -> Result<Segment, OpenError> {
        let io = OpenError::io("writing a segment header");
        self.entry.salt = salt;
        let header = Header { store, id: self.entry.id, size: self.size, salt };
        self.file.write_at(0, &[IoSlice::new(&header.encode())]).map_err(&io)?;
        self.file.sync().map_err(&io)?;
        self.map()
    }

    fn map(self) -> Result<Segment, OpenError> {
        let map = self.file.map(self.size).map_err(OpenError::io("mapping a segment"))?;
        Ok(Segment::new(self.entry.id, self.entry.salt, self.file, self.size, map))
    }
}
