//! Cutting stored batches into the slices of a delivery or a fetch, without copying bodies.

use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::message::Slice;
use posthouse_protocol::{DecodeError, Offset};
use posthouse_storage::reader::StoredBatch;
use std::ops::Range;

/// A slice and its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) slice: Slice,
    pub(crate) index: Bytes,
    pub(crate) bodies: Bytes,
}

impl Cut {
    /// Bytes that it adds to a frame's tail.
    pub(crate) fn len(&self) -> usize {
        self.index.len() + self.bodies.len()
    }
}

/// How much may still be cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
    /// A stored batch is at least one.
    pub(crate) slices: usize,
}

/// Slices that one frame can list: a topic of batches of one message fills that long before any bytes.
pub(crate) const SLICES_MAX: usize = posthouse_protocol::limits::LIST_ENTRIES_MAX as usize;

/// The part of `batch` that lies in `wanted`, at most `budget` of it but at least one message if
/// `first` says that nothing has been cut before. `None` if there is nothing to cut.
///
/// # Errors
///
/// [`DecodeError`] if the batch is not what its header says.
pub(crate) fn cut(
    batch: &StoredBatch,
    wanted: &Range<Offset>,
    budget: Budget,
    first: bool,
) -> Result<Option<Cut>, DecodeError> {
    let view = BatchView::parse_trusted(&batch.bytes)?;
    let start = wanted.start.max(batch.base);
    let end = wanted.end.min(batch.base.plus(u64::from(batch.count)));
    if start >= end {
        return Ok(None);
    }
    let messages = end.distance_from(start).min(budget.messages);
    if start == batch.base && messages == u64::from(batch.count) {
        let whole = view.index().len() + view.bodies().len();
        if whole <= budget.bytes {
            return Ok(Some(assemble(batch, view.index(), view.bodies(), start, batch.count)));
        }
    }
    let part = measure(&view, start.distance_from(batch.base), messages, budget.bytes, first)?;
    let count = u32::try_from(part.count).unwrap_or(u32::MAX);
    let index = view.index().get(part.index).unwrap_or_default();
    let bodies = view.bodies().get(part.bodies).unwrap_or_default();
    Ok((count > 0).then(|| assemble(batch, index, bodies, start, count)))
}

struct Part {
    count: u64,
    index: Range<usize>,
    bodies: Range<usize>,
}

/// Where `messages` messages after the first `skip` lie, as far as they fit into `bytes`.
fn measure(
    view: &BatchView<'_>,
    skip: u64,
    messages: u64,
    bytes: usize,
    first: bool,
) -> Result<Part, DecodeError> {
    let mut entries = view.entries();
    let mut part = Part { count: 0, index: 0..0, bodies: 0..0 };
    for _ in 0..skip {
        let entry = entries.read()?;
        part.index.end += entry.bytes().len();
        part.bodies.end += body_len(entry.body_len);
    }
    part.index.start = part.index.end;
    part.bodies.start = part.bodies.end;
    while part.count < messages {
        let entry = entries.read()?;
        let (index_end, bodies_end) =
            (part.index.end + entry.bytes().len(), part.bodies.end + body_len(entry.body_len));
        let taken = index_end - part.index.start + bodies_end - part.bodies.start;
        if taken > bytes && !(first && part.count == 0) {
            break;
        }
        part.index.end = index_end;
        part.bodies.end = bodies_end;
        part.count += 1;
    }
    Ok(part)
}

fn body_len(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn assemble(batch: &StoredBatch, index: &[u8], bodies: &[u8], first: Offset, count: u32) -> Cut {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let slice = Slice { first, count, index_len: len(index), bodies_len: len(bodies) };
    // Empty slices lie anywhere, so they are not looked for in the batch.
    let part = |bytes: &[u8]| {
        if bytes.is_empty() { Bytes::new() } else { batch.bytes.slice_ref(bytes) }
    };
    Cut { slice, index: part(index), bodies: part(bodies) }
}
