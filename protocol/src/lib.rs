//! Ids, batch layout, wire frames, messages, error codes and limits.
//!
//! No tokio, no files, no clock, no unsafe. The bytes are described in
//! `docs/WIRE_PROTOCOL.md` and `docs/STORAGE_FORMAT.md`.

#![forbid(unsafe_code)]

pub mod batch;
pub mod codec;
pub mod limits;

mod ids;

pub use codec::DecodeError;
pub use ids::{
    Attempt, ConsumerId, CorrelationId, Fence, LogIndex, MessageId, Offset, PartitionId,
    ProducerEpoch, ProducerId, Sequence, StartEpoch, SubscriptionId, Timestamp, TopicId,
};
