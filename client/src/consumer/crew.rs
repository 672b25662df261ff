//! Futures that make progress together within one future, and nothing else: no task is spawned, so
//! they may borrow.
//!
//! Only those that were woken are polled.

use crate::lock::lock;
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A bounded number of futures under way.
pub(super) struct Crew<'a> {
    members: Vec<Option<Boxed<'a>>>,
    wakers: Vec<Waker>,
    free: Vec<usize>,
    woken: Arc<Woken>,
}

impl fmt::Debug for Crew<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Who wants to be polled.
#[derive(Debug, Default)]
struct Woken {
    state: Mutex<WokenState>,
}

#[derive(Debug, Default)]
struct WokenState {
    members: VecDeque<usize>,
    /// Of whoever polls the crew.
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    member: usize,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.add(self.member);
    }
}

impl Woken {
    fn add(&self, member: usize) {
        let waker = {
            let mut state = lock(&self.state);
            if !state.members.contains(&member) {
                state.members.push_back(member);
            }
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn next(&self, cx: &Context<'_>) -> Option<usize> {
        let mut state = lock(&self.state);
        let next = state.members.pop_front();
        if next.is_none() {
            state.waker = Some(cx.waker().clone());
        }
        next
    }
}

impl<'a> Crew<'a> {
    /// An empty crew with places for so many.
    pub(super) fn new(places: usize) -> Self {
        let woken = Arc::new(Woken::default());
        let bell = |member| Waker::from(Arc::new(Bell { member, woken: Arc::clone(&woken) }));
        Self {
            members: (0..places).map(|_| None).collect(),
            wakers: (0..places).map(bell).collect(),
            free: (0..places).collect(),
            woken,
        }
    }

    pub(super) const fn has_place(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// Takes a future on, to be polled with the next [`Self::poll`]; only if there is a place.
    pub(super) fn add(&mut self, future: impl Future<Output = ()> + Send + 'a) {
        let place = self.free.pop();
        if let Some((at, slot)) = place.and_then(|at| Some((at, self.members.get_mut(at)?))) {
            *slot = Some(Box::pin(future));
            self.woken.add(at);
        }
    }

    /// Polls those that were woken; ready when one has finished.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        while let Some(at) = self.woken.next(cx) {
            let (Some(slot), Some(waker)) = (self.members.get_mut(at), self.wakers.get(at)) else {
                continue;
            };
            let Some(member) = slot else { continue };
            if member.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                *slot = None;
                self.free.push(at);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// A future whose panic is a result.
#[derive(Debug)]
pub(super) struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Caught<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // After a panic the future is dropped and never looked at again.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn members_borrow_and_only_those_woken_are_polled() {
        let polls = [const { Mutex::new(0) }; 3];
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| oneshot::channel::<()>()).unzip();
        let mut crew = Crew::new(3);
        for (polls, mut receiver) in polls.iter().zip(receivers) {
            crew.add(async move {
                let waiting = poll_fn(|cx| {
                    *lock(polls) += 1;
                    Pin::new(&mut receiver).poll(cx)
                });
                waiting.await.unwrap();
            });
        }
        assert!(!crew.has_place());
        assert!(poll_fn(|cx| Poll::Ready(crew.poll(cx))).await.is_pending());

        for (number, sender) in senders.into_iter().enumerate() {
            sender.send(()).unwrap();
            poll_fn(|cx| crew.poll(cx)).await;
            assert_eq!(crew.len(), 2 - number);
        }

        assert_eq!(polls.each_ref().map(|polls| *lock(polls)), [2, 2, 2]);
    }

    #[tokio::test]
    async fn panic_is_a_result() {
        let caught = Caught::new(async { panic!("on purpose") });
        let result: Result<(), _> = caught.await;

        assert!(result.is_err());
    }
}
