//! Read-only maps of files, and the only unsafe code of this crate.
//!
//! A map covers a whole file of fixed size. Slices are handed out only for
//! ranges that were completely written before and are never written again while
//! a slice is alive: the journal is append-only, runs are immutable, and a file
//! is recycled only when nothing shares its map, of which there is one, though the
//! journal and a run may both have the file. What remains is another program
//! truncating the file under us, which ends the process with SIGBUS; the
//! directory lock and owner-only modes keep other brokers and users out.

#![expect(unsafe_code, reason = "the one file that maps memory; each block states its argument")]

use super::{Map, Mapped};
use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Maps the first `len` bytes of `file` for reading.
pub(super) fn map(file: &File, len: u64) -> io::Result<Map> {
    let size = file.metadata()?.len();
    if len > size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "map longer than file"));
    }
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // A raw map, as there must be no reference to bytes that are still to be written.
    let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
    Ok(Map(Arc::new(FileMap { raw, len })))
}

#[derive(Debug)]
struct FileMap {
    raw: MmapRaw,
    len: usize,
}

/// A range of a map; keeps the map alive.
struct Slice {
    map: Arc<FileMap>,
    start: usize,
    len: usize,
}

impl Mapped for FileMap {
    fn slice(self: Arc<Self>, range: Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        let len = end.checked_sub(start)?;
        if end > self.len {
            return None;
        }
        Some(Bytes::from_owner(Slice { map: self, start, len }))
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        let first = self.map.raw.as_ptr().wrapping_add(self.start);
        // SAFETY: `slice` checked that start + len lies inside the mapping, which `self.map` keeps
        // alive and mapped for the life of the returned reference. The mapping is at most
        // isize::MAX long, and u8 has no alignment and no invalid values. Nothing writes these
        // bytes while the slice lives: this process has the directory lock, files are written
        // append-only, and they are recycled only once `Map::is_shared` is false.
        unsafe { std::slice::from_raw_parts(first, self.len) }
    }
}
