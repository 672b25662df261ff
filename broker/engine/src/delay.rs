//! Delayed messages: accepted into the waiting room of their topic, published when they are due.
//!
//! What waits is in the durable state, so a restart goes on with it. A message that is due is loaded
//! and published in one frame that takes it out of the waiting room. Only a few are loaded at a
//! time: each may be as large as a message can be. A topic that is full, or a broker without room,
//! lets its due messages wait and is tried again.

use crate::admission::Admission;
use crate::context::Context;
use crate::delivery::{place_in, published};
use crate::effect::Effect;
use crate::engine::Volatile;
use crate::event::{DelayEnded, Event, OffsetRun, TopicTrimmed};
use crate::input::LoadPurpose;
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::state::{State, Topic};
use crate::time::Time;
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{ErrorCode, Offset, PartitionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Most messages of a broker that wait until they are due.
pub(crate) const DELAYED_MAX: usize = 1_000_000;
/// Messages that are loaded at the same time because they are due.
const LOADS_MAX: usize = 16;
/// When to try again to publish into a topic that had no room.
const RETRY_MS: u64 = 1_000;
/// When to try again while the broker holds as many delayed messages as it can.
const RETRY_FULL_MS: u32 = 1_000;
/// Longest time between two looks at the clock: somebody may have set it.
const LOOK_MS_MAX: u64 = 60_000;
/// Bytes that each delayed message takes in its event.
pub(crate) const DUE_BYTES: usize = 8;

/// What is on its way out of the waiting rooms.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// Loads asked for and not answered.
    asked: BTreeSet<(PartitionId, Offset)>,
    /// Waiting rooms whose topics had no room, and when to try again.
    stalled: BTreeMap<PartitionId, Time>,
    /// When to look for messages that are due.
    wake: Option<Time>,
}

/// When each message of a batch is due if the batch has to wait; empty if it does not.
///
/// It waits if any of its messages is due later than `now`.
///
/// # Errors
///
/// A refusal: some messages are delayed and some have no time at all.
pub(crate) fn due_times(view: &BatchView<'_>, now: Timestamp) -> Result<Vec<Timestamp>, Refusal> {
    if view.entries().all(|entry| entry.due_at <= now) {
        return Ok(Vec::new());
    }
    if let Some(place) = view.entries().position(|entry| entry.due_at == Timestamp::ZERO) {
        let text = "a batch mixes delayed messages with others: send two batches";
        return Err(Refusal::of_request(ErrorCode::Invalid, text).of_message(place));
    }
    Ok(view.entries().map(|entry| entry.due_at).collect())
}

/// Checks that `count` more messages may wait.
///
/// # Errors
///
/// A refusal: too many wait already.
pub(crate) fn check_count(waiting: usize, count: usize) -> Result<(), Refusal> {
    if waiting.saturating_add(count) <= DELAYED_MAX {
        return Ok(());
    }
    let text = format!("{waiting} delayed messages wait; at most {DELAYED_MAX} can");
    Err(Refusal::of_state(ErrorCode::Overloaded, text).retry_after(RETRY_FULL_MS))
}

/// The waiting room of `topic` and the offset that its next message gets there; the first number
/// that was never given if it has none yet. `made` counts rooms that the same frame makes before.
pub(crate) fn place_of(state: &State, topic: &Topic, made: u32) -> (PartitionId, Offset) {
    let room = topic.waiting_room.and_then(|id| state.waiting.get(id));
    let fresh = || PartitionId(state.last_ids.partition.0.saturating_add(made).saturating_add(1));
    room.map_or_else(|| (fresh(), Offset::ZERO), |room| (room.id, room.next))
}

/// The event that drops all that waits for `topic`, if anything does.
pub(crate) fn purged(state: &State, topic: &Topic) -> Option<Event> {
    let room = topic.waiting_room.and_then(|id| state.waiting.get(id))?;
    let first = *room.due().first_key_value()?.0;
    let count = room.next.distance_from(first);
    let runs = vec![OffsetRun { first, count }];
    Some(Event::DelayEnded(DelayEnded { partition: room.id, runs }))
}

