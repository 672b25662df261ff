//! Segments made ahead of time, so that a roll waits for nothing and meets no full disk.
//!
//! A new file is filled with zeros, because a sync of blocks that were written
//! before costs less than one of blocks that were only allocated: half as much, if
//! it is small. A journal that is synced in large pieces gets allocated blocks,
//! since zeros would be the larger part of what the disk has to write. A recycled
//! file keeps its old bytes, which the new salt makes meaningless. The file is
//! ready once its header is synced, its name is durable and the manifest names it,
//! in this order.

use crate::bugs::{Bug, planted};
use crate::frame::Salt;
use crate::fs::{File, Fs};
use crate::manifest::{Manifest, ManifestError, SegmentEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::segment::{HEADER_LEN, Header, StoreId};
use crate::shared::{Segment, Shared};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Synced at a time, so that the journal's own syncs do not wait for a whole file.
const CHUNK_BYTES: u64 = 1 << 20;
/// Written at a time. The system caches what was written with one call as one piece, and what is
/// appended later costs more the larger the piece that it lies in: 4 us for each write and as much
/// for each sync with pieces of 1 MiB (decision 0012).
const WRITE_BYTES: usize = 64 << 10;
/// A journal whose syncs cover at least this part of a segment on average, 256 KiB of 64 MiB, does
/// without zeros: they would cost as much again as the data, allocated blocks 0.1 ms a sync.
const LARGE_SYNC_PART: u64 = 256;

/// Makes one segment ready, if fewer are than the options ask for. Takes a spare file if there is
/// one. Says whether it did.
///
/// # Errors
///
/// [`SpareError`]. After [`SpareError::File`] there is perhaps a spare less, and it may be tried
/// again.
pub fn prepare(shared: &Shared) -> Result<bool, SpareError> {
    let _preparing = shared.lock_preparing();
    if shared.ready_count() >= shared.options.segments_ready {
        return Ok(false);
    }
    prepare_locked(shared)?;
    Ok(true)
}

/// Makes segments ready until there are `count`, whatever the options say.
pub(crate) fn prepare_at_least(shared: &Shared, count: usize) -> Result<(), SpareError> {
    let _preparing = shared.lock_preparing();
    while shared.ready_count() < count {
        prepare_locked(shared)?;
    }
    Ok(())
}

fn prepare_locked(shared: &Shared) -> Result<(), SpareError> {
    let manifest = shared.manifest();
    let id = shared.take_file_id();
    let order = Order {
        store: shared.store,
        id,
        salt: shared.fresh_salt(id),
        size: shared.options.segment_bytes,
        reuse: manifest.spares.first().copied(),
        filling: if has_large_syncs(shared) { Filling::Allocate } else { Filling::Gently },
    };
    let segment = make(&*shared.fs, &order).map_err(|source| SpareError::File { id, source })?;
    shared.commit(|manifest| order.enter(manifest)).map_err(SpareError::Manifest)?;
    shared.push_ready(Arc::new(segment));
    Ok(())
}

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) store: StoreId,
    pub(crate) id: FileId,
    pub(crate) salt: Salt,
    pub(crate) size: u64,
    /// A spare file to make it of.
    pub(crate) reuse: Option<FileId>,
    pub(crate) filling: Filling,
}

/// What a new file gets before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// Zeros, when nobody's syncs have to be let through meanwhile.
    AtOnce,
    /// Zeros, piece by piece.
    Gently,
    /// Room, and zeros where the file system cannot give that.
    Allocate,
}

fn has_large_syncs(shared: &Shared) -> bool {
    shared.sync_bytes() >= shared.options.segment_bytes / LARGE_SYNC_PART
}

impl Order {
    /// Makes the finished segment part of the store.
    pub(crate) fn enter(&self, manifest: &mut Manifest) {
        manifest.spares.retain(|spare| Some(*spare) != self.reuse);
        let entry = SegmentEntry { id: self.id, salt: self.salt, base: None, end: None };
        manifest.journal.push(entry);
    }
}

/// Makes the file; the manifest is for the caller to commit.
pub(crate) fn make(fs: &dyn Fs, order: &Order) -> io::Result<Segment> {
    let name = FileName::new(FileKind::Segment, order.id);
    let temporary = name.temporary();
    try_make(fs, order, name, &temporary.to_string()).inspect_err(|_| {
        // Gives the space back; what cannot be removed now goes at the next start.
        for name in [name, temporary] {
            let _: io::Result<()> = fs.remove(&name.to_string());
        }
    })
}

