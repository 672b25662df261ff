//! The journal frame: one atomic unit, 8-byte aligned.
//!
//! ```text
//! header  64 B  header_crc u32 | magic u32 (from the salt) | len u32 | kind u16 | flags u16
//!               index u64 | term u32 | prev_crc u32 | durable u64 | time u64
//!               table_count u32 | events_len u32 | reserved 8 B (zero)
//! table   32 B  partition u32 | count u32 | base u64 | batch_len u32 | header_crc u32
//!   each        reserved 8 B (zero)
//! events        events_len bytes, zero-padded to 8
//! batches       one after another in table order, each zero-padded to 8
//! ```
//!
//! `header_crc` is the CRC-32, seeded with the segment's salt, of everything after
//! itself up to the first batch. A batch is covered by its own checksums, so that
//! damage in a body costs that body and nothing else. `len` is the whole frame.
//! The magic word and the seed come from the salt, so that no message body can
//! pass for a frame.

use bytes::Bytes;
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::{DecodeError, LogIndex, Offset, PartitionId, StartEpoch, Timestamp};

/// Length of a frame's header.
pub const HEADER_LEN: usize = 64;
/// Length of one entry of a frame's batch table.
pub const TABLE_ENTRY_LEN: usize = 32;
/// Frames and batches start at multiples of this.
pub const ALIGN: usize = 8;

const CRC_LEN: usize = 4;
const FLAG_SYNCED: u16 = 1;

/// Random bytes of one use of one file, known to its header and the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

/// What a salt does to the frames of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKey {
    seed: u32,
    magic: u32,
}

impl FrameKey {
    /// Derives both words from `salt`.
    #[must_use]
    pub fn new(salt: &Salt) -> Self {
        let seed = crc32fast::hash(&salt.0);
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(b"posthouse frame");
        hasher.update(&salt.0);
        // Zero would let a zeroed file look like the start of a frame.
        Self { seed, magic: hasher.finalize() | 1 }
    }

    fn hasher(self) -> crc32fast::Hasher {
        crc32fast::Hasher::new_with_initial(self.seed)
    }

    /// The word at bytes 4 to 8 of every frame, as it stands on disk.
    #[must_use]
    pub const fn magic(self) -> [u8; 4] {
        self.magic.to_le_bytes()
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events and batches.
    Data,
    /// Nothing but the durable position, written when the journal falls idle; carries the last data
    /// frame's index, and takes none of its own.
    Mark,
    /// The segment ends here; carries the last data frame's index, and takes none of its own.
    Footer,
}

impl Kind {
    const fn code(self) -> u16 {
        match self {
            Self::Data => 1,
            Self::Mark => 2,
            Self::Footer => 3,
        }
    }

    const fn from_code(code: u16) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Mark),
            3 => Some(Self::Footer),
            0 | 4..=u16::MAX => None,
        }
    }
}

/// One journal frame to be written: one atomic unit.
#[derive(Clone, Debug, Default)]
pub struct FrameDraft {
    /// When it was made.
    pub time: Timestamp,
    /// Whether a reply waits for its sync.
    pub synced: bool,
    /// What happened; opaque to storage.
    pub events: Bytes,
    /// The batches that came with it.
    pub batches: Vec<BatchDraft>,
}

impl FrameDraft {
    /// Bytes that the frame takes in the journal.
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        let batches: u64 = self.batches.iter().map(|batch| padded(batch.bytes.len())).sum();
        head_len(self.batches.len(), self.events.len()) + batches
    }
}

/// A batch to be written, parsed and verified by the caller.
#[derive(Clone, Debug)]
pub struct BatchDraft {
    /// Where it belongs.
    pub partition: PartitionId,
    /// Offset of its first message.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// Its own checksum over header and index.
    pub header_crc: u32,
    /// The batch.
    pub bytes: Bytes,
}

