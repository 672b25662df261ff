//! Every cause that the engine reacts to.

use bytes::Bytes;
use posthouse_protocol::batch::EntryRef;
use posthouse_protocol::{
    CorrelationId, LogIndex, Offset, PartitionId, Request, StartEpoch, SubscriptionId,
};

/// A connection, numbered by the shell and never reused within a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One cause.
#[derive(Clone, Debug)]
pub enum Input {
    /// The shard starts. The first input, exactly once; nothing is served before its event is
    /// committed.
    Start {
        /// One higher than at every start before.
        epoch: StartEpoch,
        /// Whether the last stop was clean.
        clean: bool,
        /// Whether frames may be missing of which the state was not told.
        damaged: bool,
    },
    /// A client asks for something. `Hello` and `Heartbeat` are the shell's own business.
    Request {
        /// Whose.
        connection: ConnectionId,
        /// For the reply.
        correlation: CorrelationId,
        /// What.
        request: Request,
        /// For `Publish`: the batch. For `Commit`: the batches, one after another, as long as its
        /// operations say. The shell has verified headers, indexes and bodies.
        batch: Bytes,
    },
    /// A connection is gone; its consumers with it.
    Disconnected {
        /// Which.
        connection: ConnectionId,
    },
    /// The journal has got further.
    Progress {
        /// Frames up to here are written.
        written: LogIndex,
        /// Frames up to here are committed (on one node: durable).
        committed: LogIndex,
    },
    /// The answer to [`Effect::LoadWindow`](crate::Effect::LoadWindow).
    WindowLoaded {
        /// For this subscription.
        subscription: SubscriptionId,
        /// As asked for.
        from: Offset,
        /// What is stored in `from..next`, ascending.
        entries: Vec<WindowEntry>,
        /// Everything below has been looked at.
        next: Offset,
    },
    /// The answer to [`Effect::LoadMessage`](crate::Effect::LoadMessage).
    MessageLoaded {
        /// As asked for.
        purpose: LoadPurpose,
        /// A batch with that one message, its headers changed as the purpose wants; `None` if the
        /// stored bytes are damaged or gone.
        batch: Option<Bytes>,
    },
    /// The answer to [`Effect::LoadDue`](crate::Effect::LoadDue). What was asked for and is in no list
    /// comes behind the others and was not looked at.
    DueLoaded {
        /// The waiting room.
        partition: PartitionId,
        /// Which messages `batch` has, in its order.
        offsets: Vec<Offset>,
        /// Messages whose stored bytes are damaged or gone.
        damaged: Vec<Offset>,
        /// Messages that cannot be read now, and perhaps later.
        unreadable: Vec<Offset>,
        /// The messages, unchanged; `None` if there are none.
        batch: Option<Bytes>,
    },
    /// How much room there is.
    Space(Space),
    /// [`Engine::next_deadline`](crate::Engine) has come, or any other moment.
    Deadline,
    /// The broker is stopping: refuse new work with `SHUTTING_DOWN`, let what is in flight end.
    Drain,
}

/// What the engine needs to know of a message in order to hand it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowEntry {
    /// Its offset.
    pub offset: Offset,
    /// Bytes of its index entry and body, as credit counts them.
    pub bytes: u32,
    /// Whether its stored bytes fail their checksum; it is then reported and settled, not delivered.
    pub damaged: bool,
}

impl WindowEntry {
    /// A sound one.
    pub(crate) fn new(offset: Offset, entry: &EntryRef<'_>) -> Self {
        let index = u32::try_from(entry.bytes().len()).unwrap_or(u32::MAX);
        Self { offset, bytes: index.saturating_add(entry.body_len), damaged: false }
    }
}

/// Why one message is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadPurpose {
    /// To become a dead letter of this subscription.
    DeadLetter {
        /// Whose message it is.
        subscription: SubscriptionId,
        /// Where it is.
        offset: Offset,
    },
    /// To go back from the dead letter topic to where it came from.
    Redrive {
        /// The dead letter topic's partition.
        partition: PartitionId,
        /// Where it is in there.
        offset: Offset,
    },
}

/// Room for publishes. Settlements have a reserve of their own and are never refused for space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The largest frame that the journal takes, in bytes.
    pub frame_bytes_max: u64,
    /// Bytes that publishes may still take on the disk, all reserves deducted.
    pub disk_bytes: u64,
    /// Bytes that publishes may still take in the journal before the checkpointer has caught up.
    pub ring_bytes: u64,
}
