//! Requests about subscriptions.

use super::{SUBSCRIPTIONS_MAX, page, topics};
use crate::context::{Client, Context};
use crate::engine::Volatile;
use crate::event::{Event, SubscriptionCreated, SubscriptionDeleted};
use crate::fetch::resolve;
use crate::refusal::Refusal;
use crate::state::Subscription;
use posthouse_protocol::message::{
    Done, SubscriptionCreate, SubscriptionDelete, SubscriptionDescribe, SubscriptionInfo,
    SubscriptionList, SubscriptionNames,
};
use posthouse_protocol::settings::{Order, SubscriptionSettings};
use posthouse_protocol::{ErrorCode, Name, Timestamp};
use std::ops::Bound;

/// Longest lease: a day.
const LEASE_MS_MAX: u64 = 86_400_000;

/// Makes a subscription; one that is there with the same settings is answered like a new one.
pub(crate) fn create(
    volatile: &Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &SubscriptionCreate,
) {
    let answer = try_create(volatile, context, request);
    context.answer(client, answer);
}

fn try_create(
    volatile: &Volatile,
    context: &mut Context<'_>,
    request: &SubscriptionCreate,
) -> Result<SubscriptionInfo, Refusal> {
    check(&request.settings)?;
    let topic = topics::named(context, &request.topic)?;
    if let Some(known) = context.state.subscription_named(&request.topic, &request.subscription) {
        if known.settings == request.settings {
            return Ok(info(volatile, context, known));
        }
        let text = format!("subscription \"{}\" has other settings", request.subscription);
        return Err(Refusal::of_state(ErrorCode::AlreadyExists, text));
    }
    if topic.subscriptions.len() >= SUBSCRIPTIONS_MAX {
        let text = format!("the topic has {SUBSCRIPTIONS_MAX} subscriptions, which is the limit");
        return Err(Refusal::of_state(ErrorCode::TooLarge, text));
    }
    let created = SubscriptionCreated {
        id: context.state.last_ids.subscription.next(),
        topic: topic.id,
        subscription: request.subscription.clone(),
        settings: request.settings.clone(),
        start: resolve(context, topic.partition, request.start),
    };
    context.append(vec![Event::SubscriptionCreated(created)], Vec::new());
    let created = named(context, &request.topic, &request.subscription)?;
    Ok(info(volatile, context, created))
}

/// Deletes a subscription; its dead letters stay.
pub(crate) fn delete(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &SubscriptionDelete,
) {
    let found = named(context, &request.topic, &request.subscription).map(|found| found.id);
    let answer = found.map(|id| {
        let event = Event::SubscriptionDeleted(SubscriptionDeleted { id });
        context.append(vec![event], Vec::new());
        let text = "the subscription was deleted";
        volatile.deliveries.subscription_deleted(context, id, text);
        Done {}
    });
    context.answer(client, answer);
}

/// Answers with a subscription's id, settings and state.
pub(crate) fn describe(
    volatile: &Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &SubscriptionDescribe,
) {
    let found = named(context, &request.topic, &request.subscription);
    let answer = found.map(|found| info(volatile, context, found));
    context.answer(client, answer);
}

/// Answers with the subscriptions of a topic in the order of their names.
pub(crate) fn list(context: &mut Context<'_>, client: Client, request: &SubscriptionList) {
    let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let answer = topics::named(context, &request.topic).map(|topic| {
        let names =
            topic.subscriptions.range((after, Bound::Unbounded)).map(|(name, _)| name.clone());
        SubscriptionNames { subscriptions: page(names, request.limit) }
    });
    context.answer(client, answer);
}

/// The subscription of these names.
pub(crate) fn named<'a>(
    context: &'a Context<'_>,
    topic: &Name,
    subscription: &Name,
) -> Result<&'a Subscription, Refusal> {
    topics::named(context, topic)?;
    let found = context.state.subscription_named(topic, subscription);
    found.ok_or_else(|| Refusal::no_subscription(topic, subscription))
}

fn info(
    volatile: &Volatile,
    context: &Context<'_>,
    subscription: &Subscription,
) -> SubscriptionInfo {
    let next = context.partition_end(subscription.partition);
    let counts = volatile.deliveries.counts(subscription.id);
    let floor = subscription.ack_floor();
    let retained = context.state.retained(subscription.partition);
    SubscriptionInfo {
        id: subscription.id,
        topic: subscription.topic,
        subscription: subscription.name.clone(),
        settings: subscription.settings.clone(),
        ack_floor: floor,
        backlog: subscription.backlog(next),
        in_flight: counts.in_flight,
        delayed: counts.delayed,
        dead: dead_letters(context, subscription),
        consumers: counts.consumers,
        oldest_at: retained.map_or(Timestamp::ZERO, |retained| retained.arrived_at(floor)),
    }
}

/// How many messages are in the subscription's dead letter topic.
fn dead_letters(context: &Context<'_>, subscription: &Subscription) -> u64 {
    let topic = subscription.dead_topic.and_then(|id| context.state.topics.get(&id));
    let retained = topic.and_then(|topic| context.state.retained(topic.partition));
    retained.map_or(0, |retained| retained.messages())
}

fn check(settings: &SubscriptionSettings) -> Result<(), Refusal> {
    let invalid = |text: &str| Err(Refusal::of_request(ErrorCode::Invalid, text));
    if settings.order == Order::Key {
        let text = "order by key is not built yet";
        return Err(Refusal::of_request(ErrorCode::Unsupported, text));
    }
    if settings.lease_ms == 0 || settings.lease_ms > LEASE_MS_MAX {
        return invalid("lease_ms is from 1 to 86400000");
    }
    if settings.lease_ms_max < settings.lease_ms || settings.lease_ms_max > LEASE_MS_MAX {
        return invalid("lease_ms_max is from lease_ms to 86400000");
    }
    if settings.attempts_max == 0 {
        return invalid("attempts_max is at least 1");
    }
    if settings.backoff_ms_max < settings.backoff_ms_first {
        return invalid("backoff_ms_max is at least backoff_ms_first");
    }
    Ok(())
}
