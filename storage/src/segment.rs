//! A segment: a header, frames, a footer; and the forward scan over it.
//!
//! ```text
//! header  4 KiB  magic 'PHSEGMNT' | version u32 | crc u32 | store 16 B | id u64 | size u64
//!                salt 16 B | zeros
//! frames         from byte 4096, back to back; see `frame`
//! footer         a frame of kind footer, 64 B, once the segment is full
//! ```
//!
//! `crc` is the CRC-32 of the header with that field zero. The header is written
//! before the segment is used, so it does not name its first index: the first
//! frame does. The journal fills segments in the order of their ids.

use crate::frame::{FrameKey, FrameView, HEADER_LEN as FRAME_HEADER_LEN, Kind, Salt};
use crate::names::FileId;
use posthouse_protocol::DecodeError;
use posthouse_protocol::codec::{Sink, Source};

/// Length of the header; the first frame follows it.
pub const HEADER_LEN: usize = 4096;
/// Length of the footer, for which room is kept at the end.
pub const FOOTER_LEN: u64 = FRAME_HEADER_LEN as u64;
/// Version of this layout.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"PHSEGMNT";
const CRC_AT: usize = 12;
const FIELDS_LEN: usize = 64;

/// Identity of a data directory, made with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

/// What the first 4 KiB of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The data directory it belongs to.
    pub store: StoreId,
    /// Its number.
    pub id: FileId,
    /// Length of the file.
    pub size: u64,
    /// Salt of its frames.
    pub salt: Salt,
}

impl Header {
    /// The whole header, [`HEADER_LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.put(&MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u32(0);
        bytes.put(&self.store.0);
        bytes.put_u64(self.id.0);
        bytes.put_u64(self.size);
        bytes.put(&self.salt.0);
        bytes.resize(HEADER_LEN, 0);
        let crc = crc32fast::hash(&bytes).to_le_bytes();
        if let Some(slot) = bytes.get_mut(CRC_AT..CRC_AT + 4) {
            slot.copy_from_slice(&crc);
        }
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] naming the first field that is wrong. A newer version is
    /// reported as such only if the checksum fits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(DecodeError::Truncated { field: "segment" })?;
        let mut source = Source::new(bytes);
        if source.bytes(MAGIC.len(), "segment.magic")? != MAGIC {
            return Err(DecodeError::Invalid { field: "segment.magic", found: 0 });
        }
        let version = source.u32("segment.version")?;
        let stored = source.u32("segment.crc")?;
        let computed = header_checksum(bytes);
        if stored != computed {
            return Err(DecodeError::Checksum { field: "segment header", stored, computed });
        }
        if version != VERSION {
            let found = u64::from(version);
            return Err(DecodeError::Invalid { field: "segment.version", found });
        }
        Ok(Self {
            store: StoreId(source.bytes16("segment.store")?),
            id: FileId(source.u64("segment.id")?),
            size: source.u64("segment.size")?,
            salt: Salt(source.bytes16("segment.salt")?),
        })
    }
}

fn header_checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC_AT).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(bytes.get(CRC_AT + 4..).unwrap_or_default());
    hasher.finalize()
}

/// Goes forward over a segment's bytes and gives every frame whose header is sound.
///
/// Where there is none it searches on, 8 bytes at a time, to the end: a hole
/// shows as a jump in the frames' positions and indexes. It stops after a footer.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    key: FrameKey,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    /// Scans `bytes`, which start with the segment's header.
    #[must_use]
    pub const fn new(key: FrameKey, bytes: &'a [u8]) -> Self {
        Self { key, bytes, position: HEADER_LEN }
    }

    fn resync(&mut self) -> Option<FrameView<'a>> {
        let magic = self.key.magic();
        loop {
            let rest = self.bytes.get(self.position..)?;
            if rest.len() < FRAME_HEADER_LEN {
                return None;
            }
            self.position += find_magic(rest, magic)?;
            let candidate = self.bytes.get(self.position..)?;
            if let Ok(frame) = FrameView::parse(self.key, candidate) {
                return Some(frame);
            }
            self.position += 8;
        }
    }
}

/// Where the first 8-byte word of `bytes` that ends with `magic` begins.
fn find_magic(bytes: &[u8], magic: [u8; 4]) -> Option<usize> {
    /// Blocks are compared as a whole first: most of a segment's empty end is looked at once.
    const BLOCK_BYTES: usize = 4096;
    let wanted = u32::from_le_bytes(magic);
    let ends_so =
        |[_, _, _, _, a, b, c, d]: &[u8; 8]| u32::from_le_bytes([*a, *b, *c, *d]) == wanted;
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let (words, _) = block.as_chunks::<8>();
        if words.iter().fold(false, |hit, word| hit | ends_so(word)) {
            return Some(number * BLOCK_BYTES + words.iter().position(ends_so)? * 8);
        }
    }
    None
}

impl<'a> Iterator for Scanner<'a> {
    /// Position of the frame in the segment, and the frame.
    type Item = (u64, FrameView<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..)?;
        let frame = FrameView::parse(self.key, rest).ok().or_else(|| self.resync())?;
        let position = self.position;
        let len = usize::try_from(frame.len()).unwrap_or(usize::MAX);
        self.position = if frame.kind == Kind::Footer {
            self.bytes.len()
        } else {
            position.saturating_add(len)
        };
        Some((position as u64, frame))
    }
}

const _: () = assert!(8 + 4 + 4 + 16 + 8 + 8 + 16 == FIELDS_LEN, "the fields take 64 bytes");
