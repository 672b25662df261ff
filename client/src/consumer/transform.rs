//! Consume, transform, produce: what a handler makes of a delivery is published in the commit that
//! acks it.

use super::crew::{Caught, Crew};
use super::delivery::{Delivery, Retry, nack_action};
use super::run::Failure;
use super::settlements::Action;
use super::{Consumer, Shared};
use crate::Outgoing;
use crate::commit::Commit;
use crate::core::Core;
use crate::error::ConsumeError;
use posthouse_protocol::message::Verdict;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

/// A consumer with a handler that makes messages of deliveries; `.await` runs it.
#[must_use = "it runs when it is awaited"]
pub struct Transform<'a, H> {
    consumer: Consumer,
    concurrency: usize,
    handler: H,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

impl<H> fmt::Debug for Transform<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform")
            .field("consumer", &self.consumer)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl<'a, H> Transform<'a, H> {
    pub(super) fn new(consumer: Consumer, concurrency: usize, handler: H) -> Self {
        let shutdown = Box::pin(std::future::pending());
        Self { consumer, concurrency: concurrency.max(1), handler, shutdown }
    }

    /// Stops when `shutdown` is done: takes nothing more, lets the handlers at work finish, makes
    /// their commits, and gives the rest back uncounted.
    pub fn until(mut self, shutdown: impl Future<Output = ()> + Send + 'a) -> Self {
        self.shutdown = Box::pin(shutdown);
        self
    }
}

/// What happened next.
enum Step {
    Stop,
    Taken(Option<Result<Delivery, ConsumeError>>),
    Finished,
}

impl<'a, H, F, E> Transform<'a, H>
where
    H: Fn(Arc<Delivery>) -> F + Send + Sync + 'a,
    F: Future<Output = Result<Vec<Outgoing>, E>> + Send + 'a,
    E: Into<Failure> + Send + 'a,
{
    async fn run(self) -> Result<(), ConsumeError> {
        let Self { mut consumer, concurrency, handler, mut shutdown } = self;
        let (core, shared) = (Arc::clone(&consumer.core), Arc::clone(&consumer.shared));
        let mut crew = Crew::new(concurrency);
        let mut ended = None;
        while ended.is_none() || crew.len() > 0 {
            let step = poll_fn(|cx| {
                if ended.is_none() && shutdown.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Step::Stop);
                }
                if crew.poll(cx).is_ready() {
                    return Poll::Ready(Step::Finished);
                }
                if ended.is_none() && crew.has_place() {
                    return std::pin::pin!(consumer.next()).poll(cx).map(Step::Taken);
                }
                Poll::Pending
            });
            match step.await {
                Step::Finished => {}
                Step::Stop | Step::Taken(None) => ended = Some(Ok(())),
                Step::Taken(Some(Ok(delivery))) => {
                    let delivery = Arc::new(delivery);
                    // Called here, so that it need not live as long as what it returns.
                    let handling = handler(Arc::clone(&delivery));
                    crew.add(transform_one(Arc::clone(&core), delivery, handling));
                }
                Step::Taken(Some(Err(error))) if error.is_final() => ended = Some(Err(error)),
                Step::Taken(Some(Err(error))) => warn(&shared, &error),
            }
        }
        ended.unwrap_or(Ok(()))
    }
}

async fn transform_one<E: Into<Failure>>(
    core: Arc<Core>,
    delivery: Arc<Delivery>,
    handling: impl Future<Output = Result<Vec<Outgoing>, E>>,
) {
    let outgoing = match Caught::new(handling).await {
        Ok(Ok(outgoing)) => outgoing,
        Ok(Err(error)) => return delivery.settle_shared(error.into().into_action()),
        Err(_panic) => return delivery.settle_shared(nack_action(Retry::Backoff, "panicked")),
    };
    let shared = delivery.consumer();
    let commit = Commit::new(core, None, None).send_all(outgoing);
    // The error nacks the delivery when it is dropped.
    if let Err(error) = commit.settle(delivery, Action::settle(Verdict::Ack)).await {
        warn(&shared, &error);
    }
}

fn warn(shared: &Shared, error: &dyn fmt::Display) {
    let subscription = shared.subscription.as_str();
    tracing::warn!(%error, subscription, "message not transformed");
}

impl<'a, H, F, E> IntoFuture for Transform<'a, H>
where
    H: Fn(Arc<Delivery>) -> F + Send + Sync + 'a,
    F: Future<Output = Result<Vec<Outgoing>, E>> + Send + 'a,
    E: Into<Failure> + Send + 'a,
{
    type Output = Result<(), ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    /// Runs until the shutdown is done, the client is closed, or the broker ends the consumer.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
