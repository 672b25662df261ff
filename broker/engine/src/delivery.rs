//! Who holds which message of which subscription, and until when.
//!
//! All of this is volatile: leases, credit, consumers, what lies ahead of them. What must survive
//! (what is settled, the highest fence of each message, failures) is in [`State`](crate::State), and
//! is asked there. A subscription has a [`Queue`] here only while it has consumers; a settlement
//! needs none.
//!
//! Work is done in runs of consecutive offsets wherever messages allow it, and no hand-out,
//! settlement or lease end costs anything for a message that it does not concern.

mod backoff;
mod commit;
mod consumer;
mod credit;
mod dead_letter;
mod disjoint;
mod dispatch;
mod failing;
mod in_flight;
mod lost;
mod queue;
mod ready;
mod redrive;
mod settle;
mod span;
mod subscribe;
mod tail;
mod window;

#[cfg(test)]
mod tests;

pub(crate) use commit::Settlement;
pub(crate) use dead_letter::{place_in, published};

use crate::context::Context;
use crate::event::{Event, OffsetRun};
use crate::input::WindowEntry;
use crate::time::Time;
use consumer::ConsumerKey;
use dead_letter::Letters;
use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::wire::Wire;
use posthouse_protocol::{IdMap, LogIndex, Offset, PartitionId, SubscriptionId};
use queue::Queue;
use redrive::Redrives;
use span::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tail::Tail;

/// The volatile part of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Of every subscription that has consumers.
    queues: IdMap<SubscriptionId, Queue>,
    /// What each consumer reads.
    consumers: BTreeMap<ConsumerKey, SubscriptionId>,
    /// Of every partition that has consumers.
    feeds: IdMap<PartitionId, Feed>,
    /// Queues that may have something to hand out at the end of this round.
    dirty: BTreeSet<SubscriptionId>,
    /// At most one entry per queue, never later than its next deadline.
    timers: BTreeSet<(Time, SubscriptionId)>,
    /// Counter of the fence given out last.
    fence: u64,
    /// Whether the broker is stopping: nothing is handed out any more.
    draining: bool,
    letters: Letters,
    redrives: Redrives,
    /// Reused.
    sizes: Vec<u32>,
}

/// What is new in a partition, and who reads it.
#[derive(Debug)]
struct Feed {
    tail: Tail,
    subscriptions: Vec<SubscriptionId>,
}

/// The volatile figures of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages under a lease.
    pub(crate) in_flight: u64,
    /// Messages that wait for their backoff to end, as far as they have been looked at.
    pub(crate) delayed: u64,
    /// Consumers connected.
    pub(crate) consumers: u32,
}

impl Deliveries {
    /// Takes up what a start finds in the durable state.
    pub(crate) fn start(&mut self, context: &Context<'_>) {
        for subscription in context.state.subscriptions.values() {
            if !subscription.rejected.is_empty() {
                self.letters.wanted(subscription.id);
            }
        }
    }

    /// Nothing is handed out from now on; what is in flight may end.
    pub(crate) const fn drain(&mut self) {
        self.draining = true;
    }

    /// Messages were published into one partition; the frame is appended.
    pub(crate) fn published(
        &mut self,
        context: &Context<'_>,
        partition: PartitionId,
        entries: &[WindowEntry],
    ) {
        let Self { queues, feeds, dirty, sizes, .. } = self;
        let Some(feed) = feeds.get_mut(&partition) else { return };
        // What can be loaded and nobody is about to pull need not be kept.
        let start = feed.tail.start();
        let next = |id: &SubscriptionId| queues.get(id).map(|queue| queue.window.next());
        let pulled = feed.subscriptions.iter().filter_map(next).filter(|next| *next >= start).min();
        let visible = context.visible_end(partition);
        feed.tail.forget_below(pulled.map_or(visible, |pulled| pulled.min(visible)));
        feed.tail.push(entries, sizes);
        dirty.extend(&feed.subscriptions);
    }

    /// More of a partition can be seen.
    pub(crate) fn visible_moved(&mut self, partition: PartitionId) {
        if let Some(feed) = self.feeds.get(&partition) {
            self.dirty.extend(&feed.subscriptions);
        }
    }

    /// A partition has forgotten messages; the frame is appended.
    pub(crate) fn trimmed(&mut self, context: &Context<'_>, partition: PartitionId) {
        let Some(feed) = self.feeds.get(&partition) else { return };
        for id in &feed.subscriptions {
            let subscription = context.state.subscriptions.get(id);
            if let (Some(queue), Some(subscription)) = (self.queues.get_mut(id), subscription) {
                queue.forget(Offset::ZERO..subscription.ack_floor());
            }
        }
        self.dirty.extend(&feed.subscriptions);
    }

