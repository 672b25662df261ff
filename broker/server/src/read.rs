//! What is read from the storage for windows, fetches, deliveries and dead letters.

use crate::slices::{Budget, Cut, SLICES_MAX, cut};
use bytes::Bytes;
use posthouse_engine::effect::{DEAD_HEADER_PREFIX, Fetch};
use posthouse_engine::input::{LoadPurpose, WindowEntry};
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message, MessageRef};
use posthouse_protocol::message::{Fetched, Refused};
use posthouse_protocol::{DecodeError, ErrorCode, Offset, PartitionId, Reply};
use posthouse_storage::reader::{ReadError, Reader, StoredBatch};
use std::ops::Range;

/// Bytes looked at for one window, so that what it names is still cached when it is delivered.
const WINDOW_BYTES_MAX: usize = 8 << 20;
/// Bytes asked from the storage at once.
const READ_BYTES: usize = 1 << 20;

/// Entries for `from..end`, and how far was looked. Reading them verifies them and brings them
/// into the page cache.
pub(crate) fn window(
    reader: &Reader,
    partition: PartitionId,
    from: Offset,
    end: Offset,
    entries_max: usize,
) -> (Vec<WindowEntry>, Offset) {
    let mut window = Window { entries: Vec::new(), next: from, bytes: 0 };
    while window.next < end && window.entries.len() < entries_max && window.bytes < WINDOW_BYTES_MAX
    {
        match reader.read(partition, window.next, READ_BYTES) {
            Ok(batches) if batches.is_empty() => {
                window.next = end;
            }
            Ok(batches) => {
                for batch in &batches {
                    window.add(batch, end, entries_max);
                }
            }
            Err(error) => {
                tracing::error!(%partition, %error, "stored messages cannot be read");
                window.add_damaged(&error, end, entries_max);
            }
        }
    }
    (window.entries, window.next)
}

struct Window {
    entries: Vec<WindowEntry>,
    next: Offset,
    bytes: usize,
}

impl Window {
    fn add(&mut self, batch: &StoredBatch, end: Offset, entries_max: usize) {
        let Ok(view) = BatchView::parse_trusted(&batch.bytes) else {
            let range = batch.base..batch.base.plus(u64::from(batch.count));
            return self.add_range(&range, end, entries_max);
        };
        for (offset, message) in (batch.base.0..).map(Offset).zip(view.messages()) {
            if offset < self.next {
                continue;
            }
            if offset >= end {
                self.next = end;
                return;
            }
            if self.entries.len() >= entries_max {
                return;
            }
            let bytes = message.entry.bytes().len() + message.body.len();
            let damaged = message.verify().is_err();
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.entries.push(WindowEntry { offset, bytes, damaged });
            self.bytes += usize::try_from(bytes).unwrap_or(usize::MAX);
            self.next = offset.next();
        }
    }

    fn add_damaged(&mut self, error: &ReadError, end: Offset, entries_max: usize) {
        let range = match error {
            ReadError::Corrupt { first, last, .. } => *first..last.next(),
            ReadError::Index { .. }
            | ReadError::LeftOut { .. }
            | ReadError::Missing { .. }
            | ReadError::Io { .. } => self.next..self.next.next(),
        };
        self.add_range(&range, end, entries_max);
    }

    fn add_range(&mut self, range: &Range<Offset>, end: Offset, entries_max: usize) {
        self.next = self.next.max(range.start);
        while self.next < range.end.min(end) && self.entries.len() < entries_max {
            self.entries.push(WindowEntry { offset: self.next, bytes: 0, damaged: true });
            self.next = self.next.next();
        }
    }
}

/// Parts of batches that hold `ranges`, within `budget`. Stops at the first one that does not fit,
/// and before damage.
///
/// # Errors
///
/// [`ReadError`] if the first thing to be cut is damaged.
pub(crate) fn slices(
    reader: &Reader,
    partition: PartitionId,
    ranges: &[Range<Offset>],
    budget: Budget,
) -> Result<Slices, ReadError> {
    let mut found = Slices { cuts: Vec::new(), stopped: None, budget };
    for range in ranges {
        found.cut_range(reader, partition, range)?;
        if found.stopped.is_some() {
            break;
        }
    }
    Ok(found)
}

/// What was cut.
#[derive(Debug)]
pub(crate) struct Slices {
    pub(crate) cuts: Vec<Cut>,
    /// Where to go on, if not everything was cut.
    pub(crate) stopped: Option<Offset>,
    budget: Budget,
}

