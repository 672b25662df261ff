//! Reading and writing little-endian fields with bounds checked.
//!
//! The only place of this crate that turns bytes into numbers. A [`Source`]
//! never panics and never allocates more than it has bytes for.

use std::fmt;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes ended inside `field`.
    Truncated {
        /// What was being read.
        field: &'static str,
    },
    /// More bytes than the value has.
    Trailing {
        /// How many were left over.
        bytes: usize,
    },
    /// `field` has a value that is not allowed.
    Invalid {
        /// What was being read.
        field: &'static str,
        /// The value found, where it is a number.
        found: u64,
    },
    /// `field` is above its limit.
    TooLarge {
        /// What was being read.
        field: &'static str,
        /// The value found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// `field` is not UTF-8 or not a valid name.
    Text {
        /// What was being read.
        field: &'static str,
    },
    /// A checksum does not match.
    Checksum {
        /// What the checksum covers.
        field: &'static str,
        /// The checksum stored.
        stored: u32,
        /// The checksum computed.
        computed: u32,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { field } => write!(f, "bytes end inside field={field}"),
            Self::Trailing { bytes } => write!(f, "trailing bytes={bytes}"),
            Self::Invalid { field, found } => write!(f, "invalid field={field} found={found}"),
            Self::TooLarge { field, found, limit } => {
                write!(f, "too large field={field} found={found} limit={limit}")
            }
            Self::Text { field } => write!(f, "not a valid text field={field}"),
            Self::Checksum { field, stored, computed } => {
                write!(
                    f,
                    "checksum mismatch field={field} stored={stored:08x} computed={computed:08x}"
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Bytes being decoded, from front to back.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// Takes a little-endian number of 2 bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Takes a little-endian number of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Takes a little-endian number of 8 bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Takes 16 bytes as they are.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn bytes16(&mut self, field: &'static str) -> Result<[u8; 16], DecodeError> {
        self.array(field)
    }

    /// Takes a list length of 4 bytes and checks it against `limit` and against the bytes left,
    /// each entry taking at least `entry_bytes_min`, so that a length bomb allocates nothing.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] or [`DecodeError::Truncated`].
    pub fn count(
        &mut self,
        limit: u32,
        entry_bytes_min: usize,
        field: &'static str,
    ) -> Result<usize, DecodeError> {
        let found = self.u32(field)?;
        if found > limit {
            return Err(DecodeError::TooLarge {
                field,
                found: u64::from(found),
                limit: u64::from(limit),
            });
        }
        let count = usize::try_from(found).map_err(|_| DecodeError::Truncated { field })?;
        if count.saturating_mul(entry_bytes_min) > self.remaining() {
            return Err(DecodeError::Truncated { field });
        }
        Ok(count)
    }

    /// Takes bytes that follow their length of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] or [`DecodeError::Truncated`].
    pub fn prefixed(&mut self, limit: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let len = self.count(limit, 1, field)?;
        self.bytes(len, field)
    }

    /// Takes UTF-8 text that follows its length of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`], [`DecodeError::Truncated`] or [`DecodeError::Text`].
    pub fn text(&mut self, limit: usize, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.prefixed(limit, field)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Text { field })
    }

    /// Ends decoding.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Trailing`] if bytes are left.
    pub const fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { bytes: self.rest.len() })
        }
    }
}

/// Appends fields to a byte buffer.
pub trait Sink {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    /// Appends a little-endian number of 2 bytes.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a little-endian number of 4 bytes.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a little-endian number of 8 bytes.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a list length of 4 bytes.
    fn put_count(&mut self, len: usize) {
        self.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    }
    /// Appends bytes after their length of 4 bytes.
    fn put_prefixed(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for bytes::BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
