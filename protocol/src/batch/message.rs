//! One message, owned (to send) and borrowed (as it lies in a batch).

use super::view::EntryRef;
use crate::codec::Source;
use crate::{DecodeError, MessageId, Timestamp, limits};
use bytes::Bytes;

/// Delivery priority, 0 (lowest) to 9; 4 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub u8);

impl Priority {
    /// What a message has that does not ask for another.
    pub const DEFAULT: Self = Self(4);
    /// The highest.
    pub const MAX: Self = Self(9);
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A message to be encoded into a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Identity, chosen by the sender.
    pub id: MessageId,
    /// When the sender made it.
    pub created_at: Timestamp,
    /// Kept with the message; order by key is not built yet.
    pub key: Option<Bytes>,
    /// Names and values in the sender's order; duplicates are allowed.
    pub headers: Vec<(Bytes, Bytes)>,
    /// 0 to 9.
    pub priority: Priority,
    /// Not delivered before; [`Timestamp::ZERO`] for "at once".
    pub due_at: Timestamp,
    /// Not delivered after; [`Timestamp::ZERO`] for "never expires".
    pub expires_at: Timestamp,
    /// The application's bytes.
    pub body: Bytes,
}

/// A stable 64-bit hash of a key (FNV-1a), used for order by key; never 0.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// A message as it lies in a batch or a delivery.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    /// Its index entry.
    pub entry: EntryRef<'a>,
    /// Its body.
    pub body: &'a [u8],
}

impl MessageRef<'_> {
    /// Checks the message's own checksum.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Checksum`].
    pub fn verify(&self) -> Result<(), DecodeError> {
        let stored = self.entry.crc;
        let computed = self.entry.checksum_with(self.body);
        if stored == computed {
            Ok(())
        } else {
            Err(DecodeError::Checksum { field: "message", stored, computed })
        }
    }
}

/// The headers of one message, decoded one by one.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    source: Source<'a>,
    left: u16,
}

impl<'a> Headers<'a> {
    /// Starts decoding an entry's header bytes, which are empty for a message without headers.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the count is missing, zero or above the limit.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        if bytes.is_empty() {
            return Ok(Self { source, left: 0 });
        }
        let left = source.u16("headers.count")?;
        if left == 0 {
            return Err(DecodeError::Invalid { field: "headers.count", found: 0 });
        }
        if usize::from(left) > limits::HEADERS_MAX {
            return Err(DecodeError::TooLarge {
                field: "headers.count",
                found: u64::from(left),
                limit: limits::HEADERS_MAX as u64,
            });
        }
        Ok(Self { source, left })
    }

    fn read(&mut self) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
        let name_len = usize::from(self.source.u16("header.name_len")?);
        let value_len = usize::try_from(self.source.u32("header.value_len")?)
            .map_err(|_| DecodeError::Truncated { field: "header.value" })?;
        let name = self.source.bytes(name_len, "header.name")?;
        let value = self.source.bytes(value_len, "header.value")?;
        Ok((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let left_over = self.source.remaining();
            self.source = Source::new(&[]);
            return (left_over > 0).then_some(Err(DecodeError::Trailing { bytes: left_over }));
        }
        self.left -= 1;
        let item = self.read();
        if item.is_err() {
            self.left = 0;
            self.source = Source::new(&[]);
        }
        Some(item)
    }
}
