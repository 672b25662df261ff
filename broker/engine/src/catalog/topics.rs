//! Requests about topics.

use super::{TOPICS_MAX, page};
use crate::context::{Client, Context};
use crate::delay::purged;
use crate::engine::Volatile;
use crate::event::{Event, TopicAltered, TopicCreated, TopicDeleted, TopicTrimmed};
use crate::refusal::Refusal;
use crate::state::Topic;
use posthouse_protocol::message::{
    Done, TopicAlter, TopicCreate, TopicDelete, TopicDescribe, TopicInfo, TopicList, TopicNames,
    TopicPurge,
};
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{ErrorCode, Name, Timestamp, limits};
use std::ops::Bound;

/// Makes a topic; one that is there with the same settings is answered like a new one.
pub(crate) fn create(context: &mut Context<'_>, client: Client, request: &TopicCreate) {
    let answer = try_create(context, request);
    context.answer(client, answer);
}

fn try_create(context: &mut Context<'_>, request: &TopicCreate) -> Result<TopicInfo, Refusal> {
    check(&request.settings)?;
    if let Some(topic) = context.state.topic_named(&request.topic) {
        if topic.settings == request.settings {
            return Ok(info(context, topic));
        }
        let name = &request.topic;
        let text = format!("topic \"{name}\" has other settings: posthouse topic alter {name}");
        return Err(Refusal::of_state(ErrorCode::AlreadyExists, text));
    }
    if context.state.topics.len() >= TOPICS_MAX {
        let text = format!("there are {TOPICS_MAX} topics, which is the limit");
        return Err(Refusal::of_state(ErrorCode::TooLarge, text));
    }
    let created = TopicCreated {
        id: context.state.last_ids.topic.next(),
        topic: request.topic.clone(),
        partition: context.state.last_ids.partition.next(),
        settings: request.settings.clone(),
        dead_of: None,
    };
    context.append(vec![Event::TopicCreated(created)], Vec::new());
    named(context, &request.topic).map(|topic| info(context, topic))
}

/// Replaces a topic's settings.
pub(crate) fn alter(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &TopicAlter,
) {
    let answer = try_alter(volatile, context, request);
    context.answer(client, answer);
}

fn try_alter(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    request: &TopicAlter,
) -> Result<TopicInfo, Refusal> {
    check(&request.settings)?;
    let topic = named(context, &request.topic)?;
    if topic.settings != request.settings {
        let (id, settings) = (topic.id, request.settings.clone());
        context.append(vec![Event::TopicAltered(TopicAltered { id, settings })], Vec::new());
        volatile.sweeps.altered(context.now, id);
    }
    named(context, &request.topic).map(|topic| info(context, topic))
}

/// Forgets all messages that a topic has now, delayed ones included.
pub(crate) fn purge(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &TopicPurge,
) {
    let found = named(context, &request.topic)
        .map(|topic| (topic.id, topic.partition, purged(context.state, topic)));
    let answer = found.map(|(id, partition, waiting)| {
        let start = context.partition_end(partition);
        let mut events = vec![Event::TopicTrimmed(TopicTrimmed { id, start })];
        events.extend(waiting);
        context.append(events, Vec::new());
        volatile.deliveries.trimmed(context, partition);
        Done {}
    });
    context.answer(client, answer);
}

/// Deletes a topic with its messages and subscriptions.
pub(crate) fn delete(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &TopicDelete,
) {
    let found = named(context, &request.topic).map(|topic| {
        (topic.id, topic.partition, topic.subscriptions.values().copied().collect::<Vec<_>>())
    });
    let answer = found.map(|(id, partition, subscriptions)| {
        context.append(vec![Event::TopicDeleted(TopicDeleted { id })], Vec::new());
        for subscription in subscriptions {
            let text = "the topic was deleted";
            volatile.deliveries.subscription_deleted(context, subscription, text);
        }
        context.journal.visibility.deleted(partition);
        volatile.fetches.deleted(context, partition);
        Done {}
    });
    context.answer(client, answer);
}

/// Answers with a topic's id, settings and state.
pub(crate) fn describe(context: &mut Context<'_>, client: Client, request: &TopicDescribe) {
    let answer = named(context, &request.topic).map(|topic| info(context, topic));
    context.answer(client, answer);
}

/// Answers with topics in the order of their names.
pub(crate) fn list(context: &mut Context<'_>, client: Client, request: &TopicList) {
    let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let names =
        context.state.topic_ids.range((after, Bound::Unbounded)).map(|(name, _)| name.clone());
    let topics = page(names, request.limit);
    context.answer(client, Ok(TopicNames { topics }));
}

/// The topic of this name.
pub(crate) fn named<'a>(context: &'a Context<'_>, topic: &Name) -> Result<&'a Topic, Refusal> {
    context.state.topic_named(topic).ok_or_else(|| Refusal::no_topic(topic))
}

fn info(context: &Context<'_>, topic: &Topic) -> TopicInfo {
    let mut info = TopicInfo {
        id: topic.id,
        topic: topic.name.clone(),
        partition: topic.partition,
        settings: topic.settings.clone(),
        start: context.partition_end(topic.partition),
        end: context.partition_end(topic.partition),
        messages: 0,
        bytes: 0,
        oldest_at: Timestamp::ZERO,
        subscriptions: u32::try_from(topic.subscriptions.len()).unwrap_or(u32::MAX),
        waiting: 0,
        next_due_at: Timestamp::ZERO,
    };
    if let Some(room) = topic.waiting_room.and_then(|id| context.state.waiting.get(id)) {
        info.waiting = room.len() as u64;
        info.next_due_at = room.next_due().unwrap_or_default();
    }
    if let Some(retained) = context.state.retained(topic.partition) {
        info.start = retained.start();
        info.messages = retained.messages();
        info.bytes = retained.bytes();
        info.oldest_at = retained.arrived_at(info.start);
    }
    info
}

fn check(settings: &TopicSettings) -> Result<(), Refusal> {
    let limit = limits::MESSAGE_BYTES_MAX;
    if settings.message_bytes_max == 0 || settings.message_bytes_max > limit {
        let text = format!("message_bytes_max is from 1 to {limit}");
        return Err(Refusal::of_request(ErrorCode::Invalid, text));
    }
    Ok(())
}
