//! Sorting out the files of a data directory before anything is read from them.
//!
//! What the manifest names is used. What is being made when a process dies is
//! named by nobody and goes. A segment that the manifest does not name but that
//! holds frames means that the newest manifest slot was lost: it is taken in.
//! Everything else is moved to `orphan/`, never removed.

use crate::frame::FrameKey;
use crate::fs::{File, Fs};
use crate::manifest::{Manifest, SegmentEntry};
use crate::names::{FileId, FileKind, FileName, LOCK, MANIFEST, ORPHANS};
use crate::segment::{HEADER_LEN, Header, Scanner};
use std::io;
use std::sync::Arc;

/// Length of the pieces into which a file that cannot be read as a whole is divided.
const PIECE_BYTES: usize = 4096;

/// What was done about files that the manifest does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// Segments with frames, to be taken in.
    pub(crate) taken_in: Vec<SegmentEntry>,
    /// Names under `orphan/`.
    pub(crate) orphans: Vec<String>,
}

/// Goes through the directory. `lost` says that a manifest slot could not be read.
pub(crate) fn sort(fs: &dyn Fs, manifest: &Manifest, lost: bool) -> io::Result<Sorted> {
    let mut sorted = Sorted::default();
    let mut changed = false;
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
            Fate::Remove => {
                fs.remove(&name)?;
                changed = true;
            }
            Fate::TakeIn(entry) => sorted.taken_in.push(entry),
            Fate::Orphan => {
                sorted.orphans.extend(move_to_orphans(fs, manifest, &name)?);
                changed = true;
            }
        }
    }
    if changed {
        fs.sync_dir()?;
    }
    Ok(sorted)
}

/// Moves a file aside and gives its new name; `None` if it is not there. Durable after the caller
/// syncs the directory.
pub(crate) fn move_to_orphans(
    fs: &dyn Fs,
    manifest: &Manifest,
    name: &str,
) -> io::Result<Option<String>> {
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
        return match unnamed_segment(&*file, manifest, name.id)? {
            Some((entry, true)) if unfinished => Ok(Fate::TakeIn(entry)),
            Some((_, false)) if unfinished => Ok(Fate::Remove),
            Some(_) | None => Ok(Fate::Orphan),
        };
    }
    Ok(if unfinished && !lost { Fate::Remove } else { Fate::Orphan })
}

/// The segment that a sound header of this store describes, and whether it holds a frame.
fn unnamed_segment(
    file: &dyn File,
    manifest: &Manifest,
    id: FileId,
) -> io::Result<Option<(SegmentEntry, bool)>> {
    let mut bytes = Vec::new();
    read_past_cache(file, u64::MAX, &mut bytes)?;
    let Ok(header) = Header::decode(&bytes) else {
        return Ok(None);
    };
    if header.store != manifest.store || header.id != id {
        return Ok(None);
    }
    let used = Scanner::new(FrameKey::new(&header.salt), &bytes).next().is_some();
    Ok(Some((SegmentEntry { id, salt: header.salt, base: None, end: None }, used)))
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
    if !crate::bugs::planted(crate::bugs::Bug::RecoverThroughCache) {
        file.drop_cache()?;
    }
    let size = usize::try_from(file.size()?.min(most)).map_err(|_| io::ErrorKind::FileTooLarge)?;
    bytes.resize(size, 0);
    if file.read_at(0, bytes).is_ok() {
        return Ok(());
    }
    for (piece, position) in bytes.chunks_mut(PIECE_BYTES).zip((0_u64..).step_by(PIECE_BYTES)) {
        if file.read_at(position, piece).is_err() {
            piece.fill(0);
        }
    }
    Ok(())
}
