//! The driver's end of a consumer: subscribes, settles, prolongs leases and grants credit.

use super::leases::Terms;
use super::runs::chunks;
use super::settlements::{Action, Group, Refused};
use super::shared::{Shared, Wanted, Work};
use crate::driver::{Outgoing, Owner};
use crate::error::{ConsumeError, Refusal, RequestError, SettleError};
use bytes::Bytes;
use posthouse_protocol::message::{
    Credit, Deliver, Extend, Settle, Settled, Subscribe, Subscribed, Unsubscribe,
};
use posthouse_protocol::{
    ConsumerId, DecodeError, ErrorCode, Outcome, Request, SubscriptionId, limits,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// While so many settlement frames have no answer, further settlements wait and travel together.
const EAGER_FRAMES: usize = 4;
/// Pause before a refused request is made again, unless the broker names one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// One consumer, as the driver keeps it.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    /// For whoever waits for the consumer to be opened.
    answer: Option<oneshot::Sender<Result<(), RequestError>>>,
    phase: Phase,
    /// Known once the broker has agreed for the first time.
    subscription: Option<SubscriptionId>,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    frames_made: u64,
    /// When settlements that were refused for now may be sent again.
    settle_again: Option<Instant>,
}

/// ```text
/// Off --ask--> Asked --agreed--> On --dropped, or ended for good--> Over
///  ^------------ connection lost, or refused for now ---'
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not subscribed; to be asked for from then on.
    Off(Option<Instant>),
    Asked,
    On,
    Over,
}

/// A frame of settlements or extensions without an answer.
#[derive(Debug)]
struct Unconfirmed {
    group: Group,
    subscription: SubscriptionId,
    is_sent: bool,
    was_repeated: bool,
}

