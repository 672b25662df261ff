//! The one seam between Posthouse and a disk: a flat directory of files.
//!
//! Everything that storage does to files goes through these two traits, so that
//! the same code runs on a real directory ([`real`]) and on a simulated disk
//! ([`sim`]) that loses unsynced sectors, tears writes, fails syncs and fills up.
//! Names are chosen by this crate and contain no separators, except for the
//! folder `orphan/` into which files are moved that nobody understands.

mod aligned;
mod mmap;

pub mod dice;
pub mod faults;
pub mod real;
pub mod sim;

pub use aligned::Aligned;

use bytes::Bytes;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// Position and length of what is written past the system's cache are multiples of this.
pub const BLOCK: usize = 4096;

/// A data directory.
pub trait Fs: Debug + Send + Sync {
    /// Creates a file that must not exist, readable by the owner only. Its
    /// name is durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    ///
    /// The system's.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    ///
    /// The system's; `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing `to` in one step. Durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    ///
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name; open handles and maps stay valid. Durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    ///
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, `orphan/` left out, sorted.
    ///
    /// # Errors
    ///
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes all creations, renames and removals so far durable.
    ///
    /// # Errors
    ///
    /// The system's; never retried.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that can still be written, as this process may use them.
    ///
    /// # Errors
    ///
    /// The system's.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Shared; writers of overlapping ranges keep out of each other's way by design.
pub trait File: Debug + Send + Sync {
    /// Writes all `parts`, one after another, at `position`, growing the file
    /// if needed. Not durable before [`File::sync`].
    ///
    /// # Errors
    ///
    /// The system's; some of the bytes may then have been written.
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Fills `buffer` from `position`.
    ///
    /// # Errors
    ///
    /// The system's; `UnexpectedEof` if the file ends before.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Like [`File::write_at`], past the system's cache where the file system can do that: for what
    /// nobody reads soon. `position` is a multiple of [`BLOCK`] and so is what the buffer holds.
    ///
    /// # Errors
    ///
    /// The system's; some of the bytes may then have been written.
    fn write_past_cache(&self, position: u64, blocks: &Aligned) -> io::Result<()> {
        self.write_at(position, &[IoSlice::new(blocks.filled())])
    }

    /// Reads as much as there is room for from `position`, a multiple of [`BLOCK`], past the system's
    /// cache where the file system can do that; elsewhere call [`File::drop_cache`] before. Gives how
    /// much there is; less than the whole buffer at the end of the file only.
    ///
    /// # Errors
    ///
    /// The system's.
    fn read_past_cache(&self, position: u64, into: &mut Aligned) -> io::Result<usize> {
        read_up_to(self, position, into.whole())
    }

    /// Drops what the system has cached of this file, so that the next reads show what the disk
    /// holds (after a failed sync the cache can show bytes that never reached it).
    ///
    /// # Errors
    ///
    /// The system's.
    fn drop_cache(&self) -> io::Result<()>;

    /// The same for the first `len` bytes, which costs less; more may be dropped.
    ///
    /// # Errors
    ///
    /// The system's.
    fn drop_cache_of_first(&self, _len: u64) -> io::Result<()> {
        self.drop_cache()
    }

    /// Makes all bytes and the length durable (`fdatasync`).
    ///
    /// # Errors
    ///
    /// The system's; never retried: what it covered is lost or not, nobody knows.
    fn sync(&self) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    ///
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or extends (with a hole) the file. Never called on a mapped file.
    ///
    /// # Errors
    ///
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file to `len` bytes and takes room for all of them; they read as zeros. A synced
    /// write into such room costs more than into what was written before, and nothing else does.
    ///
    /// # Errors
    ///
    /// The system's; `Unsupported` if the file system cannot do that.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Maps the file's first `len` bytes for reading. Bytes written to the file later are seen.
    ///
    /// # Errors
    ///
    /// The system's.
    fn map(&self, len: u64) -> io::Result<Map>;
}

/// Reads what there is, up to the whole buffer.
fn read_up_to(file: &(impl File + ?Sized), position: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let left = usize::try_from(file.size()?.saturating_sub(position)).unwrap_or(usize::MAX);
    let len = left.min(buffer.len());
    file.read_at(position, buffer.get_mut(..len).unwrap_or_default())?;
    Ok(len)
}

/// A read-only view of a file, shared by all slices taken from it.
#[derive(Clone, Debug)]
pub struct Map(pub Arc<dyn Mapped>);

impl Map {
    /// Bytes of `range` without a copy where the implementation can; `None` if the range is not
    /// inside the map. The slice keeps the mapping alive.
    #[must_use]
    pub fn slice(&self, range: Range<u64>) -> Option<Bytes> {
        Arc::clone(&self.0).slice(range)
    }

    /// Whether any slice, or another clone of this map, is alive besides `self`.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// What a [`Map`] is made of.
pub trait Mapped: Debug + Send + Sync {
    /// See [`Map::slice`].
    fn slice(self: Arc<Self>, range: Range<u64>) -> Option<Bytes>;
}
