//! A message as it was received.

use bytes::Bytes;
use posthouse_protocol::batch::{Entries, EntryRef, Headers, MessageRef, Priority};
use posthouse_protocol::{DecodeError, MessageId, Offset, Timestamp};

/// A message as it was received: its offset, index entry and body. Cloning copies no bytes.
#[derive(Clone, Debug)]
pub struct Record {
    offset: Offset,
    /// Decoded and found sound when the record was made.
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

    /// Like [`Self::cut`] and [`Self::verify`], decoding the entry once. The inner error is that of a
    /// damaged message, behind which the slice can be read further.
    ///
    /// # Errors
    ///
    /// As [`Self::cut`].
    pub(crate) fn cut_verified(
        offset: Offset,
        index: &mut Bytes,
        bodies: &mut Bytes,
    ) -> Result<Result<Self, DecodeError>, DecodeError> {
        let entry = Entries::new(index).read()?;
        let body_len = usize::try_from(entry.body_len).unwrap_or(usize::MAX);
        let body = bodies.get(..body_len).ok_or(DecodeError::Truncated { field: "body" })?;
        let verified = verify(entry, body);
        let entry_len = entry.bytes().len();
        let (entry, body) = (index.split_to(entry_len), bodies.split_to(body_len));
        Ok(verified.map(|()| Self { offset, entry, body }))
    }

    /// Checks the message's own checksum, and that its headers can be read.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming what does not match.
    pub(crate) fn verify(&self) -> Result<(), DecodeError> {
        verify(self.entry(), &self.body)
    }

    fn entry(&self) -> EntryRef<'_> {
        Entries::new(&self.entry).read().expect("the entry was decoded when the record was made")
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
        self.entry().key
    }

    /// Names and values in the sender's order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let headers = self.entry().headers().unwrap_or_else(|_| no_headers());
        headers.filter_map(Result::ok)
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// The id that its sender gave it.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.entry().id
    }

    /// When its sender made it.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.entry().created_at
    }

    /// Its priority, 0 to 9.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.entry().priority
    }
}

fn no_headers() -> Headers<'static> {
    Headers::new(&[]).expect("no bytes are no headers")
}
fn verify(entry: EntryRef<'_>, body: &[u8]) -> Result<(), DecodeError> {
    MessageRef { entry, body }.verify()?;
    entry.headers()?.try_for_each(|header| header.map(|_| ()))
}
