//! Batches where they lie: what a fold or a compaction takes them from, and whether they are sound.

use crate::run::{Adopted, Copied};
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{Offset, PartitionId};

/// A file that batches are taken from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// A slice of the file's map, from its first byte on.
    pub(super) bytes: Bytes,
    /// The file, if it is a segment that a run may adopt.
    pub(super) segment: Option<Adopted>,
}

/// A batch that is needed: what its table or index says, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) partition: PartitionId,
    pub(super) count: u32,
    pub(super) base: Offset,
    pub(super) position: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
    /// Which of the sources holds it.
    pub(super) source: u32,
}

/// The state of a batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Sound,
    /// A body is damaged; its message's checksum says which.
    Hurt,
    /// Header or index are damaged, so that nothing of it can be read.
    Lost,
}

impl Found {
    /// The batch with its bytes, none if it would lie outside of its source.
    pub(super) fn read(&self, sources: &[Source]) -> Copied {
        let &Self { partition, base, count, crc, .. } = self;
        Copied { partition, base, count, crc, bytes: bytes_of(sources, self) }
    }
}

/// What its checksums say about a batch.
pub(super) fn judge(batch: &Copied) -> State {
    let Ok(view) = BatchView::parse(&batch.bytes) else {
        return State::Lost;
    };
    if view.header_crc() != batch.crc || view.count() != batch.count {
        return State::Lost;
    }
    if view.verify_bodies().is_ok() { State::Sound } else { State::Hurt }
}

/// The source number `number`.
pub(super) fn source(sources: &[Source], number: u32) -> Option<&Source> {
    usize::try_from(number).ok().and_then(|number| sources.get(number))
}

fn bytes_of(sources: &[Source], found: &Found) -> Bytes {
    let start = usize::try_from(found.position).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(found.len).unwrap_or(usize::MAX));
    match source(sources, found.source) {
        Some(Source { bytes, .. }) if end <= bytes.len() => bytes.slice(start..end),
        Some(_) | None => Bytes::new(),
    }
}