/// The fields stamped on a frame when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What the frame is for.
    pub kind: Kind,
    /// Its number.
    pub index: LogIndex,
    /// The start epoch of its writer.
    pub term: StartEpoch,
    /// `header_crc` of the frame before it; 0 before the first.
    pub prev_crc: u32,
    /// The highest index known to be durable.
    pub durable: LogIndex,
}

/// Appends a frame up to its first batch to `head` and returns its `header_crc`.
pub fn encode_head(key: FrameKey, stamp: &Stamp, draft: &FrameDraft, head: &mut Vec<u8>) -> u32 {
    let start = head.len();
    let len = u32::try_from(draft.encoded_len()).unwrap_or(u32::MAX);
    head.put_u32(0);
    head.put_u32(key.magic);
    head.put_u32(len);
    head.put_u16(stamp.kind.code());
    head.put_u16(if draft.synced { FLAG_SYNCED } else { 0 });
    head.put_u64(stamp.index.0);
    head.put_u32(stamp.term.0);
    head.put_u32(stamp.prev_crc);
    head.put_u64(stamp.durable.0);
    head.put_u64(draft.time.0);
    head.put_count(draft.batches.len());
    head.put_count(draft.events.len());
    head.put_u64(0);
    for batch in &draft.batches {
        head.put_u32(batch.partition.0);
        head.put_u32(batch.count);
        head.put_u64(batch.base.0);
        head.put_count(batch.bytes.len());
        head.put_u32(batch.header_crc);
        head.put_u64(0);
    }
    head.put(&draft.events);
    head.put(padding(draft.events.len()));
    let mut hasher = key.hasher();
    hasher.update(head.get(start + CRC_LEN..).unwrap_or_default());
    let crc = hasher.finalize();
    if let Some(slot) = head.get_mut(start..start + CRC_LEN) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    crc
}

/// The zero bytes that follow `len` bytes.
#[must_use]
pub fn padding(len: usize) -> &'static [u8] {
    const ZEROS: [u8; ALIGN] = [0; ALIGN];
    ZEROS.get(..len.next_multiple_of(ALIGN) - len).unwrap_or_default()
}

/// `len` rounded up to [`ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> u64 {
    len.next_multiple_of(ALIGN) as u64
}

const fn head_len(table_count: usize, events_len: usize) -> u64 {
    (HEADER_LEN + table_count * TABLE_ENTRY_LEN) as u64 + padded(events_len)
}

