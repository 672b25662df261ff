//! What a test recorded: facts that clients saw, and what was done to the broker.
//!
//! One event is one JSON line. Events may stand in any order; only their times count. All times
//! are of one monotonic clock of one host. An operation spans `t0` (before the request was sent)
//! to `t1` (after the answer was there, or the client gave up). Broker-side traces do not belong
//! here: the judge believes clients only.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A topic of the run.
    Topic(Topic),
    /// A subscription of the run.
    Subscription(Subscription),
    /// A message was published, or the attempt was made.
    Publish(Publish),
    /// The application took a delivery.
    Deliver(Deliver),
    /// A delivery was settled, or the attempt was made.
    Settle(Settle),
    /// A lease was prolonged, or the attempt was made.
    Extend(Extend),
    /// A consumer came or went.
    Consumer(Consumer),
    /// A range of a topic was read without consuming.
    Fetch(Fetch),
    /// A stream subscription's cursor was saved or looked at.
    Cursor(Cursor),
    /// Dead letters were given back to their subscription, or the attempt was made.
    Redrive(Redrive),
    /// Messages may be gone for a reason other than settlement.
    Released(Released),
    /// The broker started or ended.
    Broker(Broker),
    /// The broker's wall clock was set.
    Clock(Clock),
    /// The last look at a topic or subscription begins.
    Final(Final),
}

impl Event {
    /// When it was over; zero for a declaration.
    #[must_use]
    pub const fn end(&self) -> Time {
        match self {
            Self::Topic(_) | Self::Subscription(_) => Time::ZERO,
            Self::Publish(publish) => publish.t1,
            Self::Deliver(deliver) => deliver.t,
            Self::Settle(settle) => settle.t1,
            Self::Extend(extend) => extend.t1,
            Self::Consumer(consumer) => consumer.t1,
            Self::Fetch(fetch) => fetch.t1,
            Self::Cursor(cursor) => cursor.t1,
            Self::Redrive(redrive) => redrive.t1,
            Self::Released(released) => released.t0,
            Self::Broker(broker) => broker.t1,
            Self::Clock(clock) => clock.t,
            Self::Final(look) => look.t,
        }
    }
}

/// Nanoseconds since any moment that is the same for all events of a history.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// Before everything.
    pub const ZERO: Self = Self(0);
    /// After everything.
    pub const MAX: Self = Self(u64::MAX);

    /// This moment `millis` milliseconds later.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }
}

/// A message's identity; 32 hexadecimal digits in JSON.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct MessageId(pub u128);

impl From<[u8; 16]> for MessageId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for MessageId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The token of one hand-out; `[epoch, counter]` in JSON.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "(u32, u64)", into = "(u32, u64)")]
pub struct Fence {
    /// Start epoch of the broker that gave it out.
    pub epoch: u32,
    /// Ascending within the start epoch.
    pub counter: u64,
}

impl From<(u32, u64)> for Fence {
    fn from((epoch, counter): (u32, u64)) -> Self {
        Self { epoch, counter }
    }
}

impl From<Fence> for (u32, u64) {
    fn from(fence: Fence) -> Self {
        (fence.epoch, fence.counter)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// What an answered publish reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk: survives power loss.
    #[default]
    Synced,
    /// In the page cache: survives the broker's death.
    Written,
}

/// A topic of the run. A topic that no such event declares counts as synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub topic: String,
    /// What its publishes and settlements wait for.
    #[serde(default)]
    pub durability: Durability,
}

