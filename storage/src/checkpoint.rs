//! A checkpoint: the folded state at one journal position, as a file.
//!
//! It names offsets, never file positions. State is the newest checkpoint that
//! verifies plus all of the journal after it, so one older checkpoint is kept.
//!
//! ```text
//! file     header | section ...; nothing that follows is read
//! header   128 B   magic 'PHCKP001' | version u32 | sections u32 | store 16 B | id u64 | salt 16 B
//!                  index u64 | term u32 | reserved u32 (zero) | time u64 | len u64
//!                  reserved 36 B (zero) | crc u32
//! section          kind u32 | crc u32 | len u64 | bytes, then zeros up to a multiple of 8
//! kind     1       the state, as its fold encodes it; exactly one
//! ```
//!
//! `len` is the position behind the last section. All checksums are CRC-32 that start from the
//! salt; a section's covers its kind, length and bytes.

use crate::frame::Salt;
use crate::fs::{File, Fs};
use crate::manifest::CheckpointEntry;
use crate::names::{FileId, FileKind, FileName};
use crate::run::format::{expect, padded, salted, seal, sealed, zeros};
use crate::segment::StoreId;
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::{DecodeError, LogIndex, StartEpoch, Timestamp};
use std::fmt;
use std::io::{self, IoSlice};

/// Length of the header.
pub const HEADER_LEN: usize = 128;
/// Version of this layout.
pub const VERSION: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"PHCKP001");
const SECTION_LEN: usize = 16;
const STATE: u32 = 1;
/// A long state is written in pieces, so that one call to the system stays short.
const WRITE_BYTES: usize = 4 << 20;

/// Which checkpoint a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store it belongs to.
    pub store: StoreId,
    /// Number of the file, never reused.
    pub id: FileId,
    /// Start of all its checksums.
    pub salt: Salt,
}

/// The first bytes of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which checkpoint this is.
    pub identity: Identity,
    /// The last frame that the state contains.
    pub index: LogIndex,
    /// That frame's term.
    pub term: StartEpoch,
    /// That frame's time.
    pub time: Timestamp,
    /// Position behind the last section.
    pub len: u64,
    sections: u32,
}

/// A state and the position it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last frame that the state contains.
    pub index: LogIndex,
    /// That frame's term.
    pub term: StartEpoch,
    /// That frame's time.
    pub time: Timestamp,
    /// The state, as its fold encodes it.
    pub state: Vec<u8>,
}

impl Header {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64(MAGIC);
        out.put_u32(VERSION);
        out.put_u32(self.sections);
        out.put(&self.identity.store.0);
        out.put_u64(self.identity.id.0);
        out.put(&self.identity.salt.0);
        out.put_u64(self.index.0);
        out.put_u32(self.term.0);
        out.put_u32(0);
        out.put_u64(self.time.0);
        out.put_u64(self.len);
        out.put(&[0; 36]);
        seal(out, start, &self.identity.salt);
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming the field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        expect("checkpoint.magic", source.u64("checkpoint.magic")?, MAGIC)?;
        let version = source.u32("checkpoint.version")?;
        expect("checkpoint.version", u64::from(version), u64::from(VERSION))?;
        let sections = source.u32("checkpoint.sections")?;
        let identity = Identity {
            store: StoreId(source.bytes16("checkpoint.store")?),
            id: FileId(source.u64("checkpoint.id")?),
            salt: Salt(source.bytes16("checkpoint.salt")?),
        };
        let index = LogIndex(source.u64("checkpoint.index")?);
        let term = StartEpoch(source.u32("checkpoint.term")?);
        expect("checkpoint.reserved", u64::from(source.u32("checkpoint.reserved")?), 0)?;
        let time = Timestamp(source.u64("checkpoint.time")?);
        let len = source.u64("checkpoint.len")?;
        zeros(&mut source, 36, "checkpoint.reserved")?;
        sealed(&mut source, bytes, &identity.salt, "checkpoint header")?;
        Ok(Self { identity, index, term, time, len, sections })
    }
}

impl Checkpoint {
    /// Writes the checkpoint into `file` and syncs it; gives its length.
    ///
    /// # Errors
    ///
    /// The file's; a failed sync is never retried.
    pub fn write(&self, file: &dyn File, identity: &Identity) -> io::Result<u64> {
        let len = HEADER_LEN as u64 + SECTION_LEN as u64 + padded(self.state.len() as u64);
        let header = Header {
            identity: *identity,
            index: self.index,
            term: self.term,
            time: self.time,
            len,
            sections: 1,
        };
        let mut head = Vec::with_capacity(HEADER_LEN + SECTION_LEN);
        header.encode(&mut head);
        head.put_u32(STATE);
        head.put_u32(section_checksum(&identity.salt, STATE, &self.state));
        head.put_u64(self.state.len() as u64);
        file.write_at(0, &[IoSlice::new(&head)])?;
        let mut position = head.len() as u64;
        for piece in self.state.chunks(WRITE_BYTES) {
            file.write_at(position, &[IoSlice::new(piece)])?;
            position += piece.len() as u64;
        }
        let padding = usize::try_from(len - position).unwrap_or_default();
        file.write_at(position, &[IoSlice::new([0; 8].get(..padding).unwrap_or_default())])?;
        file.sync()?;
        Ok(len)
    }

