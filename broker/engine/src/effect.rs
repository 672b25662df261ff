//! Everything that the engine asks of the shell, in the order in which it must happen.

use crate::event::Event;
use crate::input::{ConnectionId, LoadPurpose};
use bytes::Bytes;
use posthouse_protocol::{
    Attempt, ConsumerId, CorrelationId, LogIndex, Offset, PartitionId, Reply, StartEpoch,
    SubscriptionId, Timestamp,
};
use std::ops::Range;

/// What must be true before something may leave the broker.
///
/// Nothing, not even an error that reveals state, leaves before the position it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    Now,
    /// This frame, and every one before, is written.
    Written(LogIndex),
    /// This frame, and every one before, is committed. A waiting gate of this kind is what makes
    /// the shell sync.
    Committed(LogIndex),
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Append a frame to the journal: one atomic unit. Frames of one round form one group.
    Append(Append),
    /// Send a reply, or a push if the correlation is 0.
    Reply {
        /// To whom.
        connection: ConnectionId,
        /// To which request.
        correlation: CorrelationId,
        /// What.
        reply: Reply,
        /// When.
        gate: Gate,
    },
    /// Read the messages and send them to a consumer. Deliveries to one consumer keep their order.
    Deliver(Deliver),
    /// Read messages and answer a fetch.
    Fetch(Fetch),
    /// Look at what is stored from `from` on, up to `end`, and answer with `WindowLoaded`.
    LoadWindow {
        /// For this subscription.
        subscription: SubscriptionId,
        /// Of this partition.
        partition: PartitionId,
        /// First offset of interest.
        from: Offset,
        /// End of interest; everything below is written.
        end: Offset,
        /// Entries to return at most.
        entries_max: usize,
    },
    /// Read one message and answer with `MessageLoaded`.
    LoadMessage {
        /// Why; returned with the answer.
        purpose: LoadPurpose,
        /// Of this partition.
        partition: PartitionId,
        /// Where it is.
        offset: Offset,
        /// Headers to add. For a redrive, all headers whose names start with
        /// [`DEAD_HEADER_PREFIX`] are taken out instead.
        headers: Vec<(Bytes, Bytes)>,
    },
    /// Read messages that are due and answer with `DueLoaded`.
    LoadDue {
        /// The waiting room.
        partition: PartitionId,
        /// Where they are in there, in the order in which they are to be published.
        offsets: Vec<Offset>,
        /// Bytes of the batch at most, but at least one message.
        bytes_max: usize,
        /// Whether some that cannot be read were found here a moment ago: once is enough for the log.
        told: bool,
    },
}

/// Names of the headers that a dead letter carries start with this.
pub const DEAD_HEADER_PREFIX: &str = "posthouse-dead-";

/// One journal frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The frame's number, dense.
    pub index: LogIndex,
    /// The wall clock, for `apply`.
    pub time: Timestamp,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Batches that the events name.
    pub batches: Vec<BatchAppend>,
}

/// A batch in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchAppend {
    /// Into this partition.
    pub partition: PartitionId,
    /// The first message's offset.
    pub base: Offset,
    /// How many messages.
    pub count: u32,
    /// The batch's own checksum over header and index.
    pub header_crc: u32,
    /// As the sender encoded it.
    pub bytes: Bytes,
}

/// Messages for a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// Whose.
    pub connection: ConnectionId,
    /// The consumer.
    pub consumer: ConsumerId,
    /// For reports of damage.
    pub subscription: SubscriptionId,
    /// Where the messages are.
    pub partition: PartitionId,
    /// Everything below is settled.
    pub ack_floor: Offset,
    /// Of all the fences.
    pub fence_epoch: StartEpoch,
    /// The messages.
    pub runs: Vec<DeliverRun>,
    /// When.
    pub gate: Gate,
}

/// Consecutive offsets with consecutive fences and the same attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverRun {
    /// The first offset.
    pub first: Offset,
    /// How many.
    pub count: u32,
    /// The first one's fence; the others' follow it.
    pub fence_counter: u64,
    /// How often each has failed before.
    pub attempt: Attempt,
}

/// A fetch that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// To whom.
    pub connection: ConnectionId,
    /// To which request.
    pub correlation: CorrelationId,
    /// Where the messages are.
    pub partition: PartitionId,
    /// Visible offsets to read, ascending, disjoint; perhaps empty.
    pub ranges: Vec<Range<Offset>>,
    /// `Fetched::next` if all of `ranges` was sent.
    pub next: Offset,
    /// `Fetched::end`.
    pub end: Offset,
    /// Bytes at most, but at least one message.
    pub bytes_max: u32,
    /// Messages at most.
    pub messages_max: u32,
    /// When.
    pub gate: Gate,
}

/// An ordered list of effects, reused between rounds.
pub type Effects = Vec<Effect>;
