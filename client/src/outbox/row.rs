//! A row of the outbox table: a message, where it goes, and its number.

use bytes::Bytes;
use posthouse_protocol::{MessageId, Timestamp};

/// A row's number: given by the database when it is inserted, so that later commits may have lower
/// ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u64);

/// One message that waits to be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub id: RowId,
    /// The message's id, kept all the way to the inbox; `None` if what is stored is not 16 bytes long.
    pub message_id: Option<MessageId>,
    /// The name of the topic, as the sender wrote it.
    pub topic: String,
    /// The message's key.
    pub key: Option<Bytes>,
    /// The headers as stored: a JSON list of pairs, see [`super::headers`]; empty for none.
    pub headers: String,
    /// The body.
    pub body: Bytes,
    /// No delivery before; zero for none.
    pub due_at: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
}