    /// Reads a checkpoint and checks all of it.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; a sound checkpoint of another identity is one.
    pub fn read(file: &dyn File, identity: &Identity) -> Result<Self, ReadError> {
        let header = read_header(file)?;
        if header.identity != *identity {
            return Err(ReadError::Other { found: header.identity.id });
        }
        let size = file.size().map_err(ReadError::Io)?;
        if header.len > size || header.len < HEADER_LEN as u64 {
            return Err(ReadError::Short { expected: header.len, found: size });
        }
        expect("checkpoint.sections", u64::from(header.sections), 1)?;
        let state = read_section(file, &header)?;
        Ok(Self { index: header.index, term: header.term, time: header.time, state })
    }
}

/// Reads and checks the header of a file that should be a checkpoint.
///
/// # Errors
///
/// [`ReadError`].
pub fn read_header(file: &dyn File) -> Result<Header, ReadError> {
    let mut bytes = [0; HEADER_LEN];
    file.read_at(0, &mut bytes).map_err(ReadError::Io)?;
    Ok(Header::decode(&bytes)?)
}

/// Reads the checkpoint that the manifest names, past the page cache.
///
/// # Errors
///
/// [`ReadError`].
pub fn load(fs: &dyn Fs, store: StoreId, entry: &CheckpointEntry) -> Result<Checkpoint, ReadError> {
    let name = FileName::new(FileKind::Checkpoint, entry.id).to_string();
    let file = fs.open(&name).map_err(ReadError::Io)?;
    file.drop_cache().map_err(ReadError::Io)?;
    let identity = Identity { store, id: entry.id, salt: entry.salt };
    Checkpoint::read(&*file, &identity)
}

/// The one section, which ends where the file does. A state may be large: there is one copy of it.
fn read_section(file: &dyn File, header: &Header) -> Result<Vec<u8>, ReadError> {
    let mut head = [0; SECTION_LEN];
    file.read_at(HEADER_LEN as u64, &mut head).map_err(ReadError::Io)?;
    let mut source = Source::new(&head);
    let kind = source.u32("checkpoint.section.kind")?;
    expect("checkpoint.section.kind", u64::from(kind), u64::from(STATE))?;
    let stored = source.u32("checkpoint.section.crc")?;
    let len = source.u64("checkpoint.section.len")?;
    let room = header.len.saturating_sub((HEADER_LEN + SECTION_LEN) as u64);
    if len > room || padded(len) != room {
        return Err(DecodeError::Invalid { field: "checkpoint.section.len", found: len }.into());
    }
    let mut state = vec![0; usize::try_from(room).unwrap_or(usize::MAX)];
    file.read_at((HEADER_LEN + SECTION_LEN) as u64, &mut state).map_err(ReadError::Io)?;
    let padding = state.split_off(usize::try_from(len).unwrap_or(usize::MAX));
    zeros(&mut Source::new(&padding), padding.len(), "checkpoint.section.padding")?;
    let computed = section_checksum(&header.identity.salt, kind, &state);
    if stored != computed {
        let field = "checkpoint section";
        return Err(DecodeError::Checksum { field, stored, computed }.into());
    }
    Ok(state)
}

fn section_checksum(salt: &Salt, kind: u32, bytes: &[u8]) -> u32 {
    let mut hasher = salted(salt);
    hasher.update(&kind.to_le_bytes());
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Why a file cannot be used as a checkpoint.
#[derive(Debug)]
pub enum ReadError {
    /// The system refused.
    Io(io::Error),
    /// The bytes are not as they were written.
    Damaged(DecodeError),
    /// A sound checkpoint, but another one than the manifest names.
    Other {
        /// The id found.
        found: FileId,
    },
    /// The file is shorter than its header says.
    Short {
        /// The length that the header names.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
}

impl From<DecodeError> for ReadError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "checkpoint cannot be read: {error}"),
            Self::Damaged(error) => write!(f, "checkpoint is damaged: {error}"),
            Self::Other { found } => {
                write!(f, "not the checkpoint of the manifest found_id={found}")
            }
            Self::Short { expected, found } => {
                write!(f, "checkpoint is cut off expected={expected} found={found}")
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Damaged(error) => Some(error),
            Self::Other { .. } | Self::Short { .. } => None,
        }
    }
}