impl Slices {
    fn cut_range(
        &mut self,
        reader: &Reader,
        partition: PartitionId,
        range: &Range<Offset>,
    ) -> Result<(), ReadError> {
        let mut next = range.start;
        while next < range.end && self.stopped.is_none() {
            let bytes = self.budget.bytes.clamp(1, READ_BYTES);
            let batches = match reader.read(partition, next, bytes) {
                Ok(batches) => batches,
                Err(error) if self.cuts.is_empty() => return Err(error),
                Err(_) => {
                    self.stopped = Some(next);
                    return Ok(());
                }
            };
            if batches.is_empty() {
                return Ok(());
            }
            for batch in &batches {
                if self.cuts.len() >= self.budget.slices {
                    self.stopped = Some(next);
                    return Ok(());
                }
                next = self.cut_batch(batch, next..range.end);
                if next >= range.end || self.stopped.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Cuts what `batch` has of `wanted`, and says from where on more is wanted.
    fn cut_batch(&mut self, batch: &StoredBatch, wanted: Range<Offset>) -> Offset {
        let batch_end = batch.base.plus(u64::from(batch.count)).min(wanted.end);
        if batch.base >= wanted.end {
            return wanted.end;
        }
        let first = self.cuts.is_empty();
        let part = match cut(batch, &wanted, self.budget, first) {
            Ok(Some(part)) => part,
            Ok(None) => {
                let at = wanted.start.max(batch.base);
                self.stopped = Some(at);
                return at;
            }
            Err(error) => {
                tracing::error!(base = %batch.base, %error, "a stored batch is damaged");
                return batch_end;
            }
        };
        let cut_end = part.slice.first.plus(u64::from(part.slice.count));
        self.budget.bytes = self.budget.bytes.saturating_sub(part.len());
        self.budget.messages = self.budget.messages.saturating_sub(u64::from(part.slice.count));
        self.cuts.push(part);
        if cut_end < batch_end {
            self.stopped = Some(cut_end);
        }
        cut_end
    }
}

/// The answer to a fetch and its tail.
pub(crate) fn fetch(reader: &Reader, fetch: &Fetch) -> (Reply, Vec<Bytes>) {
    // What a client asks for bounds its own memory; this bounds the broker's.
    let bytes = usize::try_from(fetch.bytes_max).unwrap_or(usize::MAX).min(READ_BYTES);
    let budget = Budget { bytes, messages: u64::from(fetch.messages_max), slices: SLICES_MAX };
    match slices(reader, fetch.partition, &fetch.ranges, budget) {
        Ok(found) => {
            let next = found.stopped.unwrap_or(fetch.next);
            let slices = found.cuts.iter().map(|cut| cut.slice.clone()).collect();
            let tail = found.cuts.into_iter().flat_map(|cut| [cut.index, cut.bodies]).collect();
            (Reply::Fetched(Fetched { next, end: fetch.end, damaged_from: None, slices }), tail)
        }
        Err(error @ ReadError::Corrupt { first, last, .. }) => {
            tracing::error!(%error, "a reader is told that messages are damaged");
            let from = fetch.ranges.first().map_or(first, |range| first.max(range.start));
            let (next, damaged_from) = (last.next(), Some(from));
            let slices = Vec::new();
            (Reply::Fetched(Fetched { next, end: fetch.end, damaged_from, slices }), Vec::new())
        }
        Err(error) => {
            let refused = Refused {
                code: ErrorCode::Damaged.number(),
                retry_after_ms: 0,
                text: error.to_string(),
                leader: String::new(),
                leader_epoch: 0,
                at: None,
            };
            (Reply::Refused(refused), Vec::new())
        }
    }
}

/// A batch with the one message at `offset`, its headers changed as `purpose` wants; `None` if it
/// is damaged or gone.
pub(crate) fn message(
    reader: &Reader,
    partition: PartitionId,
    offset: Offset,
    purpose: LoadPurpose,
    headers: Vec<(Bytes, Bytes)>,
) -> Option<Bytes> {
    let batches = reader.read(partition, offset, 1).ok()?;
    let batch = batches.first().filter(|batch| batch.base <= offset)?;
    let view = BatchView::parse_trusted(&batch.bytes).ok()?;
    let position = usize::try_from(offset.distance_from(batch.base)).ok()?;
    let source = view.messages().nth(position)?;
    source.verify().ok()?;
    let mut message = own(&batch.bytes, &source).ok()?;
    match purpose {
        LoadPurpose::DeadLetter { .. } => add_dead_headers(&mut message, headers),
        LoadPurpose::Redrive { .. } => {
            message.headers.retain(|(name, _)| !name.starts_with(DEAD_HEADER_PREFIX.as_bytes()));
        }
    }
    let mut builder = BatchBuilder::new();
    builder.push(&message).ok()?;
    Some(builder.finish(view.created_at()))
}

/// Adds the broker's headers, in place of the sender's last ones if there is no room for both.
fn add_dead_headers(message: &mut Message, headers: Vec<(Bytes, Bytes)>) {
    let room = posthouse_protocol::limits::HEADERS_MAX.saturating_sub(headers.len());
    message.headers.truncate(room);
    message.headers.extend(headers);
}

/// A message that shares the bytes of its batch.
pub(crate) fn own(batch: &Bytes, source: &MessageRef<'_>) -> Result<Message, DecodeError> {
    let part = |bytes: &[u8]| {
        if bytes.is_empty() { Bytes::new() } else { batch.slice_ref(bytes) }
    };
    let headers = source.entry.headers()?;
    Ok(Message {
        id: source.entry.id,
        created_at: source.entry.created_at,
        key: source.entry.key.map(part),
        headers: headers
            .map(|header| header.map(|(name, value)| (part(name), part(value))))
            .collect::<Result<_, _>>()?,
        priority: source.entry.priority,
        due_at: source.entry.due_at,
        expires_at: source.entry.expires_at,
        body: part(source.body),
    })
}
