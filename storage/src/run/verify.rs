//! Reading a finished run again, past the page cache, before anything relies on it.

use super::format::{HEADER_LEN, Header, salted};
use super::{OpenError, read_header};
use crate::fs::{Aligned, BLOCK, File};
use posthouse_protocol::DecodeError;
use std::io;
use std::sync::Arc;

/// Blocks that are read with one call.
const READ_BLOCKS: usize = (1 << 20) / BLOCK;

/// A run being read again, a piece at a time.
#[derive(Debug)]
pub struct Verification {
    file: Arc<dyn File>,
    header: Header,
    /// Where to go on, a multiple of a block.
    position: u64,
    crc: crc32fast::Hasher,
    buffer: Aligned,
}

impl Verification {
    /// Drops what the system has cached of the file and checks that its header is `written`.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn start(file: Arc<dyn File>, written: &Header) -> Result<Self, OpenError> {
        file.drop_cache().map_err(OpenError::Io)?;
        let header = read_header(&*file)?;
        if header != *written {
            return Err(OpenError::Other { found: header.identity.id });
        }
        let crc = salted(&header.identity.salt);
        Ok(Self { file, header, position: 0, crc, buffer: Aligned::new(READ_BLOCKS) })
    }

    /// Reads about `bytes` more; true once everything was read and is as it was written.
    ///
    /// # Errors
    ///
    /// [`OpenError::Damaged`] if what was read is not what was written.
    pub fn advance(&mut self, bytes: u64) -> Result<bool, OpenError> {
        let until = self.header.len.min(self.position.saturating_add(bytes));
        while self.position < until {
            self.read_some().map_err(OpenError::Io)?;
        }
        if self.position < self.header.len {
            return Ok(false);
        }
        let stored = self.header.body_crc;
        let computed = self.crc.clone().finalize();
        if stored == computed {
            return Ok(true);
        }
        Err(OpenError::Damaged(DecodeError::Checksum { field: "run body", stored, computed }))
    }

    fn read_some(&mut self) -> io::Result<()> {
        let count = self.file.read_past_cache(self.position, &mut self.buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The header has a checksum of its own.
        let skipped = HEADER_LEN.saturating_sub(self.position);
        let left = self.header.len - self.position;
        let [first, end] =
            [skipped, left].map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(count));
        self.crc.update(self.buffer.whole().get(first..end).unwrap_or_default());
        self.position += count as u64;
        Ok(())
    }
}
