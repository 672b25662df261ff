//! Reading a finished run again, past the page cache, before anything relies on it.

use super::format::{HEADER_LEN, Header, salted};
use super::{OpenError, read_header};
use crate::fs::File;
use posthouse_protocol::DecodeError;
use std::sync::Arc;

/// A run being read again, a piece at a time.
#[derive(Debug)]
pub struct Verification {
    file: Arc<dyn File>,
    header: Header,
    position: u64,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
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
        Ok(Self { file, header, position: HEADER_LEN, crc, buffer: Vec::new() })
    }

    /// Reads at most `bytes` more; true once everything was read and is as it was written.
    ///
    /// # Errors
    ///
    /// [`OpenError::Damaged`] if what was read is not what was written.
    pub fn advance(&mut self, bytes: u64) -> Result<bool, OpenError> {
        let len = bytes.min(self.header.len - self.position);
        self.buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
        self.file.read_at(self.position, &mut self.buffer).map_err(OpenError::Io)?;
        self.crc.update(&self.buffer);
        self.position += len;
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
}
