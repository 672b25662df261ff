//! How handles reach the driver task.
//!
//! Posting never waits, so that `Drop` can do it. It is bounded all the same: a publisher or
//! consumer has at most one notice in the box (its own state says what there is to do), and calls
//! are counted by [`Core`](crate::core::Core).

use crate::call::Call;
use crate::commit::{self, Job};
use crate::error::RequestError;
use crate::lock::lock;
use crate::{consumer, publisher};
use posthouse_protocol::{ConsumerId, Name, TopicId, message::ProducerOpened};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Something that the driver has to look at.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Send a request and bring back the answer.
    Call(Box<Call>),
    /// A publisher exists now.
    PublisherOpened {
        /// Its side of it.
        shared: Arc<publisher::Shared>,
        /// Where it publishes to.
        topic: TopicId,
        /// As whom.
        producer: ProducerOpened,
    },
    /// A publisher has something to send, or has been dropped.
    Publisher(publisher::Key),
    /// A consumer is to be started; the answer comes once the broker has agreed or refused.
    ConsumerOpened {
        /// Its side of it.
        shared: Arc<consumer::Shared>,
        /// For the broker's answer.
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
    /// A consumer took or settled something, or has been dropped.
    Consumer(ConsumerId),
    /// Make a commit.
    Commit(Box<Job>),
    /// A named producer exists now.
    ProducerOpened {
        /// Its commits' lane.
        key: commit::Key,
        /// Its name.
        name: Name,
        /// As whom.
        opened: ProducerOpened,
        /// Where its handle looks for its last sequence.
        last: Arc<AtomicU64>,
    },
    /// A named producer's handle is gone.
    ProducerDropped(commit::Key),
    /// Send what is left and end.
    Close {
        /// Until then at the latest.
        deadline: Instant,
        /// For what was left then.
        report: oneshot::Sender<CloseReport>,
    },
    /// All handles are gone without a close.
    Abandoned,
}

/// What [`Client::close`](crate::Client::close) had to leave behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseReport {
    /// Messages submitted or in commits that have no receipt. Their futures say which of them may be stored.
    pub unsent: u64,
    /// Deliveries that the application still held, or whose settlement was not confirmed.
    pub unsettled: u64,
}

/// The driver's box.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mail: Vec<Mail>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Mailbox {
    /// Leaves something for the driver and wakes it.
    ///
    /// # Errors
    ///
    /// The mail itself if the driver has ended.
    pub(crate) fn post(&self, mail: Mail) -> Result<(), Mail> {
        let waker = {
            let mut state = lock(&self.state);
            if state.is_closed {
                return Err(mail);
            }
            state.mail.push(mail);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Moves all mail to `into`, or promises to wake `cx` when there is some.
    pub(crate) fn poll_collect(&self, cx: &Context<'_>, into: &mut Vec<Mail>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.mail.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        into.append(&mut state.mail);
        Poll::Ready(())
    }

    /// Takes no more mail and returns what is left.
    pub(crate) fn close(&self) -> Vec<Mail> {
        let mut state = lock(&self.state);
        state.is_closed = true;
        std::mem::take(&mut state.mail)
    }
}
