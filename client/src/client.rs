//! The client: one connection to a broker, kept up, and everything that is opened over it.

use crate::admin::Admin;
use crate::builder::ClientBuilder;
use crate::commit::{Commit, OpenProducer};
use crate::consumer::OpenConsumer;
use crate::core::Core;
use crate::mailbox::CloseReport;
use crate::publisher::OpenPublisher;
use crate::reader::{OpenReader, Position};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "outbox")]
use {
    crate::call::expect_reply,
    crate::error::RequestError,
    bytes::Bytes,
    posthouse_protocol::message::{self, Committed, ProducerInfo, ProducerOpened},
    posthouse_protocol::{Name, Outcome, ProducerEpoch},
    std::future::Future,
};

/// A connection to a broker that is kept up: lost, it is made again, and what was under way goes on.
///
/// Cloning is cheap and gives another handle of the same connection. When all handles, publishers,
/// consumers and readers are dropped without [`Client::close`], what was submitted is still sent, for
/// up to the publish timeout, as long as the runtime lives.
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<Core>,
}

impl Client {
    pub(crate) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Starts configuring a client.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Opens a publisher: `client.publisher("orders").await?`.
    ///
    /// Open one and keep it; the broker remembers each for an hour.
    pub fn publisher(&self, topic: impl Into<String>) -> OpenPublisher {
        OpenPublisher::new(Arc::clone(&self.core), topic.into())
    }

    /// Opens a consumer of a queue subscription: `client.consumer("orders", "billing").await?`.
    pub fn consumer(
        &self,
        topic: impl Into<String>,
        subscription: impl Into<String>,
    ) -> OpenConsumer {
        OpenConsumer::new(Arc::clone(&self.core), topic.into(), subscription.into())
    }

    /// Opens a reader: `client.reader("orders", Position::Earliest).await?`.
    ///
    /// It looks at messages without consuming them. At the end it says so, unless it is told to
    /// [follow](OpenReader::follow).
    pub fn reader(&self, topic: impl Into<String>, from: Position) -> OpenReader {
        OpenReader::new(Arc::clone(&self.core), topic.into(), from)
    }

    /// Begins a commit: `client.commit().publish("bills", bill).ack(delivery).await?`.
    ///
    /// All of it happens or nothing does; see [`Commit`].
    pub fn commit(&self) -> Commit {
        Commit::new(Arc::clone(&self.core), None, None)
    }

    /// Opens a named producer for commits with numbers of their own:
    /// `client.producer("importer").await?`. Whoever had it open is fenced off.
    pub fn producer(&self, name: impl Into<String>) -> OpenProducer {
        OpenProducer::new(Arc::clone(&self.core), name.into())
    }

    /// Topics and subscriptions: creating, describing, deleting.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.core))
    }

    /// Ends the client for all its handles and says what was left undone.
    ///
    /// From the call on, nothing new is taken and consumers end. What was submitted is sent, what
    /// was settled is confirmed, and deliveries that the application still holds may be settled,
    /// until all is done or `within` has passed. Messages that were not taken go back to the broker
    /// uncounted.
    ///
    /// Dropping this future does not stop the closing.
    pub async fn close(&self, within: Duration) -> CloseReport {
        self.core.close(within).await
    }
}

/// What a relay asks of a broker.
#[cfg(feature = "outbox")]
#[doc(hidden)]
impl Client {
    /// Opens an epoch of a named producer; `None` for the next.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `FENCED`, naming the present epoch, if that is higher.
    pub async fn open_producer(
        &self,
        name: &str,
        epoch: Option<ProducerEpoch>,
    ) -> Result<ProducerOpened, RequestError> {
        self.core.open_producer(Some(Name::new(name)?), epoch).await
    }

    /// Where a named producer stands; changes nothing.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is none.
    pub async fn describe_producer(&self, name: &str) -> Result<ProducerInfo, RequestError> {
        self.core.describe_producer(Name::new(name)?).await
    }

    /// Sends a commit, the same bytes again over every reconnect and every refusal that passes, until
    /// it is answered or `timeout` has passed. The caller bounds how many such calls it makes. Several
    /// under way are sent in the order of the calls, which is when they are made, not when they are
    /// polled; a call whose future is dropped is not sent again.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; its outcome speaks of all tries. `OUT_OF_SEQUENCE` is returned at once.
    pub fn send_commit(
        &self,
        commit: message::Commit,
        tail: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<Committed, RequestError>> + Send + use<> {
        let answer = self.core.start_commit(commit, tail, timeout);
        async {
            let closed = RequestError::Closed { outcome: Outcome::Unknown };
            expect_reply!(answer.await.unwrap_or(Err(closed))?, Committed)
        }
    }
}
