//! Many messages as they were received, lent one by one.

use bytes::Bytes;
use posthouse_protocol::batch::{Headers, MessageRef, Messages, Priority};
use posthouse_protocol::{DecodeError, MessageId, Offset, Timestamp};

/// Messages in a row, all checked, as they were received; from
/// [`Reader::next_records`](crate::Reader::next_records). Cloning copies no bytes. Keeping them, or a
/// clone, keeps the memory of all that was received with them: about 1 MiB, or the
/// message if that is larger.
#[derive(Clone, Debug)]
pub struct Records {
    first: Offset,
    count: u32,
    index: Bytes,
    bodies: Bytes,
}

impl Records {
    /// Cuts what was found sound off the front.
    pub(crate) fn cut(first: Offset, sound: Sound, index: &mut Bytes, bodies: &mut Bytes) -> Self {
        let Sound { count, index_len, bodies_len } = sound;
        let (index, bodies) = (index.split_to(index_len), bodies.split_to(bodies_len));
        Self { first, count, index, bodies }
    }

    /// The messages in their order.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        let messages = Messages::new(&self.index, &self.bodies);
        RecordsIter { next: self.first, left: self.count, messages }
    }

    /// The first message's place in its partition.
    #[must_use]
    pub const fn first(&self) -> Offset {
        self.first
    }

    /// The place behind the last message, which is where to go on.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.first.plus(self.count as u64)
    }

    /// How many messages there are; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub const fn len(&self) -> usize {
        self.count as usize
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordRef<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// Goes through [`Records`].
#[derive(Clone, Debug)]
pub struct RecordsIter<'a> {
    next: Offset,
    left: u32,
    messages: Messages<'a>,
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        let message = self.messages.next()?;
        let offset = self.next;
        self.next = offset.next();
        self.left = self.left.saturating_sub(1);
        Some(RecordRef::new(offset, message))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for RecordsIter<'_> {}

/// A message as it was received, lent: a [`Record`](crate::Record) of [`Records`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    offset: Offset,
    message: MessageRef<'a>,
}

impl<'a> RecordRef<'a> {
    pub(crate) const fn new(offset: Offset, message: MessageRef<'a>) -> Self {
        Self { offset, message }
    }

    /// Checks the message's own checksum, and that its headers can be read.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming what does not match.
    pub(crate) fn verify(&self) -> Result<(), DecodeError> {
        self.message.verify()?;
        self.message.entry.headers()?.try_for_each(|header| header.map(|_| ()))
    }

    /// Its place in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// The application's bytes.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.message.body
    }

    /// The key, if it has one.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.message.entry.key
    }

    /// Names and values in the sender's order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let headers = self.message.entry.headers().unwrap_or_else(|_| no_headers());
        headers.filter_map(Result::ok)
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// The id that its sender gave it.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.message.entry.id
    }

    /// When its sender made it.
    #[must_use]
    pub const fn created_at(&self) -> Timestamp {
        self.message.entry.created_at
    }

    /// Its priority, 0 to 9.
    #[must_use]
    pub const fn priority(&self) -> Priority {
        self.message.entry.priority
    }
}

fn no_headers() -> Headers<'static> {
    Headers::new(&[]).expect("no bytes are no headers")
}

/// Messages in front of index entries and bodies that were checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sound {
    /// How many; at least 1.
    pub(crate) count: u32,
    index_len: usize,
    bodies_len: usize,
}

impl Sound {
    /// Checks messages until one is damaged, `most` at most; `each` is given the lengths of entry and
    /// body. To check some in a row takes less time than to check each when it is taken: the processor
    /// works on several at a time, and counting references in between would not let it (decision 0015).
    ///
    /// # Errors
    ///
    /// What is wrong with the first one.
    pub(crate) fn in_front(
        index: &[u8],
        bodies: &[u8],
        most: u32,
        mut each: impl FnMut(usize, usize),
    ) -> Result<Self, DecodeError> {
        let mut messages = Messages::new(index, bodies);
        let mut left = messages.remaining();
        let mut count = 0;
        while count < most {
            match check_next(&mut messages) {
                Ok(()) => {}
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
            let before = std::mem::replace(&mut left, messages.remaining());
            each(before.0 - left.0, before.1 - left.1);
            count += 1;
        }
        Ok(Self { count, index_len: index.len() - left.0, bodies_len: bodies.len() - left.1 })
    }
}

#[inline]
fn check_next(messages: &mut Messages<'_>) -> Result<(), DecodeError> {
    match messages.read()? {
        Some(message) => RecordRef::new(Offset::ZERO, message).verify(),
        None => Err(DecodeError::Truncated { field: "slice" }),
    }
}
