//! The state that a consumer, its deliveries and the driver share.
//!
//! One short lock to take a delivery and one to settle it, none held across an await. Checksums are
//! computed outside the lock.

use super::arrived::Arrived;
use super::credit::{Amount, Credit, Totals};
use super::delivery::{Delivery, Ticket};
use super::leases::{Leases, Terms};
use super::settlements::{Action, Group, Outcomes, Settlements};
use crate::error::{ConsumeError, SettleError};
use crate::lock::lock;
use crate::mailbox::{Mail, Mailbox};
use crate::record::Record;
use bytes::Bytes;
use posthouse_protocol::message::{Deliver, DeliveryRun, Verdict};
use posthouse_protocol::{ConsumerId, DecodeError, Name, Outcome, SubscriptionId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// One consumer, as its handle, its deliveries and the driver see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ConsumerId,
    pub(crate) topic: Name,
    pub(crate) subscription: Name,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    arrived: VecDeque<Arrived>,
    waker: Option<Waker>,
    end: End,
    credit: Credit,
    leases: Leases,
    settlements: Settlements,
    /// Counts subscribings, so that deliveries from before are known.
    subscribing: u32,
    /// As the broker numbers it.
    subscription: SubscriptionId,
    /// Whether the driver knows that there is something to look at.
    is_announced: bool,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// The application has the handle.
    Used,
    /// It has dropped it.
    Dropped,
    /// The driver has ended: nothing is sent any more.
    Over,
}

/// Whether and how the stream of deliveries ends.
#[derive(Debug)]
enum End {
    Open,
    /// With this item, and then nothing.
    Told(ConsumeError),
    Ended,
}

/// What the driver can send now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) settlements: bool,
    pub(crate) credit: bool,
}

/// What the driver has to tell the broker.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) groups: Vec<Group>,
    pub(crate) prolonged: Vec<DeliveryRun>,
    pub(crate) lease: Duration,
    pub(crate) totals: Option<Totals>,
    pub(crate) is_dropped: bool,
}

impl Shared {
    pub(crate) fn new(
        id: ConsumerId,
        topic: Name,
        subscription: Name,
        window: Amount,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let state = State {
            arrived: VecDeque::new(),
            waker: None,
            end: End::Open,
            credit: Credit::new(window),
            leases: Leases::new(),
            settlements: Settlements::default(),
            subscribing: 0,
            subscription: SubscriptionId::ZERO,
            is_announced: false,
            life: Life::Used,
        };
        Self { id, topic, subscription, mailbox, state: Mutex::new(state) }
    }

    /// Takes the next delivery, if there is one or there will be none.
    pub(crate) fn poll_take(
        self: &Arc<Self>,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        let mut state = lock(&self.state);
        let has_dropped = state.drop_ended(Instant::now());
        let Some((record, ticket)) = state.take(self) else {
            let ended = state.poll_end(cx);
            if has_dropped {
                self.announce(state);
            }
            return ended;
        };
        self.announce(state);
        let verified = record.and_then(|record| record.verify().map(|()| record));
        Poll::Ready(Some(match verified {
            Ok(record) => Ok(Delivery::new(record, ticket)),
            Err(error) => {
                let (offset, attempt) = (ticket.offset, ticket.attempt);
                ticket.settle(nack(&format!("damaged: {error}")));
                Err(ConsumeError::Damaged { offset, attempt, error })
            }
        }))
    }

    /// Decides what becomes of a delivery, or prolongs its lease.
    pub(super) fn act(&self, ticket: &Ticket, action: Action) -> Arc<Outcomes> {
        let mut state = lock(&self.state);
        if state.life == Life::Over {
            let outcomes = Outcomes::new();
            outcomes.set(Err(SettleError::Closed { outcome: Outcome::Definite }));
            return Arc::new(outcomes);
        }
        let is_fresh = ticket.subscribing == state.subscribing;
        if action.is_settlement() && is_fresh {
            state.credit.settle(ticket.bytes);
            state.leases.settle(ticket.run, ticket.position);
        } else if action.is_settlement() {
            state.credit.settle_carried(ticket.bytes);
        }
        let outcomes = state.settlements.add(action, ticket.offset, ticket.fence, is_fresh);
        self.announce(state);
        outcomes
    }

    /// A commit has settled a delivery, and the broker has confirmed it.
    pub(super) fn settled_by_commit(&self, ticket: &Ticket) {
        let mut state = lock(&self.state);
        if ticket.subscribing == state.subscribing {
            state.credit.settle(ticket.bytes);
            state.credit.confirm(1);
            state.leases.settle(ticket.run, ticket.position);
        } else {
            state.credit.settle_carried(ticket.bytes);
        }
        self.announce(state);
    }