impl Volatile {
    /// The answer to a load of a message that is due. One that is damaged is dropped.
    pub(crate) fn publish_due(
        &mut self,
        context: &mut Context<'_>,
        (room, offset): (PartitionId, Offset),
        batch: Option<Bytes>,
    ) {
        if !self.delays.asked.remove(&(room, offset)) {
            return;
        }
        let found = context.state.waiting.get(room).filter(|room| room.has(offset));
        let Some(topic) = found.and_then(|room| context.state.topics.get(&room.topic)) else {
            return;
        };
        let runs = vec![OffsetRun { first: offset, count: 1 }];
        let ended = Event::DelayEnded(DelayEnded { partition: room, runs });
        let Some(batch) = batch else {
            context.append(vec![ended], Vec::new());
            return;
        };
        let Self { delays, deliveries, sweeps, admission, .. } = self;
        let Ok(trim) = room_for(context.state, topic, admission, &batch) else {
            delays.stalled.insert(room, context.now.mono.plus_millis(RETRY_MS));
            return;
        };
        let Some(mut place) = place_in(context.state, topic) else { return };
        // It may come from a commit that is not committed yet and of which nothing is seen before.
        place.written &= context.journal.visibility.may_leave(room);
        let mut events = Vec::new();
        if let Some(start) = trim {
            events.push(Event::TopicTrimmed(TopicTrimmed { id: place.topic, start }));
        }
        events.extend([published(place, &batch), ended]);
        admission.take(batch.len());
        deliveries.publish(context, events, place, batch);
        if trim.is_some() {
            deliveries.trimmed(context, place.partition);
        }
        sweeps.published(context, place.topic);
    }
}

/// Where `topic` must start so that the batch fits; an error if it has to wait.
fn room_for(
    state: &State,
    topic: &Topic,
    admission: &Admission,
    batch: &Bytes,
) -> Result<Option<Offset>, Refusal> {
    admission.check_space(batch.len())?;
    make_room(state, topic, 1, batch.len() as u64)
}

impl Delays {
    /// Asks for messages that are due, and notes when to look again.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>, draining: bool) {
        self.wake = None;
        if draining || context.state.waiting.messages() == 0 {
            return;
        }
        let now = context.now;
        self.stalled.retain(|_, until| *until > now.mono);
        let Self { asked, stalled, .. } = self;
        let Context { state, effects, .. } = context;
        for (_, id) in state.waiting.heads().take_while(|(due, _)| *due <= now.wall) {
            if asked.len() >= LOADS_MAX {
                break;
            }
            let room = state.waiting.get(id).filter(|_| !stalled.contains_key(&id));
            for offset in room.into_iter().flat_map(|room| room.due_by(now.wall)) {
                if asked.len() >= LOADS_MAX {
                    break;
                }
                if asked.insert((id, offset)) {
                    effects.push(Effect::LoadMessage {
                        purpose: LoadPurpose::Due { partition: id, offset },
                        partition: id,
                        offset,
                        headers: Vec::new(),
                    });
                }
            }
        }
        let next = state.waiting.next_head(now.wall).map(|due| {
            let wait = due.0.saturating_sub(now.wall.0);
            now.mono.plus_millis(wait.min(LOOK_MS_MAX))
        });
        self.wake = next.into_iter().chain(stalled.values().copied()).min();
    }

    /// When [`Self::flush`] has something to do.
    pub(crate) const fn next_deadline(&self) -> Option<Time> {
        self.wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_messages_wait_and_no_more() {
        assert!(check_count(DELAYED_MAX - 3, 3).is_ok());
        assert!(check_count(DELAYED_MAX - 3, 4).is_err());
    }
}
