//! Reading a batch without copying it.

use super::message::{Headers, MessageRef, Priority};
use super::{
    BODY_FORMAT_NATIVE, ENTRY_LEN_MIN, FLAG_DUE, FLAG_EXPIRES, FLAG_KEY, FLAGS_KNOWN, MAGIC,
    VERSION,
};
use crate::codec::Source;
use crate::{DecodeError, MessageId, Timestamp, limits};

/// Length of a batch header.
pub const HEADER_LEN: usize = 64;
const CRC_AT: usize = 20;

/// The length that a batch header announces, without checking anything else but the magic.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are too few or do not start like a batch.
pub fn peek_len(bytes: &[u8]) -> Result<u32, DecodeError> {
    let mut source = Source::new(bytes);
    let magic = source.u32("batch.magic")?;
    if magic != MAGIC {
        return Err(DecodeError::Invalid { field: "batch.magic", found: u64::from(magic) });
    }
    source.bytes(4, "batch.version")?;
    source.u32("batch.batch_len")
}

/// A batch whose header and index are sound; its bodies are checked by [`BatchView::verify_bodies`].
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    index: &'a [u8],
    bodies: &'a [u8],
    count: u32,
    header_crc: u32,
    created_at: Timestamp,
}

impl<'a> BatchView<'a> {
    /// Checks the header, its checksum and every index entry against the limits.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming the first field that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let view = Self::parse_header(bytes)?;
        view.check_crc()?;
        view.check_entries()?;
        Ok(view)
    }

    /// Like [`Self::parse`], without the checks that an earlier [`Self::parse`] of the same bytes made.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the header's lengths do not fit the bytes.
    pub fn parse_trusted(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::parse_header(bytes)
    }

    fn parse_header(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        expect("batch.magic", u64::from(source.u32("batch.magic")?), u64::from(MAGIC))?;
        expect("batch.version", u64::from(source.u8("batch.version")?), u64::from(VERSION))?;
        let format = source.u8("batch.body_format")?;
        expect("batch.body_format", u64::from(format), u64::from(BODY_FORMAT_NATIVE))?;
        expect("batch.flags", u64::from(source.u16("batch.flags")?), 0)?;
        let batch_len = to_usize(source.u32("batch.batch_len")?);
        let count = source.u32("batch.count")?;
        let index_len = to_usize(source.u32("batch.index_len")?);
        let header_crc = source.u32("batch.header_crc")?;
        let created_at = Timestamp(source.u64("batch.created_at")?);
        if source.bytes(32, "batch.reserved")?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid { field: "batch.reserved", found: 1 });
        }
        expect("batch.batch_len", batch_len as u64, bytes.len() as u64)?;
        at_most("batch.batch_len", batch_len as u64, u64::from(limits::BATCH_BYTES_MAX))?;
        if count == 0 {
            return Err(DecodeError::Invalid { field: "batch.count", found: 0 });
        }
        at_most("batch.count", u64::from(count), u64::from(limits::BATCH_MESSAGES_MAX))?;
        let index = source.bytes(index_len, "batch.index")?;
        let bodies = source.bytes(source.remaining(), "batch.bodies")?;
        Ok(Self { bytes, index, bodies, count, header_crc, created_at })
    }

    fn check_crc(&self) -> Result<(), DecodeError> {
        let computed = header_checksum(self.bytes, self.index);
        if computed == self.header_crc {
            return Ok(());
        }
        Err(DecodeError::Checksum { field: "batch header", stored: self.header_crc, computed })
    }

    fn check_entries(&self) -> Result<(), DecodeError> {
        let mut entries = Entries { source: Source::new(self.index) };
        let mut body_bytes = 0_u64;
        for _ in 0..self.count {
            let entry = entries.read()?;
            entry.check()?;
            body_bytes += u64::from(entry.body_len);
        }
        entries.source.end()?;
        expect("batch.bodies", body_bytes, self.bodies.len() as u64)
    }

    /// Checks every message's checksum, and that there are as many messages as the header says.
    ///
    /// # Errors
    ///
    /// The position within the batch of the first message that is damaged, and how.
    pub fn verify_bodies(&self) -> Result<(), (u32, DecodeError)> {
        let mut messages = self.messages();
        for position in 0..self.count {
            let message = messages.read().map_err(|error| (position, error))?;
            let missing = DecodeError::Truncated { field: "batch.index" };
            let message = message.ok_or((position, missing))?;
            message.verify().map_err(|error| (position, error))?;
        }
        let left = messages.entries.remaining() + messages.bodies.remaining();
        if left == 0 { Ok(()) } else { Err((self.count, DecodeError::Trailing { bytes: left })) }
    }

    /// How many messages there are; at least 1.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The checksum over header and index.
    #[must_use]
    pub const fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// When the producer closed the batch.
    #[must_use]
    pub const fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// The whole batch.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// All index entries.
    #[must_use]
    pub const fn index(&self) -> &'a [u8] {
        self.index
    }

    /// All bodies.
    #[must_use]
    pub const fn bodies(&self) -> &'a [u8] {
        self.bodies
    }

    /// The index entries in order.
    #[must_use]
    pub const fn entries(&self) -> Entries<'a> {
        Entries { source: Source::new(self.index) }
    }

    /// The messages in order.
    #[must_use]
    pub const fn messages(&self) -> Messages<'a> {
        Messages::new(self.index, self.bodies)
    }
}