impl Link {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        answer: oneshot::Sender<Result<(), RequestError>>,
    ) -> Self {
        Self {
            shared,
            answer: Some(answer),
            phase: Phase::Off(None),
            subscription: None,
            unconfirmed: BTreeMap::new(),
            frames_made: 0,
            settle_again: None,
        }
    }

    /// Sends what can be sent; `true` if there may be more once `out` has room again.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        if !out.has_room() {
            return true;
        }
        self.subscribe(now, out);
        self.resend(now, out);
        let on_the_way = self.unconfirmed.values().filter(|frame| frame.is_sent).count();
        let may_settle = self.settle_again.is_none() && on_the_way < EAGER_FRAMES;
        let wanted = Wanted {
            settlements: may_settle && self.subscription.is_some(),
            credit: self.phase == Phase::On,
        };
        let work = self.shared.work(now, wanted);
        self.send(work, out);
        false
    }

    fn subscribe(&mut self, now: Instant, out: &mut Outgoing) {
        let Phase::Off(at) = self.phase else {
            return;
        };
        if self.shared.is_dropped() {
            self.phase = Phase::Over;
        } else if at.is_none_or(|at| at <= now) {
            let Shared { id, topic, subscription, .. } = &*self.shared;
            let (consumer, topic, subscription) = (*id, topic.clone(), subscription.clone());
            let owner = Owner::Subscribe(consumer);
            out.ask(Subscribe { consumer, topic, subscription }, owner);
            self.phase = Phase::Asked;
        }
    }

    fn resend(&mut self, now: Instant, out: &mut Outgoing) {
        if self.settle_again.is_some_and(|at| at > now) {
            return;
        }
        self.settle_again = None;
        let consumer = self.shared.id;
        for (number, frame) in self.unconfirmed.iter_mut().filter(|(_, frame)| !frame.is_sent) {
            frame.is_sent = true;
            out.ask(frame.request(), Owner::Settle { consumer, number: *number });
        }
    }

    fn send(&mut self, work: Work, out: &mut Outgoing) {
        let consumer = self.shared.id;
        if let Some(subscription) = self.subscription {
            for group in work.groups {
                let number = self.frames_made;
                self.frames_made += 1;
                let frame = Unconfirmed { group, subscription, is_sent: true, was_repeated: false };
                out.ask(frame.request(), Owner::Settle { consumer, number });
                self.unconfirmed.insert(number, frame);
            }
            let lease_ms = crate::clock::millis(work.lease);
            for deliveries in chunks(work.prolonged, limits::SETTLE_DELIVERIES_MAX) {
                // A refusal needs no answer: the lease has ended, and a settlement will say so.
                out.ask(Extend { subscription, lease_ms, deliveries }, Owner::Nobody);
            }
        }
        if let Some(totals) = work.totals {
            let (messages, bytes) = (totals.granted.messages, totals.granted.bytes);
            out.tell(Credit { consumer, messages, bytes, taken: totals.taken });
        }
        if work.is_dropped && self.phase == Phase::On && !self.shared.has_settlements() {
            out.tell(Unsubscribe { consumer });
            self.phase = Phase::Over;
        }
    }

    /// The broker has agreed.
    pub(crate) fn on_subscribed(&mut self, subscribed: &Subscribed) {
        let lease = Duration::from_millis(subscribed.lease_ms);
        let lease_max = Duration::from_millis(subscribed.lease_ms_max);
        self.shared.subscribed(subscribed.subscription, Terms { lease, lease_max });
        self.subscription = Some(subscribed.subscription);
        self.phase = Phase::On;
        if let Some(answer) = self.answer.take() {
            // Whoever gave up waiting has dropped the consumer, which ends it.
            let _ = answer.send(Ok(()));
        }
    }

    /// The broker refused, or ended the consumer.
    pub(crate) fn on_refusal(&mut self, refusal: Refusal, now: Instant) {
        if refusal.is_retriable() {
            let pause = refusal.retry_after().unwrap_or(RETRY_PAUSE);
            self.phase = Phase::Off(Some(now + pause));
            self.shared.disconnected();
            return;
        }
        self.phase = Phase::Over;
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(Err(RequestError::Refused(refusal.clone())));
        }
        self.shared.end(Some(ConsumeError::Ended(refusal)));
    }

    /// Messages have come.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if they do not fit together.
    pub(crate) fn on_deliver(
        &self,
        deliver: &Deliver,
        tail: Bytes,
        now: Instant,
    ) -> Result<(), DecodeError> {
        if self.phase == Phase::On { self.shared.arrived(deliver, tail, now) } else { Ok(()) }
    }

    /// The broker has answered a frame of settlements or extensions.
    pub(crate) fn on_settled(&mut self, number: u64, settled: Settled) {
        if let Some(Unconfirmed { group, was_repeated, .. }) = self.unconfirmed.remove(&number) {
            group.outcomes.set(Ok(Refused { runs: settled.refused, was_repeated }));
            self.shared.confirmed(group.fresh);
        }
    }

    /// The broker refused a whole frame of settlements or extensions.
    pub(crate) fn on_settle_refused(&mut self, number: u64, refusal: Refusal, now: Instant) {
        if let Some(frame) = self.unconfirmed.get_mut(&number)
            && refusal.is_retriable()
            && frame.group.action.is_settlement()
        {
            frame.is_sent = false;
            self.settle_again = Some(now + refusal.retry_after().unwrap_or(RETRY_PAUSE));
        } else if let Some(frame) = self.unconfirmed.remove(&number) {
            let unknown = frame.was_repeated;
            let outcome = if unknown { Outcome::Unknown } else { refusal.outcome() };
            frame.group.outcomes.set(Err(SettleError::Refused { refusal, outcome }));
            self.shared.confirmed(frame.group.fresh);
        }
    }

    /// The connection is gone.
    pub(crate) fn on_disconnect(&mut self) {
        if self.phase != Phase::Over {
            self.phase = Phase::Off(None);
        }
        self.settle_again = None;
        self.shared.disconnected();
        for frame in self.unconfirmed.values_mut() {
            frame.was_repeated |= frame.is_sent;
            frame.is_sent = false;
            frame.group.fresh = 0;
        }
        let is_extension = |_: &u64, frame: &mut Unconfirmed| !frame.group.action.is_settlement();
        for (_, frame) in self.unconfirmed.extract_if(.., is_extension) {
            let refusal = Refusal::new(ErrorCode::LeaseEnded.number(), "connection lost");
            let outcome = Outcome::Definite;
            frame.group.outcomes.set(Err(SettleError::Refused { refusal, outcome }));
        }
    }

    /// When there is next something to do that nothing else announces.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let ask = match self.phase {
            Phase::Off(at) => at,
            Phase::Asked | Phase::On | Phase::Over => None,
        };
        [ask, self.settle_again, self.shared.next_due()].into_iter().flatten().min()
    }

    /// Whether it is dropped and nothing can come of it any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.phase == Phase::Over && self.shared.is_dropped() && self.is_flushed()
    }

    /// Whether nothing is held and every settlement is confirmed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unconfirmed.is_empty() && self.shared.unsettled() == (0, 0)
    }

    /// Ends the stream; what is held can still be settled.
    pub(crate) fn close(&self) {
        self.shared.end(None);
    }

    /// Gives back what was not taken.
    pub(crate) fn unsubscribe(&mut self, out: &mut Outgoing) {
        if self.phase == Phase::On {
            out.tell(Unsubscribe { consumer: self.shared.id });
        }
        self.phase = Phase::Over;
    }

    /// Gives up everything and counts the deliveries without a confirmed settlement.
    pub(crate) fn abandon(&mut self, error: Option<ConsumeError>) -> u64 {
        self.shared.end(error);
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(Err(RequestError::Closed { outcome: Outcome::Definite }));
        }
        let (held, _) = self.shared.unsettled();
        let mut left = held;
        for group in self.shared.take_over() {
            left += count(&group);
            group.outcomes.set(Err(SettleError::Closed { outcome: Outcome::Definite }));
        }
        for frame in std::mem::take(&mut self.unconfirmed).into_values() {
            left += count(&frame.group);
            let was_sent = frame.is_sent || frame.was_repeated;
            let outcome = if was_sent { Outcome::Unknown } else { Outcome::Definite };
            frame.group.outcomes.set(Err(SettleError::Closed { outcome }));
        }
        left
    }

    pub(crate) fn id(&self) -> ConsumerId {
        self.shared.id
    }
}

fn count(group: &Group) -> u64 {
    if group.action.is_settlement() { group.messages } else { 0 }
}

impl Unconfirmed {
    fn request(&self) -> Request {
        let (subscription, deliveries) = (self.subscription, self.group.runs.clone());
        match &self.group.action {
            Action::Settle { verdict, delay_ms, reason } => Request::Settle(Settle {
                subscription,
                verdict: *verdict,
                delay_ms: *delay_ms,
                reason: reason.clone(),
                deliveries,
            }),
            Action::Extend { lease_ms } => {
                Request::Extend(Extend { subscription, lease_ms: *lease_ms, deliveries })
            }
        }
    }
}
