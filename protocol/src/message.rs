//! The messages that peers exchange: requests from the client, replies and pushes from the broker.
//!
//! Each is a struct whose fields are the head of its frame in their order. Four
//! carry a tail: [`Publish`] a batch, [`Commit`] batches one after another, [`Deliver`] and
//! [`Fetched`] slices of batches, which [`Deliver::parts`] and [`Fetched::parts`] take apart.

mod commit;
mod producer;

pub use commit::{Commit, CommitPublish, Committed, CommittedPublish, Operation, RefusedAt};
pub use producer::{
    ProducerDescribe, ProducerInfo, ProducerInfos, ProducerList, ProducerOpen, ProducerOpened,
    ProducerRetire,
};

use crate::name::Name;
use crate::settings::{Durability, Mode, Position, SubscriptionSettings, TopicSettings};
use crate::{
    Attempt, ConsumerId, DecodeError, Fence, Offset, PartitionId, ProducerEpoch, ProducerId,
    Sequence, StartEpoch, SubscriptionId, Timestamp, TopicId, limits, wire_choice, wire_struct,
};

/// `PHST`, little-endian: the first field of the first frame.
pub const HELLO_MAGIC: u32 = u32::from_le_bytes(*b"PHST");
/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;
/// Delay of a nack that asks for the subscription's backoff.
pub const BACKOFF: u64 = u64::MAX;

