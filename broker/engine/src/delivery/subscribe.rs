//! Consumers come, and grant credit.

use super::consumer::Consumer;
use super::queue::Queue;
use super::tail::Tail;
use super::{ConsumerKey, Deliveries, Feed};
use crate::context::{Client, Context};
use crate::refusal::Refusal;
use posthouse_protocol::message::{Credit, Subscribe, Subscribed};
use posthouse_protocol::settings::Mode;
use posthouse_protocol::{ConsumerId, ErrorCode, limits};

impl Deliveries {
    /// Starts a consumer.
    pub(crate) fn subscribe(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        request: &Subscribe,
    ) {
        let answer = self.add_consumer(context, client, request);
        context.answer(client, answer);
    }

    /// Takes note of a consumer's totals. Has no answer; what names no consumer comes from one that
    /// has just been ended.
    pub(crate) fn credit(&mut self, _: &mut Context<'_>, client: Client, request: &Credit) {
        let key = ConsumerKey { connection: client.connection, id: request.consumer };
        let Some(id) = self.consumers.get(&key) else { return };
        let Some(queue) = self.queues.get_mut(id) else { return };
        if let Some(consumer) = queue.consumer_mut(key) {
            consumer.credit.update(request);
            self.dirty.insert(*id);
        }
    }

    fn add_consumer(
        &mut self,
        context: &Context<'_>,
        client: Client,
        request: &Subscribe,
    ) -> Result<Subscribed, Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let key = ConsumerKey { connection: client.connection, id: request.consumer };
        self.check_key(key)?;
        let Subscribe { topic, subscription: name, .. } = request;
        if context.state.topic_named(topic).is_none() {
            return Err(Refusal::no_topic(topic));
        }
        let subscription = context
            .state
            .subscription_named(topic, name)
            .ok_or_else(|| Refusal::no_subscription(topic, name))?;
        if subscription.settings.mode != Mode::Queue {
            let text =
                format!("subscription \"{name}\" is in stream mode: fetch and save its cursor");
            return Err(Refusal::of_state(ErrorCode::Invalid, text));
        }
        let id = subscription.id;
        let feed = self.feeds.get_or_insert_with(subscription.partition, || Feed {
            tail: Tail::new(context.partition_end(subscription.partition)),
            subscriptions: Vec::new(),
        });
        if !feed.subscriptions.contains(&id) {
            feed.subscriptions.push(id);
        }
        let queue = self.queues.get_or_insert_with(id, || Queue::new(subscription));
        queue.consumers.push(Consumer::new(key));
        self.consumers.insert(key, id);
        Ok(Subscribed {
            subscription: id,
            topic: subscription.topic,
            lease_ms: subscription.settings.lease_ms,
            lease_ms_max: subscription.settings.lease_ms_max,
        })
    }

    fn check_key(&self, key: ConsumerKey) -> Result<(), Refusal> {
        if self.consumers.contains_key(&key) {
            let text = format!("consumer {} of this connection is in use", key.id);
            return Err(Refusal::of_request(ErrorCode::OutOfState, text));
        }
        let first = ConsumerKey { id: ConsumerId::ZERO, ..key };
        let last = ConsumerKey { id: ConsumerId::MAX, ..key };
        let most = limits::CONSUMERS_PER_CONNECTION_MAX;
        if self.consumers.range(first..=last).count() >= most {
            let text = format!("a connection has at most {most} consumers: open another one");
            return Err(Refusal::of_request(ErrorCode::TooLarge, text));
        }
        Ok(())
    }
}
