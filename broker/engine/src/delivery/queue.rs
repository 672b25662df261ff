//! The volatile part of one subscription: where each message that is not settled is right now.
//!
//! ```text
//!            hand out                 ack, reject
//!   window ------------> in flight -----------------> gone
//!     |                   |  |  ^
//!     | failed before,    |  |  | hand out
//!     | not yet due       |  |  |
//!     v      nack, lost   |  |  release, untaken
//!   delayed <-------------+  +-----------------> ready
//!     |                                            ^
//!     +--------------------------------------------+
//!                        due
//! ```
//!
//! Every message below the window's front that the durable state knows as unsettled and not
//! rejected is in exactly one of *ready*, *delayed* and *in flight*; nothing else is. From the
//! front on nothing is known here: the durable state is asked when a message leaves the window. So
//! the whole of this can be thrown away at any time, and is, when the last consumer leaves.

use super::consumer::{Consumer, ConsumerKey};
use super::in_flight::{Held, InFlight};
use super::ready::{Ready, Waiting};
use super::span::{Span, Stretch};
use super::window::Window;
use crate::state::Subscription;
use crate::time::{Now, Time};
use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::{Attempt, Fence, LogIndex, Offset, PartitionId};
use std::ops::Range;

/// Messages that one of several consumers gets before it is the next one's turn.
const TURN_MESSAGES: u32 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    pub partition: PartitionId,
    pub window: Window,
    pub ready: Ready,
    pub in_flight: InFlight,
    pub consumers: Vec<Consumer>,
    /// The last commit with settlements of it that are seen only when it is committed.
    pub held_until: LogIndex,
    /// Whose turn it is, modulo the number of consumers.
    turn: usize,
    /// When the engine's timer for this queue is set.
    pub armed: Option<Time>,
}

/// Where something to hand out came from, and goes back to if it does not fit.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Ready,
    Window,
}

/// What one consumer's turn came to.
enum Turn {
    /// It got something.
    Served,
    /// It has no room for what is next.
    Full,
    /// There is nothing to hand out.
    Nothing,
}

impl Queue {
    /// Without consumers, starting at the ack floor.
    pub(super) fn new(subscription: &Subscription) -> Self {
        Self {
            partition: subscription.partition,
            window: Window::new(subscription.ack_floor()),
            ready: Ready::default(),
            in_flight: InFlight::default(),
            consumers: Vec::new(),
            held_until: LogIndex::ZERO,
            turn: 0,
            armed: None,
        }
    }