/// The CRC-32 that `header_crc` must have.
pub(crate) fn header_checksum(header: &[u8], index: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..CRC_AT).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(header.get(CRC_AT + 4..HEADER_LEN).unwrap_or_default());
    hasher.update(index);
    hasher.finalize()
}

/// Index entries back to back.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    source: Source<'a>,
}

impl<'a> Entries<'a> {
    /// Starts at the front of `index`.
    #[must_use]
    pub const fn new(index: &'a [u8]) -> Self {
        Self { source: Source::new(index) }
    }

    /// Reads the next entry.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes end or a field is above its limit.
    pub fn read(&mut self) -> Result<EntryRef<'a>, DecodeError> {
        EntryRef::read(&mut self.source)
    }

    /// Index bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.source.remaining()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryRef<'a>;

    /// Ends at the first entry that does not decode; [`BatchView::parse`] has shown that none is.
    fn next(&mut self) -> Option<EntryRef<'a>> {
        if self.source.remaining() == 0 {
            return None;
        }
        self.read().ok()
    }
}

/// One index entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    bytes: &'a [u8],
    /// Length of the body.
    pub body_len: u32,
    /// The message's checksum.
    pub crc: u32,
    /// Identity.
    pub id: MessageId,
    /// When the sender made it.
    pub created_at: Timestamp,
    /// 0 to 9.
    pub priority: Priority,
    /// [`Timestamp::ZERO`] for "at once".
    pub due_at: Timestamp,
    /// [`Timestamp::ZERO`] for "never expires".
    pub expires_at: Timestamp,
    /// The key, if the message has one.
    pub key: Option<&'a [u8]>,
    headers: &'a [u8],
}

impl<'a> EntryRef<'a> {
    fn read(source: &mut Source<'a>) -> Result<Self, DecodeError> {
        let start = source.clone();
        let before = source.remaining();
        let body_len = source.u32("entry.body_len")?;
        let crc = source.u32("entry.crc")?;
        let id = MessageId(source.bytes16("entry.id")?);
        let created_at = Timestamp(source.u64("entry.created_at")?);
        let flags = source.u8("entry.flags")?;
        let priority = Priority(source.u8("entry.priority")?);
        let key_len = usize::from(source.u16("entry.key_len")?);
        let headers_len = to_usize(source.u32("entry.headers_len")?);
        if flags & !FLAGS_KNOWN != 0 {
            return Err(DecodeError::Invalid { field: "entry.flags", found: u64::from(flags) });
        }
        if flags & FLAG_KEY == 0 && key_len != 0 {
            return Err(DecodeError::Invalid { field: "entry.key_len", found: key_len as u64 });
        }
        let due_at = optional_time(source, flags & FLAG_DUE != 0, "entry.due_at")?;
        let expires_at = optional_time(source, flags & FLAG_EXPIRES != 0, "entry.expires_at")?;
        let key = source.bytes(key_len, "entry.key")?;
        let headers = source.bytes(headers_len, "entry.headers")?;
        let mut start = start;
        let bytes = start.bytes(before - source.remaining(), "entry")?;
        let key = (flags & FLAG_KEY != 0).then_some(key);
        Ok(Self {
            bytes,
            body_len,
            crc,
            id,
            created_at,
            priority,
            due_at,
            expires_at,
            key,
            headers,
        })
    }

