//! The atomic commit: publishes to any topics, settlements and cursor saves, all of them or none.

use super::{CursorSave, Settle};
use crate::codec::Sink;
use crate::name::Name;
use crate::settings::Durability;
use crate::wire::Wire;
use crate::{DecodeError, Offset, ProducerEpoch, ProducerId, Sequence, wire_struct, wire_union};
use bytes::Bytes;

wire_struct! {
    /// Carries out all operations or none. The tail holds their batches, one after another.
    ///
    /// Numbered like a [`Publish`](super::Publish), in the same sequence of the same producer.
    pub struct Commit {
        /// The sender.
        pub producer: ProducerId,
        /// The sender's epoch.
        pub epoch: ProducerEpoch,
        /// This commit's number, above `prev`.
        pub sequence: Sequence,
        /// The number of the sender's publish or commit before this one.
        pub prev: Sequence,
        /// What it does; messages, deliveries and saves together at most
        /// [`limits::COMMIT_OPERATIONS_MAX`](crate::limits::COMMIT_OPERATIONS_MAX).
        pub operations: Vec<Operation>,
    }

    /// Publishes one batch of the tail.
    pub struct CommitPublish {
        /// The topic's name.
        pub topic: Name,
        /// Length of its batch; the batches are in the tail in the order of the operations.
        pub bytes: u32,
    }

    /// The answer to [`Commit`]: everything in it is done.
    pub struct Committed {
        /// One for each publish, in their order.
        pub published: Vec<CommittedPublish>,
        /// What was reached, by all of it.
        pub durability: Durability,
        /// Whether this repeats a commit that was accepted before.
        pub duplicate: bool,
    }

    /// Where the messages of one publish of a commit are.
    pub struct CommittedPublish {
        /// The first message's offset; `None` for delayed messages, and for a repeat too old to know it.
        pub base: Option<Offset>,
        /// How many messages the batch has.
        pub count: u32,
    }

    /// Which part of a request is at fault.
    pub struct RefusedAt {
        /// The place of the operation in the commit, from 0; 0 for a publish.
        pub operation: u32,
        /// The place of the message in its batch, from 0; [`RefusedAt::NO_MESSAGE`] if it is not one
        /// in particular.
        pub message: u32,
    }
}

wire_union! {
    /// One part of a commit.
    pub enum Operation {
        /// Messages for a topic.
        Publish(CommitPublish) = 1,
        /// Deliveries acked, nacked or rejected; refused for one, the whole commit is.
        Settle(Settle) = 2,
        /// A stream subscription's cursor.
        CursorSave(CursorSave) = 3,
    }
}

impl RefusedAt {
    /// No message in particular.
    pub const NO_MESSAGE: u32 = u32::MAX;
}

impl Commit {
    /// Takes the tail apart: for each publish its place among the operations and its batch, which
    /// is not looked into.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] or [`DecodeError::Trailing`] if the tail is not as long as the
    /// operations say.
    pub fn batches(&self, tail: &Bytes) -> Result<Vec<(usize, Bytes)>, DecodeError> {
        let (mut rest, mut batches) = (tail.clone(), Vec::new());
        for (place, operation) in self.operations.iter().enumerate() {
            let Operation::Publish(publish) = operation else { continue };
            let len = usize::try_from(publish.bytes).unwrap_or(usize::MAX);
            if len > rest.len() {
                return Err(DecodeError::Truncated { field: "Commit.batches" });
            }
            batches.push((place, rest.split_to(len)));
        }
        if rest.is_empty() { Ok(batches) } else { Err(DecodeError::Trailing { bytes: rest.len() }) }
    }

    /// Tells a repeat of a commit from other content under its number: a checksum over every
    /// operation and `header_crcs`, the checksums in the headers of its batches, in order.
    pub fn digest(&self, header_crcs: impl Iterator<Item = u32>) -> u32 {
        let mut bytes = Vec::new();
        self.operations.encode(&mut bytes);
        header_crcs.for_each(|crc| bytes.put_u32(crc));
        crc32fast::hash(&bytes)
    }
}
