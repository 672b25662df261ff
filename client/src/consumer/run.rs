//! Handling deliveries with several workers until told to stop.

use super::delivery::{Delivery, Retry, nack_action, reject_action};
use super::settlements::Action;
use super::{Consumer, Shared};
use crate::error::ConsumeError;
use posthouse_protocol::message::Verdict;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

/// What a handler's error does to its delivery.
///
/// Every error that can be shown is one: a nack with backoff and the error's text as reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    action: Action,
}

impl Failure {
    /// Failed: counts, and is handed out again.
    #[must_use]
    pub fn nack(retry: Retry, reason: &str) -> Self {
        Self { action: nack_action(retry, reason) }
    }

    /// Cannot be done: a dead letter now.
    #[must_use]
    pub fn reject(reason: &str) -> Self {
        Self { action: reject_action(reason) }
    }

    /// Given back: not counted, and handed out again at once.
    #[must_use]
    pub const fn release() -> Self {
        Self { action: Action::settle(Verdict::Release) }
    }

    pub(super) fn into_action(self) -> Action {
        self.action
    }
}

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::nack(Retry::Backoff, &error.to_string())
    }
}

/// A consumer with its handler; `.await` runs it.
#[must_use = "it runs when it is awaited"]
pub struct Run<H> {
    consumer: Consumer,
    concurrency: usize,
    handler: H,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<H> fmt::Debug for Run<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("consumer", &self.consumer)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl<H> Run<H> {
    pub(super) fn new(consumer: Consumer, concurrency: usize, handler: H) -> Self {
        let shutdown = Box::pin(std::future::pending());
        Self { consumer, concurrency: concurrency.max(1), handler, shutdown }
    }

    /// Stops when `shutdown` is done: takes nothing more, lets the handlers at work finish, settles,
    /// and gives the rest back uncounted.
    pub fn until(mut self, shutdown: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(shutdown);
        self
    }
}

impl<H, F, E> Run<H>
where
    H: Fn(Arc<Delivery>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    async fn run(self) -> Result<(), ConsumeError> {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&self.consumer.shared);
        let crew =
            Arc::new(Crew { consumer: Mutex::new(self.consumer), shared, handler: self.handler });
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(Arc::clone(&crew).work(stopped.clone()));
        }
        let mut shutdown = pin!(self.shutdown);
        let mut is_stopping = false;
        let mut ended = Ok(());
        loop {
            tokio::select! {
                () = &mut shutdown, if !is_stopping => {
                    is_stopping = true;
                    stop.send_replace(true);
                }
                worker = workers.join_next() => match worker {
                    None => return ended,
                    Some(Ok(result)) => ended = ended.and(result),
                    // The handler panicked, and unwinding has nacked its delivery.
                    Some(Err(_panic)) => {
                        workers.spawn(Arc::clone(&crew).work(stopped.clone()));
                    }
                },
            }
        }
    }
}

/// What the workers share.
struct Crew<H> {
    /// Locked while waiting for a delivery: the workers take turns.
    consumer: Mutex<Consumer>,
    shared: Arc<Shared>,
    handler: H,
}

impl<H, F, E> Crew<H>
where
    H: Fn(Arc<Delivery>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    async fn work(self: Arc<Self>, mut stopped: watch::Receiver<bool>) -> Result<(), ConsumeError> {
        loop {
            let taken = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                taken = self.take() => taken,
            };
            match taken {
                None => return Ok(()),
                Some(Ok(delivery)) => self.handle(delivery).await,
                Some(Err(error)) if error.is_final() => return Err(error),
                Some(Err(error)) => {
                    let subscription = self.shared.subscription.as_str();
                    tracing::warn!(%error, subscription, "message not handled");
                }
            }
        }
    }

    /// Safe to drop: a delivery is taken in the same poll that returns it.
    async fn take(&self) -> Option<Result<Delivery, ConsumeError>> {
        self.consumer.lock().await.next().await
    }

    async fn handle(&self, delivery: Delivery) {
        let delivery = Arc::new(delivery);
        let action = match (self.handler)(Arc::clone(&delivery)).await {
            Ok(()) => Action::settle(Verdict::Ack),
            Err(error) => error.into().action,
        };
        delivery.settle_shared(action);
    }
}

impl<H, F, E> IntoFuture for Run<H>
where
    H: Fn(Arc<Delivery>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    type Output = Result<(), ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Runs until the shutdown is done, the client is closed, or the broker ends the consumer.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
