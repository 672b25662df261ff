//! A message to be sent.

use crate::clock::{millis, wall_clock};
use crate::ids::fresh_id;
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

    /// Sets the key. It is kept with the message; order by key is not built yet.
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

    /// Asks for no delivery before `delay` from now has passed, by this machine's clock.
    ///
    /// The broker stores the message at once and publishes it when it is due by its own clock; so
    /// its receipt has no offset, and its place among other messages is that of its time.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.due_at(wall_clock().plus_millis(millis(delay)))
    }

    /// Asks for no delivery before `at`; a time that has passed is no delay. See [`Self::delay`].
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

    /// Says where it goes, for a commit, an outbox or a transform.
    #[must_use]
    pub fn to(self, topic: impl Into<String>) -> Outgoing {
        Outgoing { topic: topic.into(), message: self }
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

/// A message and the name of the topic that it goes to: `Message::new("hello").to("orders")`.
///
/// It gets an id and a time, unless it has them, when it is handed to a commit or an outbox; sent
/// again from there, it keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    topic: String,
    message: Message,
}

impl Outgoing {
    /// The topic's name, as the sender wrote it.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// The topic and what the message consists of, its id and time of creation filled in. For
    /// outboxes, which store the fields one by one.
    #[doc(hidden)]
    #[must_use]
    pub fn into_parts(self) -> (String, batch::Message) {
        let mut content = self.message.content;
        if content.created_at == Timestamp::ZERO {
            content.created_at = wall_clock();
        }
        if content.id == MessageId::default() {
            content.id = fresh_id(wall_clock());
        }
        (self.topic, content)
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(body: T) -> Self {
        Self::new(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_message_gets_an_id_and_a_time_unless_it_has_them() {
        let (topic, bare) = Message::new("x").to("orders").into_parts();
        let given = Message::new("x").id(MessageId([7; 16])).created_at(Timestamp(5));
        let (_, given) = given.to("orders").into_parts();

        assert_eq!(topic, "orders");
        assert_ne!(bare.id, MessageId::default());
        assert_ne!(bare.created_at, Timestamp::ZERO);
        assert_eq!((given.id, given.created_at), (MessageId([7; 16]), Timestamp(5)));
    }
}
