//! Sorting out the files of a data directory.
//!
//! What the manifest names is used. What is being made when a process dies is named by nobody and
//! goes. With both slots of the manifest sound the newest is known, and our own files that it does
//! not name are leftovers of a kill: they are retired with commit D and go as retired files do. With
//! a slot lost the newest may be lost, and what it alone knew is found again in the files: segments
//! with frames, and the salts of segments. Everything else is moved to `orphan/`, never removed.
//!
//! First [`sort`] only looks; [`Sorted::tidy`] does it once the journal was read.

use crate::checkpoint;
use crate::frame::FrameKey;
use crate::fs::{File, Fs};
use crate::manifest::{Manifest, SegmentEntry};
use crate::names::{FileId, FileKind, FileName, LOCK, MANIFEST, ORPHANS};
use crate::run;
use crate::segment::{HEADER_LEN, Header, Scanner, StoreId};
use std::io;
use std::sync::Arc;

/// Length of the pieces into which a file that cannot be read as a whole is divided.
const PIECE_BYTES: usize = 4096;
/// Bytes read at a time where most of them may be zero: they stay in the processor's cache until
/// they were looked at.
const SCRATCH_BYTES: usize = 256 << 10;

/// What is to be done about files that the manifest does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// Segments as their headers describe them, which only a lost slot did: to be taken in, or to
    /// replace what the manifest says.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Leftovers of our own, to be named as retired.
    pub(crate) retired: Vec<FileName>,
    removed: Vec<String>,
    orphans: Vec<String>,
}

/// Goes through the directory and changes nothing. `lost` says that a manifest slot could not be
/// read.
pub(crate) fn sort(fs: &dyn Fs, manifest: &Manifest, lost: bool) -> io::Result<Sorted> {
    let mut sorted = Sorted::default();
    if lost {
        sorted.segments = headed_anew(fs, manifest)?;
    }
    for name in fs.list()? {
        if name == LOCK || MANIFEST.contains(&name.as_str()) {
            continue;
        }
        let fate = match FileName::parse(&name) {
            Some(parsed) if manifest.names(parsed) => continue,
            Some(parsed) => judge(fs, manifest, parsed, lost)?,
            None => Fate::Orphan,
        };
        match fate {
            Fate::Remove => sorted.removed.push(name),
            Fate::TakeIn(entry) => sorted.segments.push(entry),
            Fate::Retire(name) => sorted.retired.push(name),
            Fate::Orphan => sorted.orphans.push(name),
        }
    }
    Ok(sorted)
}

impl Sorted {
    /// Removes what goes and moves aside what stays, the checkpoints `damaged` too; gives the new
    /// names of the latter. Durable after the caller syncs the directory.
    pub(crate) fn tidy(
        &self,
        fs: &dyn Fs,
        manifest: &Manifest,
        damaged: &[FileId],
    ) -> io::Result<Vec<String>> {
        self.removed.iter().try_for_each(|name| fs.remove(name))?;
        let checkpoint = |id: &FileId| FileName::new(FileKind::Checkpoint, *id).to_string();
        let names = self.orphans.iter().cloned().chain(damaged.iter().map(checkpoint));
        names.filter_map(|name| move_to_orphans(fs, manifest, &name).transpose()).collect()
    }
}

