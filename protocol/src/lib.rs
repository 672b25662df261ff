//! Ids, batch layout, wire frames, messages, error codes and limits.
//!
//! No tokio, no files, no clock, no unsafe. The bytes are described in
//! `docs/WIRE_PROTOCOL.md` and `docs/STORAGE_FORMAT.md`.

#![forbid(unsafe_code)]

pub mod batch;
pub mod codec;
pub mod frame;
pub mod id_map;
pub mod limits;
pub mod message;
pub mod settings;
pub mod tail;
pub mod wire;

mod error;
mod ids;
mod name;

pub use codec::DecodeError;
pub use error::{ErrorCode, Outcome};
pub use id_map::{Id, IdMap};
pub use ids::{
    Attempt, ConsumerId, CorrelationId, Fence, LogIndex, MessageId, Offset, PartitionId,
    ProducerEpoch, ProducerId, Sequence, StartEpoch, SubscriptionId, Timestamp, TopicId,
};
pub use message::{Reply, Request};
pub use name::{InvalidName, Name};
