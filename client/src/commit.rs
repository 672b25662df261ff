//! The atomic commit: publishes, settlements and cursor saves, all of them or none.

mod assemble;
mod job;
mod lane;
mod lanes;
mod producer;

pub(crate) use job::Job;
pub(crate) use lanes::Lanes;
pub use producer::{OpenProducer, Producer};

use crate::consumer::{Action, Delivery, Retry, nack_action, reject_action};
use crate::core::Core;
use crate::error::{CommitError, CommitErrorKind};
use crate::mailbox::Mail;
use crate::{Message, Outgoing, Receipt};
use assemble::Parts;
use posthouse_protocol::message::Verdict;
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{DecodeError, Name, Offset, Outcome, Sequence, SubscriptionId};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

/// Names a lane of commits within its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// For commits of nobody in particular.
    Shared(u64),
    /// Of a named producer.
    Named(u64),
}

/// Room that a commit takes at least, so that many small ones are bounded, too.
const ROOM_LEAST: usize = 4 << 10;

/// A commit being put together; `.await` makes it: everything in it happens, or nothing does, through
/// any crash, and nobody sees half of it.
///
/// ```no_run
/// # use posthouse_client::{Client, Message, Delivery};
/// # async fn demo(client: Client, delivery: Delivery) -> Result<(), Box<dyn std::error::Error>> {
/// let bill = Message::new("bill").key("c-17");
/// let committed = client.commit().publish("bills", bill).ack(delivery).await?;
/// let offset = committed.receipts[0].offset;
/// # Ok(()) }
/// ```
///
/// When it returns, all of it is on disk if any topic or subscription in it is `synced`. At most
/// 10,000 messages, deliveries and cursors together, in at most 4,096 groups (the messages of a topic
/// are one, those of it that are delayed another; so are the settlements of a kind of a subscription,
/// and each cursor), and as many bytes as the broker takes in one batch (8 MiB less a little, unless it
/// is configured otherwise).
///
/// Over lost connections the same bytes are sent again, under the same number, so that it happens
/// once. Commits made at the same time go side by side, in no particular order; a
/// [`Producer`] makes its own one after the other.
///
/// A delivery counts as settled once the commit is answered; until then its lease is prolonged. If
/// the commit fails, its [error](CommitError) has the deliveries, and nacks them when it is dropped.
///
/// # Cancellation
///
/// Dropped before it was first polled, or while it waits for room, nothing is sent, and the
/// deliveries in it are nacked as if they had been dropped. Dropped later, the commit is made all the
/// same; if it fails then, its deliveries are nacked.
#[derive(Debug)]
#[must_use = "a commit is made by awaiting this"]
pub struct Commit {
    core: Arc<Core>,
    lane: Option<Key>,
    sequence: Option<u64>,
    parts: Parts,
    timeout: Duration,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One for each message, in the order in which they were added.
    pub receipts: Vec<Receipt>,
    /// What was reached, by all of it.
    pub durability: Durability,
    /// Whether an earlier try, whose answer was lost or whose sender is gone, had done it.
    pub duplicate: bool,
    /// Its number within its producer.
    pub sequence: u64,
}

/// A place in a stream to be saved: everything below is done. From [`Reader::cursor`](crate::Reader::cursor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) subscription: SubscriptionId,
    pub(crate) next: Offset,
    pub(crate) topic: Name,
    pub(crate) name: String,
}

impl Commit {
    pub(crate) fn new(core: Arc<Core>, lane: Option<Key>, sequence: Option<u64>) -> Self {
        let timeout = core.options.publish_timeout;
        Self { core, lane, sequence, parts: Parts::default(), timeout }
    }

    /// Adds a message. Messages for one topic keep their order and lie side by side, except that
    /// delayed ones come when they are due.
    pub fn publish(self, topic: impl Into<String>, message: impl Into<Message>) -> Self {
        self.send(message.into().to(topic))
    }

    /// Adds a message that says where it goes.
    pub fn send(mut self, outgoing: Outgoing) -> Self {
        self.parts.messages.push(outgoing);
        self
    }

