//! The identifiers and counters that cross crates, each a type of its own.
//!
//! Only the operations that make sense exist: an offset plus a count is an
//! offset, two offsets have a distance, an epoch has a next one. All are
//! little-endian integers on disk and on the wire; see `codec`.

use crate::id_map::Id;
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);
            /// The largest value.
            pub const MAX: Self = Self(<$int>::MAX);

            /// The value after this one; stays at [`Self::MAX`] rather than wrapping.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Ids that are counted up.
macro_rules! counted {
    ($($name:ident)*) => {$(
        impl Id for $name {
            fn number(self) -> u32 {
                self.0
            }

            fn from_number(number: u32) -> Self {
                Self(number)
            }
        }
    )*};
}

counted! { TopicId PartitionId SubscriptionId }

number! {
    /// A topic, numbered by the broker at creation and never reused.
    TopicId(u32)
}
number! {
    /// A partition, numbered broker-wide at creation and never reused.
    PartitionId(u32)
}
number! {
    /// A subscription, numbered broker-wide at creation and never reused.
    SubscriptionId(u32)
}
number! {
    /// A consumer, numbered by its client and unique within one connection.
    ConsumerId(u32)
}
number! {
    /// Pairs a reply with its request within one connection; 0 asks for no reply.
    CorrelationId(u32)
}
number! {
    /// A message's place in its partition: ascending, dense within an epoch, never reused.
    Offset(u64)
}
number! {
    /// A producer, numbered by the broker when it is opened and never reused.
    ProducerId(u64)
}
number! {
    /// One incarnation of a producer; a newer one fences the older ones.
    ProducerEpoch(u32)
}
number! {
    /// A producer's own number of a publish, ascending within the producer; 0 means "none yet".
    Sequence(u64)
}
number! {
    /// One higher at each start of a shard, durable before the listener opens.
    StartEpoch(u32)
}
number! {
    /// How often a message has failed so far; 0 on the first hand-out.
    Attempt(u32)
}
number! {
    /// Wall-clock milliseconds since 1970-01-01 UTC. Stored, and may jump; 0 means "not set".
    Timestamp(u64)
}
number! {
    /// A journal frame's number: dense, ascending, 0 means "before the first".
    LogIndex(u64)
}

impl Offset {
    /// The offset `count` places further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many places `self` lies after `earlier`; 0 if it lies before.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Timestamp {
    /// This moment `millis` milliseconds later.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// A token that rises with every hand-out of a message.
///
/// Ordered by start epoch first, so that a fence given out after a restart is
/// above every fence given out before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// The start of the shard that gave it out.
    pub epoch: StartEpoch,
    /// Ascending within the start epoch.
    pub counter: u64,
}

impl Fence {
    /// The fence `count` hand-outs later in the same start epoch.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self { epoch: self.epoch, counter: self.counter.saturating_add(count) }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// A message's identity, chosen by its sender and kept end to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