fn try_make(fs: &dyn Fs, order: &Order, name: FileName, temporary: &str) -> io::Result<Segment> {
    let file = match order.reuse {
        Some(spare) => recycled(fs, spare, temporary, order)?,
        None => zeroed(fs, temporary, order)?,
    };
    let header = Header { store: order.store, id: order.id, size: order.size, salt: order.salt };
    file.write_at(0, &[IoSlice::new(&header.encode())])?;
    file.sync()?;
    fs.rename(temporary, &name.to_string())?;
    if !planted(Bug::SkipDirectorySync) {
        fs.sync_dir()?;
    }
    let map = file.map(order.size)?;
    Ok(Segment::new(order.id, order.salt, file, order.size, map))
}

fn recycled(
    fs: &dyn Fs,
    spare: FileId,
    temporary: &str,
    order: &Order,
) -> io::Result<Arc<dyn File>> {
    let spare = FileName::new(FileKind::Spare, spare).to_string();
    match fs.rename(&spare, temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return zeroed(fs, temporary, order);
        }
        Err(error) => return Err(error),
    }
    let file = fs.open(temporary)?;
    if file.size()? != order.size {
        file.set_len(0)?;
        fill(&*file, order)?;
    }
    Ok(file)
}

fn zeroed(fs: &dyn Fs, temporary: &str, order: &Order) -> io::Result<Arc<dyn File>> {
    let file = match fs.create(temporary) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs.remove(temporary)?;
            fs.create(temporary)?
        }
        created => created?,
    };
    fill(&*file, order)?;
    Ok(file)
}

fn fill(file: &dyn File, order: &Order) -> io::Result<()> {
    if order.filling == Filling::Allocate {
        match file.allocate(order.size) {
            Err(error) if is_refused(&error) => {}
            allocated => return allocated,
        }
    }
    fill_with_zeros(file, order)
}

/// Whether the file system cannot do it: not all say so in the same way.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), Unsupported | InvalidInput | PermissionDenied)
}

fn fill_with_zeros(file: &dyn File, order: &Order) -> io::Result<()> {
    let size = order.size;
    let zeros = vec![0; WRITE_BYTES];
    let mut position = 0;
    while position < size {
        let len = usize::try_from(size - position).unwrap_or(WRITE_BYTES).min(WRITE_BYTES);
        file.write_at(position, &[IoSlice::new(zeros.get(..len).unwrap_or(&zeros))])?;
        position += len as u64;
        if order.filling != Filling::AtOnce
            && (position.is_multiple_of(CHUNK_BYTES) || position == size)
        {
            file.sync()?;
        }
    }
    Ok(())
}

const _: () = assert!(WRITE_BYTES.is_multiple_of(HEADER_LEN), "pieces are whole pages");
const _: () = assert!(CHUNK_BYTES.is_multiple_of(WRITE_BYTES as u64), "syncs lie between writes");

/// A segment could not be made ready.
#[derive(Debug)]
pub enum SpareError {
    /// The file could not be made: the disk is full, for one. The store goes on without it.
    File {
        /// The file.
        id: FileId,
        /// The cause.
        source: io::Error,
    },
    /// The manifest could not be committed; the store must stop.
    Manifest(ManifestError),
}

impl fmt::Display for SpareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { id, source } => write!(f, "segment not made file={id}: {source}"),
            Self::Manifest(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for SpareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Manifest(source) => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Map;
    use crate::fs::sim::SimFs;

    /// A file of a file system that gives no room in advance.
    #[derive(Debug)]
    struct Plain(Arc<dyn File>);

    impl File for Plain {
        fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
            self.0.write_at(position, parts)
        }

        fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.0.read_at(position, buffer)
        }

        fn drop_cache(&self) -> io::Result<()> {
            self.0.drop_cache()
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn allocate(&self, _len: u64) -> io::Result<()> {
            Err(io::ErrorKind::InvalidInput.into())
        }

        fn map(&self, len: u64) -> io::Result<Map> {
            self.0.map(len)
        }
    }

    #[test]
    fn where_there_is_no_room_in_advance_there_are_zeros() {
        let file = Plain(SimFs::new().create("segment").unwrap());
        let (store, id, salt, size) = (StoreId([0; 16]), FileId(1), Salt([0; 16]), 1 << 20);
        let order = Order { store, id, salt, size, reuse: None, filling: Filling::Allocate };

        fill(&file, &order).unwrap();

        assert_eq!(file.size().unwrap(), size);
    }
}
