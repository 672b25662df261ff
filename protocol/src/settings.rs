//! What a topic and a subscription can be told, with the defaults.

use crate::limits;
use crate::wire::Wire;
use crate::{Offset, Timestamp, codec, wire_choice, wire_struct};

wire_choice! {
    /// What a reply waits for, and the least that readers may see.
    pub enum Durability {
        /// On disk: an `fdatasync` that covers it has returned.
        Synced = 1,
        /// In the page cache: survives the broker's death, not the machine's.
        Written = 2,
    }

    /// When a topic forgets messages.
    pub enum Retention {
        /// When every subscription has settled them; within the limits while there is none.
        Settled = 1,
        /// By the limits alone.
        Limits = 2,
    }

    /// What happens to a publish that would exceed a topic's limits.
    pub enum Overflow {
        /// It is refused with `STORAGE_FULL`.
        Refuse = 1,
        /// The oldest messages make room.
        DropOldest = 2,
    }

    /// How a subscription reads.
    pub enum Mode {
        /// Competing consumers; each message is settled.
        Queue = 1,
        /// A cursor that is saved.
        Stream = 2,
    }

    /// In which order a queue subscription hands out.
    pub enum Order {
        /// By offset; a message that waits does not hold up those behind it.
        Offset = 1,
        /// One in flight per key. Refused until built.
        Key = 2,
    }
}

wire_struct! {
    /// Settings of a topic; all can be altered later.
    pub struct TopicSettings {
        /// What a publish waits for.
        pub durability: Durability,
        /// When messages are forgotten.
        pub retention: Retention,
        /// What happens at a limit.
        pub overflow: Overflow,
        /// Milliseconds after which messages are forgotten; 0 for no limit.
        pub age_ms_max: u64,
        /// Bytes of messages kept; 0 for no limit.
        pub bytes_max: u64,
        /// Messages kept; 0 for no limit.
        pub messages_max: u64,
        /// Largest body, in bytes.
        pub message_bytes_max: u32,
    }

    /// Settings of a subscription.
    pub struct SubscriptionSettings {
        /// Queue or stream.
        pub mode: Mode,
        /// Order of hand-outs.
        pub order: Order,
        /// Length of a lease, in milliseconds.
        pub lease_ms: u64,
        /// Longest that a lease can be extended to in all, in milliseconds.
        pub lease_ms_max: u64,
        /// Failures after which a message goes to the dead letter topic.
        pub attempts_max: u32,
        /// Wait after the first failure, in milliseconds; doubles with each further one.
        pub backoff_ms_first: u64,
        /// Longest wait after a failure, in milliseconds.
        pub backoff_ms_max: u64,
        /// Whether messages out of attempts are kept in `<topic>.<subscription>.dead`.
        pub dead_letter: bool,
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            retention: Retention::Settled,
            overflow: Overflow::Refuse,
            age_ms_max: 0,
            bytes_max: 0,
            messages_max: 0,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
        }
    }
}

impl Default for SubscriptionSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Queue,
            order: Order::Offset,
            lease_ms: 30_000,
            lease_ms_max: 600_000,
            attempts_max: 10,
            backoff_ms_first: 1_000,
            backoff_ms_max: 300_000,
            dead_letter: true,
        }
    }
}

/// A place in a topic to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first message still there.
    Earliest,
    /// After the last message visible now.
    Latest,
    /// This offset, or the next one still there.
    Offset(Offset),
    /// The first message that arrived at this time or later.
    Time(Timestamp),
}

impl Wire for Position {
    const LEN_MIN: usize = 9;
    fn encode<S: codec::Sink>(&self, out: &mut S) {
        let (number, value) = match self {
            Self::Earliest => (1, 0),
            Self::Latest => (2, 0),
            Self::Offset(offset) => (3, offset.0),
            Self::Time(at) => (4, at.0),
        };
        out.put_u8(number);
        out.put_u64(value);
    }
    fn decode(
        source: &mut codec::Source<'_>,
        field: &'static str,
    ) -> Result<Self, crate::DecodeError> {
        match (source.u8(field)?, source.u64(field)?) {
            (1, 0) => Ok(Self::Earliest),
            (2, 0) => Ok(Self::Latest),
            (3, offset) => Ok(Self::Offset(Offset(offset))),
            (4, at) => Ok(Self::Time(Timestamp(at))),
            (found, _) => Err(crate::DecodeError::Invalid { field, found: u64::from(found) }),
        }
    }
}
