//! A run: an immutable file of batches sorted by partition, with its index at the end.
//!
//! Lookups search the mapped index where it lies, so an open run costs a map and
//! a few numbers, however many batches it holds. What a lookup costs in page
//! faults is the caller's concern: runs are cold, and the core thread stays away
//! from them. The bytes are described in [`mod@format`].
//!
//! A run over an adopted segment is only the index: its batches lie in the segment, and are read
//! there.

mod adopted;
pub mod format;
mod set;
mod verify;
mod write;

pub use adopted::Adopted;
pub use format::{Entry, Header, Identity, Partition};
pub use set::{Runs, SetError};
pub use verify::Verification;
pub use write::{Copied, Writer};

use crate::fs::{File, Map};
use crate::names::FileId;
use bytes::Bytes;
use format::{ENTRY_LEN, FOOTER_LEN, Footer, HEADER_LEN, PARTITION_LEN, checksum};
use posthouse_protocol::{DecodeError, Offset, PartitionId};
use std::ops::Range;
use std::sync::OnceLock;
use std::{fmt, io};

/// An open run.
#[derive(Debug)]
pub struct Run {
    header: Header,
    footer: Footer,
    map: Map,
    bytes: Bytes,
    /// Where the batches lie, if not in the run's own file.
    adopted: Option<Adopted>,
    /// The lowest and the highest partition, kept so that most lookups in runs that do not hold
    /// the partition touch no page of the file.
    bounds: Option<[Partition; 2]>,
    /// Whether every index entry is as it was written; checked when first needed.
    index_sound: OnceLock<bool>,
}

impl Run {
    /// Opens a run and checks header, footer and directory, but neither index nor batches.
    /// `adopted` is the segment that `identity` says to hold the batches.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a header of another identity is damage.
    pub fn open(
        file: &dyn File,
        identity: &Identity,
        adopted: Option<Adopted>,
    ) -> Result<Self, OpenError> {
        let header = read_header(file)?;
        if header.identity != *identity {
            return Err(OpenError::Other { found: header.identity.id });
        }
        Self::in_map(header, file.map(header.len).map_err(OpenError::Io)?, adopted)
    }

    /// A run whose header was read, in a map of its file.
    pub(crate) fn in_map(
        header: Header,
        map: Map,
        adopted: Option<Adopted>,
    ) -> Result<Self, OpenError> {
        let adopted = adopted::check(&header, adopted)?;
        let truncated = OpenError::Damaged(DecodeError::Truncated { field: "run" });
        let bytes = map.slice(0..header.len).ok_or(truncated)?;
        let footer = part(&bytes, header.len - FOOTER_LEN..header.len);
        let footer = Footer::decode(footer, &header.identity.salt, header.len)?;
        let (bounds, index_sound) = (None, OnceLock::new());
        let mut run = Self { header, footer, map, bytes, adopted, bounds, index_sound };
        run.check_directory()?;
        let last = u64::from(run.footer.partitions).saturating_sub(1);
        run.bounds = run.partition_at(0).zip(run.partition_at(last)).map(|(low, high)| [low, high]);
        Ok(run)
    }

    fn check_directory(&self) -> Result<(), DecodeError> {
        let stored = self.footer.directory_crc;
        let computed = checksum(&self.header.identity.salt, self.directory());
        if stored != computed {
            return Err(DecodeError::Checksum { field: "run directory", stored, computed });
        }
        Ok(())
    }

