//! A message to be sent.

use crate::clock::{millis, wall_clock};
use bytes::Bytes;
use posthouse_protocol::batch::{self, Priority};
use posthouse_protocol::{MessageId, Timestamp};
use std::time::Duration;

/// A message to be sent: a body, and what the sender wants to say about it.
///
/// An id and the time are filled in when it is submitted, unless they were set.
///
/// ```
/// # use posthouse_client::Message;
/// let message = Message::new("hello").key("c-17").header("content-type", "text/plain");
/// assert_eq!(message.body(), "hello");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    content: batch::Message,
}

impl Message {
    /// A message with this body.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { content: batch::Message { body: body.into(), ..batch::Message::default() } }
    }

    /// A message whose body is `value` as JSON, with the header `content-type: application/json`.
    ///
    /// # Errors
    ///
    /// If `value` does not serialize.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?;
        Ok(Self::new(body).header("content-type", "application/json"))
    }

    /// Sets the key, which orders messages on subscriptions that ask for it.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.content.key = Some(key.into());
        self
    }

    /// Adds a header. Order is kept, and a name may come more than once.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.content.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the id; without this the publisher makes one up.
    #[must_use]
    pub const fn id(mut self, id: MessageId) -> Self {
        self.content.id = id;
        self
    }

    /// Sets when the message came into being; without this it is when it is submitted.
    #[must_use]
    pub const fn created_at(mut self, at: Timestamp) -> Self {
        self.content.created_at = at;
        self
    }

    /// Asks for no delivery before `delay` from now has passed.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.due_at(wall_clock().plus_millis(millis(delay)))
    }

    /// Asks for no delivery before `at`.
    #[must_use]
    pub const fn due_at(mut self, at: Timestamp) -> Self {
        self.content.due_at = at;
        self
    }

    /// Asks for no delivery after `at`.
    #[must_use]
    pub const fn expires_at(mut self, at: Timestamp) -> Self {
        self.content.expires_at = at;
        self
    }

    /// Sets the priority, 0 (lowest) to 9.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.content.priority = priority;
        self
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.content.body
    }

    pub(crate) const fn content(&self) -> &batch::Message {
        &self.content
    }

    pub(crate) const fn content_mut(&mut self) -> &mut batch::Message {
        &mut self.content
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(body: T) -> Self {
        Self::new(body)
    }
}
