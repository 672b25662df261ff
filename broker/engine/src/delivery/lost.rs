//! Leases that end without a settlement: their time is over, or their consumer is gone.

use super::failing::{Failing, Fate};
use super::in_flight::Held;
use super::queue::Queue;
use super::span::Stretch;
use super::{ConsumerKey, Deliveries, append_in_frames};
use crate::context::{Client, Context};
use crate::input::ConnectionId;
use posthouse_protocol::message::{ConsumerEnded, Done, Unsubscribe};
use posthouse_protocol::{ConsumerId, ErrorCode, SubscriptionId};

const LEASE_ENDED: &str = "lease ended";
const CONNECTION_LOST: &str = "connection lost";

impl Deliveries {
    /// Ends a consumer; what it holds is given back uncounted.
    pub(crate) fn unsubscribe(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        request: &Unsubscribe,
    ) {
        let key = ConsumerKey { connection: client.connection, id: request.consumer };
        if let Some(id) = self.consumers.remove(&key)
            && let Some(queue) = self.queues.get_mut(&id)
        {
            let mut held = Vec::new();
            queue.in_flight.take_from(key, |part| held.push(part));
            held.into_iter().for_each(|part| queue.give_back(part));
            self.leave(id, key);
        }
        context.reply(client, Done {}, context.present());
    }

    /// Ends the consumers of a connection. What their applications had taken counts as failed,
    /// the rest is given back uncounted.
    pub(crate) fn disconnected(&mut self, context: &mut Context<'_>, connection: ConnectionId) {
        let first = ConsumerKey { connection, id: ConsumerId::ZERO };
        let last = ConsumerKey { connection, id: ConsumerId::MAX };
        let lost: Vec<_> =
            self.consumers.range(first..=last).map(|(key, id)| (*key, *id)).collect();
        for (key, id) in lost {
            self.consumers.remove(&key);
            self.lose(context, id, key);
            self.leave(id, key);
        }
        self.redrives.disconnected(connection);
    }

    /// A subscription is no more; its consumers are told why.
    pub(crate) fn subscription_deleted(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        text: &str,
    ) {
        let Some(queue) = self.queues.remove(&id) else { return };
        for consumer in &queue.consumers {
            self.consumers.remove(&consumer.key);
            let ended = ConsumerEnded {
                consumer: consumer.key.id,
                code: ErrorCode::NotFound.number(),
                text: text.to_owned(),
            };
            context.push(consumer.key.connection, ended, context.present());
        }
        self.drop_queue(id, &queue);
    }

    /// Takes back what is under a lease that has ended. It counts only what an application has
    /// taken: prefetch that waits behind a slow message has failed nowhere.
    pub(super) fn end_leases(&mut self, context: &mut Context<'_>, id: SubscriptionId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let mut held = Vec::new();
        queue.in_flight.take_ended(context.now.mono, |part| held.push(part));
        let failed = queue.give_back_untaken(held);
        self.count_failures(context, id, &failed, LEASE_ENDED);
        self.dirty.insert(id);
    }

    fn lose(&mut self, context: &mut Context<'_>, id: SubscriptionId, key: ConsumerKey) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let mut held = Vec::new();
        queue.in_flight.take_from(key, |part| held.push(part));
        let failed = queue.give_back_untaken(held);
        self.count_failures(context, id, &failed, CONNECTION_LOST);
    }

    /// Counts a failure of each message that was held, and lets it wait or lie.
    fn count_failures(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        held: &[Held],
        reason: &str,
    ) {
        if held.is_empty() {
            return;
        }
        let Some(subscription) = context.state.subscriptions.get(&id) else { return };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let mut failing = Failing::new(subscription, context.now, reason);
        for part in held {
            fail_each(queue, &mut failing, part.clone());
        }
        let Failing { events, rejects, .. } = failing;
        if rejects {
            self.letters.wanted(id);
        }
        append_in_frames(context, events);
        self.dirty.insert(id);
    }

    /// Takes a consumer, which holds nothing any more, from a queue; the last one takes it along.
    fn leave(&mut self, id: SubscriptionId, key: ConsumerKey) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.consumers.retain(|consumer| consumer.key != key);
        self.dirty.insert(id);
        if !queue.consumers.is_empty() {
            self.arm(id);
        } else if let Some(queue) = self.queues.remove(&id) {
            self.drop_queue(id, &queue);
        }
    }

    /// Cleans up after a queue that was removed.
    fn drop_queue(&mut self, id: SubscriptionId, queue: &Queue) {
        if let Some(armed) = queue.armed {
            self.timers.remove(&(armed, id));
        }
        self.dirty.remove(&id);
        if let Some(feed) = self.feeds.get_mut(&queue.partition) {
            feed.subscriptions.retain(|reader| *reader != id);
            if feed.subscriptions.is_empty() {
                self.feeds.remove(&queue.partition);
            }
        }
    }
}

impl Queue {
    /// Gives back, uncounted, what no application has taken; the rest is returned.
    fn give_back_untaken(&mut self, held: Vec<Held>) -> Vec<Held> {
        let mut failed = Vec::new();
        for mut part in held {
            let taken =
                self.consumer_mut(part.consumer).map_or(0, |consumer| consumer.credit.taken());
            let end = part.position + part.messages();
            if part.position >= taken {
                self.give_back(part);
            } else if end <= taken {
                failed.push(part);
            } else {
                let cut = part.first().plus(taken - part.position);
                failed.push(part.split_before(cut));
                self.give_back(part);
            }
        }
        failed
    }
}

fn fail_each(queue: &mut Queue, failing: &mut Failing<'_>, held: Held) {
    let mut rest = Some(held.into_waiting());
    while let Some(mut waiting) = rest.take() {
        if waiting.messages() > 1 {
            let next = waiting.first().next();
            let one = waiting.split_before(next);
            rest = Some(std::mem::replace(&mut waiting, one));
        }
        if let Fate::Retry { attempt, due } = failing.fail(waiting.first()) {
            waiting.attempt = attempt;
            queue.ready.delay(waiting, due);
        }
    }
}
