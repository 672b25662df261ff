//! Publishing to a topic.

mod accumulator;
mod link;
mod pending;
mod shared;
mod window;

pub(crate) use link::Link;
pub use pending::{Pending, Receipt};
pub(crate) use shared::{Key, Setup, Shared};

use crate::Message;
use crate::call::{Repeat, expect_reply};
use crate::core::Core;
use crate::error::{PublishError, RequestError, TrySubmitError};
use crate::mailbox::Mail;
use posthouse_protocol::message::TopicDescribe;
use posthouse_protocol::{Name, Outcome};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::coop::consume_budget;

/// Publishes to one topic, in the order of submission.
///
/// Messages submitted while earlier ones are under way are sent together in one batch; nothing waits
/// in order to be sent together. Lost connections are ridden out: what has no receipt is sent again
/// under the same sequence numbers, so that the broker stores it once.
///
/// Cloning is cheap; all clones share one order, one producer and one bound in bytes.
#[derive(Clone, Debug)]
pub struct Publisher {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Keeps the driver from ending.
    _core: Arc<Core>,
}

impl Publisher {
    /// Publishes a message and waits for its receipt: with `durability = synced` (the default of a
    /// topic) it is on disk when this returns.
    ///
    /// # Cancellation
    ///
    /// Dropped while it waits for room, nothing is sent. Dropped later, the message is sent all the
    /// same, and nobody learns what became of it.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; its `outcome()` says whether the message can still be stored.
    pub async fn publish(&self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.submit(message).await?.await
    }

    /// Hands a message over for sending, waiting only while the publisher is full (8 MiB unless set
    /// otherwise), and returns the future of its receipt.
    ///
    /// # Cancellation
    ///
    /// Safe: dropped before it returns, nothing is sent.
    ///
    /// # Errors
    ///
    /// [`PublishError`], always definite: the message breaks a limit, the publisher is closed or
    /// fenced, or there was no room for the whole publish timeout.
    pub async fn submit(&self, message: impl Into<Message>) -> Result<Pending, PublishError> {
        let message = message.into();
        // A loop of submits that never waits would keep a current-thread runtime from sending.
        consume_budget().await;
        let shared = &self.handle.shared;
        let charge = shared.charge(&message)?;
        shared.room(charge).await?;
        shared.accept(message, charge)
    }

    /// Like [`Self::submit`], but gives the message back instead of waiting for room.
    ///
    /// # Errors
    ///
    /// [`TrySubmitError`].
    pub fn try_submit(&self, message: impl Into<Message>) -> Result<Pending, TrySubmitError> {
        let message = message.into();
        let shared = &self.handle.shared;
        let charge = shared.charge(&message).map_err(TrySubmitError::Failed)?;
        if !shared.try_room(charge).map_err(TrySubmitError::Failed)? {
            return Err(TrySubmitError::Full(Box::new(message)));
        }
        shared.accept(message, charge).map_err(TrySubmitError::Failed)
    }

    /// Waits until every message submitted so far has its receipt or error. What is submitted
    /// meanwhile waits behind it.
    ///
    /// # Errors
    ///
    /// [`PublishError::Closed`] if the client is closed.
    pub async fn flush(&self) -> Result<(), PublishError> {
        self.handle.shared.settled().await
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.handle.shared.topic.as_str()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.dropped();
    }
}

/// A publisher being configured; `.await` opens it.
#[derive(Debug)]
#[must_use = "a publisher is opened by awaiting this"]
pub struct OpenPublisher {
    core: Arc<Core>,
    topic: String,
    producer: Option<String>,
    timeout: Duration,
    bytes: u32,
}

impl OpenPublisher {
    pub(crate) fn new(core: Arc<Core>, topic: String) -> Self {
        let (timeout, bytes) = (core.options.publish_timeout, core.options.publish_bytes);
        Self { core, topic, producer: None, timeout, bytes }
    }

    /// Publishes as this named producer. Opening it again anywhere fences this one off.
    pub fn producer(mut self, name: impl Into<String>) -> Self {
        self.producer = Some(name.into());
        self
    }

    /// How long a message may wait for its receipt, reconnecting and retries included.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes of messages that may wait or be in flight before [`Publisher::submit`] waits;
    /// 8 MiB unless set.
    pub const fn buffer_bytes(mut self, bytes: u32) -> Self {
        self.bytes = bytes;
        self
    }

    async fn open(self) -> Result<Publisher, RequestError> {
        let core = self.core;
        let topic = Name::new(&self.topic)?;
        let name = self.producer.as_deref().map(Name::new).transpose()?;
        let describe = TopicDescribe { topic: topic.clone() };
        let info = expect_reply!(core.call(describe, Repeat::Safe).await?, TopicInfo)?;
        let producer = core.open_producer(name.clone(), None).await?;
        let setup = Setup {
            key: core.next_publisher(),
            topic,
            producer: name,
            timeout: self.timeout,
            room_bytes: self.bytes.max(1),
            message_bytes_max: info.settings.message_bytes_max,
            limits: Arc::clone(&core.limits),
        };
        let shared = Arc::new(Shared::new(setup, Arc::clone(&core.mailbox)));
        let opened =
            Mail::PublisherOpened { shared: Arc::clone(&shared), topic: info.id, producer };
        if core.mailbox.post(opened).is_err() {
            return Err(RequestError::Closed { outcome: Outcome::Definite });
        }
        Ok(Publisher { handle: Arc::new(Handle { shared, _core: core }) })
    }
}

impl IntoFuture for OpenPublisher {
    type Output = Result<Publisher, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