/// A subscription of the run.
///
/// Declare every one that a topic has: a message may leave a topic only when all its declared
/// subscriptions may have settled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Its name within the topic.
    pub subscription: String,
    /// Queue or stream.
    pub mode: Mode,
    /// The first offset that it gets.
    #[serde(default)]
    pub start: u64,
    /// Failures after which a message is dead-lettered; 0 if no message of the run has so many.
    #[serde(default)]
    pub attempts_max: u32,
    /// Whether a delivery may lie in a client's buffer until its lease runs out, without being taken
    /// and recorded. Such hand-outs count as failures that nobody saw, so that rules about attempts
    /// and dead letters find less.
    #[serde(default)]
    pub untaken_may_expire: bool,
    /// Longest lease in all, counted from the hand-out; 0 if unknown.
    #[serde(default)]
    pub lease_ms_max: u64,
    /// Where its dead letters go; absent if they are not kept or not all read in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_topic: Option<String>,
}

/// How a subscription reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Competing consumers, each message settled.
    Queue,
    /// A cursor that is saved.
    Stream,
}

/// A publish of one message; a batch is as many events as it has messages.
///
/// Tries that the client repeats under the same sequence may be one event or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Before the first byte was sent.
    pub t0: Time,
    /// When the outcome was known.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// The message.
    pub id: MessageId,
    /// CRC-32 of the body.
    pub crc: u32,
    /// The idempotent producer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// When it is due, if it was to be delayed: milliseconds of the broker's wall clock, see
    /// [`Clock`]. Such a message has no place in the order of its producer or its batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// What the client was told.
    pub outcome: PublishOutcome,
}

/// Which publish of which producer; all messages of one batch have the first two in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// The producer's id.
    pub producer: u64,
    /// The publish's sequence.
    pub sequence: u64,
    /// The message's place in the batch, from 0.
    #[serde(default)]
    pub position: u32,
}

/// What became of a publish, as its client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishOutcome {
    /// A receipt came.
    Ok {
        /// This message's offset (the receipt's base plus the place in the batch).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// What was reached.
        #[serde(default)]
        durability: Durability,
        /// Whether the broker called it a repeat.
        #[serde(default)]
        duplicate: bool,
    },
    /// A definite error: not stored, never will be. The code's name.
    Failed(String),
    /// Anything else: an unknown error, a timeout, a lost connection, the client's death.
    Unknown,
}

/// A delivery, recorded when the application takes it and before anything is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliver {
    /// When it was taken.
    pub t: Time,
    /// A moment before which the broker cannot have handed it out, such as when the credit that it
    /// used was granted. Optional; the better it is, the sharper the rules about leases are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Time>,
    /// The topic.
    pub topic: String,
    /// The subscription.
    pub subscription: String,
    /// The consumer.
    pub consumer: u64,
    /// The message's offset.
    pub offset: u64,
    /// The message.
    pub id: MessageId,
    /// CRC-32 of the body.
    pub crc: u32,
    /// Failures counted before this hand-out, as on the wire: 0 on the first.
    pub attempt: u32,
    /// The hand-out's token.
    pub fence: Fence,
    /// Length of the lease.
    pub lease_ms: u64,
}

/// A settlement of one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// Before it was sent.
    pub t0: Time,
    /// When the outcome was known.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// The subscription.
    pub subscription: String,
    /// The message's offset.
    pub offset: u64,
    /// The delivery's token.
    pub fence: Fence,
    /// What the application wanted.
    pub verdict: Verdict,
    /// What the client was told.
    pub outcome: Outcome,
}

/// What the application wanted to become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Done.
    Ack,
    /// Failed: counted, delivered again.
    Nack,
    /// Given back: not counted.
    Release,
    /// To the dead letters now.
    Reject,
}

/// What a client was told about an operation other than a publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Ok,
    /// A definite error; the code's name. For a settlement also: this delivery was refused.
    Refused(String),
    /// Anything else.
    Unknown,
}

/// A prolonged lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// Before it was sent.
    pub t0: Time,
    /// When the outcome was known.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// The subscription.
    pub subscription: String,
    /// The message's offset.
    pub offset: u64,
    /// The delivery's token.
    pub fence: Fence,
    /// Length from the moment of the extension.
    pub lease_ms: u64,
    /// What the client was told.
    pub outcome: Outcome,
}

