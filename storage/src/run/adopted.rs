//! The segment that a run adopted: the run is an index over the batches in it.

use super::{Header, OpenError};
use crate::fs::{Fs, Map};
use crate::names::{FileId, FileKind, FileName};
use crate::shared::Segment;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;

/// An adopted segment, open for reading.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Its number.
    pub id: FileId,
    /// Length of the file.
    pub size: u64,
    /// The only map of the file that there is: the journal's readers and all runs over it share it.
    /// Else one could not tell whether the file may be recycled.
    pub map: Map,
}

impl Adopted {
    /// A segment that is open as journal.
    #[must_use]
    pub fn of(segment: &Segment) -> Self {
        Self { id: segment.id, size: segment.size, map: segment.map.clone() }
    }

    fn open(fs: &dyn Fs, id: FileId) -> io::Result<Self> {
        let file = fs.open(&FileName::new(FileKind::Segment, id).to_string())?;
        let size = file.size()?;
        Ok(Self { id, size, map: file.map(size)? })
    }

    /// The whole file, without a copy; `None` if the map does not hold all of it.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        self.map.slice(0..self.size)
    }
}

/// Segments for the runs of a store that is being opened, each mapped once.
#[derive(Debug)]
pub(super) struct Segments<'a> {
    fs: &'a dyn Fs,
    open: BTreeMap<FileId, Adopted>,
}

impl<'a> Segments<'a> {
    /// Begins with those that the journal has.
    pub(super) fn new(fs: &'a dyn Fs, journal: &[Segment]) -> Self {
        let open = journal.iter().map(|segment| (segment.id, Adopted::of(segment))).collect();
        Self { fs, open }
    }

    pub(super) fn get(&mut self, id: FileId) -> Result<Adopted, OpenError> {
        if let Some(open) = self.open.get(&id) {
            return Ok(open.clone());
        }
        let opened =
            Adopted::open(self.fs, id).map_err(|source| OpenError::Segment { id, source })?;
        self.open.insert(id, opened.clone());
        Ok(opened)
    }
}

/// The segment that `header` names, if that is `found` and it is as long as it was.
pub(super) fn check(header: &Header, found: Option<Adopted>) -> Result<Option<Adopted>, OpenError> {
    let Some(id) = header.identity.adopted else {
        return Ok(None);
    };
    let missing = || OpenError::Segment { id, source: io::ErrorKind::NotFound.into() };
    let segment = found.filter(|segment| segment.id == id).ok_or_else(missing)?;
    let (expected, found) = (header.adopted_bytes, segment.size);
    if found < expected {
        return Err(OpenError::SegmentShort { id, expected, found });
    }
    Ok(Some(segment))
}