    /// Adds messages that say where they go.
    pub fn send_all(mut self, outgoing: impl IntoIterator<Item = Outgoing>) -> Self {
        self.parts.messages.extend(outgoing);
        self
    }

    /// Adds a delivery that is done.
    pub fn ack(self, delivery: Delivery) -> Self {
        self.settle(Arc::new(delivery), Action::settle(Verdict::Ack))
    }

    /// Adds a delivery that has failed: it is handed out again.
    pub fn nack(self, delivery: Delivery, retry: Retry, reason: &str) -> Self {
        self.settle(Arc::new(delivery), nack_action(retry, reason))
    }

    /// Adds a delivery that cannot be done: it becomes a dead letter.
    pub fn reject(self, delivery: Delivery, reason: &str) -> Self {
        self.settle(Arc::new(delivery), reject_action(reason))
    }

    pub(crate) fn settle(mut self, delivery: Arc<Delivery>, action: Action) -> Self {
        self.parts.deliveries.push((delivery, action));
        self
    }

    /// Adds a cursor: everything below it is done.
    pub fn save(mut self, cursor: Cursor) -> Self {
        self.parts.cursors.push(cursor);
        self
    }

    /// How long it may take, reconnecting and retries included; the client's publish timeout unless
    /// set.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn commit(self) -> Result<Committed, CommitError> {
        let Self { core, lane, sequence, parts, timeout } = self;
        let Parts { messages, deliveries, cursors } = parts;
        let deadline = Instant::now() + timeout;
        let bytes_max = core.limits.batch_bytes_max();
        let assembled = check_sequence(sequence)
            .and_then(|()| Parts::assemble(messages, &deliveries, &cursors, bytes_max));
        let fail = |kind, deliveries: Vec<(Arc<Delivery>, Action)>| {
            Err(CommitError::new(kind, deliveries.into_iter().map(|(it, _)| it).collect()))
        };
        let assembled = match assembled {
            Ok(assembled) => assembled,
            Err(kind) => return fail(kind, deliveries),
        };
        let room = match room(&core, assembled.tail.len(), deadline).await {
            Ok(room) => room,
            Err(kind) => return fail(kind, deliveries),
        };
        let (answer, receiver) = oneshot::channel();
        let job = Job {
            lane,
            sequence: sequence.map(Sequence),
            operations: assembled.operations,
            tail: assembled.tail,
            deadline,
            key: assembled.key,
            deliveries: deliveries.into_iter().map(|(delivery, _)| delivery).collect(),
            answer,
            _room: room,
        };
        if let Err(Mail::Commit(job)) = core.mailbox.post(Mail::Commit(Box::new(job))) {
            job.refused(lane::Reason::Closed);
        }
        let lost = |_| {
            let kind = CommitErrorKind::Closed { outcome: Outcome::Unknown };
            Err(CommitError::new(kind, Vec::new()))
        };
        receiver.await.unwrap_or_else(lost)
    }
}

fn check_sequence(sequence: Option<u64>) -> Result<(), CommitErrorKind> {
    if sequence != Some(0) {
        return Ok(());
    }
    let error = DecodeError::Invalid { field: "Commit.sequence", found: 0 };
    Err(CommitErrorKind::Invalid { error, at: None })
}

/// Waits for room for so many bytes. Dropped while waiting, it takes none.
async fn room(
    core: &Core,
    bytes: usize,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, CommitErrorKind> {
    let bytes = bytes.clamp(ROOM_LEAST, Core::COMMIT_BYTES);
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    let room = Arc::clone(&core.commit_room).acquire_many_owned(permits);
    match timeout_at(deadline, room).await {
        Ok(Ok(room)) => Ok(room),
        Ok(Err(_closed)) => Err(CommitErrorKind::Closed { outcome: Outcome::Definite }),
        Err(_elapsed) => Err(CommitErrorKind::TimedOut { outcome: Outcome::Definite, last: None }),
    }
}

impl IntoFuture for Commit {
    type Output = Result<Committed, CommitError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.commit())
    }
}
