//! A message as it was received.

use crate::records::RecordRef;
use bytes::Bytes;
use posthouse_protocol::batch::{Entries, MessageRef, Priority};
use posthouse_protocol::{DecodeError, MessageId, Offset, Timestamp};

/// A message as it was received: its offset, index entry and body. Cloning copies no bytes.
#[derive(Clone, Debug)]
pub struct Record {
    offset: Offset,
    /// Decoded when the record was made.
    entry: Bytes,
    body: Bytes,
}

impl Record {
    /// Cuts the next message off a slice's index entries and bodies, unchecked.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if entries and bodies do not fit together; the slice cannot be read further.
    pub(crate) fn cut(
        offset: Offset,
        index: &mut Bytes,
        bodies: &mut Bytes,
    ) -> Result<Self, DecodeError> {
        let entry = Entries::new(index).read()?;
        let entry_len = entry.bytes().len();
        let body_len = usize::try_from(entry.body_len).unwrap_or(usize::MAX);
        if bodies.len() < body_len {
            return Err(DecodeError::Truncated { field: "body" });
        }
        Ok(Self { offset, entry: index.split_to(entry_len), body: bodies.split_to(body_len) })
    }

    /// Cuts a message off the front whose entry and body have these lengths, and were checked.
    #[inline]
    pub(crate) fn cut_sound(
        offset: Offset,
        (entry_len, body_len): (usize, usize),
        index: &mut Bytes,
        bodies: &mut Bytes,
    ) -> Self {
        Self { offset, entry: index.split_to(entry_len), body: bodies.split_to(body_len) }
    }

    /// Checks the message's own checksum, and that its headers can be read.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming what does not match.
    pub(crate) fn verify(&self) -> Result<(), DecodeError> {
        self.view().verify()
    }

    fn view(&self) -> RecordRef<'_> {
        let entry = Entries::new(&self.entry).read();
        let entry = entry.expect("the entry was decoded when the record was made");
        RecordRef::new(self.offset, MessageRef { entry, body: &self.body })
    }

    /// Bytes of index entry and body, as credit counts them.
    pub(crate) const fn len(&self) -> usize {
        self.entry.len() + self.body.len()
    }

    /// Its place in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// The application's bytes.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body read as JSON.
    ///
    /// # Errors
    ///
    /// If the body is not JSON that fits `T`.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.view().key()
    }

    /// Names and values in the sender's order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.view().headers()
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.view().header(name)
    }

    /// The id that its sender gave it.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.view().id()
    }

    /// When its sender made it.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.view().created_at()
    }

    /// Its priority, 0 to 9.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.view().priority()
    }
}