wire_struct! {
    /// The first frame of a connection.
    pub struct Hello {
        /// [`HELLO_MAGIC`].
        pub magic: u32,
        /// Lowest version that the client speaks.
        pub version_min: u16,
        /// Highest version that the client speaks.
        pub version_max: u16,
        /// Optional abilities, a bit each; none are defined.
        pub features: u64,
        /// The client's name, for logs.
        pub client: String,
        /// Room for credentials; empty.
        pub credentials: Vec<u8>,
    }

    /// Makes a topic. The same name with the same settings is no error.
    pub struct TopicCreate {
        /// Its name.
        pub topic: Name,
        /// Its settings.
        pub settings: TopicSettings,
    }

    /// Replaces a topic's settings.
    pub struct TopicAlter {
        /// Its name.
        pub topic: Name,
        /// Its settings from now on.
        pub settings: TopicSettings,
    }

    /// Forgets all messages that a topic has now.
    pub struct TopicPurge {
        /// Its name.
        pub topic: Name,
    }

    /// Deletes a topic with its messages and subscriptions.
    pub struct TopicDelete {
        /// Its name.
        pub topic: Name,
    }

    /// Asks for a topic's id, settings and state.
    pub struct TopicDescribe {
        /// Its name.
        pub topic: Name,
    }

    /// Asks for topics in the order of their names.
    pub struct TopicList {
        /// Start after this name.
        pub after: Option<Name>,
        /// At most so many.
        pub limit: u32,
    }

    /// Makes a subscription. The same name with the same settings is no error.
    pub struct SubscriptionCreate {
        /// The topic.
        pub topic: Name,
        /// Its name within the topic.
        pub subscription: Name,
        /// Its settings.
        pub settings: SubscriptionSettings,
        /// The first message it gets.
        pub start: Position,
    }

    /// Deletes a subscription.
    pub struct SubscriptionDelete {
        /// The topic.
        pub topic: Name,
        /// Its name within the topic.
        pub subscription: Name,
    }

    /// Asks for a subscription's id, settings and state.
    pub struct SubscriptionDescribe {
        /// The topic.
        pub topic: Name,
        /// Its name within the topic.
        pub subscription: Name,
    }

    /// Asks for the subscriptions of a topic in the order of their names.
    pub struct SubscriptionList {
        /// The topic.
        pub topic: Name,
        /// Start after this name.
        pub after: Option<Name>,
        /// At most so many.
        pub limit: u32,
    }

    /// Publishes the batch in the tail.
    pub struct Publish {
        /// The topic.
        pub topic: TopicId,
        /// The sender.
        pub producer: ProducerId,
        /// The sender's epoch.
        pub epoch: ProducerEpoch,
        /// This publish's number, above `prev`.
        pub sequence: Sequence,
        /// The number of the sender's publish before this one.
        pub prev: Sequence,
    }

    /// Starts a consumer. It gets nothing before it grants credit.
    pub struct Subscribe {
        /// The client's number for the consumer.
        pub consumer: ConsumerId,
        /// The topic.
        pub topic: Name,
        /// The subscription, in queue mode.
        pub subscription: Name,
    }

    /// Grants credit and tells what the application has taken. All three are totals since
    /// [`Subscribe`], so that a repeat changes nothing. Has no reply.
    pub struct Credit {
        /// The consumer.
        pub consumer: ConsumerId,
        /// Messages that the broker may have sent in all.
        pub messages: u64,
        /// Body and index bytes that the broker may have sent in all.
        pub bytes: u64,
        /// Deliveries that the application has taken in all, in the order in which they were sent.
        pub taken: u64,
    }

    /// Ends a consumer. What it was sent and has not settled is given back, uncounted.
    pub struct Unsubscribe {
        /// The consumer.
        pub consumer: ConsumerId,
    }

    /// Settles deliveries. Works without a consumer, on any connection, while the fence is the
    /// highest that was handed out for the message.
    pub struct Settle {
        /// The subscription.
        pub subscription: SubscriptionId,
        /// What became of them.
        pub verdict: Verdict,
        /// For [`Verdict::Nack`]: milliseconds until the next hand-out, or [`BACKOFF`].
        pub delay_ms: u64,
        /// For [`Verdict::Nack`] and [`Verdict::Reject`]: why, for the dead letter.
        pub reason: String,
        /// Which; at most [`limits::SETTLE_DELIVERIES_MAX`] in all.
        pub deliveries: Vec<DeliveryRun>,
    }
    where check_settle;

    /// Prolongs leases, counted from now.
    pub struct Extend {
        /// The subscription.
        pub subscription: SubscriptionId,
        /// Milliseconds from now.
        pub lease_ms: u64,
        /// Which; at most [`limits::SETTLE_DELIVERIES_MAX`] in all.
        pub deliveries: Vec<DeliveryRun>,
    }
    where check_extend;

    /// Consecutive offsets that were handed out with consecutive fences.
    pub struct DeliveryRun {
        /// The first offset.
        pub first: Offset,
        /// The first one's fence; the others' counters follow it.
        pub fence: Fence,
        /// How many; at least 1.
        pub count: u32,
    }
    where check_run;

    /// Reads without consuming.
    pub struct Fetch {
        /// The topic.
        pub topic: TopicId,
        /// From where. An offset beyond the end is answered at once, with an `end` below it.
        pub from: Position,
        /// Roughly how many bytes at most; at least one message is sent if there is one.
        pub bytes_max: u32,
        /// How many messages at most.
        pub messages_max: u32,
        /// Milliseconds to wait for a message if there is none.
        pub wait_ms: u32,
    }

    /// Saves a stream subscription's cursor: everything below `offset` is settled.
    pub struct CursorSave {
        /// The subscription.
        pub subscription: SubscriptionId,
        /// The next offset to read.
        pub offset: Offset,
    }

    /// Gives dead letters back to the subscription that they came from.
    pub struct DeadRedrive {
        /// The topic.
        pub topic: Name,
        /// The subscription.
        pub subscription: Name,
        /// At most so many, oldest first.
        pub limit: u32,
    }

    /// Proves that the peer is alive. Has no reply.
    pub struct Heartbeat {}

    /// The answer to [`Hello`].
    pub struct Welcome {
        /// The version spoken from now on.
        pub version: u16,
        /// Abilities agreed on.
        pub features: u64,
        /// The broker's name and version, for logs.
        pub broker: String,
        /// The shard's start epoch.
        pub start_epoch: StartEpoch,
        /// Largest message body that the broker takes, whatever a topic allows.
        pub message_bytes_max: u32,
        /// Largest batch that the broker takes, a batch of one message excepted.
        pub batch_bytes_max: u32,
        /// Addresses at which brokers can be reached; empty for "this one".
        pub addresses: Vec<String>,
    }

    /// A refusal.
    pub struct Refused {
        /// The number of an [`ErrorCode`](crate::ErrorCode).
        pub code: u16,
        /// Milliseconds after which to try again; 0 for no advice.
        pub retry_after_ms: u32,
        /// What is wrong and what to do.
        pub text: String,
        /// With `NOT_LEADER`: the leader's address, if known.
        pub leader: String,
        /// With `NOT_LEADER`: the leader's term.
        pub leader_epoch: u32,
        /// What of the request is at fault; `None` if it is not one part of it.
        pub at: Option<RefusedAt>,
    }

    /// The request was carried out and has nothing to tell.
    pub struct Done {}

    /// The answer to [`TopicCreate`], [`TopicAlter`] and [`TopicDescribe`].
    pub struct TopicInfo {
        /// Its id.
        pub id: TopicId,
        /// Its name.
        pub topic: Name,
        /// Its partition.
        pub partition: PartitionId,
        /// Its settings.
        pub settings: TopicSettings,
        /// First offset still there.
        pub start: Offset,
        /// Offset that the next message gets.
        pub end: Offset,
        /// Messages kept.
        pub messages: u64,
        /// Bytes of batches between start and end.
        pub bytes: u64,
        /// When the oldest kept message arrived; zero if there is none.
        pub oldest_at: Timestamp,
        /// How many subscriptions it has.
        pub subscriptions: u32,
        /// Delayed messages that wait; they are not among the messages kept.
        pub waiting: u64,
        /// When the first of these is due; zero if there is none.
        pub next_due_at: Timestamp,
    }

    /// The answer to [`TopicList`].
    pub struct TopicNames {
        /// Names in order.
        pub topics: Vec<Name>,
    }

    /// The answer to [`SubscriptionCreate`] and [`SubscriptionDescribe`].
    pub struct SubscriptionInfo {
        /// Its id.
        pub id: SubscriptionId,
        /// Its topic's id.
        pub topic: TopicId,
        /// Its name.
        pub subscription: Name,
        /// Its settings.
        pub settings: SubscriptionSettings,
        /// Everything below is settled.
        pub ack_floor: Offset,
        /// Messages not settled.
        pub backlog: u64,
        /// Messages under a lease.
        pub in_flight: u64,
        /// Messages that wait for their backoff to end.
        pub delayed: u64,
        /// Messages in the dead letter topic.
        pub dead: u64,
        /// Consumers connected.
        pub consumers: u32,
        /// When the oldest message not settled arrived; zero if there is none.
        pub oldest_at: Timestamp,
    }

    /// The answer to [`SubscriptionList`].
    pub struct SubscriptionNames {
        /// Names in order.
        pub subscriptions: Vec<Name>,
    }

    /// The answer to [`Publish`].
    pub struct Receipt {
        /// The first message's offset; `None` for delayed messages, and for a repeat too old to know it.
        pub base: Option<Offset>,
        /// How many messages the batch has.
        pub count: u32,
        /// What was reached.
        pub durability: Durability,
        /// Whether this repeats a publish that was accepted before.
        pub duplicate: bool,
    }

    /// The answer to [`Subscribe`].
    pub struct Subscribed {
        /// The subscription.
        pub subscription: SubscriptionId,
        /// The topic.
        pub topic: TopicId,
        /// Length of a lease, in milliseconds.
        pub lease_ms: u64,
        /// Longest that a lease can be extended to in all, in milliseconds.
        pub lease_ms_max: u64,
    }

    /// The answer to [`Settle`] and [`Extend`].
    pub struct Settled {
        /// Deliveries refused; all others are accepted.
        pub refused: Vec<RefusedRun>,
    }

    /// Deliveries that a settlement or extension was refused for.
    pub struct RefusedRun {
        /// The first offset.
        pub first: Offset,
        /// How many; at least 1.
        pub count: u32,
        /// The number of an [`ErrorCode`](crate::ErrorCode).
        pub code: u16,
    }
    where check_refused_run;

    /// The answer to [`Fetch`]. The tail holds the slices' entries and bodies, one after another.
    pub struct Fetched {
        /// Read on from here.
        pub next: Offset,
        /// End of what was visible.
        pub end: Offset,
        /// If set, what lies from here up to `next` is damaged where the broker keeps it, and left out;
        /// there are no slices then.
        pub damaged_from: Option<Offset>,
        /// Parts of batches in the order of their offsets.
        pub slices: Vec<Slice>,
    }

    /// Consecutive messages of one batch: in the tail, index entries and then bodies.
    pub struct Slice {
        /// The first offset.
        pub first: Offset,
        /// How many messages; at least 1.
        pub count: u32,
        /// Bytes of index entries.
        pub index_len: u32,
        /// Bytes of bodies.
        pub bodies_len: u32,
    }
    where check_slice;

    /// A push: messages for a consumer. The tail holds the slices' entries and bodies, one after another.
    pub struct Deliver {
        /// The consumer.
        pub consumer: ConsumerId,
        /// Everything below is settled in this subscription.
        pub ack_floor: Offset,
        /// Start epoch of all the fences.
        pub fence_epoch: StartEpoch,
        /// Parts of batches.
        pub slices: Vec<DeliverySlice>,
    }

    /// Consecutive messages of one batch with consecutive fences and the same attempt.
    pub struct DeliverySlice {
        /// The messages.
        pub slice: Slice,
        /// Counter of the first one's fence; the others' follow it.
        pub fence_counter: u64,
        /// How often each has failed before.
        pub attempt: Attempt,
    }
    where check_delivery_slice;

    /// A push: a consumer was ended by the broker.
    pub struct ConsumerEnded {
        /// The consumer.
        pub consumer: ConsumerId,
        /// The number of an [`ErrorCode`](crate::ErrorCode).
        pub code: u16,
        /// Why.
        pub text: String,
    }

    /// A push: the broker is going to close the connection.
    pub struct Goodbye {
        /// The number of an [`ErrorCode`](crate::ErrorCode).
        pub code: u16,
        /// Why.
        pub text: String,
    }

    /// The answer to [`DeadRedrive`].
    pub struct Redriven {
        /// How many messages were given back.
        pub count: u32,
    }
}