/// A consumer came or went. A number is used once in a history: opening again takes a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// Not before. For [`ConsumerChange::Lost`]: when the connection surely lived
    /// last, which the arrival of an answer does not show.
    pub t0: Time,
    /// Not after.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// The subscription.
    pub subscription: String,
    /// The consumer.
    pub consumer: u64,
    /// What happened.
    pub change: ConsumerChange,
}

/// What happened to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerChange {
    /// It subscribed.
    Opened,
    /// It unsubscribed in good order, or the broker ended it.
    Closed,
    /// Its connection was lost; the process that records lives on.
    Lost,
    /// Its process died, perhaps with deliveries that it took and did not record.
    Crashed,
}

/// A successful read of part of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// Before it was sent.
    pub t0: Time,
    /// When the answer was there.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// First offset asked for; 0 for the earliest.
    pub from: u64,
    /// The answer's `next`: what lies between and was not sent is claimed not to be there.
    pub next: u64,
    /// What was sent.
    pub messages: Vec<Seen>,
}

/// A message as it was read; `[offset, id, crc]` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, MessageId, u32)", into = "(u64, MessageId, u32)")]
pub struct Seen {
    /// Its offset.
    pub offset: u64,
    /// The message.
    pub id: MessageId,
    /// CRC-32 of the body.
    pub crc: u32,
}

impl From<(u64, MessageId, u32)> for Seen {
    fn from((offset, id, crc): (u64, MessageId, u32)) -> Self {
        Self { offset, id, crc }
    }
}

impl From<Seen> for (u64, MessageId, u32) {
    fn from(seen: Seen) -> Self {
        (seen.offset, seen.id, seen.crc)
    }
}

/// A stream subscription's cursor was saved or looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Before it was sent.
    pub t0: Time,
    /// When the outcome was known.
    pub t1: Time,
    /// The topic.
    pub topic: String,
    /// The subscription.
    pub subscription: String,
    /// What was done.
    pub change: CursorChange,
    /// The next offset to read.
    pub offset: u64,
    /// What the client was told.
    pub outcome: Outcome,
}

/// What was done with a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CursorChange {
    /// It was set to the offset.
    Saved,
    /// It was found to be the offset.
    Loaded,
}

/// Dead letters were given back to the subscription that they came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    /// Before it was sent.
    pub t0: Time,
    /// When the outcome was known.
    pub t1: Time,
    /// The topic that the dead letters came from.
    pub topic: String,
    /// The subscription that they came from.
    pub subscription: String,
    /// What the client was told.
    pub outcome: Outcome,
}

/// A purge or a retention limit: everything below an offset may be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// From when on it may be gone.
    pub t0: Time,
    /// The topic.
    pub topic: String,
    /// The first offset that must still be there.
    pub below: u64,
}

/// The broker started or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Not before.
    pub t0: Time,
    /// Not after.
    pub t1: Time,
    /// What happened.
    pub change: BrokerChange,
}

/// What happened to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerChange {
    /// It served with this start epoch.
    Started {
        /// From its welcome.
        epoch: u32,
    },
    /// It was stopped in good order.
    Stopped,
    /// It died, by kill -9 or by itself; the page cache survived.
    Killed,
    /// It died and what was not synced is lost.
    PowerLost,
}

/// The broker's wall clock was set, and goes on from there until it is set again. It never goes
/// back in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// When.
    pub t: Time,
    /// What it shows then, in milliseconds.
    pub wall_ms: u64,
}

/// From `t` on, everything that is still there is read once more.
///
/// With a subscription: it is drained, until a consumer gets nothing more and the broker says that
/// the backlog is empty. Without: the topic is fetched from its start to its end. What was
/// acknowledged must turn up there, or be settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    /// When it begins; everything has been healed and restarted.
    pub t: Time,
    /// The topic.
    pub topic: String,
    /// The subscription, for a drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
}