    /// Prolongs a lease by at least the subscription's own length.
    pub(super) fn prolong(&self, ticket: &Ticket, by: Duration) -> Arc<Outcomes> {
        let lease = {
            let mut state = lock(&self.state);
            let lease = by.max(state.leases.lease());
            if ticket.subscribing == state.subscribing {
                state.leases.prolong(ticket.run, ticket.position, Instant::now() + lease);
            }
            lease
        };
        self.act(ticket, Action::Extend { lease_ms: crate::clock::millis(lease) })
    }

    /// When a delivery's lease ends; `None` if it has ended with its connection.
    pub(super) fn lease_ends_at(&self, ticket: &Ticket) -> Option<Instant> {
        let state = lock(&self.state);
        let is_fresh = ticket.subscribing == state.subscribing;
        state.leases.ends_at(ticket.run, ticket.position).filter(|_| is_fresh)
    }

    /// The handle is gone.
    pub(crate) fn dropped(&self) {
        let mut state = lock(&self.state);
        if state.life == Life::Used {
            state.life = Life::Dropped;
        }
        state.arrived.clear();
        self.announce(state);
    }

    fn announce(&self, mut state: MutexGuard<'_, State>) {
        let announced = std::mem::replace(&mut state.is_announced, true);
        drop(state);
        if !announced {
            // A driver that has ended has ended this consumer, or is about to.
            let _ = self.mailbox.post(Mail::Consumer(self.id));
        }
    }

    // From here on: the driver's side.

    /// The broker has agreed, or agreed again.
    pub(crate) fn subscribed(&self, subscription: SubscriptionId, terms: Terms) {
        let mut state = lock(&self.state);
        state.subscription = subscription;
        state.leases.set_terms(terms);
    }

    /// The connection is gone: what was not taken is dropped, and leases and totals end.
    pub(crate) fn disconnected(&self) {
        let mut state = lock(&self.state);
        state.subscribing += 1;
        state.arrived.clear();
        state.leases.clear();
        state.credit.begin_again();
        state.settlements.begin_again();
    }

