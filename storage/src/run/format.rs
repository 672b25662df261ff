//! The bytes of a run.
//!
//! ```text
//! file       header | batches | index | directory | footer; nothing that follows is read
//! header     128 B   magic 'PHRUN001' | version u32 | flags u32 (zero) | store 16 B | id u64
//!                    salt 16 B | after u64 | through u64 | len u64
//!                    adopted u64 | adopted_bytes u64 | body_crc u32
//!                    reserved 24 B (zero) | crc u32
//! batches            each as its producer encoded it, then zeros up to a multiple of 8;
//!                    by partition, then by base offset
//! index       32 B   a batch, in the same order:
//!                    partition u32 | count u32 | base u64 | position u64 | len u32 | crc u32
//! directory   48 B   a partition, ascending: partition u32 | entries u32 | first_entry u64
//!                    start u64 | end u64 | bytes u64 | crc u32 | reserved u32 (zero)
//! footer      64 B   magic 'PHRUNEND' | index_position u64 | entries u64 | directory_position u64
//!                    partitions u32 | directory_crc u32 | reserved 20 B (zero) | crc u32
//! ```
//!
//! A run over an adopted segment has no batches of its own: `adopted` is the segment's number (0 for
//! the others), `adopted_bytes` the length of that file, and positions in the index mean it.
//!
//! The run holds what was needed of the journal after index `after` and up to `through`. `len` is
//! the position behind the footer: a run made from a recycled file has old bytes behind it. The
//! header is written last. All checksums are CRC-32 and start from the salt, so that what an
//! earlier life of the file left behind never passes. `body_crc` covers everything between header
//! and `len`; `crc` of an index entry is the batch's own `header_crc`; an entry with `len` 0 says
//! that the batch was found damaged when it should have been copied. `crc` of a partition covers
//! its index entries; `start` and `end` are its first offset and the one behind its last.

use crate::frame::Salt;
use crate::names::FileId;
use crate::segment::StoreId;
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::{DecodeError, LogIndex, Offset, PartitionId};

/// Length of the header, and position of the first batch.
pub const HEADER_LEN: u64 = 128;
/// Length of an index entry.
pub const ENTRY_LEN: u64 = 32;
/// Length of a directory entry.
pub const PARTITION_LEN: u64 = 48;
/// Length of the footer.
pub const FOOTER_LEN: u64 = 64;
/// Version of this layout.
pub const VERSION: u32 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"PHRUN001");
const MAGIC_END: u64 = u64::from_le_bytes(*b"PHRUNEND");

/// Which run this is and what it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store it belongs to.
    pub store: StoreId,
    /// Number of the file, never reused.
    pub id: FileId,
    /// Start of all its checksums.
    pub salt: Salt,
    /// It holds batches of the journal after this frame...
    pub after: LogIndex,
    /// ... up to and with this one.
    pub through: LogIndex,
    /// The segment that holds the batches, if the run is only an index over it.
    pub adopted: Option<FileId>,
}

/// The first bytes of a run, written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which run this is.
    pub identity: Identity,
    /// Position behind the footer.
    pub len: u64,
    /// Length of the adopted segment's file; 0 if there is none.
    pub adopted_bytes: u64,
    /// Checksum over everything between the header and `len`.
    pub body_crc: u32,
}

/// Where one batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its partition.
    pub partition: PartitionId,
    /// How many messages it holds.
    pub count: u32,
    /// Offset of its first message.
    pub base: Offset,
    /// Where its first byte lies, in the run's file or in the segment that it adopted.
    pub position: u64,
    /// Its length; 0 if it was found damaged and is lost.
    pub len: u32,
    /// Its own `header_crc`.
    pub crc: u32,
}

impl Entry {
    /// The offset behind its last message.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.base.plus(self.count as u64)
    }

    /// Whether the batch was found damaged when it should have been copied.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.len == 0
    }
}

/// Which index entries belong to one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The partition.
    pub id: PartitionId,
    /// How many index entries it has; at least 1.
    pub entries: u32,
    /// Number of the first one.
    pub first_entry: u64,
    /// Base of its first batch.
    pub start: Offset,
    /// The offset behind its last message.
    pub end: Offset,
    /// Length of all its batches with their padding.
    pub bytes: u64,
    /// Checksum over its index entries.
    pub crc: u32,
}

/// The last bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Where the index starts.
    pub index_position: u64,
    /// How many batches there are.
    pub entries: u64,
    /// Where the directory starts.
    pub directory_position: u64,
    /// How many partitions there are.
    pub partitions: u32,
    /// Checksum over the directory.
    pub directory_crc: u32,
}

/// A CRC-32 that has taken in `salt`.
#[must_use]
pub fn salted(salt: &Salt) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.0);
    hasher
}

/// The CRC-32 of `salt` and then `bytes`.
#[must_use]
pub fn checksum(salt: &Salt, bytes: &[u8]) -> u32 {
    let mut hasher = salted(salt);
    hasher.update(bytes);
    hasher.finalize()
}