wire_choice! {
    /// What became of a delivery.
    pub enum Verdict {
        /// Done: never delivered again.
        Ack = 1,
        /// Failed: counted, and handed out again later.
        Nack = 2,
        /// Given back: not counted, handed out again at once.
        Release = 3,
        /// Cannot be done: to the dead letter topic now.
        Reject = 4,
    }
}

/// Refuses an empty run and one that goes beyond the last number.
fn check_numbers(first: u64, count: u32, field: &'static str) -> Result<(), DecodeError> {
    if count == 0 || first.checked_add(u64::from(count)).is_none() {
        return Err(DecodeError::Invalid { field, found: u64::from(count) });
    }
    Ok(())
}

fn check_run(run: &DeliveryRun) -> Result<(), DecodeError> {
    check_numbers(run.first.0, run.count, "DeliveryRun.count")?;
    check_numbers(run.fence.counter, run.count, "DeliveryRun.count")
}

fn check_refused_run(run: &RefusedRun) -> Result<(), DecodeError> {
    check_numbers(run.first.0, run.count, "RefusedRun.count")
}

fn check_slice(slice: &Slice) -> Result<(), DecodeError> {
    check_numbers(slice.first.0, slice.count, "Slice.count")
}

fn check_delivery_slice(slice: &DeliverySlice) -> Result<(), DecodeError> {
    check_numbers(slice.fence_counter, slice.slice.count, "DeliverySlice.fence_counter")
}

