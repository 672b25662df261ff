//! Delayed messages that are due, read out of their batches and put into a new one.
//!
//! They are asked for in the order of their times and lie in the order in which they came, so some
//! are looked up together, and each stored batch once for those.

use crate::read::own;
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, MessageRef, Messages};
use posthouse_protocol::{Offset, PartitionId, Timestamp};
use posthouse_storage::reader::{ReadError, Reader, StoredBatch};
use std::collections::BTreeMap;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Which messages `batch` has, in its order.
    pub(crate) offsets: Vec<Offset>,
    /// Messages that are damaged or gone.
    pub(crate) damaged: Vec<Offset>,
    /// Messages of which nothing can be said now, and why: no damage of theirs.
    pub(crate) unreadable: Vec<(Offset, ReadError)>,
    /// `None` if it would be empty.
    pub(crate) batch: Option<Bytes>,
}

/// A message where it is stored.
struct Stored {
    batch: Bytes,
    index: Bytes,
    body: Bytes,
    /// When the batch was made that it came in.
    batch_at: Timestamp,
}

/// Bytes of stored batches that are looked at before what was found is enough: others wait for the
/// thread that does it.
const LOOKED_AT_MAX: usize = 8 << 20;
/// Messages that are looked up at first; then twice as many each time, so that few are looked up in
/// vain if they are large.
const LOOK_UP: usize = 16;

/// Reads messages from the front of `wanted` until they make a batch of `bytes_max`, but at least
/// one. Of each that it comes to it says what became of it.
pub(crate) fn read_due(
    reader: &Reader,
    partition: PartitionId,
    wanted: &[Offset],
    bytes_max: usize,
) -> Due {
    let mut due = Due::default();
    let mut group = Group { builder: BatchBuilder::new(), batch_at: Timestamp::ZERO, bytes_max };
    let (mut left, mut count) = (wanted, LOOK_UP);
    let mut looked_at = 0;
    'all: while !left.is_empty() && looked_at < LOOKED_AT_MAX {
        let (some, rest) = left.split_at(count.min(left.len()));
        let mut found = find(reader, partition, some);
        looked_at += found.looked_at;
        for offset in some {
            if let Some(error) = found.unreadable.remove(offset) {
                due.unreadable.push((*offset, error));
                continue;
            }
            match found.messages.remove(offset).map(|stored| group.add(&stored)) {
                Some(Added::Taken) => due.offsets.push(*offset),
                Some(Added::Damaged) | None => due.damaged.push(*offset),
                Some(Added::Full) => break 'all,
            }
        }
        (left, count) = (rest, count * 2);
    }
    due.batch = (!due.offsets.is_empty()).then(|| group.builder.finish(group.batch_at));
    due
}

/// A batch in the making.
struct Group {
    builder: BatchBuilder,
    batch_at: Timestamp,
    bytes_max: usize,
}

enum Added {
    Taken,
    Full,
    Damaged,
}

impl Group {
    fn add(&mut self, stored: &Stored) -> Added {
        let bytes = stored.index.len() + stored.body.len();
        if !self.builder.is_empty() && self.builder.len() + bytes > self.bytes_max {
            return Added::Full;
        }
        let source = Messages::new(&stored.index, &stored.body).next();
        let source = source.filter(|source| source.verify().is_ok());
        let message = source.and_then(|source| own(&stored.batch, &source).ok());
        if message.is_none_or(|message| self.builder.push(&message).is_err()) {
            return Added::Damaged;
        }
        self.batch_at = self.batch_at.max(stored.batch_at);
        Added::Taken
    }
}

/// What a look at stored batches has found.
#[derive(Default)]
struct Found {
    /// Messages of which the batch is sound.
    messages: BTreeMap<Offset, Stored>,
    /// Messages of which nothing can be said now: no damage of theirs.
    unreadable: BTreeMap<Offset, ReadError>,
    /// Bytes of the batches.
    looked_at: usize,
}

/// Where the messages are.
fn find(reader: &Reader, partition: PartitionId, wanted: &[Offset]) -> Found {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    let mut wanted = wanted.into_iter().peekable();
    let mut found = Found::default();
    while let Some(offset) = wanted.next() {
        let batch = match batch_with(reader, partition, offset) {
            Ok(batch) => batch,
            Err(error) => {
                found.unreadable.insert(offset, error);
                continue;
            }
        };
        let Some(batch) = batch else { continue };
        found.looked_at += batch.bytes.len();
        let Ok(view) = BatchView::parse_trusted(&batch.bytes) else { continue };
        let mut next = Some(offset);
        for (at, message) in (batch.base.0..).map(Offset).zip(view.messages()) {
            if next == Some(at) {
                found.messages.insert(at, stored(&batch.bytes, &message, view.created_at()));
                next = wanted.next_if(|next| *next < batch.next_offset());
            }
            if next.is_none() {
                break;
            }
        }
    }
    found
}

/// The batch that holds `offset`; `None` if that is damaged or gone.
///
/// # Errors
///
/// Whatever else keeps it from being read.
fn batch_with(
    reader: &Reader,
    partition: PartitionId,
    offset: Offset,
) -> Result<Option<StoredBatch>, ReadError> {
    match reader.find(partition, offset) {
        Err(ReadError::Corrupt { .. }) => Ok(None),
        found => found,
    }
}

fn stored(batch: &Bytes, message: &MessageRef<'_>, batch_at: Timestamp) -> Stored {
    let body = if message.body.is_empty() { Bytes::new() } else { batch.slice_ref(message.body) };
    Stored { index: batch.slice_ref(message.entry.bytes()), body, batch: batch.clone(), batch_at }
}

#[cfg(test)]
mod tests;