impl Header {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64(MAGIC);
        out.put_u32(VERSION);
        out.put_u32(0);
        out.put(&self.identity.store.0);
        out.put_u64(self.identity.id.0);
        out.put(&self.identity.salt.0);
        out.put_u64(self.identity.after.0);
        out.put_u64(self.identity.through.0);
        out.put_u64(self.len);
        out.put_u64(self.identity.adopted.unwrap_or_default().0);
        out.put_u64(self.adopted_bytes);
        out.put_u32(self.body_crc);
        out.put(&[0; 24]);
        seal(out, start, &self.identity.salt);
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming the field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        expect("run.magic", source.u64("run.magic")?, MAGIC)?;
        expect("run.version", u64::from(source.u32("run.version")?), u64::from(VERSION))?;
        expect("run.flags", u64::from(source.u32("run.flags")?), 0)?;
        let mut identity = Identity {
            store: StoreId(source.bytes16("run.store")?),
            id: FileId(source.u64("run.id")?),
            salt: Salt(source.bytes16("run.salt")?),
            after: LogIndex(source.u64("run.after")?),
            through: LogIndex(source.u64("run.through")?),
            adopted: None,
        };
        let len = source.u64("run.len")?;
        identity.adopted = Some(FileId(source.u64("run.adopted")?)).filter(|id| id.0 != 0);
        let adopted_bytes = source.u64("run.adopted_bytes")?;
        let body_crc = source.u32("run.body_crc")?;
        zeros(&mut source, 24, "run.reserved")?;
        sealed(&mut source, bytes, &identity.salt, "run header")?;
        if len < HEADER_LEN + FOOTER_LEN {
            return Err(DecodeError::Invalid { field: "run.len", found: len });
        }
        Ok(Self { identity, len, adopted_bytes, body_crc })
    }
}

impl Entry {
    /// Appends the entry to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.partition.0);
        out.put_u32(self.count);
        out.put_u64(self.base.0);
        out.put_u64(self.position);
        out.put_u32(self.len);
        out.put_u32(self.crc);
    }

    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        Ok(Self {
            partition: PartitionId(source.u32("run.entry.partition")?),
            count: source.u32("run.entry.count")?,
            base: Offset(source.u64("run.entry.base")?),
            position: source.u64("run.entry.position")?,
            len: source.u32("run.entry.len")?,
            crc: source.u32("run.entry.crc")?,
        })
    }
}

impl Partition {
    /// Appends the directory entry to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id.0);
        out.put_u32(self.entries);
        out.put_u64(self.first_entry);
        out.put_u64(self.start.0);
        out.put_u64(self.end.0);
        out.put_u64(self.bytes);
        out.put_u32(self.crc);
        out.put_u32(0);
    }

    /// Reads a directory entry.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        Ok(Self {
            id: PartitionId(source.u32("run.partition")?),
            entries: source.u32("run.partition.entries")?,
            first_entry: source.u64("run.partition.first_entry")?,
            start: Offset(source.u64("run.partition.start")?),
            end: Offset(source.u64("run.partition.end")?),
            bytes: source.u64("run.partition.bytes")?,
            crc: source.u32("run.partition.crc")?,
        })
    }
}

impl Footer {
    /// Appends the footer to `out`.
    pub fn encode(&self, salt: &Salt, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64(MAGIC_END);
        out.put_u64(self.index_position);
        out.put_u64(self.entries);
        out.put_u64(self.directory_position);
        out.put_u32(self.partitions);
        out.put_u32(self.directory_crc);
        out.put(&[0; 20]);
        seal(out, start, salt);
    }

    /// Reads a footer of a run of `len` bytes and checks that its parts lie where they must.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming the field that is wrong.
    pub fn decode(bytes: &[u8], salt: &Salt, len: u64) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        expect("run.footer.magic", source.u64("run.footer.magic")?, MAGIC_END)?;
        let footer = Self {
            index_position: source.u64("run.footer.index_position")?,
            entries: source.u64("run.footer.entries")?,
            directory_position: source.u64("run.footer.directory_position")?,
            partitions: source.u32("run.footer.partitions")?,
            directory_crc: source.u32("run.footer.directory_crc")?,
        };
        zeros(&mut source, 20, "run.footer.reserved")?;
        sealed(&mut source, bytes, salt, "run footer")?;
        let index_end = footer
            .entries
            .checked_mul(ENTRY_LEN)
            .and_then(|bytes| bytes.checked_add(footer.index_position));
        expect("run.footer.entries", index_end.unwrap_or(u64::MAX), footer.directory_position)?;
        let directory_end = u64::from(footer.partitions)
            .checked_mul(PARTITION_LEN)
            .and_then(|bytes| bytes.checked_add(footer.directory_position))
            .and_then(|end| end.checked_add(FOOTER_LEN));
        expect("run.footer.partitions", directory_end.unwrap_or(u64::MAX), len)?;
        if footer.index_position < HEADER_LEN {
            let found = footer.index_position;
            return Err(DecodeError::Invalid { field: "run.footer.index_position", found });
        }
        Ok(footer)
    }
}

/// `len` rounded up to the alignment of batches.
#[must_use]
pub const fn padded(len: u64) -> u64 {
    len.next_multiple_of(8)
}

/// Appends the checksum over what `out` holds from `start` on.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize, salt: &Salt) {
    let crc = checksum(salt, out.get(start..).unwrap_or_default());
    out.put_u32(crc);
}

/// Reads the checksum that [`seal`] put behind everything read so far and ends decoding.
pub(crate) fn sealed(
    source: &mut Source<'_>,
    bytes: &[u8],
    salt: &Salt,
    field: &'static str,
) -> Result<(), DecodeError> {
    let covered = bytes.len().saturating_sub(source.remaining());
    let stored = source.u32(field)?;
    let computed = checksum(salt, bytes.get(..covered).unwrap_or_default());
    if stored != computed {
        return Err(DecodeError::Checksum { field, stored, computed });
    }
    source.clone().end()
}

pub(crate) fn zeros(
    source: &mut Source<'_>,
    len: usize,
    field: &'static str,
) -> Result<(), DecodeError> {
    if source.bytes(len, field)?.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(DecodeError::Invalid { field, found: 1 })
}

pub(crate) fn expect(field: &'static str, found: u64, expected: u64) -> Result<(), DecodeError> {
    if found == expected { Ok(()) } else { Err(DecodeError::Invalid { field, found }) }
}
