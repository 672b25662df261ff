//! The state that publisher handles and the driver share.
//!
//! One short lock for each message, none of them held across an await.

use super::accumulator::{Accumulator, Batch, Take};
use super::pending::{Accepted, Pending};
use crate::Message;
use crate::clock::wall_clock;
use crate::error::PublishError;
use crate::ids::IdSource;
use crate::limits::BrokerLimits;
use crate::lock::lock;
use crate::mailbox::{Mail, Mailbox};
use posthouse_protocol::batch::encoded_len;
use posthouse_protocol::{DecodeError, MessageId, Name, Outcome, Timestamp};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout};

/// Names a publisher within its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) u64);

/// One publisher, as its handles and the driver see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) key: Key,
    pub(crate) topic: Name,
    /// The producer's name, if it has one.
    pub(crate) producer: Option<Name>,
    /// How long a message may wait for its receipt.
    pub(crate) timeout: Duration,
    /// Bytes that may wait or be in flight; a permit each.
    room: Semaphore,
    room_bytes: u32,
    /// Largest body that the topic took when it was last asked.
    message_bytes_max: AtomicU32,
    limits: Arc<BrokerLimits>,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    accumulator: Accumulator,
    ids: IdSource,
    /// Whether the driver knows that there is something to take.
    is_announced: bool,
    is_dropped: bool,
    /// Why nothing is taken any more.
    closed: Option<PublishError>,
}

/// What a new publisher is made with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) key: Key,
    pub(crate) topic: Name,
    pub(crate) producer: Option<Name>,
    pub(crate) timeout: Duration,
    pub(crate) room_bytes: u32,
    pub(crate) message_bytes_max: u32,
    pub(crate) limits: Arc<BrokerLimits>,
}

impl Shared {
    pub(crate) fn new(setup: Setup, mailbox: Arc<Mailbox>) -> Self {
        Self {
            key: setup.key,
            topic: setup.topic,
            producer: setup.producer,
            timeout: setup.timeout,
            room: Semaphore::new(setup.room_bytes as usize),
            room_bytes: setup.room_bytes,
            message_bytes_max: AtomicU32::new(setup.message_bytes_max),
            limits: setup.limits,
            mailbox,
            state: Mutex::new(State {
                accumulator: Accumulator::default(),
                ids: IdSource::new(),
                is_announced: false,
                is_dropped: false,
                closed: None,
            }),
        }
    }

    /// Room that `message` takes; never more than there is in all, so that any message fits alone.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`] if its body is larger than the topic takes.
    pub(crate) fn charge(&self, message: &Message) -> Result<u32, PublishError> {
        let limit = u64::from(self.message_bytes_max.load(Ordering::Relaxed));
        let found = message.body().len() as u64;
        if found > limit {
            let error = DecodeError::TooLarge { field: "message.body", found, limit };
            return Err(PublishError::Invalid(error));
        }
        let len = u32::try_from(encoded_len(message.content())).unwrap_or(u32::MAX);
        Ok(len.min(self.room_bytes))
    }

    /// Takes room without waiting; `false` if there is none.
    pub(crate) fn try_room(&self, charge: u32) -> Result<bool, PublishError> {
        match self.room.try_acquire_many(charge) {
            Ok(permits) => {
                permits.forget();
                Ok(true)
            }
            Err(TryAcquireError::NoPermits) => Ok(false),
            Err(TryAcquireError::Closed) => Err(self.closed_error()),
        }
    }

    /// Takes room, waiting for it in turn. Dropped while waiting, it takes none.
    pub(crate) async fn room(&self, charge: u32) -> Result<(), PublishError> {
        if self.try_room(charge)? {
            return Ok(());
        }
        match timeout(self.timeout, self.room.acquire_many(charge)).await {
            Ok(Ok(permits)) => {
                permits.forget();
                Ok(())
            }
            Ok(Err(_closed)) => Err(self.closed_error()),
            Err(_elapsed) => Err(PublishError::TimedOut { outcome: Outcome::Definite, last: None }),
        }
    }

    /// Waits until everything submitted so far has its result.
    pub(crate) async fn settled(&self) -> Result<(), PublishError> {
        // Room is given in turn, so having all of it means that nobody before us has any.
        match self.room.acquire_many(self.room_bytes).await {
            Ok(_all) => Ok(()),
            Err(_closed) => Err(self.closed_error()),
        }
    }

    fn closed_error(&self) -> PublishError {
        let closed = lock(&self.state).closed.clone();
        closed.unwrap_or(PublishError::Closed { outcome: Outcome::Definite })
    }

    /// Takes a message for which there is room.
    pub(crate) fn accept(
        &self,
        mut message: Message,
        charge: u32,
    ) -> Result<Pending, PublishError> {
        let content = message.content_mut();
        if content.created_at == Timestamp::ZERO {
            content.created_at = wall_clock();
        }
        let bytes_max = self.limits.batch_bytes_max();
        let mut state = lock(&self.state);
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        if content.id == MessageId::default() {
            content.id = state.ids.next();
        }
        let id = content.id;
        let pushed = match state.accumulator.push(content, charge as usize, bytes_max, Instant::now)
        {
            Ok(pushed) => pushed,
            Err(error) => {
                drop(state);
                self.room.add_permits(charge as usize);
                return Err(PublishError::Invalid(error));
            }
        };
        let announce = !std::mem::replace(&mut state.is_announced, true);
        drop(state);
        if announce || pushed.cut {
            // A driver that has ended has closed this publisher, or is about to.
            let _ = self.mailbox.post(Mail::Publisher(self.key));
        }
        Ok(Pending::new(pushed.outcomes, pushed.position, id))
    }

    /// The last handle is gone.
    pub(crate) fn dropped(&self) {
        lock(&self.state).is_dropped = true;
        let _ = self.mailbox.post(Mail::Publisher(self.key));
    }

    // From here on: the driver's side.

    /// Takes a batch to send.
    pub(crate) fn take(&self, which: Take) -> Option<Batch> {
        let mut state = lock(&self.state);
        let batch = state.accumulator.take(which);
        if state.accumulator.is_empty() {
            state.is_announced = false;
        }
        batch
    }

    /// Takes a batch that has waited since `limit` or longer.
    pub(crate) fn take_older(&self, limit: Instant) -> Option<Batch> {
        lock(&self.state).accumulator.take_older(limit)
    }

    /// When the oldest waiting message was submitted.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        lock(&self.state).accumulator.oldest()
    }

    /// Whether all handles are gone and nothing waits.
    pub(crate) fn is_finished(&self) -> bool {
        let state = lock(&self.state);
        state.is_dropped && state.accumulator.is_empty()
    }

    /// Takes no more messages; those waiting stay.
    pub(crate) fn close(&self, error: PublishError) {
        lock(&self.state).closed.get_or_insert(error);
        self.room.close();
    }

    /// The topic's present limit.
    pub(crate) fn set_message_bytes_max(&self, limit: u32) {
        self.message_bytes_max.store(limit, Ordering::Relaxed);
    }

    /// Tells a batch's futures what became of it and gives its room back.
    pub(crate) fn complete(&self, batch: &Batch, result: Result<Accepted, PublishError>) {
        batch.outcomes.set(result);
        self.room.add_permits(batch.charge);
    }
}