    /// Which run this is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.header.identity
    }

    /// How many bytes of its own file it takes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.header.len
    }

    /// Whether it holds no batch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.footer.entries == 0
    }

    /// How many batches it holds.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.footer.entries
    }

    /// The segment that holds its batches, if its own file does not.
    #[must_use]
    pub const fn adopted(&self) -> Option<&Adopted> {
        self.adopted.as_ref()
    }

    /// The file that its batches lie in.
    #[must_use]
    pub fn batch_file(&self) -> FileId {
        self.header.identity.adopted.unwrap_or(self.header.identity.id)
    }

    /// All bytes of the file that its batches lie in, without a copy; `None` if they cannot be had.
    #[must_use]
    pub fn batch_file_bytes(&self) -> Option<Bytes> {
        self.adopted.as_ref().map_or_else(|| Some(self.bytes.clone()), Adopted::bytes)
    }

    /// The partition that all its batches belong to, if there is only one.
    #[must_use]
    pub fn only_partition(&self) -> Option<Partition> {
        self.bounds.filter(|[low, high]| low.id == high.id).map(|[only, _]| only)
    }

    /// The map of its own file, to find out later whether any slice is still alive.
    #[must_use]
    pub const fn map(&self) -> &Map {
        &self.map
    }

    /// The partitions it holds batches of, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        (0..u64::from(self.footer.partitions)).filter_map(|number| self.partition_at(number))
    }

    /// What it holds of `partition`.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<Partition> {
        let [low, high] = self.bounds?;
        if partition < low.id || high.id < partition {
            return None;
        }
        if let Some(bound) = [low, high].into_iter().find(|bound| bound.id == partition) {
            return Some(bound);
        }
        let count = u64::from(self.footer.partitions);
        let number = first_where(0..count, |number| {
            self.partition_at(number).is_some_and(|found| found.id >= partition)
        });
        self.partition_at(number).filter(|found| found.id == partition)
    }

    /// The batch of `partition` that contains `from`, or the next later one.
    ///
    /// # Errors
    ///
    /// The index entries of this partition are damaged.
    pub fn lookup(
        &self,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Option<Entry>, DecodeError> {
        Ok(self.find(partition, from)?.map(|(entry, _, _)| entry))
    }

    /// Like [`Self::lookup`], with the numbers of the next entry and of the one behind the
    /// partition's last.
    fn find(
        &self,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Option<(Entry, u64, u64)>, DecodeError> {
        let Some(partition) = self.partition(partition).filter(|found| found.end > from) else {
            return Ok(None);
        };
        self.check_entries(&partition)?;
        let entries = entry_numbers(&partition);
        let number = first_where(entries.clone(), |number| {
            self.entry_at(number).is_some_and(|entry| entry.end() > from)
        });
        let found = self.entry_at(number).filter(|_| entries.contains(&number));
        Ok(found.map(|entry| (entry, number + 1, entries.end)))
    }

    /// All batches of one partition, by offset.
    ///
    /// # Errors
    ///
    /// The index entries of this partition are damaged.
    pub fn batches(
        &self,
        partition: &Partition,
    ) -> Result<impl Iterator<Item = Entry> + '_, DecodeError> {
        self.check_entries(partition)?;
        Ok(entry_numbers(partition).filter_map(|number| self.entry_at(number)))
    }

    /// The batch at `entry`, without a copy and unchecked; `None` if it would lie outside.
    #[must_use]
    pub fn batch(&self, entry: &Entry) -> Option<Bytes> {
        let end = entry.position.checked_add(u64::from(entry.len))?;
        if let Some(segment) = &self.adopted {
            return segment.map.slice(entry.position..end);
        }
        if entry.position < HEADER_LEN || end > self.footer.index_position {
            return None;
        }
        Some(self.bytes.slice(to_usize(entry.position)..to_usize(end)))
    }

    /// Checks the whole index once; after that, and if it is damaged, only this partition's part.
    fn check_entries(&self, partition: &Partition) -> Result<(), DecodeError> {
        let sound = self.index_sound.get_or_init(|| {
            self.partitions().all(|partition| self.check_entries_of(&partition).is_ok())
        });
        if *sound { Ok(()) } else { self.check_entries_of(partition) }
    }

    fn check_entries_of(&self, partition: &Partition) -> Result<(), DecodeError> {
        let numbers = entry_numbers(partition);
        let start = self.footer.index_position;
        let place = |number: u64| start.saturating_add(number.saturating_mul(ENTRY_LEN));
        if numbers.end > self.footer.entries || numbers.is_empty() {
            let found = u64::from(partition.entries);
            return Err(DecodeError::Invalid { field: "run.partition.entries", found });
        }
        let entries = part(&self.bytes, place(numbers.start)..place(numbers.end));
        let stored = partition.crc;
        let computed = checksum(&self.header.identity.salt, entries);
        if stored == computed {
            return Ok(());
        }
        Err(DecodeError::Checksum { field: "run index", stored, computed })
    }

    fn directory(&self) -> &[u8] {
        part(&self.bytes, self.footer.directory_position..self.header.len - FOOTER_LEN)
    }

    fn partition_at(&self, number: u64) -> Option<Partition> {
        let start = number.checked_mul(PARTITION_LEN)?;
        let bytes = self.directory().get(to_usize(start)..to_usize(start + PARTITION_LEN))?;
        Partition::decode(bytes).ok()
    }

    fn entry_at(&self, number: u64) -> Option<Entry> {
        if number >= self.footer.entries {
            return None;
        }
        let start = self.footer.index_position + number * ENTRY_LEN;
        Entry::decode(part(&self.bytes, start..start + ENTRY_LEN)).ok()
    }
}

/// Reads and checks the header of a file that should be a run.
///
/// # Errors
///
/// [`OpenError`].
pub fn read_header(file: &dyn File) -> Result<Header, OpenError> {
    let mut bytes = [0; 128];
    file.read_at(0, &mut bytes).map_err(OpenError::Io)?;
    let header = Header::decode(&bytes)?;
    let size = file.size().map_err(OpenError::Io)?;
    if header.len > size {
        return Err(OpenError::Short { expected: header.len, found: size });
    }
    Ok(header)
}

/// The smallest number in `range` for which `holds`, which must hold for all after it; else the end.
fn first_where(range: Range<u64>, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

const fn entry_numbers(partition: &Partition) -> Range<u64> {
    let end = partition.first_entry.saturating_add(partition.entries as u64);
    partition.first_entry..end
}

fn part(bytes: &[u8], range: Range<u64>) -> &[u8] {
    bytes.get(to_usize(range.start)..to_usize(range.end)).unwrap_or_default()
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Why a file cannot be used as a run.
#[derive(Debug)]
pub enum OpenError {
    /// The system refused.
    Io(io::Error),
    /// Header, footer or directory are not as they were written.
    Damaged(DecodeError),
    /// A sound run, but another one than the manifest names.
    Other {
        /// The id found.
        found: FileId,
    },
    /// The file is shorter than its header says.
    Short {
        /// The length that the header names.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
    /// The system refuses the segment that the run adopted, or there is none.
    Segment {
        /// The segment.
        id: FileId,
        /// The cause.
        source: io::Error,
    },
    /// The segment that the run adopted is shorter than it was.
    SegmentShort {
        /// The segment.
        id: FileId,
        /// The length that the run's header names.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
}

impl From<DecodeError> for OpenError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "run cannot be read: {error}"),
            Self::Damaged(error) => write!(f, "run is damaged: {error}"),
            Self::Other { found } => write!(f, "not the run of the manifest found_id={found}"),
            Self::Short { expected, found } => {
                write!(f, "run is cut off expected={expected} found={found}")
            }
            Self::Segment { id, source } => {
                write!(f, "its batches cannot be read segment={id}: {source}")
            }
            Self::SegmentShort { id, expected, found } => {
                write!(f, "its batches are cut off segment={id} expected={expected} found={found}")
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::Segment { source: error, .. } => Some(error),
            Self::Damaged(error) => Some(error),
            Self::Other { .. } | Self::Short { .. } | Self::SegmentShort { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
