//! All runs of a store, as readers consult them.
//!
//! The order of the runs does not matter: a lookup takes the batch with the
//! lowest offset that any run has. That lets compaction merge runs that are no
//! neighbours.

use super::adopted::Segments;
use super::{Entry, OpenError, Run};
use crate::fs::Fs;
use crate::manifest::RunEntry;
use crate::names::{FileId, FileKind, FileName};
use crate::reader::{Cold, ColdBatch, ReadError};
use crate::run::Identity;
use crate::segment::StoreId;
use crate::shared::Segment;
use bytes::Bytes;
use posthouse_protocol::{Offset, PartitionId};
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;

/// The open runs. Immutable; a fold makes a new set.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    open: Vec<Arc<Run>>,
    /// How many the manifest names besides: they could not be opened.
    left_out: usize,
}

impl Runs {
    /// Opens every run that the manifest names. What cannot be used is left out and named: the
    /// others are served, and a run that was left out is never retired. The next start may find it
    /// sound: files can be too many, or put back. `journal` are the segments that are open already.
    #[must_use]
    pub fn open(
        fs: &dyn Fs,
        store: StoreId,
        entries: &[RunEntry],
        journal: &[Segment],
    ) -> (Self, Vec<SetError>) {
        let mut segments = Segments::new(fs, journal);
        let mut runs = Vec::with_capacity(entries.len());
        let mut broken = Vec::new();
        for entry in entries {
            match open(fs, store, entry, &mut segments) {
                Ok(run) => runs.push(run),
                Err(error) => broken.push(error),
            }
        }
        (Self { open: runs, left_out: broken.len() }, broken)
    }

    /// The same store with these runs open instead.
    #[must_use]
    pub const fn with(&self, open: Vec<Arc<Run>>) -> Self {
        Self { open, left_out: self.left_out }
    }

    /// The open runs, in the manifest's order.
    #[must_use]
    pub fn all(&self) -> &[Arc<Run>] {
        &self.open
    }

    /// Whether some run has the batch of `partition` that starts at `base`.
    ///
    /// # Errors
    ///
    /// [`ReadError::Index`].
    pub fn has(&self, partition: PartitionId, base: Offset) -> Result<bool, ReadError> {
        for run in &self.open {
            if lookup(run, partition, base)?.is_some_and(|entry| entry.base == base) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Cold for Runs {
    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        found: &mut Vec<ColdBatch>,
    ) -> Result<(), ReadError> {
        let mut cursors = Vec::new();
        for run in &self.open {
            if let Some(cursor) = Cursor::start(run, partition, from)? {
                cursors.push(cursor);
            }
        }
        let mut next = from;
        let mut bytes = 0_usize;
        while bytes < max_bytes.max(1) {
            cursors.retain_mut(|cursor| cursor.skip_to(next));
            let Some(nearest) = cursors.iter().min_by_key(|cursor| cursor.entry.base) else {
                break;
            };
            let batch = nearest.batch()?;
            next = nearest.entry.end();
            bytes = bytes.saturating_add(batch.bytes.len().max(1));
            found.push(batch);
        }
        Ok(())
    }

    fn find(&self, partition: PartitionId, at: Offset) -> Result<Option<ColdBatch>, ReadError> {
        let left_out = self.left_out;
        let mut unknown = (left_out > 0).then_some(ReadError::LeftOut { runs: left_out });
        let has = |run: &&Arc<Run>| run.partition(partition).is_some_and(|held| held.start <= at);
        for run in self.open.iter().filter(has) {
            match Cursor::start(run, partition, at) {
                Ok(Some(cursor)) if cursor.entry.base <= at => return cursor.batch().map(Some),
                Ok(_) => {}
                Err(error) => unknown = Some(error),
            }
        }
        unknown.map_or(Ok(None), Err)
    }
}

/// A position among one run's batches of one partition.
struct Cursor<'a> {
    run: &'a Run,
    entry: Entry,
    /// Number of the entry after this one, and of the one behind the partition's last.
    next: u64,
    end: u64,
}

impl<'a> Cursor<'a> {
    fn start(
        run: &'a Run,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Option<Self>, ReadError> {
        let found = run.find(partition, from).map_err(|source| index_error(run, source))?;
        Ok(found.map(|(entry, next, end)| Self { run, entry, next, end }))
    }

    /// Moves to the first batch that ends after `from`; false if there is none.
    fn skip_to(&mut self, from: Offset) -> bool {
        while self.entry.end() <= from {
            let following = (self.next < self.end).then(|| self.run.entry_at(self.next)).flatten();
            let Some(entry) = following else {
                return false;
            };
            self.entry = entry;
            self.next += 1;
        }
        true
    }

    fn batch(&self) -> Result<ColdBatch, ReadError> {
        let Entry { base, count, position, crc, .. } = self.entry;
        let file = self.run.batch_file();
        let bytes =
            if self.entry.is_lost() { Some(Bytes::new()) } else { self.run.batch(&self.entry) };
        let bytes = bytes.ok_or(ReadError::Missing { file, position })?;
        Ok(ColdBatch { base, count, header_crc: crc, bytes, file, position })
    }
}

fn lookup(run: &Run, partition: PartitionId, from: Offset) -> Result<Option<Entry>, ReadError> {
    run.lookup(partition, from).map_err(|source| index_error(run, source))
}

fn index_error(run: &Run, source: posthouse_protocol::DecodeError) -> ReadError {
    ReadError::Index { file: run.identity().id, source }
}

fn open(
    fs: &dyn Fs,
    store: StoreId,
    entry: &RunEntry,
    segments: &mut Segments<'_>,
) -> Result<Arc<Run>, SetError> {
    let RunEntry { id, salt, after, upto, adopted, .. } = *entry;
    let identity = Identity { store, id, salt, after, through: upto, adopted };
    let name = FileName::new(FileKind::Run, id).to_string();
    let mut open = || {
        let file = fs.open(&name).map_err(OpenError::Io)?;
        let segment = adopted.map(|id| segments.get(id)).transpose()?;
        Run::open(&*file, &identity, segment)
    };
    open().map(Arc::new).map_err(|source| SetError { id, source })
}

/// A run of the manifest cannot be used.
#[derive(Debug)]
pub struct SetError {
    /// The run.
    pub id: FileId,
    /// Why.
    pub source: OpenError,
}

impl SetError {
    /// Whether the file may be sound, and the system only refuses it for now.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        let (OpenError::Io(error) | OpenError::Segment { source: error, .. }) = &self.source else {
            return false;
        };
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM];
        Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
    }
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run={}: {}", self.id, self.source)
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
