//! The end of a round: hands out what consumers have credit for, and fills the windows.
//!
//! All hand-outs of a round share frames, and what each consumer gets is one effect.

use super::queue::Queue;
use super::{Deliveries, Feed};
use crate::context::Context;
use crate::effect::{Deliver, Effect, Gate};
use crate::event::{Event, HandedOut};
use crate::state::Subscription;
use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{Fence, SubscriptionId};

/// Runs that one frame of hand-outs holds at most.
const FRAME_RUNS_MAX: usize = 2048;

/// What a round has handed out and not yet sent.
#[derive(Debug, Default)]
struct Round {
    events: Vec<Event>,
    /// In `events`.
    runs: usize,
    /// Each with the durability that it waits for.
    deliveries: Vec<(Deliver, Durability)>,
}

impl Deliveries {
    pub(super) fn dispatch(&mut self, context: &mut Context<'_>) {
        let mut round = Round::default();
        while let Some(id) = self.dirty.pop_first() {
            if !self.draining {
                self.dispatch_one(context, id, &mut round);
            }
        }
        round.send(context);
    }

    fn dispatch_one(&mut self, context: &mut Context<'_>, id: SubscriptionId, round: &mut Round) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(subscription) = context.state.subscriptions.get(&id) else { return };
        queue.ready.advance(context.now.mono);
        let mut fence =
            Fence { epoch: context.start_epoch(), counter: self.fence.saturating_add(1) };
        let mut runs = Vec::new();
        let feed = self.feeds.get(&queue.partition);
        loop {
            if let Some(feed) = feed {
                feed.tail.pull(&mut queue.window);
            }
            if queue.hand_out(subscription, context.now, &mut fence, &mut runs) == 0 {
                break;
            }
        }
        self.fence = fence.counter - 1;
        let load = window_load(context, queue, subscription, feed);
        if !runs.is_empty() {
            round.collect(context, queue, subscription);
            round.note(context, id, runs);
        }
        context.effects.extend(load);
        self.arm(id);
    }
}

/// The load that fills the window, if consumers wait for more than is known here.
fn window_load(
    context: &Context<'_>,
    queue: &mut Queue,
    subscription: &Subscription,
    feed: Option<&Feed>,
) -> Option<Effect> {
    let window = &mut queue.window;
    let wanted = window.wanted();
    let is_fed = feed.is_some_and(|feed| window.next() >= feed.tail.start());
    if wanted == 0 || window.is_loading() || is_fed {
        return None;
    }
    let end = context.visible_end(queue.partition);
    let from = subscription.next_unsettled(window.next());
    if from >= end {
        window.advance(from.min(end));
        return None;
    }
    if !queue.is_hungry() {
        return None;
    }
    queue.window.begin_load(from);
    Some(Effect::LoadWindow {
        subscription: subscription.id,
        partition: queue.partition,
        from,
        end,
        entries_max: usize::try_from(wanted).unwrap_or(usize::MAX),
    })
}

impl Round {
    /// Takes what the consumers of one queue are to be sent.
    fn collect(&mut self, context: &Context<'_>, queue: &mut Queue, subscription: &Subscription) {
        let visible = context.visible_end(queue.partition);
        let is_held = context.journal.visibility.is_held(queue.partition);
        let is_settling = context.journal.visibility.is_pending(queue.held_until);
        let durability =
            if is_held { Durability::Synced } else { context.durability(subscription.topic) };
        for consumer in &mut queue.consumers {
            let runs = std::mem::take(&mut consumer.outgoing);
            let ends = runs.iter().map(|run| run.first.plus(u64::from(run.count)));
            let Some(end) = ends.max() else { continue };
            // A hand-out is never itself a reason to sync. Only what was published in this same
            // group has to wait for the sync that the group needs anyway, and what came with a
            // commit, be it a message or that one may be tried again, for that commit's.
            let waits_for = match end <= visible {
                _ if is_settling => Durability::Synced,
                true => Durability::Written,
                false => durability,
            };
            let deliver = Deliver {
                connection: consumer.key.connection,
                consumer: consumer.key.id,
                subscription: subscription.id,
                partition: queue.partition,
                ack_floor: subscription.ack_floor(),
                fence_epoch: context.start_epoch(),
                runs,
                gate: Gate::Now,
            };
            self.deliveries.push((deliver, waits_for));
        }
    }

    /// Notes what was handed out of one subscription, and appends full frames.
    fn note(&mut self, context: &mut Context<'_>, id: SubscriptionId, mut runs: Vec<DeliveryRun>) {
        while self.runs + runs.len() > FRAME_RUNS_MAX {
            let rest = runs.split_off(FRAME_RUNS_MAX - self.runs);
            self.push(id, runs);
            self.append(context);
            runs = rest;
        }
        self.push(id, runs);
    }

    fn push(&mut self, subscription: SubscriptionId, runs: Vec<DeliveryRun>) {
        if !runs.is_empty() {
            self.runs += runs.len();
            self.events.push(Event::HandedOut(HandedOut { subscription, runs }));
        }
    }

    fn append(&mut self, context: &mut Context<'_>) {
        self.runs = 0;
        if !self.events.is_empty() {
            context.append(std::mem::take(&mut self.events), Vec::new());
        }
    }

    /// Appends the rest and sends everything, once its fences are written.
    fn send(mut self, context: &mut Context<'_>) {
        self.append(context);
        let index = context.last();
        for (mut deliver, waits_for) in self.deliveries {
            deliver.gate = match waits_for {
                Durability::Synced => Gate::Committed(index),
                Durability::Written => Gate::Written(index),
            };
            context.effects.push(Effect::Deliver(deliver));
        }
    }
}
