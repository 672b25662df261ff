//! One handing-out of a message, and what the application decides about it.

use super::arrived::At;
use super::leases::RunNumber;
use super::run::Failure;
use super::settlement::{Extension, Settlement};
use super::settlements::{Action, Outcomes};
use super::shared::{Shared, nack};
use crate::clock::millis;
use crate::record::Record;
use bytes::Bytes;
use posthouse_protocol::message::{BACKOFF, Verdict};
use posthouse_protocol::{Attempt, Fence, MessageId, Name, Offset, SubscriptionId, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// When a failed message is handed out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// As the subscription says: later with every failure.
    Backoff,
    /// After this time.
    After(Duration),
    /// At once.
    Now,
}

/// One handing-out of a message, held under a lease until it is settled.
///
/// The lease is prolonged automatically, up to the subscription's longest. A delivery dropped without
/// a settlement, by `?` or a panic too, is a nack: it counts as failed and backs off.
///
/// Settling sends at the call. Awaiting the [`Settlement`] is optional and tells whether it counted.
#[derive(Debug)]
pub struct Delivery {
    record: Record,
    ticket: Ticket,
}

/// What settles a delivery, apart from the message.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    pub(super) offset: Offset,
    pub(super) fence: Fence,
    pub(super) attempt: Attempt,
    ack_floor: Offset,
    pub(super) run: RunNumber,
    pub(super) position: u32,
    /// The subscribing that it came in.
    pub(super) subscribing: u32,
    /// The subscription as it was numbered then.
    pub(super) subscription: SubscriptionId,
    /// Bytes that it takes of the credit.
    pub(super) bytes: u64,
    is_settled: AtomicBool,
}

impl Ticket {
    pub(super) const fn new(
        shared: Arc<Shared>,
        at: At,
        (subscribing, subscription): (u32, SubscriptionId),
        bytes: u64,
    ) -> Self {
        let At { offset, fence, attempt, ack_floor, run, position } = at;
        let is_settled = AtomicBool::new(false);
        Self {
            shared,
            offset,
            fence,
            attempt,
            ack_floor,
            run,
            position,
            subscribing,
            subscription,
            bytes,
            is_settled,
        }
    }

    /// Settles, unless that has been done; the first settlement stands.
    pub(super) fn settle(&self, action: Action) -> Option<Arc<Outcomes>> {
        let was_settled = self.is_settled.swap(true, Ordering::Relaxed);
        (!was_settled).then(|| self.shared.act(self, action))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !*self.is_settled.get_mut() {
            let why = if std::thread::panicking() { "panicked" } else { "dropped unsettled" };
            self.settle(nack(why));
        }
    }
}

impl Delivery {
    pub(super) const fn new(record: Record, ticket: Ticket) -> Self {
        Self { record, ticket }
    }

    /// Done: the message is never delivered again.
    pub fn ack(self) -> Settlement {
        self.settle(Action::settle(Verdict::Ack))
    }

    /// Failed: counts, and the message is handed out again.
    pub fn nack(self, retry: Retry) -> Settlement {
        self.nack_because(retry, "")
    }

    /// Like [`Self::nack`], with a reason for the dead letter that the message may become. Of a
    /// longer reason the first 1024 bytes are sent.
    pub fn nack_because(self, retry: Retry, reason: &str) -> Settlement {
        self.settle(nack_action(retry, reason))
    }

    /// Given back: not counted, and the message is handed out again at once.
    pub fn release(self) -> Settlement {
        self.settle(Action::settle(Verdict::Release))
    }

    /// Cannot be done: the message becomes a dead letter now, with this reason.
    pub fn reject(self, reason: &str) -> Settlement {
        self.settle(reject_action(reason))
    }

    /// What a handler's error says is to be done.
    pub fn fail(self, failure: Failure) -> Settlement {
        self.settle(failure.into_action())
    }

    fn settle(self, action: Action) -> Settlement {
        let Self { ticket, .. } = self;
        Settlement::new(ticket.settle(action), ticket.offset)
    }

    /// Settles without consuming, where deliveries are shared with handlers or a commit.
    pub(crate) fn settle_shared(&self, action: Action) {
        self.ticket.settle(action);
    }

    /// A commit has settled it: there is nothing left to send.
    pub(crate) fn settled_by_commit(&self) {
        if !self.ticket.is_settled.swap(true, Ordering::Relaxed) {
            self.ticket.shared.settled_by_commit(&self.ticket);
        }
    }

    /// The subscription by its number, for a commit.
    pub(crate) const fn subscription_id(&self) -> SubscriptionId {
        self.ticket.subscription
    }

    /// The consumer that it came to.
    pub(super) fn consumer(&self) -> Arc<Shared> {
        Arc::clone(&self.ticket.shared)
    }

    /// The names of topic and subscription.
    pub(crate) fn source(&self) -> (&Name, &Name) {
        (&self.ticket.shared.topic, &self.ticket.shared.subscription)
    }

    /// Prolongs the lease to end this long from now, or the subscription's lease if that is longer,
    /// and at the latest at the longest that the subscription allows.
    ///
    /// Sent at the call; awaiting the [`Extension`] is optional. Only needed where a lease longer
    /// than the automatic one shall survive this process' death.
    pub fn extend(&self, by: Duration) -> Extension {
        Extension::new(self.ticket.shared.prolong(&self.ticket, by), self.ticket.offset)
    }

    /// When the lease ends unless it is prolonged; `None` once it has ended with its connection.
    /// A settlement still counts then, as long as the message has not been handed out again.
    #[must_use]
    pub fn lease_ends_at(&self) -> Option<Instant> {
        self.ticket.shared.lease_ends_at(&self.ticket)
    }

    /// The topic that it came from.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.ticket.shared.topic.as_str()
    }

    /// The subscription that it came from.
    #[must_use]
    pub fn subscription(&self) -> &str {
        self.ticket.shared.subscription.as_str()
    }

    /// The message.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The application's bytes; cloning them copies nothing.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        self.record.body()
    }

    /// The body read as JSON.
    ///
    /// # Errors
    ///
    /// If the body is not JSON that fits `T`.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        self.record.json()
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.record.key()
    }

    /// Names and values in the sender's order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.record.headers()
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.record.header(name)
    }

    /// The id that its sender gave it.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.record.id()
    }

    /// Its place in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.record.offset()
    }

    /// When its sender made it.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.record.created_at()
    }

    /// How often it has failed before; 0 on the first hand-out.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.ticket.attempt
    }

    /// The token of this hand-out, above those of all earlier ones of the message.
    #[must_use]
    pub const fn fence(&self) -> Fence {
        self.ticket.fence
    }

    /// Everything below was settled in this subscription when this was sent.
    #[must_use]
    pub const fn ack_floor(&self) -> Offset {
        self.ticket.ack_floor
    }
}

/// The nack with this wait and reason.
pub(crate) fn nack_action(retry: Retry, reason: &str) -> Action {
    let delay_ms = match retry {
        Retry::Backoff => BACKOFF,
        Retry::After(delay) => millis(delay).min(BACKOFF - 1),
        Retry::Now => 0,
    };
    Action::Settle { verdict: Verdict::Nack, delay_ms, reason: reason.to_owned() }
}

/// The reject with this reason.
pub(crate) fn reject_action(reason: &str) -> Action {
    Action::Settle { verdict: Verdict::Reject, delay_ms: 0, reason: reason.to_owned() }
}
