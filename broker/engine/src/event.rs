//! What happened: the facts that the journal keeps and from which the state is folded.
//!
//! Encoded one after another in a frame: kind u8, length u32, fields. The order of fields is the
//! order on disk; `docs/STORAGE_FORMAT.md` shows it and golden files keep it.

mod codec;

pub use codec::{decode_all, encode_all};

use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::settings::{SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    Attempt, Name, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, StartEpoch,
    SubscriptionId, Timestamp, TopicId, wire_struct,
};

wire_struct! {
    /// A shard started.
    pub struct Started {
        /// Higher than every one before.
        pub epoch: StartEpoch,
        /// Whether the stop before was clean. If not, every partition that ever was `written` skips
        /// 2^32 offsets, so that nothing given out before is given again.
        pub clean: bool,
        /// Not 0 if frames may have been lost that counted: then every partition skips so many times
        /// 2^32 offsets, and each kind of id so many times 2^20.
        pub skips: u32,
        /// How many lost frames the skips are for. Whatever else is lost before this, no start has
        /// known of yet.
        pub lost: u64,
    }

    /// A topic was made.
    pub struct TopicCreated {
        /// Never used before.
        pub id: TopicId,
        /// Its name.
        pub topic: Name,
        /// Its partition, never used before.
        pub partition: PartitionId,
        /// Its settings.
        pub settings: TopicSettings,
        /// For a dead letter topic: whose.
        pub dead_of: Option<SubscriptionId>,
    }

    /// A topic's settings were replaced.
    pub struct TopicAltered {
        /// Which.
        pub id: TopicId,
        /// From now on.
        pub settings: TopicSettings,
    }

    /// A topic forgot everything below an offset: purge, or retention by limits.
    pub struct TopicTrimmed {
        /// Which.
        pub id: TopicId,
        /// First offset kept.
        pub start: Offset,
    }

    /// A topic was deleted with its subscriptions.
    pub struct TopicDeleted {
        /// Which.
        pub id: TopicId,
    }

    /// A subscription was made.
    pub struct SubscriptionCreated {
        /// Never used before.
        pub id: SubscriptionId,
        /// Of this topic.
        pub topic: TopicId,
        /// Its name within the topic.
        pub subscription: Name,
        /// Its settings.
        pub settings: SubscriptionSettings,
        /// Everything below counts as settled.
        pub start: Offset,
    }

    /// A subscription was deleted.
    pub struct SubscriptionDeleted {
        /// Which.
        pub id: SubscriptionId,
    }

    /// A producer was opened, or a new epoch of it.
    pub struct ProducerOpened {
        /// Which.
        pub id: ProducerId,
        /// Its name, if it has one.
        pub name: Option<Name>,
        /// The epoch from now on.
        pub epoch: ProducerEpoch,
    }

    /// A producer was forgotten.
    pub struct ProducerForgotten {
        /// Which.
        pub id: ProducerId,
    }

    /// A batch was published. Its bytes are in the same frame.
    pub struct Published {
        /// Where.
        pub topic: TopicId,
        /// The first message's offset.
        pub base: Offset,
        /// How many messages.
        pub count: u32,
        /// Length of the batch.
        pub bytes: u32,
        /// Whether readers may see it when it is written: the topic was `written` at that moment, and
        /// so was everything else in its commit.
        pub written: bool,
        /// By whom; `None` for the broker itself (dead letters, redrive) and for a part of a commit,
        /// whose [`Committed`] is in the same frame.
        pub sender: Option<Sender>,
    }

    /// Who published, and as which one of its publishes.
    pub struct Sender {
        /// The producer.
        pub producer: ProducerId,
        /// Its number of this publish, which becomes its high-water mark.
        pub sequence: Sequence,
        /// The batch's header checksum: tells a repeat from a reuse of the number.
        pub digest: u32,
    }

    /// A batch of messages was accepted of which none is visible before it is due. Its bytes are in
    /// the same frame.
    pub struct Delayed {
        /// Where the messages will be published.
        pub topic: TopicId,
        /// The topic's waiting room; with its first batch a partition that was never used before.
        pub partition: PartitionId,
        /// The first message's offset in there.
        pub base: Offset,
        /// When each of them is due.
        pub due: Vec<Timestamp>,
        /// Whether it may be answered when it is written: as in [`Published`].
        pub written: bool,
        /// By whom; `None` for a part of a commit, whose [`Committed`] is in the same frame.
        pub sender: Option<Sender>,
    }

    /// Messages have left a waiting room: purged, damaged, or due, and then their `Published` is in
    /// the same frame.
    pub struct DelayEnded {
        /// Which waiting room.
        pub partition: PartitionId,
        /// Which messages.
        pub runs: Vec<OffsetRun>,
    }

    /// Messages were handed out.
    pub struct HandedOut {
        /// To a consumer of this subscription.
        pub subscription: SubscriptionId,
        /// Which, with their fences.
        pub runs: Vec<DeliveryRun>,
    }

    /// Messages are done with in one subscription: acked, expired, damaged, settled by redrive.
    pub struct Settled {
        /// Where.
        pub subscription: SubscriptionId,
        /// Which.
        pub runs: Vec<OffsetRun>,
    }

    /// A message failed and will be handed out again.
    pub struct Failed {
        /// Where.
        pub subscription: SubscriptionId,
        /// Which.
        pub offset: Offset,
        /// How often it has failed, this time included.
        pub attempt: Attempt,
        /// Not before.
        pub retry_at: Timestamp,
        /// Why, in the consumer's or the broker's words; kept for the dead letter.
        pub reason: String,
    }

    /// A message used up its attempts or was rejected. It is settled by this event; if a dead
    /// letter is kept, its `Published` is in the same frame.
    pub struct DeadLettered {
        /// Where.
        pub subscription: SubscriptionId,
        /// Which.
        pub offset: Offset,
    }

    /// A message was rejected, and waits to become a dead letter. Survives a restart, so that it
    /// is not handed out again.
    pub struct Rejected {
        /// Where.
        pub subscription: SubscriptionId,
        /// Which.
        pub offset: Offset,
        /// How often it has failed, this time included.
        pub attempt: Attempt,
        /// Why.
        pub reason: String,
    }

    /// A cursor was saved.
    pub struct CursorSaved {
        /// Of this subscription.
        pub subscription: SubscriptionId,
        /// Everything below is settled.
        pub offset: Offset,
    }

    /// A commit was accepted. All that it did is in the same frame, before this.
    pub struct Committed {
        /// The producer.
        pub producer: ProducerId,
        /// Its number of this commit, which becomes its high-water mark.
        pub sequence: Sequence,
        /// Over operations and batches: tells a repeat from a reuse of the number.
        pub digest: u32,
        /// Whether everything that it touched was `written` at that moment.
        pub written: bool,
        /// Where its batches went, in the order of the operations.
        pub published: Vec<Placed>,
    }

    /// Where one batch of a commit went.
    pub struct Placed {
        /// Which topic.
        pub topic: TopicId,
        /// The first message's offset; `None` if the messages wait until they are due.
        pub base: Option<Offset>,
        /// How many messages.
        pub count: u32,
    }

    /// Consecutive offsets.
    pub struct OffsetRun {
        /// The first.
        pub first: Offset,
        /// How many; at least 1.
        pub count: u64,
    }
}

