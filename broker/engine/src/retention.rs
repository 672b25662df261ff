//! Forgetting by limits: by age at a deadline, by count and bytes when a publish needs the room.
//!
//! What every subscription settled needs no event: it is released by the settlements themselves.

use crate::context::Context;
use crate::delivery::Deliveries;
use crate::event::{Event, TopicTrimmed};
use crate::refusal::Refusal;
use crate::state::{Partition, State, Topic};
use crate::time::{Now, Time};
use posthouse_protocol::settings::{Overflow, Retention};
use posthouse_protocol::{ErrorCode, Offset, Timestamp, TopicId};
use std::collections::{BTreeMap, BTreeSet};

/// Shortest time between two sweeps of a topic.
const SWEEP_MS_MIN: u64 = 1_000;
/// Longest time between two sweeps of a topic: the wall clock may have jumped.
const SWEEP_MS_MAX: u64 = 600_000;
/// Most topics trimmed in one frame.
const SWEEP_TOPICS_MAX: usize = 1_000;
/// When to try again while a topic is full.
const RETRY_FULL_MS: u32 = 1_000;

/// Where `topic` must start so that `count` messages of `bytes` in all fit within its limits;
/// `None` if they fit as it is.
///
/// # Errors
///
/// A refusal: they never fit, or the topic does not drop its oldest messages.
pub(crate) fn make_room(
    state: &State,
    topic: &Topic,
    count: u64,
    bytes: u64,
) -> Result<Option<Offset>, Refusal> {
    let settings = &topic.settings;
    let (messages_max, bytes_max) = (limit(settings.messages_max), limit(settings.bytes_max));
    if messages_max == u64::MAX && bytes_max == u64::MAX {
        return Ok(None);
    }
    if count > messages_max || bytes > bytes_max {
        let text = format!("{count} messages of {bytes} bytes are more than the topic may hold");
        return Err(Refusal::of_request(ErrorCode::TooLarge, text));
    }
    let Some(retained) = state.retained(topic.partition) else { return Ok(None) };
    let few = retained.has_room_for(count, messages_max);
    let small = retained.has_bytes_for(bytes, bytes_max);
    if few && small {
        return Ok(None);
    }
    if settings.retention == Retention::Settled && settings.overflow == Overflow::Refuse {
        return Err(full(topic, retained.messages()));
    }
    let by_count =
        if few { Offset::ZERO } else { retained.start_with_at_most(messages_max - count) };
    let by_bytes = if small { Offset::ZERO } else { retained.start_within(bytes_max - bytes) };
    Ok(Some(by_count.max(by_bytes)))
}

fn full(topic: &Topic, messages: u64) -> Refusal {
    let name = &topic.name;
    let text =
        format!("topic \"{name}\" is full with {messages} messages: consume or raise its limit");
    Refusal::of_state(ErrorCode::StorageFull, text).retry_after(RETRY_FULL_MS)
}

const fn limit(setting: u64) -> u64 {
    if setting == 0 { u64::MAX } else { setting }
}

/// When which topic is next looked at for messages that are too old.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    planned: BTreeMap<TopicId, Time>,
    /// One entry per planned topic, ordered by when.
    deadlines: BTreeSet<(Time, TopicId)>,
}

impl Sweeps {
    /// Plans for every topic that forgets by age.
    pub(crate) fn start(&mut self, context: &Context<'_>) {
        for topic in context.state.topics.keys() {
            self.published(context, topic);
        }
    }

    /// Plans for a topic that may have got its first message.
    pub(crate) fn published(&mut self, context: &Context<'_>, topic: TopicId) {
        let Some(topic) = context.state.topics.get(&topic) else { return };
        if topic.settings.age_ms_max == 0 || self.planned.contains_key(&topic.id) {
            return;
        }
        if let Some(partition) = context.state.partitions.get(&topic.partition) {
            self.plan(context.now, topic, partition);
        }
    }

    /// Plans for a topic whose limits have changed.
    pub(crate) fn altered(&mut self, now: Now, topic: TopicId) {
        self.set(topic, now.mono.plus_millis(SWEEP_MS_MIN));
    }

    fn plan(&mut self, now: Now, topic: &Topic, partition: &Partition) {
        if partition.start == partition.next {
            return;
        }
        let arrived = partition.milestones.oldest_to_forget(partition.start);
        let due = arrived.plus_millis(topic.settings.age_ms_max);
        let wait = due.0.saturating_sub(now.wall.0).saturating_add(1);
        self.set(topic.id, now.mono.plus_millis(wait.clamp(SWEEP_MS_MIN, SWEEP_MS_MAX)));
    }

    fn set(&mut self, topic: TopicId, at: Time) {
        if let Some(before) = self.planned.insert(topic, at) {
            self.deadlines.remove(&(before, topic));
        }
        self.deadlines.insert((at, topic));
        debug_assert_eq!(self.planned.len(), self.deadlines.len());
    }

    /// Forgets what is too old, in one frame.
    pub(crate) fn on_deadline(&mut self, context: &mut Context<'_>, deliveries: &mut Deliveries) {
        let now = context.now.mono;
        let mut looked_at = Vec::new();
        let mut events = Vec::new();
        while let Some((at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            self.deadlines.remove(&(at, id));
            self.planned.remove(&id);
            looked_at.push(id);
            if let Some(start) = start_within_limits(context, id) {
                events.push(Event::TopicTrimmed(TopicTrimmed { id, start }));
            }
            if looked_at.len() == SWEEP_TOPICS_MAX {
                break;
            }
        }
        if !events.is_empty() {
            context.append(events, Vec::new());
        }
        for id in looked_at {
            self.published(context, id);
            if let Some(partition) = context.state.topics.get(&id).map(|topic| topic.partition) {
                deliveries.trimmed(context, partition);
            }
        }
    }

    /// When the next topic is looked at.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

/// Where the topic must start to be within its limits, if not where it does.
fn start_within_limits(context: &Context<'_>, id: TopicId) -> Option<Offset> {
    let topic = context.state.topics.get(&id)?;
    let partition = context.state.partitions.get(&topic.partition)?;
    let age = topic.settings.age_ms_max;
    let oldest = context.now.wall.0.checked_sub(age).filter(|_| age > 0).map(Timestamp);
    let by_age = oldest.map(|at| partition.milestones.first_since(at, partition.next));
    let by_room = make_room(context.state, topic, 0, 0).ok().flatten();
    let start = by_age.max(by_room)?;
    (start > partition.start).then_some(start)
}
