//! Reading batches back, wherever they lie.
//!
//! A lookup takes location and file handle from one [`View`]
//! under one lock, so that a fold in between can never pair an old location with
//! a new file. The bytes are slices of the maps: they stay valid while they live,
//! and keep the file from being recycled.

use crate::fs::Map;
use crate::index::IndexEntry;
use crate::names::FileId;
use crate::shared::{Shared, View};
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{DecodeError, Offset, PartitionId};
use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;

/// A batch as stored; header and index are verified, bodies carry their own checksums.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Offset of its first message.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// The batch, a slice of the file's map.
    pub bytes: Bytes,
    /// Whether it came from the journal rather than a run.
    pub journal_tail: bool,
}

/// A batch that a run has.
#[derive(Clone, Debug)]
pub struct ColdBatch {
    /// Offset of its first message.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// The batch's own checksum over header and index.
    pub header_crc: u32,
    /// The batch, not verified yet.
    pub bytes: Bytes,
    /// The file it came from.
    pub file: FileId,
    /// Its first byte in that file.
    pub position: u64,
}

/// The runs, as readers consult them.
pub trait Cold: Debug + Send + Sync {
    /// Appends the batches of `partition` that end after `from`, ascending, until `max_bytes` are
    /// reached; at least one if there is one. May touch the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if an index cannot be read or is damaged.
    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        found: &mut Vec<ColdBatch>,
    ) -> Result<(), ReadError>;

    /// The batch of `partition` that holds `at`; `None` if no run ever had it. May touch the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if it is in no run that can be read, and one cannot.
    fn find(&self, partition: PartitionId, at: Offset) -> Result<Option<ColdBatch>, ReadError>;
}

/// A store without runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRuns;

impl Cold for NoRuns {
    fn read(
        &self,
        _partition: PartitionId,
        _from: Offset,
        _max_bytes: usize,
        _found: &mut Vec<ColdBatch>,
    ) -> Result<(), ReadError> {
        Ok(())
    }

    fn find(&self, _partition: PartitionId, _at: Offset) -> Result<Option<ColdBatch>, ReadError> {
        Ok(None)
    }
}

/// Reads batches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Batches of `partition` in ascending order, the first being the one that holds `from` or the
    /// next that exists, until `max_bytes` are reached; at least one if there is one.
    ///
    /// Sees everything that was appended: what may be shown is for the caller to decide. May wait
    /// for the disk unless [`Self::is_hot`].
    ///
    /// # Errors
    ///
    /// [`ReadError`] naming what is damaged. Batches before and after it can still be read.
    pub fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        let (unfolded, runs) = {
            let view = self.shared.view();
            let starts_unfolded =
                view.unfolded.first(partition).is_some_and(|first| first.base <= from);
            let runs = (!starts_unfolded).then(|| Arc::clone(&view.runs));
            (locate(&view, partition, from, max_bytes), runs)
        };
        let mut batches = Vec::with_capacity(unfolded.len());
        let mut room = max_bytes;
        if let Some(runs) = runs {
            let mut found = Vec::new();
            runs.read(partition, from, max_bytes, &mut found)?;
            for batch in found {
                if !take(&mut room, batch.bytes.len(), max_bytes) {
                    return Ok(batches);
                }
                if !push_verified(&mut batches, partition, batch, false)? {
                    return Ok(batches);
                }
            }
        }
        let resumed = batches.last().map_or(from, StoredBatch::next_offset);
        for (entry, map) in unfolded {
            // A batch of an adopted segment is in a run and may still be unfolded.
            if entry.next_offset() <= resumed {
                continue;
            }
            if !take(&mut room, entry.len as usize, max_bytes) {
                break;
            }
            if !push_verified(&mut batches, partition, unfolded_batch(&entry, &map)?, true)? {
                break;
            }
        }
        Ok(batches)
    }

    /// The batch of `partition` that holds `at`; `None` if there is none for good. Damage elsewhere
    /// does not matter. May wait for the disk unless [`Self::is_hot`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Corrupt`] if that batch is damaged. Any other if nothing can be said of it: it
    /// may lie in what cannot be read now.
    pub fn find(
        &self,
        partition: PartitionId,
        at: Offset,
    ) -> Result<Option<StoredBatch>, ReadError> {
        let (unfolded, runs) = {
            let view = self.shared.view();
            let entry = view.unfolded.entries_from(partition, at).next();
            let entry = entry.filter(|entry| entry.base <= at);
            let map_of = |entry: &IndexEntry| {
                view.segments.get(&entry.segment).map(|segment| segment.map.clone())
            };
            (entry.map(|entry| (entry, map_of(&entry))), Arc::clone(&view.runs))
        };
        let (batch, journal_tail) = match unfolded {
            Some((entry, Some(map))) => (Some(unfolded_batch(&entry, &map)?), true),
            Some((entry, None)) => {
                let (file, position) = (entry.segment, u64::from(entry.position));
                return Err(ReadError::Missing { file, position });
            }
            None => (runs.find(partition, at)?, false),
        };
        let mut found = Vec::new();
        if let Some(batch) = batch {
            push_verified(&mut found, partition, batch, journal_tail)?;
        }
        Ok(found.pop())
    }

    /// Whether reading `partition` at `from` will surely find its bytes in the page cache: the batch
    /// is among the newest of the journal.
    #[must_use]
    pub fn is_hot(&self, partition: PartitionId, from: Offset) -> bool {
        let view = self.shared.view();
        if view.unfolded.first(partition).is_none_or(|first| first.base > from) {
            return false;
        }
        let Some(entry) = view.unfolded.entries_from(partition, from).next() else {
            return true;
        };
        let start = view.segments.get(&entry.segment).and_then(|segment| segment.start());
        let oldest = self.shared.written_bytes().saturating_sub(self.shared.options.hot_bytes);
        start.is_some_and(|start| start.bytes_before + u64::from(entry.position) >= oldest)
    }
}