fn check_settle(settle: &Settle) -> Result<(), DecodeError> {
    check_deliveries(&settle.deliveries, "Settle.deliveries")
}

fn check_extend(extend: &Extend) -> Result<(), DecodeError> {
    check_deliveries(&extend.deliveries, "Extend.deliveries")
}

fn check_deliveries(runs: &[DeliveryRun], field: &'static str) -> Result<(), DecodeError> {
    let found = runs.iter().map(|run| u64::from(run.count)).sum();
    let limit = u64::from(limits::SETTLE_DELIVERIES_MAX);
    if found <= limit { Ok(()) } else { Err(DecodeError::TooLarge { field, found, limit }) }
}

/// What the broker calls the settled mode of a subscription in texts.
#[must_use]
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Queue => "queue",
        Mode::Stream => "stream",
    }
}

macro_rules! exchange {
    ($(#[$doc:meta])* $name:ident, tail: [$($tailed:ident),*] { $($variant:ident = $kind:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("See [`", stringify!($variant), "`](struct@", stringify!($variant), ").")]
            $variant($variant),)*
        }

        impl $name {
            /// The kinds and names, for documents and tests.
            pub const KINDS: &[(u16, &'static str)] = &[$(($kind, stringify!($variant)),)*];

            /// The number in the frame.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// Appends the fields.
            pub fn encode<S: crate::codec::Sink>(&self, out: &mut S) {
                match self { $(Self::$variant(message) => crate::wire::Wire::encode(message, out),)* }
            }

            /// Decodes the head of a frame of this `kind`.
            ///
            /// # Errors
            ///
            /// [`DecodeError`](crate::DecodeError): unknown kind, or a field that is wrong.
            pub fn decode(kind: u16, head: &[u8]) -> Result<Self, crate::DecodeError> {
                let mut source = crate::codec::Source::new(head);
                let message = match kind {
                    $($kind => Self::$variant(crate::wire::Wire::decode(&mut source, stringify!($variant))?),)*
                    found => return Err(crate::DecodeError::Invalid { field: "frame.kind", found: u64::from(found) }),
                };
                source.end()?;
                Ok(message)
            }

            /// Decodes a frame, whose tail must be empty unless [`Self::has_tail`].
            ///
            /// # Errors
            ///
            /// Like [`Self::decode`]; [`DecodeError::Trailing`](crate::DecodeError::Trailing) for a tail
            /// that does not belong there.
            pub fn decode_frame(frame: &crate::frame::Frame) -> Result<Self, crate::DecodeError> {
                let message = Self::decode(frame.kind, &frame.head)?;
                if frame.tail.is_empty() || message.has_tail() {
                    return Ok(message);
                }
                Err(crate::DecodeError::Trailing { bytes: frame.tail.len() })
            }

            /// Whether its frame carries a tail.
            #[must_use]
            pub const fn has_tail(&self) -> bool {
                matches!(self, $(Self::$tailed(_))|*)
            }
        }

        $(impl From<$variant> for $name {
            fn from(message: $variant) -> Self {
                Self::$variant(message)
            }
        })*
    };
}

exchange! {
    /// What a client sends.
    Request, tail: [Publish, Commit] {
        Hello = 1,
        Heartbeat = 2,
        TopicCreate = 16,
        TopicAlter = 17,
        TopicPurge = 18,
        TopicDelete = 19,
        TopicDescribe = 20,
        TopicList = 21,
        SubscriptionCreate = 24,
        SubscriptionDelete = 25,
        SubscriptionDescribe = 26,
        SubscriptionList = 27,
        DeadRedrive = 28,
        ProducerOpen = 32,
        Publish = 33,
        Commit = 34,
        ProducerDescribe = 35,
        ProducerList = 36,
        ProducerRetire = 37,
        Subscribe = 40,
        Credit = 41,
        Unsubscribe = 42,
        Settle = 43,
        Extend = 44,
        Fetch = 48,
        CursorSave = 49,
    }
}

mod from_broker {
    //! The replies share some names with requests, so their enum has a module of its own.
    use super::{
        Committed, ConsumerEnded, Deliver, Done, Fetched, Goodbye, Heartbeat, ProducerInfo,
        ProducerInfos, ProducerOpened, Receipt, Redriven, Refused, Settled, Subscribed,
        SubscriptionInfo, SubscriptionNames, TopicInfo, TopicNames, Welcome,
    };

    exchange! {
        /// What a broker sends.
        Reply, tail: [Deliver, Fetched] {
            Welcome = 129,
            Heartbeat = 130,
            Refused = 131,
            Done = 132,
            Goodbye = 133,
            TopicInfo = 144,
            TopicNames = 145,
            SubscriptionInfo = 152,
            SubscriptionNames = 153,
            Redriven = 154,
            ProducerOpened = 160,
            Receipt = 161,
            Committed = 162,
            ProducerInfo = 163,
            ProducerInfos = 164,
            Subscribed = 168,
            Deliver = 169,
            ConsumerEnded = 170,
            Settled = 171,
            Fetched = 176,
        }
    }
}

pub use from_broker::Reply;