    /// Messages have come.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the slices do not fit the tail.
    pub(crate) fn arrived(
        &self,
        deliver: &Deliver,
        mut tail: Bytes,
        now: Instant,
    ) -> Result<(), DecodeError> {
        let mut state = lock(&self.state);
        if state.life != Life::Used || !matches!(state.end, End::Open) {
            return Ok(());
        }
        for slice in &deliver.slices {
            let mut arrived = Arrived::cut(deliver, slice, &mut tail)?;
            let (first, fence, count) = (arrived.next, arrived.fence, arrived.left);
            arrived.run = state.leases.add(first, fence, count, now);
            state.arrived.push_back(arrived);
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// What there is to tell the broker now.
    pub(crate) fn work(&self, now: Instant, wanted: Wanted) -> Work {
        let mut state = lock(&self.state);
        state.is_announced = false;
        state.drop_ended(now);
        let prolonged = state.leases.prolong_due(now);
        state.release_overdue();
        Work {
            groups: if wanted.settlements { state.settlements.take() } else { Vec::new() },
            prolonged,
            lease: state.leases.lease(),
            totals: if wanted.credit { state.credit.tell() } else { None },
            is_dropped: state.life == Life::Dropped,
        }
    }

    /// The broker has confirmed settlements.
    pub(crate) fn confirmed(&self, fresh: u64) {
        lock(&self.state).credit.confirm(fresh);
    }

    /// When the next lease has to be prolonged.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        lock(&self.state).leases.next_due()
    }

    /// Ends the stream, with an error or without; nothing more is taken or granted.
    pub(crate) fn end(&self, error: Option<ConsumeError>) {
        let mut state = lock(&self.state);
        state.arrived.clear();
        state.credit.freeze();
        if let End::Open = state.end {
            state.end = error.map_or(End::Ended, End::Told);
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Deliveries that the application holds, and settlements that wait to be sent.
    pub(crate) fn unsettled(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.credit.held_messages(), state.settlements.messages())
    }

    pub(crate) fn is_dropped(&self) -> bool {
        lock(&self.state).life != Life::Used
    }

    /// Whether settlements or extensions wait to be sent.
    pub(crate) fn has_settlements(&self) -> bool {
        !lock(&self.state).settlements.is_empty()
    }

    /// Nothing is sent any more; takes what would have been.
    pub(crate) fn take_over(&self) -> Vec<Group> {
        let mut state = lock(&self.state);
        state.life = Life::Over;
        state.settlements.take()
    }
}

impl State {
    /// Cuts the next message off what has arrived.
    fn take(&mut self, shared: &Arc<Shared>) -> Option<(Result<Record, DecodeError>, Ticket)> {
        if !matches!(self.end, End::Open) {
            return None;
        }
        let front = self.arrived.front_mut()?;
        let (record, at) = front.take();
        if front.left == 0 {
            self.arrived.pop_front();
        }
        let bytes = record.as_ref().map_or(0, |record| record.len() as u64);
        self.credit.take(bytes);
        let subscribing = (self.subscribing, self.subscription);
        let ticket = Ticket::new(Arc::clone(shared), at, subscribing, bytes);
        Some((record, ticket))
    }

    fn poll_end(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        match std::mem::replace(&mut self.end, End::Ended) {
            End::Open => {
                self.end = End::Open;
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Told(error) => Poll::Ready(Some(Err(error))),
            End::Ended => Poll::Ready(None),
        }
    }

    /// Forgets what the application has not taken and whose lease has ended: another consumer may have
    /// it by now. True if there was any.
    fn drop_ended(&mut self, now: Instant) -> bool {
        let mut has_dropped = false;
        while let Some(front) = self.arrived.front_mut() {
            let ends_at = self.leases.ends_at(front.run, front.position);
            if ends_at.is_none_or(|ends_at| ends_at > now) {
                return has_dropped;
            }
            has_dropped = true;
            let (record, at) = front.take();
            if front.left == 0 {
                self.arrived.pop_front();
            }
            let bytes = record.as_ref().map_or(0, |record| record.len() as u64);
            self.credit.take(bytes);
            self.credit.settle(bytes);
            self.credit.confirm(1);
            self.leases.settle(at.run, at.position);
        }
        has_dropped
    }

    /// Gives back, uncounted, what the application has not taken in the longest time that a lease
    /// can last; left alone it would count as failed.
    fn release_overdue(&mut self) {
        while let Some(front) = self.arrived.front_mut() {
            if !self.leases.is_final(front.run) {
                return;
            }
            let (record, at) = front.take();
            if front.left == 0 {
                self.arrived.pop_front();
            }
            let bytes = record.as_ref().map_or(0, |record| record.len() as u64);
            self.credit.take(bytes);
            self.credit.settle(bytes);
            self.leases.settle(at.run, at.position);
            self.settlements.add(Action::settle(Verdict::Release), at.offset, at.fence, true);
        }
    }
}

/// A failure that backs off as the subscription says.
pub(super) fn nack(reason: &str) -> Action {
    let delay_ms = posthouse_protocol::message::BACKOFF;
    Action::Settle { verdict: Verdict::Nack, delay_ms, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::batch::{BatchBuilder, BatchView};
    use posthouse_protocol::message::{DeliverySlice, Slice};
    use posthouse_protocol::{Attempt, Offset, StartEpoch, Timestamp};
    use std::future::poll_fn;
    use tokio::time::advance;

    const LEASE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_before_its_lease_ended_is_not_handed_out() {
        let shared = shared();
        arrive(&shared, 0);
        advance(LEASE / 2).await;
        arrive(&shared, 1);
        // Nobody prolongs: the driver has not had its turn, as after the process was stopped.
        advance(LEASE / 2).await;

        let taken = poll_fn(|cx| shared.poll_take(cx)).await.unwrap().unwrap();

        assert_eq!(taken.offset(), Offset(1));
        let wanted = Wanted { settlements: true, credit: true };
        let work = shared.work(Instant::now(), wanted);
        assert!(work.groups.is_empty(), "nothing is said about what is over");
        let totals = work.totals.unwrap();
        assert_eq!((totals.granted.messages, totals.taken), (11, 2), "its credit comes back");
        drop(taken);
    }

    fn shared() -> Arc<Shared> {
        let name = |text| Name::new(text).unwrap();
        let window = Amount { messages: 10, bytes: 1000 };
        let mailbox = Arc::new(Mailbox::default());
        let shared = Shared::new(ConsumerId(0), name("t"), name("s"), window, mailbox);
        let terms = Terms { lease: LEASE, lease_max: LEASE * 20 };
        shared.subscribed(SubscriptionId(1), terms);
        Arc::new(shared)
    }

    fn arrive(shared: &Shared, offset: u64) {
        let mut builder = BatchBuilder::new();
        builder.push(&posthouse_protocol::batch::Message::default()).unwrap();
        let batch = builder.finish(Timestamp(1));
        let view = BatchView::parse(&batch).unwrap();
        let tail = Bytes::from([view.index(), view.bodies()].concat());
        let (first, index_len) = (Offset(offset), u32::try_from(view.index().len()).unwrap());
        let slice = Slice { first, count: 1, index_len, bodies_len: 0 };
        let slice = DeliverySlice { slice, fence_counter: offset, attempt: Attempt(0) };
        let (ack_floor, fence_epoch) = (Offset(0), StartEpoch(1));
        let slices = vec![slice];
        let deliver = Deliver { consumer: ConsumerId(0), ack_floor, fence_epoch, slices };
        shared.arrived(&deliver, tail, Instant::now()).unwrap();
    }
}