impl Published {
    /// Where the batch went.
    pub(crate) const fn placed(&self) -> Placed {
        Placed { topic: self.topic, base: Some(self.base), count: self.count }
    }
}

impl Delayed {
    /// Where the batch went, as its sender is told.
    pub(crate) fn placed(&self) -> Placed {
        let count = u32::try_from(self.due.len()).unwrap_or(u32::MAX);
        Placed { topic: self.topic, base: None, count }
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// See [`Started`].
    Started(Started),
    /// See [`TopicCreated`].
    TopicCreated(TopicCreated),
    /// See [`TopicAltered`].
    TopicAltered(TopicAltered),
    /// See [`TopicTrimmed`].
    TopicTrimmed(TopicTrimmed),
    /// See [`TopicDeleted`].
    TopicDeleted(TopicDeleted),
    /// See [`SubscriptionCreated`].
    SubscriptionCreated(SubscriptionCreated),
    /// See [`SubscriptionDeleted`].
    SubscriptionDeleted(SubscriptionDeleted),
    /// See [`ProducerOpened`].
    ProducerOpened(ProducerOpened),
    /// See [`ProducerForgotten`].
    ProducerForgotten(ProducerForgotten),
    /// See [`Published`].
    Published(Published),
    /// See [`HandedOut`].
    HandedOut(HandedOut),
    /// See [`Settled`].
    Settled(Settled),
    /// See [`Failed`].
    Failed(Failed),
    /// See [`Rejected`].
    Rejected(Rejected),
    /// See [`DeadLettered`].
    DeadLettered(DeadLettered),
    /// See [`CursorSaved`].
    CursorSaved(CursorSaved),
    /// See [`Committed`].
    Committed(Committed),
    /// See [`Delayed`].
    Delayed(Delayed),
    /// See [`DelayEnded`].
    DelayEnded(DelayEnded),
}