/// A frame as read back. Everything but the batches is known to be sound.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    /// What the frame is for.
    pub kind: Kind,
    /// Its number, or that of the last data frame before it.
    pub index: LogIndex,
    /// The start epoch of its writer.
    pub term: StartEpoch,
    /// When it was made.
    pub time: Timestamp,
    /// The highest index that its writer knew to be durable.
    pub durable: LogIndex,
    /// Its own checksum.
    pub header_crc: u32,
    /// `header_crc` of the frame before it.
    pub prev_crc: u32,
    /// Whether a reply waited for its sync.
    pub synced: bool,
    /// What happened.
    pub events: &'a [u8],
    /// The batches that came with it.
    pub batches: BatchTable<'a>,
    bytes: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// Reads the frame at the front of `bytes`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if there is no sound frame of this segment.
    pub fn parse(key: FrameKey, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        let header_crc = source.u32("frame.header_crc")?;
        let magic = source.u32("frame.magic")?;
        if magic != key.magic {
            return Err(DecodeError::Invalid { field: "frame.magic", found: u64::from(magic) });
        }
        let len = source.u32("frame.len")?;
        let kind = source.u16("frame.kind")?;
        let flags = source.u16("frame.flags")?;
        let index = LogIndex(source.u64("frame.index")?);
        let term = StartEpoch(source.u32("frame.term")?);
        let prev_crc = source.u32("frame.prev_crc")?;
        let durable = LogIndex(source.u64("frame.durable")?);
        let time = Timestamp(source.u64("frame.time")?);
        let table_count = to_usize(source.u32("frame.table_count")?);
        let events_len = to_usize(source.u32("frame.events_len")?);
        source.u64("frame.reserved")?;
        let table = source.bytes(table_count.saturating_mul(TABLE_ENTRY_LEN), "frame.table")?;
        let events = source.bytes(events_len, "frame.events")?;
        source.bytes(padding(events_len).len(), "frame.padding")?;
        let head_len = bytes.len() - source.remaining();
        check_crc(key, bytes.get(CRC_LEN..head_len).unwrap_or_default(), header_crc)?;

        let kind = Kind::from_code(kind)
            .ok_or_else(|| DecodeError::Invalid { field: "frame.kind", found: u64::from(kind) })?;
        let whole =
            bytes.get(..to_usize(len)).ok_or(DecodeError::Truncated { field: "frame.batches" })?;
        let batches = BatchTable { table, position: head_len };
        let end = batches.end();
        if end != u64::from(len) {
            return Err(DecodeError::Invalid { field: "frame.len", found: u64::from(len) });
        }
        Ok(Self {
            kind,
            index,
            term,
            time,
            durable,
            header_crc,
            prev_crc,
            synced: flags & FLAG_SYNCED != 0,
            events,
            batches,
            bytes: whole,
        })
    }

    /// Length of the whole frame.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it has no bytes; never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of one batch of this frame, not verified.
    #[must_use]
    pub fn batch_bytes(&self, entry: &TableEntry) -> &'a [u8] {
        let start = to_usize(entry.position);
        self.bytes.get(start..start + to_usize(entry.len)).unwrap_or_default()
    }
}

fn check_crc(key: FrameKey, covered: &[u8], stored: u32) -> Result<(), DecodeError> {
    let mut hasher = key.hasher();
    hasher.update(covered);
    let computed = hasher.finalize();
    if stored == computed {
        Ok(())
    } else {
        Err(DecodeError::Checksum { field: "frame header", stored, computed })
    }
}

/// The batches of a frame, as its table names them.
#[derive(Clone, Copy, Debug)]
pub struct BatchTable<'a> {
    table: &'a [u8],
    /// Of the next batch, from the frame's start.
    position: usize,
}

/// One entry of a frame's batch table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Where the batch belongs.
    pub partition: PartitionId,
    /// Offset of its first message.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// The batch's own checksum over header and index.
    pub header_crc: u32,
    /// Where it lies, from the frame's start.
    pub position: u32,
    /// Its length.
    pub len: u32,
}

impl BatchTable<'_> {
    /// How many batches are left.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.table.len() / TABLE_ENTRY_LEN
    }

    /// Whether none is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Where the last batch ends, from the frame's start.
    fn end(self) -> u64 {
        self.fold(self.position as u64, |_, entry| {
            u64::from(entry.position) + padded(to_usize(entry.len))
        })
    }

    fn read(&mut self) -> Result<TableEntry, DecodeError> {
        let mut source = Source::new(self.table);
        let partition = PartitionId(source.u32("table.partition")?);
        let count = source.u32("table.count")?;
        let base = Offset(source.u64("table.base")?);
        let len = source.u32("table.batch_len")?;
        let header_crc = source.u32("table.header_crc")?;
        source.u64("table.reserved")?;
        self.table = self.table.get(TABLE_ENTRY_LEN..).unwrap_or_default();
        let position = u32::try_from(self.position)
            .map_err(|_| DecodeError::Truncated { field: "table.position" })?;
        self.position += to_usize(len).next_multiple_of(ALIGN);
        Ok(TableEntry { partition, base, count, header_crc, position, len })
    }
}

impl Iterator for BatchTable<'_> {
    type Item = TableEntry;

    fn next(&mut self) -> Option<TableEntry> {
        if self.table.is_empty() { None } else { self.read().ok() }
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
