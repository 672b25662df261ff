//! A message on its way into the outbox table.

use super::headers;
use crate::message::Outgoing;
use bytes::Bytes;
use posthouse_protocol::batch::Priority;
use posthouse_protocol::{InvalidName, MessageId, Name, Timestamp, limits};
use std::fmt;

/// What is inserted for a message; the database gives the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRow {
    /// The message's id.
    pub message_id: MessageId,
    /// The topic's name.
    pub topic: String,
    /// The message's key.
    pub key: Option<Bytes>,
    /// The headers as text, see [`super::headers`].
    pub headers: String,
    /// The body.
    pub body: Bytes,
    /// No delivery before; zero for none.
    pub due_at: Timestamp,
    /// When the message was made.
    pub created_at: Timestamp,
}

impl NewRow {
    /// The row for a message, with an id and the time if it has none.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`] if no broker would ever take it.
    pub fn new(outgoing: Outgoing) -> Result<Self, EnqueueError> {
        let (topic, content) = outgoing.into_parts();
        Name::new(&topic).map_err(|error| EnqueueError::Topic { topic: topic.clone(), error })?;
        let lengths = [
            ("key", content.key.as_ref().map_or(0, Bytes::len), limits::KEY_BYTES_MAX),
            ("body", content.body.len(), limits::MESSAGE_BYTES_MAX as usize),
            ("number of headers", content.headers.len(), limits::HEADERS_MAX),
        ];
        for (what, found, limit) in lengths {
            if found > limit {
                return Err(EnqueueError::TooLarge { what, found, limit });
            }
        }
        if content.expires_at != Timestamp::ZERO {
            return Err(EnqueueError::Unsupported { what: "an expiry" });
        }
        if content.priority != Priority::default() {
            return Err(EnqueueError::Unsupported { what: "a priority" });
        }
        Ok(Self {
            message_id: content.id,
            topic,
            key: content.key,
            headers: headers::encode(&content.headers),
            body: content.body,
            due_at: storable(content.due_at),
            created_at: storable(content.created_at),
        })
    }
}

/// A time that a column can hold: databases have no unsigned numbers, and a time that turned
/// negative would be taken for none.
fn storable(at: Timestamp) -> Timestamp {
    at.min(Timestamp(i64::MAX.unsigned_abs()))
}

/// Why a message was not enqueued, before the database was asked. Nothing has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnqueueError {
    /// No topic can have this name.
    Topic {
        /// The name.
        topic: String,
        /// What is wrong with it.
        error: InvalidName,
    },
    /// No broker takes so much.
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much it is.
        found: usize,
        /// How much is taken.
        limit: usize,
    },
    /// An order was asked for among the messages of a key, and the message has none.
    NoKey,
    /// Something that an outbox cannot carry.
    Unsupported {
        /// What.
        what: &'static str,
    },
}

impl fmt::Display for EnqueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { topic, error } => write!(f, "message for topic {topic:?}: {error}"),
            Self::TooLarge { what, found, limit } => {
                write!(f, "message with a {what} of {found}: at most {limit}")
            }
            Self::NoKey => f.write_str("message without a key: it has no order to keep"),
            Self::Unsupported { what } => {
                write!(f, "message with {what}: an outbox cannot carry that, publish it directly")
            }
        }
    }
}

impl std::error::Error for EnqueueError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn message_that_no_broker_takes_is_refused() {
        let refused = |outgoing| NewRow::new(outgoing).unwrap_err().to_string();

        assert!(refused(Message::new("x").to("")).contains("\"\""));
        assert!(refused(Message::new("x").key(vec![0; 1025]).to("t")).contains("key of 1025"));
        assert!(refused(Message::new("x").expires_at(Timestamp(1)).to("t")).contains("expiry"));
        let priority = Priority(9);
        assert!(refused(Message::new("x").priority(priority).to("t")).contains("priority"));
    }

    #[test]
    fn time_that_never_comes_stays_one() {
        let message = Message::new("x").delay(std::time::Duration::MAX).to("t");
        let row = NewRow::new(message).unwrap();

        assert_eq!(row.due_at.0.cast_signed(), i64::MAX);
    }

    #[test]
    fn row_is_the_message() {
        let message = Message::new("x").key("k").header("a", "b").due_at(Timestamp(7)).to("t");
        let row = NewRow::new(message).unwrap();

        assert_eq!((row.topic.as_str(), &row.body[..], row.due_at.0), ("t", &b"x"[..], 7));
        assert_eq!(
            (row.key.as_deref(), row.headers.as_str()),
            (Some(&b"k"[..]), "[[\"a\",\"b\"]]")
        );
        assert_ne!((row.message_id, row.created_at), (MessageId::default(), Timestamp::ZERO));
    }
}