impl StoredBatch {
    /// One past its last offset.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.base.plus(self.count as u64)
    }
}

/// Whether a batch of `len` still fits; the first one always does.
const fn take(room: &mut usize, len: usize, max_bytes: usize) -> bool {
    let fits = *room == max_bytes || len <= *room;
    *room = room.saturating_sub(if len == 0 { 1 } else { len });
    fits
}

fn locate(
    view: &View,
    partition: PartitionId,
    from: Offset,
    max_bytes: usize,
) -> Vec<(IndexEntry, Map)> {
    let mut located = Vec::new();
    let mut bytes = 0_usize;
    for entry in view.unfolded.entries_from(partition, from) {
        if bytes > max_bytes {
            break;
        }
        bytes = bytes.saturating_add(entry.len as usize);
        if let Some(segment) = view.segments.get(&entry.segment) {
            located.push((entry, segment.map.clone()));
        }
    }
    located
}

fn unfolded_batch(entry: &IndexEntry, map: &Map) -> Result<ColdBatch, ReadError> {
    let position = u64::from(entry.position);
    let bytes = map
        .slice(position..position + u64::from(entry.len))
        .ok_or(ReadError::Missing { file: entry.segment, position })?;
    Ok(ColdBatch {
        base: entry.base,
        count: entry.count,
        header_crc: entry.header_crc,
        bytes,
        file: entry.segment,
        position,
    })
}

/// Adds a sound batch and says that reading may go on. In front of a damaged one it ends if there
/// are batches already, so that the next read meets the damage at its front.
fn push_verified(
    batches: &mut Vec<StoredBatch>,
    partition: PartitionId,
    batch: ColdBatch,
    journal_tail: bool,
) -> Result<bool, ReadError> {
    let verified = BatchView::parse(&batch.bytes).and_then(|view| {
        let (stored, computed) = (batch.header_crc, view.header_crc());
        if stored != computed {
            return Err(DecodeError::Checksum { field: "batch", stored, computed });
        }
        if view.count() != batch.count {
            let found = u64::from(view.count());
            return Err(DecodeError::Invalid { field: "batch.count", found });
        }
        Ok(())
    });
    match verified {
        Ok(()) => {
            let ColdBatch { base, count, bytes, .. } = batch;
            batches.push(StoredBatch { base, count, bytes, journal_tail });
            Ok(true)
        }
        Err(_) if !batches.is_empty() => Ok(false),
        Err(source) => Err(ReadError::Corrupt {
            partition,
            first: batch.base,
            last: Offset(batch.base.0 + u64::from(batch.count.max(1)) - 1),
            file: batch.file,
            position: batch.position,
            source,
        }),
    }
}

/// Batches could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// A batch is damaged. The offsets after `last` can still be read.
    Corrupt {
        /// Whose batch.
        partition: PartitionId,
        /// Its first offset.
        first: Offset,
        /// Its last offset.
        last: Offset,
        /// The file it lies in.
        file: FileId,
        /// Its first byte there.
        position: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// An index of a run is damaged.
    Index {
        /// The run.
        file: FileId,
        /// What is wrong.
        source: DecodeError,
    },
    /// No run that is open has it, and some could not be opened when the store was.
    LeftOut {
        /// How many.
        runs: usize,
    },
    /// The file is shorter than its index says.
    Missing {
        /// The file.
        file: FileId,
        /// Where the batch would start.
        position: u64,
    },
    /// The file could not be read.
    Io {
        /// The file.
        file: FileId,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { partition, first, last, file, position, source } => write!(
                f,
                "corrupt batch partition={partition} offsets={first}..={last} file={file} \
                 position={position}: {source}"
            ),
            Self::Index { file, source } => write!(f, "corrupt run index file={file}: {source}"),
            Self::LeftOut { runs } => {
                write!(f, "it may be in a run that could not be opened at the start, of {runs}")
            }
            Self::Missing { file, position } => {
                write!(f, "file too short file={file} position={position}")
            }
            Self::Io { file, source } => write!(f, "read failed file={file}: {source}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt { source, .. } | Self::Index { source, .. } => Some(source),
            Self::LeftOut { .. } | Self::Missing { .. } => None,
            Self::Io { source, .. } => Some(source),
        }
    }
}