    /// The answer to a load of messages ahead: what is stored in `range`.
    pub(crate) fn window_loaded(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        range: Range<Offset>,
        entries: &[WindowEntry],
    ) {
        let Self { queues, dirty, sizes, .. } = self;
        let Some(queue) = queues.get_mut(&id) else { return };
        if !queue.window.end_load(range.start) {
            return;
        }
        dirty.insert(id);
        for run in entries.chunk_by(follows) {
            let Some(first) = run.first().filter(|first| !first.damaged) else { continue };
            debug_assert!(range.contains(&first.offset), "an answer is about what was asked");
            sizes.clear();
            sizes.extend(run.iter().map(|entry| entry.bytes));
            if let Some(span) = Span::from_sizes(first.offset, sizes) {
                queue.window.push(span);
            }
        }
        queue.window.advance(range.end);
        let damaged = entries.iter().filter(|entry| entry.damaged).map(|entry| entry.offset);
        self.settle_damaged(context, id, damaged);
    }

    /// Ends leases and waits whose time has come. Early or repeated calls are harmless.
    pub(crate) fn on_deadline(&mut self, context: &mut Context<'_>) {
        let now = context.now.mono;
        while let Some((at, id)) = self.timers.first().filter(|(at, _)| *at <= now).copied() {
            self.timers.remove(&(at, id));
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.armed = None;
                queue.ready.advance(now);
            }
            self.end_leases(context, id);
            self.dirty.insert(id);
            self.arm(id);
        }
    }

    /// Ends a round: hands out, and asks for what is missing.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) {
        self.dispatch(context);
        self.ask_for_letters(context);
        self.go_on_redriving(context);
    }

    /// When [`Self::on_deadline`] next has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The volatile figures of a subscription.
    pub(crate) fn counts(&self, id: SubscriptionId) -> Counts {
        self.queues.get(&id).map_or_else(Counts::default, |queue| Counts {
            in_flight: queue.in_flight.messages(),
            delayed: queue.ready.delayed(),
            consumers: u32::try_from(queue.consumers.len()).unwrap_or(u32::MAX),
        })
    }

    /// Sets the timer of a queue to its next deadline, if none is set that is as early. One that is
    /// too early does no harm and is cheaper than moving it with each settlement.
    fn arm(&mut self, id: SubscriptionId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(next) = queue.next_deadline() else { return };
        if queue.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        if let Some(armed) = queue.armed.replace(next) {
            self.timers.remove(&(armed, id));
        }
        self.timers.insert((next, id));
    }

    /// Forgets messages of a subscription that are settled or rejected now.
    fn forget(&mut self, id: SubscriptionId, range: Range<Offset>) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.forget(range);
        }
    }
}

/// Whether two stored messages can be in one span.
fn follows(a: &WindowEntry, b: &WindowEntry) -> bool {
    !a.damaged && !b.damaged && a.offset.next() == b.offset
}

/// Bytes of events that a frame of many holds at most. The smallest segments that are configured
/// take frames of twice that.
const FRAME_BYTES_MAX: usize = 48 << 10;

/// Appends `events`, which need not be one atomic unit, in as many frames as they need, and
/// returns the last frame's number.
fn append_in_frames(context: &mut Context<'_>, events: Vec<Event>) -> LogIndex {
    let (mut frame, mut bytes) = (Vec::new(), 0);
    for event in events {
        let len = len_of(&event);
        if bytes + len > FRAME_BYTES_MAX && !frame.is_empty() {
            context.append(std::mem::take(&mut frame), Vec::new());
            bytes = 0;
        }
        bytes += len;
        frame.push(event);
    }
    if frame.is_empty() { context.last() } else { context.append(frame, Vec::new()) }
}

/// Roughly how long the encoding of an event is that delivery makes many of.
fn len_of(event: &Event) -> usize {
    const FIXED: usize = 40;
    match event {
        Event::HandedOut(event) => FIXED + event.runs.len() * DeliveryRun::LEN_MIN,
        Event::Settled(event) => FIXED + event.runs.len() * OffsetRun::LEN_MIN,
        Event::Failed(event) => FIXED + event.reason.len(),
        Event::Rejected(event) => FIXED + event.reason.len(),
        Event::Started(_)
        | Event::TopicCreated(_)
        | Event::TopicAltered(_)
        | Event::TopicTrimmed(_)
        | Event::TopicDeleted(_)
        | Event::SubscriptionCreated(_)
        | Event::SubscriptionDeleted(_)
        | Event::ProducerOpened(_)
        | Event::ProducerForgotten(_)
        | Event::Published(_)
        | Event::DeadLettered(_)
        | Event::CursorSaved(_)
        | Event::Committed(_)
        | Event::Delayed(_)
        | Event::DelayEnded(_) => FIXED,
    }
}