    /// The consumer with this key.
    pub(super) fn consumer_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.key == key)
    }

    /// Whether a consumer would take more, if there were more.
    pub(super) fn is_hungry(&self) -> bool {
        self.consumers.iter().any(|consumer| consumer.credit.room().messages > 0)
    }

    /// When the next lease or wait ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.in_flight.next_end().into_iter().chain(self.ready.next_due()).min()
    }

    /// Forgets messages that are settled or rejected now.
    pub(super) fn forget(&mut self, range: Range<Offset>) {
        self.in_flight.take(range.clone(), drop);
        self.ready.take(range, drop);
    }

    /// Makes messages available again whose lease is over.
    pub(super) fn give_back(&mut self, held: Held) {
        self.ready.give_back(held.into_waiting());
    }

    /// Lets a message wait that has just failed, wherever it is.
    pub(super) fn postpone(&mut self, offset: Offset, attempt: Attempt, due: Time) {
        let range = offset..offset.next();
        let mut found = None;
        self.in_flight.take(range.clone(), |held| found = Some(held.span));
        self.ready.take(range, |waiting| found = Some(waiting.span));
        // From the window's front on, the durable state says that it has to wait.
        if let Some(span) = found {
            self.ready.delay(Waiting { span, attempt }, due);
        }
    }

    /// Hands out as much as credit allows, lowest offset first and consumers in turn.
    ///
    /// `fence` is the next free fence; `runs` gets what was handed out. Returns how many messages.
    pub(super) fn hand_out(
        &mut self,
        subscription: &Subscription,
        now: Now,
        fence: &mut Fence,
        runs: &mut Vec<DeliveryRun>,
    ) -> u64 {
        let before = fence.counter;
        let chunk = if self.consumers.len() == 1 { u32::MAX } else { TURN_MESSAGES };
        let mut full = 0;
        while full < self.consumers.len() {
            let index = self.turn % self.consumers.len();
            match self.serve(index, chunk, subscription, Handing { now, fence, runs }) {
                Turn::Served => full = 0,
                Turn::Full => full += 1,
                Turn::Nothing => break,
            }
            self.turn = index + 1;
        }
        self.check_invariants();
        fence.counter - before
    }

    fn serve(
        &mut self,
        index: usize,
        chunk: u32,
        subscription: &Subscription,
        mut handing: Handing<'_>,
    ) -> Turn {
        let mut left = chunk;
        while left > 0 {
            let Some(consumer) = self.consumers.get(index) else { return Turn::Nothing };
            if consumer.credit.room().messages == 0 {
                break;
            }
            let Some((origin, mut waiting)) = self.next_available(subscription, handing.now) else {
                return if left < chunk { Turn::Served } else { Turn::Nothing };
            };
            let count = self.fitting(index, &waiting.span).min(left);
            if count == 0 {
                self.put_back(origin, waiting);
                break;
            }
            if count < waiting.span.count() {
                let cut = waiting.first().plus(u64::from(count));
                let part = waiting.split_before(cut);
                self.put_back(origin, waiting);
                waiting = part;
            }
            left -= count;
            self.hand_to(index, waiting, subscription.settings.lease_ms, &mut handing);
        }
        if left < chunk { Turn::Served } else { Turn::Full }
    }

    /// How many messages from the front of `span` the consumer may be sent. A message larger than
    /// the bytes left may go alone to a consumer that holds nothing, lest nobody ever gets it.
    fn fitting(&self, index: usize, span: &Span) -> u32 {
        let Some(consumer) = self.consumers.get(index) else { return 0 };
        let room = consumer.credit.room();
        let fitting = span.fitting(room.bytes).min(room.messages);
        if fitting == 0 && room.messages > 0 {
            let idle = consumer.credit.all_taken() || self.in_flight.is_idle(consumer.key);
            return u32::from(idle);
        }
        fitting
    }

    fn hand_to(
        &mut self,
        index: usize,
        waiting: Waiting,
        lease_ms: u64,
        handing: &mut Handing<'_>,
    ) {
        let Waiting { span, attempt } = waiting;
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        let (first, count) = (span.first(), span.count());
        let position = consumer.credit.send(count, span.bytes());
        let fence = *handing.fence;
        consumer.send(first, count, fence.counter, attempt);
        self.in_flight.insert(Held {
            span,
            fence: fence.counter,
            attempt,
            consumer: consumer.key,
            position,
            since: handing.now.mono,
            until: handing.now.mono.plus_millis(lease_ms),
        });
        *handing.fence = fence.plus(u64::from(count));
        note_run(handing.runs, DeliveryRun { first, fence, count });
    }

    /// Takes the lowest messages that may be handed out now.
    fn next_available(
        &mut self,
        subscription: &Subscription,
        now: Now,
    ) -> Option<(Origin, Waiting)> {
        if let Some(waiting) = self.ready.pop_first() {
            return Some((Origin::Ready, waiting));
        }
        while let Some(span) = self.window.pop_front() {
            let Some(span) = self.first_unsettled(subscription, span) else { continue };
            let span = self.first_of_a_kind(subscription, span);
            let offset = span.first();
            if subscription.rejected.contains_key(&offset) {
                continue;
            }
            let Some(failure) = subscription.failures.get(&offset) else {
                return Some((Origin::Window, Waiting { span, attempt: Attempt::ZERO }));
            };
            let waiting = Waiting { span, attempt: failure.attempt };
            let wait = failure.retry_at.0.saturating_sub(now.wall.0);
            if wait == 0 {
                return Some((Origin::Window, waiting));
            }
            self.ready.delay(waiting, now.mono.plus_millis(wait));
        }
        None
    }

    /// The first part of `span` that is not settled; puts the rest back into the window.
    fn first_unsettled(&mut self, subscription: &Subscription, mut span: Span) -> Option<Span> {
        let start = subscription.next_unsettled(span.first());
        if start >= span.end() {
            return None;
        }
        if start > span.first() {
            span.split_before(start);
        }
        let end = subscription.unsettled_end(start);
        Some(self.front_part(span, end))
    }

    /// The first part of `span` that never failed, or else its first message alone; puts the rest
    /// back into the window.
    fn first_of_a_kind(&mut self, subscription: &Subscription, span: Span) -> Span {
        let range = span.offsets();
        let failed = subscription.failures.range(range.clone()).next().map(|(offset, _)| *offset);
        let rejected = subscription.rejected.range(range).next().map(|(offset, _)| *offset);
        match failed.into_iter().chain(rejected).min() {
            None => span,
            Some(offset) if offset == span.first() => self.front_part(span, offset.next()),
            Some(offset) => self.front_part(span, offset),
        }
    }

    fn front_part(&mut self, mut span: Span, end: Offset) -> Span {
        if end >= span.end() {
            return span;
        }
        let front = span.split_before(end);
        self.window.push_front(span);
        front
    }

    fn put_back(&mut self, origin: Origin, waiting: Waiting) {
        match origin {
            Origin::Ready => self.ready.give_back(waiting),
            Origin::Window => self.window.push_front(waiting.span),
        }
    }

    fn check_invariants(&self) {
        let front = self.window.front();
        debug_assert!(self.in_flight.ends_below(front), "leased messages lie before the window");
        debug_assert!(self.ready.ends_below(front), "returned messages lie before the window");
    }
}

/// What every hand-out of a round shares.
struct Handing<'a> {
    now: Now,
    fence: &'a mut Fence,
    runs: &'a mut Vec<DeliveryRun>,
}

/// Adds to what was handed out, as part of the last run if it continues it.
fn note_run(runs: &mut Vec<DeliveryRun>, run: DeliveryRun) {
    if let Some(last) = runs.last_mut()
        && last.first.plus(u64::from(last.count)) == run.first
        && last.fence.plus(u64::from(last.count)) == run.fence
        && let Some(sum) = last.count.checked_add(run.count)
    {
        last.count = sum;
        return;
    }
    runs.push(run);
}