    /// Checks every field against its limit.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming the first field that is wrong.
    pub fn check(&self) -> Result<(), DecodeError> {
        at_most("entry.body_len", u64::from(self.body_len), u64::from(limits::MESSAGE_BYTES_MAX))?;
        at_most("entry.priority", u64::from(self.priority.0), u64::from(Priority::MAX.0))?;
        let key_len = self.key.map_or(0, <[u8]>::len);
        at_most("entry.key_len", key_len as u64, limits::KEY_BYTES_MAX as u64)?;
        at_most("entry.headers_len", self.headers.len() as u64, limits::HEADERS_BYTES_MAX as u64)?;
        self.headers()?.try_for_each(|header| header.map(|_| ()))
    }

    /// The entry's own bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The message's headers.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if there are more than the limit.
    pub fn headers(&self) -> Result<Headers<'a>, DecodeError> {
        Headers::new(self.headers)
    }

    /// The CRC-32 of this entry, its crc field left out, and `body`.
    pub(crate) fn checksum_with(&self, body: &[u8]) -> u32 {
        entry_checksum(self.bytes, body)
    }
}

/// The CRC-32 of an entry, its crc field left out, and its body.
pub(crate) fn entry_checksum(entry: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(entry.get(..4).unwrap_or_default());
    hasher.update(entry.get(8..).unwrap_or_default());
    hasher.update(body);
    hasher.finalize()
}

/// Messages of a batch, or of a part of one: entries and bodies in step.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    entries: Entries<'a>,
    bodies: Source<'a>,
}

impl<'a> Messages<'a> {
    /// Pairs entries with bodies.
    #[must_use]
    pub const fn new(index: &'a [u8], bodies: &'a [u8]) -> Self {
        Self { entries: Entries::new(index), bodies: Source::new(bodies) }
    }

    /// Bytes of index and bodies not yet read.
    #[must_use]
    pub const fn remaining(&self) -> (usize, usize) {
        (self.entries.remaining(), self.bodies.remaining())
    }

    /// Reads the next message; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the entry or body is cut off.
    pub fn read(&mut self) -> Result<Option<MessageRef<'a>>, DecodeError> {
        if self.entries.remaining() == 0 {
            return self.bodies.clone().end().map(|()| None);
        }
        let entry = self.entries.read()?;
        let body = self.bodies.bytes(to_usize(entry.body_len), "body")?;
        Ok(Some(MessageRef { entry, body }))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = MessageRef<'a>;

    fn next(&mut self) -> Option<MessageRef<'a>> {
        self.read().ok().flatten()
    }
}

fn optional_time(
    source: &mut Source<'_>,
    present: bool,
    field: &'static str,
) -> Result<Timestamp, DecodeError> {
    if !present {
        return Ok(Timestamp::ZERO);
    }
    match source.u64(field)? {
        0 => Err(DecodeError::Invalid { field, found: 0 }),
        at => Ok(Timestamp(at)),
    }
}

fn expect(field: &'static str, found: u64, expected: u64) -> Result<(), DecodeError> {
    if found == expected { Ok(()) } else { Err(DecodeError::Invalid { field, found }) }
}

fn at_most(field: &'static str, found: u64, limit: u64) -> Result<(), DecodeError> {
    if found <= limit { Ok(()) } else { Err(DecodeError::TooLarge { field, found, limit }) }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

const _: () = assert!(ENTRY_LEN_MIN == 40, "the fixed part of an entry is 40 bytes");
