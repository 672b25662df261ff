//! Consuming a queue subscription.

mod arrived;
mod credit;
mod crew;
mod delivery;
mod leases;
mod link;
mod run;
mod runs;
mod settlement;
mod settlements;
mod shared;
mod transform;

pub(crate) use arrived::cut;
pub use delivery::{Delivery, Retry};
pub(crate) use delivery::{nack_action, reject_action};
pub(crate) use link::Link;
pub use run::{Failure, Run};
pub use settlement::{Extension, Settlement};
pub(crate) use settlements::{Action, Settlements};
pub(crate) use shared::Shared;
pub use transform::Transform;

use crate::Outgoing;
use crate::core::Core;
use crate::error::{ConsumeError, RequestError};
use crate::mailbox::Mail;
use credit::Amount;
use futures_core::Stream;
use posthouse_protocol::{Name, Outcome, limits};
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio::task::coop::cooperative;
use tokio::time::timeout;

/// Consumes a queue subscription: a [`Stream`] of deliveries, each to be settled.
///
/// The broker sends ahead within the credit (256 messages and 8 MiB unless set otherwise), which
/// comes back as deliveries are settled: an application that holds that many gets no more.
///
/// Lost connections are ridden out; what had not been taken then comes again. Dropping the consumer
/// gives back what was not taken, uncounted. Deliveries that are still held then can be settled, but
/// their leases end.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// Also keeps the driver from ending.
    core: Arc<Core>,
}

impl Consumer {
    /// The next delivery; `None` after the client was closed, or after an error that
    /// [is final](ConsumeError::is_final).
    ///
    /// # Cancellation
    ///
    /// Safe: dropped before it returns, nothing is taken.
    ///
    /// # Errors
    ///
    /// [`ConsumeError`]: the broker ended the consumer, or a message arrived damaged.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        self.take().await
    }

    /// Takes a turn at a time, so that a loop of deliveries that are all there lets others run.
    fn take(&self) -> impl Future<Output = Option<Result<Delivery, ConsumeError>>> {
        cooperative(poll_fn(|cx| self.shared.poll_take(cx)))
    }

    /// Handles deliveries with `handler`, `concurrency` at a time, each in a task of the runtime.
    ///
    /// `Ok` acks, `Err` nacks or rejects (see [`Failure`]), a panic nacks. Awaiting the [`Run`]
    /// starts it; [`Run::until`] says when to stop. Tasks use all processors, and for that the handler
    /// has to own what it uses; one that borrows can be given to [`Self::transform`].
    ///
    /// ```no_run
    /// # async fn demo(client: posthouse_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn bill(_: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
    /// let billing = client.consumer("orders", "billing").await?;
    /// billing.run(16, |delivery| async move { bill(delivery.body()).await }).await?;
    /// # Ok(()) }
    /// ```
    pub fn run<H, F, E>(self, concurrency: usize, handler: H) -> Run<H>
    where
        H: Fn(Arc<Delivery>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        Run::new(self, concurrency, handler)
    }

    /// Makes messages of deliveries: what `handler` returns is published in the [commit](crate::Commit)
    /// that acks its delivery, so that both happen once or neither, through any crash.
    ///
    /// `concurrency` handlers at a time are under way, all within this future; a handler that computes
    /// for long spawns that itself. Nothing is spawned, so the handler may borrow. `Err` nacks or
    /// rejects (see [`Failure`]), a panic nacks; a commit that fails nacks, with the error as reason.
    /// Awaiting the [`Transform`] starts it; [`Transform::until`] says when to stop. Dropped, it nacks
    /// what is with handlers; commits under way are made.
    ///
    /// The handler is a closure that gives futures of one type: `async |delivery| ..` borrows what it
    /// uses, and `move |delivery| { .. async move { .. } }` owns it.
    ///
    /// ```no_run
    /// # use posthouse_client::{Client, Message};
    /// # async fn demo(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn price(_: &[u8]) -> Result<Vec<u8>, std::io::Error> { Ok(vec![]) }
    /// let orders = client.consumer("orders", "billing").await?;
    /// let billing = orders.transform(16, async |order| {
    ///     let bill = price(order.body()).await?;
    ///     Ok::<_, std::io::Error>(vec![Message::new(bill).to("bills")])
    /// });
    /// billing.await?;
    /// # Ok(()) }
    /// ```
    pub fn transform<'a, H, F, E>(self, concurrency: usize, handler: H) -> Transform<'a, H>
    where
        H: Fn(Arc<Delivery>) -> F + Send + Sync + 'a,
        F: Future<Output = Result<Vec<Outgoing>, E>> + Send + 'a,
        E: Into<Failure> + Send + 'a,
    {
        Transform::new(self, concurrency, handler)
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.shared.topic.as_str()
    }

    /// The subscription.
    #[must_use]
    pub fn subscription(&self) -> &str {
        self.shared.subscription.as_str()
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        pin!(self.take()).poll(cx)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.dropped();
    }
}

/// A consumer being configured; `.await` opens it.
#[derive(Debug)]
#[must_use = "a consumer is opened by awaiting this"]
pub struct OpenConsumer {
    core: Arc<Core>,
    topic: String,
    subscription: String,
    window: Amount,
}

impl OpenConsumer {
    pub(crate) fn new(core: Arc<Core>, topic: String, subscription: String) -> Self {
        let messages = u64::from(core.options.credit_messages);
        let window = Amount { messages, bytes: core.options.credit_bytes };
        Self { core, topic, subscription, window }
    }

    /// Messages (at least 1, at most 100,000) and bytes that the consumer may hold unsettled, sent
    /// ahead ones included.
    pub fn credit(mut self, messages: u32, bytes: u64) -> Self {
        let messages = u64::from(messages.clamp(1, limits::CREDIT_MESSAGES_MAX));
        self.window = Amount { messages, bytes };
        self
    }

    async fn open(self) -> Result<Consumer, RequestError> {
        let core = self.core;
        let (topic, subscription) = (Name::new(&self.topic)?, Name::new(&self.subscription)?);
        let id = core.next_consumer();
        let mailbox = Arc::clone(&core.mailbox);
        let shared = Arc::new(Shared::new(id, topic, subscription, self.window, mailbox));
        let within = core.options.operation_timeout;
        let consumer = Consumer { shared: Arc::clone(&shared), core: Arc::clone(&core) };
        let (answer, receiver) = oneshot::channel();
        let closed = RequestError::Closed { outcome: Outcome::Definite };
        if core.mailbox.post(Mail::ConsumerOpened { shared, answer }).is_err() {
            return Err(closed);
        }
        // Given up, the consumer is dropped, and that ends it.
        match timeout(within, receiver).await {
            Ok(answer) => answer.unwrap_or(Err(closed)).map(|()| consumer),
            Err(_elapsed) => Err(RequestError::TimedOut { outcome: Outcome::Definite }),
        }
    }
}

impl IntoFuture for OpenConsumer {
    type Output = Result<Consumer, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
