//! Encoding messages into a batch.

use super::message::Message;
use super::view::{HEADER_LEN, entry_checksum, header_checksum};
use super::{BODY_FORMAT_NATIVE, ENTRY_LEN_MIN, FLAG_DUE, FLAG_EXPIRES, FLAG_KEY, MAGIC, VERSION};
use crate::codec::Sink;
use crate::{DecodeError, Timestamp, limits};
use bytes::Bytes;

/// Collects messages and encodes them as one batch.
///
/// Index entries and bodies are copied as messages are pushed, so `finish` copies once more into
/// the final buffer and keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    index: Vec<u8>,
    bodies: Vec<u8>,
    count: u32,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] naming the limit that the message, or the batch with it, would
    /// exceed; the batch is then as it was before.
    pub fn push(&mut self, message: &Message) -> Result<(), DecodeError> {
        check(message)?;
        at_most("batch.count", self.count as usize + 1, limits::BATCH_MESSAGES_MAX as usize)?;
        let len = self.len() + encoded_len(message);
        at_most("batch.batch_len", len, limits::BATCH_BYTES_MAX as usize)?;
        let start = self.index.len();
        self.push_entry(message);
        let entry = self.index.get(start..).unwrap_or_default();
        let crc = entry_checksum(entry, &message.body).to_le_bytes();
        if let Some(slot) = self.index.get_mut(start + 4..start + 8) {
            slot.copy_from_slice(&crc);
        }
        self.bodies.extend_from_slice(&message.body);
        self.count += 1;
        Ok(())
    }

    fn push_entry(&mut self, message: &Message) {
        let index = &mut self.index;
        let mut flags = 0;
        flags |= if message.key.is_some() { FLAG_KEY } else { 0 };
        flags |= if message.due_at == Timestamp::ZERO { 0 } else { FLAG_DUE };
        flags |= if message.expires_at == Timestamp::ZERO { 0 } else { FLAG_EXPIRES };
        let key = message.key.as_deref().unwrap_or_default();
        index.put_count(message.body.len());
        index.put_u32(0);
        index.put(&message.id.0);
        index.put_u64(message.created_at.0);
        index.put_u8(flags);
        index.put_u8(message.priority.0);
        index.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
        index.put_count(headers_len(&message.headers));
        if message.due_at != Timestamp::ZERO {
            index.put_u64(message.due_at.0);
        }
        if message.expires_at != Timestamp::ZERO {
            index.put_u64(message.expires_at.0);
        }
        index.put(key);
        push_headers(index, &message.headers);
    }

    /// How many messages it holds.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length that [`Self::finish`] would give.
    #[must_use]
    pub const fn len(&self) -> usize {
        HEADER_LEN + self.index.len() + self.bodies.len()
    }

    /// Encodes the batch and empties the builder, keeping its buffers.
    #[must_use]
    pub fn finish(&mut self, created_at: Timestamp) -> Bytes {
        let mut batch = Vec::with_capacity(self.len());
        batch.put_u32(MAGIC);
        batch.put_u8(VERSION);
        batch.put_u8(BODY_FORMAT_NATIVE);
        batch.put_u16(0);
        batch.put_count(self.len());
        batch.put_u32(self.count);
        batch.put_count(self.index.len());
        batch.put_u32(0);
        batch.put_u64(created_at.0);
        batch.put(&[0; 32]);
        let crc = header_checksum(&batch, &self.index).to_le_bytes();
        if let Some(slot) = batch.get_mut(20..24) {
            slot.copy_from_slice(&crc);
        }
        batch.put(&self.index);
        batch.put(&self.bodies);
        self.index.clear();
        self.bodies.clear();
        self.count = 0;
        Bytes::from(batch)
    }
}

/// Bytes that `message` takes in a batch, index entry and body together.
#[must_use]
pub fn encoded_len(message: &Message) -> usize {
    let times = [message.due_at, message.expires_at];
    let times = times.iter().filter(|at| **at != Timestamp::ZERO).count() * 8;
    let key = message.key.as_ref().map_or(0, Bytes::len);
    ENTRY_LEN_MIN + times + key + headers_len(&message.headers) + message.body.len()
}

fn headers_len(headers: &[(Bytes, Bytes)]) -> usize {
    if headers.is_empty() {
        return 0;
    }
    2 + headers.iter().map(|(name, value)| 6 + name.len() + value.len()).sum::<usize>()
}

fn push_headers(index: &mut Vec<u8>, headers: &[(Bytes, Bytes)]) {
    if headers.is_empty() {
        return;
    }
    index.put_u16(u16::try_from(headers.len()).unwrap_or(u16::MAX));
    for (name, value) in headers {
        index.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        index.put_count(value.len());
        index.put(name);
        index.put(value);
    }
}

fn check(message: &Message) -> Result<(), DecodeError> {
    at_most("message.body", message.body.len(), limits::MESSAGE_BYTES_MAX as usize)?;
    at_most("message.key", message.key.as_ref().map_or(0, Bytes::len), limits::KEY_BYTES_MAX)?;
    at_most("message.headers", message.headers.len(), limits::HEADERS_MAX)?;
    at_most("message.headers", headers_len(&message.headers), limits::HEADERS_BYTES_MAX)?;
    at_most("message.priority", usize::from(message.priority.0), 9)
}

fn at_most(field: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found <= limit {
        return Ok(());
    }
    Err(DecodeError::TooLarge { field, found: found as u64, limit: limit as u64 })
}