/// Moves a file aside and gives its new name; `None` if it is not there.
fn move_to_orphans(fs: &dyn Fs, manifest: &Manifest, name: &str) -> io::Result<Option<String>> {
    // The generation keeps apart files that had the same name.
    let orphan = format!("{ORPHANS}/{}-{name}", manifest.generation);
    match fs.rename(name, &orphan) {
        Ok(()) => Ok(Some(orphan)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

enum Fate {
    Remove,
    TakeIn(SegmentEntry),
    Retire(FileName),
    Orphan,
}

fn judge(fs: &dyn Fs, manifest: &Manifest, name: FileName, lost: bool) -> io::Result<Fate> {
    // A spare holds nothing, whoever made it.
    if name.temporary || name.kind == FileKind::Spare {
        return Ok(Fate::Remove);
    }
    // A number that was never durably given belongs to a file that was never part of the store.
    let unfinished = name.id >= manifest.next_file;
    if name.kind == FileKind::Segment {
        let file = fs.open(&name.to_string())?;
        return Ok(match unnamed_segment(&*file, manifest, name.id)? {
            Some((entry, true)) if unfinished || lost => Fate::TakeIn(entry),
            Some((_, false)) if unfinished => Fate::Remove,
            Some((_, false)) if !lost => Fate::Retire(name),
            Some(_) | None => Fate::Orphan,
        });
    }
    Ok(match (lost, unfinished) {
        (false, true) => Fate::Remove,
        (false, false) if is_ours(fs, manifest.store, name)? => Fate::Retire(name),
        (_, _) => Fate::Orphan,
    })
}

/// Whether a run or checkpoint has a sound header of this store. One that does not, or cannot be
/// read, is not understood.
fn is_ours(fs: &dyn Fs, store: StoreId, name: FileName) -> io::Result<bool> {
    let file = fs.open(&name.to_string())?;
    file.drop_cache()?;
    let found = match name.kind {
        FileKind::Run => {
            run::read_header(&*file).ok().map(|header| (header.identity.store, header.identity.id))
        }
        FileKind::Checkpoint => checkpoint::read_header(&*file)
            .ok()
            .map(|header| (header.identity.store, header.identity.id)),
        FileKind::Segment | FileKind::Spare => None,
    };
    Ok(found == Some((store, name.id)))
}

/// Segments that the manifest names as ready and that have another salt now: a later start has put a
/// new header on them and gone on in them, and only the slot that it then wrote knew that.
fn headed_anew(fs: &dyn Fs, manifest: &Manifest) -> io::Result<Vec<SegmentEntry>> {
    let mut found = Vec::new();
    let mut bytes = Vec::new();
    for named in manifest.journal.iter().filter(|entry| entry.end.is_none()) {
        let Some(file) = open_if_there(fs, FileName::new(FileKind::Segment, named.id))? else {
            continue;
        };
        read_past_cache(&*file, u64::MAX, &mut bytes)?;
        let Some(entry) = described(&bytes, manifest, named.id) else { continue };
        // Only a segment without a frame gets a new header.
        if entry.salt != named.salt
            && Scanner::new(FrameKey::new(&named.salt), &bytes).next().is_none()
        {
            found.push(SegmentEntry { base: named.base, ..entry });
        }
    }
    Ok(found)
}

/// The segment that a sound header of this store describes, and whether it holds a frame.
fn unnamed_segment(
    file: &dyn File,
    manifest: &Manifest,
    id: FileId,
) -> io::Result<Option<(SegmentEntry, bool)>> {
    let mut bytes = Vec::new();
    read_past_cache(file, u64::MAX, &mut bytes)?;
    Ok(described(&bytes, manifest, id).map(|entry| {
        let used = Scanner::new(FrameKey::new(&entry.salt), &bytes).next().is_some();
        (entry, used)
    }))
}

/// What the header says, if it is sound, of this store and of this segment.
fn described(bytes: &[u8], manifest: &Manifest, id: FileId) -> Option<SegmentEntry> {
    let header = Header::decode(bytes).ok()?;
    let is_this = header.store == manifest.store && header.id == id;
    is_this.then_some(SegmentEntry { id, salt: header.salt, base: None, end: None })
}

/// All sound segment headers, for when no manifest is left.
pub(crate) fn segment_headers(fs: &dyn Fs) -> io::Result<Vec<Header>> {
    let mut headers = Vec::new();
    for name in fs.list()? {
        let Some(parsed) = FileName::parse(&name) else { continue };
        if parsed.kind != FileKind::Segment || parsed.temporary {
            continue;
        }
        let mut bytes = Vec::new();
        read_past_cache(&*fs.open(&name)?, HEADER_LEN as u64, &mut bytes)?;
        if let Ok(header) = Header::decode(&bytes)
            && header.id == parsed.id
        {
            headers.push(header);
        }
    }
    Ok(headers)
}

/// Opens a file that may be missing.
pub(crate) fn open_if_there(fs: &dyn Fs, name: FileName) -> io::Result<Option<Arc<dyn File>>> {
    match fs.open(&name.to_string()) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `file`, or its first `most` bytes, as the disk has it. Pieces that cannot be read come as zeros: no frame has
/// that content, so they count as damaged.
pub(crate) fn read_past_cache(file: &dyn File, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    pass_cache(file)?;
    read_all(file, file.size()?.min(most), bytes)
}

/// Makes the next reads of `file` show what the disk has.
pub(crate) fn pass_cache(file: &dyn File) -> io::Result<()> {
    if crate::bugs::planted(crate::bugs::Bug::RecoverThroughCache) {
        return Ok(());
    }
    file.drop_cache()
}

/// Reads the first `size` bytes.
pub(crate) fn read_all(file: &dyn File, size: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.resize(usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?, 0);
    read_piece(file, 0, bytes);
    Ok(())
}

/// Reads the first `size` bytes of a segment that may mostly be empty: what is zero takes no memory,
/// and of zeros at the end only as many are given as the last frame can have.
pub(crate) fn read_sparse(file: &dyn File, size: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // The system gives memory that is zero, and takes none for what is never written to.
    let mut bytes = vec![0; size];
    let mut scratch = vec![0; SCRATCH_BYTES.min(size)];
    let mut end = 0;
    for (piece, position) in bytes.chunks_mut(SCRATCH_BYTES).zip((0_u64..).step_by(SCRATCH_BYTES)) {
        let read = scratch.get_mut(..piece.len()).unwrap_or_default();
        read_piece(file, position, read);
        if !is_zero(read) {
            piece.copy_from_slice(read);
            end = usize::try_from(position).unwrap_or(size) + read.len();
        }
    }
    // A frame takes an eighth of a segment at most.
    bytes.truncate(end.saturating_add(size / 4));
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(PIECE_BYTES).all(|piece| piece.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Fills `bytes` from `position`, with zeros where the file cannot be read.
fn read_piece(file: &dyn File, position: u64, bytes: &mut [u8]) {
    if file.read_at(position, bytes).is_ok() {
        return;
    }
    for (piece, at) in bytes.chunks_mut(PIECE_BYTES).zip((position..).step_by(PIECE_BYTES)) {
        if file.read_at(at, piece).is_err() {
            piece.fill(0);
        }
    }
}
