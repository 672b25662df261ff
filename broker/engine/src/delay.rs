//! Delayed messages: accepted into the waiting room of their topic, published when they are due.
//!
//! What waits is in the durable state, so a restart goes on with it. Messages that are due are loaded
//! in groups, one group of a waiting room at a time, and each group is published as one batch in one
//! frame that takes it out of the waiting room. A group is no larger than a few hundred KiB, or is
//! one message. A topic that is full, or a broker without room, lets its due messages wait and is
//! tried again.

use crate::admission::Admission;
use crate::context::Context;
use crate::delivery::{place_in, published};
use crate::effect::Effect;
use crate::engine::Volatile;
use crate::event::{DelayEnded, Event, OffsetRun, TopicTrimmed};
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::state::{State, Topic, WaitingRoom};
use crate::time::Time;
use bytes::Bytes;
use posthouse_protocol::batch::{BatchView, EntryRef, HEADER_LEN};
use posthouse_protocol::{ErrorCode, Offset, PartitionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Most messages of a broker that wait until they are due.
pub(crate) const DELAYED_MAX: usize = 10_000_000;
/// Waiting rooms of which messages are loaded at the same time because they are due.
const LOADS_MAX: usize = 16;
/// Most messages of a group.
const GROUP_MAX: usize = 1_024;
/// Messages that had no room of which each is tried again before the others wait, too.
const PASSED_MAX: usize = 64;
/// Most bytes of a group of more than one message.
const GROUP_BYTES_MAX: usize = 256 << 10;
/// When to try again to publish into a topic that had no room.
const RETRY_MS: u64 = 1_000;
/// Longest time between two looks at the clock: somebody may have set it.
const LOOK_MS_MAX: u64 = 60_000;
/// Bytes that each delayed message takes in its event.
pub(crate) const DUE_BYTES: usize = 8;
/// Bytes at most that each published one takes in the event that takes it out of its waiting room.
const ENDED_BYTES: usize = 16;

/// What is on its way out of the waiting rooms.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// Waiting rooms of which a group was asked for that has not come.
    asked: BTreeSet<PartitionId>,
    /// What is tried of a room where that is not the usual: more had no room.
    tries: BTreeMap<PartitionId, Try>,
    /// Waiting rooms whose topics had no room, and when to try again.
    stalled: BTreeMap<PartitionId, Time>,
    /// When to look for messages that are due.
    wake: Option<Time>,
}

/// Which messages of a waiting room are tried together.
#[derive(Clone, Copy, Debug)]
struct Try {
    /// The earliest ones that are passed over: each had no room by itself, or could not be read.
    passed: usize,
    /// How many of the next.
    count: usize,
}

impl Default for Try {
    fn default() -> Self {
        Self { passed: 0, count: GROUP_MAX }
    }
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

/// Checks that each message of a batch that has to wait can be in the topic by itself one day.
///
/// # Errors
///
/// A refusal that names the first one that is larger than the topic may ever be.
pub(crate) fn check_fits(topic: &Topic, view: &BatchView<'_>) -> Result<(), Refusal> {
    let limit = topic.settings.bytes_max;
    let alone = |entry: &EntryRef<'_>| {
        (HEADER_LEN + entry.bytes().len()) as u64 + u64::from(entry.body_len)
    };
    let place = view.entries().position(|entry| limit > 0 && alone(&entry) > limit);
    place.map_or(Ok(()), |place| {
        let text = format!("the message is larger than the {limit} bytes that the topic may hold");
        Err(Refusal::of_request(ErrorCode::TooLarge, text).of_message(place))
    })
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
    let first = room.first()?;
    let count = room.next.distance_from(first);
    let runs = vec![OffsetRun { first, count }];
    Some(Event::DelayEnded(DelayEnded { partition: room.id, runs }))
}

impl Volatile {
    /// The answer to a load of messages that are due: publishes them, and drops the damaged ones.
    pub(crate) fn publish_due(
        &mut self,
        context: &mut Context<'_>,
        room: PartitionId,
        (offsets, damaged): (&[Offset], &[Offset]),
        batch: Option<Bytes>,
    ) {
        if !self.delays.asked.remove(&room) {
            return;
        }
        // A purge takes all of them, and what came after it has other offsets.
        let waits = |room: &WaitingRoom| offsets.iter().chain(damaged).all(|at| room.has(*at));
        if !context.state.waiting.get(room).is_some_and(waits) {
            self.delays.tries.remove(&room);
            return;
        }
        if !damaged.is_empty() {
            context.append(vec![ended(room, damaged)], Vec::new());
        }
        match batch.filter(|_| !offsets.is_empty()) {
            Some(batch) => self.publish_batch(context, room, offsets, batch),
            // The first one cannot be read now.
            None if damaged.is_empty() => self.delays.had_no_room(room, 1, context.now.mono),
            None => {}
        }
    }

    fn publish_batch(
        &mut self,
        context: &mut Context<'_>,
        room: PartitionId,
        offsets: &[Offset],
        batch: Bytes,
    ) {
        let Self { delays, deliveries, sweeps, admission, .. } = self;
        let state = &*context.state;
        let topic = state.waiting.get(room).and_then(|room| state.topics.get(&room.topic));
        let Some((topic, mut place)) = topic.zip(topic.and_then(|topic| place_in(state, topic)))
        else {
            return;
        };
        let bytes = batch.len() + offsets.len() * ENDED_BYTES;
        let Ok(trim) = room_for(state, topic, admission, (offsets.len(), batch.len(), bytes))
        else {
            delays.had_no_room(room, offsets.len(), context.now.mono);
            return;
        };
        delays.had_room(room);
        // They may come from a commit that is not committed yet and of which nothing is seen before.
        place.written &= context.journal.visibility.may_leave(room);
        let mut events = Vec::new();
        if let Some(start) = trim {
            events.push(Event::TopicTrimmed(TopicTrimmed { id: place.topic, start }));
        }
        events.extend([published(place, &batch), ended(room, offsets)]);
        admission.take(bytes);
        deliveries.publish(context, events, place, batch);
        if trim.is_some() {
            deliveries.trimmed(context, place.partition);
        }
        sweeps.published(context, place.topic);
    }
}

/// The event that takes these messages out of a waiting room.
fn ended(partition: PartitionId, offsets: &[Offset]) -> Event {
    let mut offsets = offsets.to_vec();
    offsets.sort_unstable();
    let mut runs: Vec<OffsetRun> = Vec::new();
    for first in offsets {
        match runs.last_mut() {
            Some(run) if run.first.plus(run.count) == first => run.count += 1,
            Some(_) | None => runs.push(OffsetRun { first, count: 1 }),
        }
    }
    Event::DelayEnded(DelayEnded { partition, runs })
}

/// Where `topic` must start so that a batch of so many messages and bytes fits, and a frame of so
/// many bytes with it; an error if they have to wait.
fn room_for(
    state: &State,
    topic: &Topic,
    admission: &Admission,
    (count, batch, frame): (usize, usize, usize),
) -> Result<Option<Offset>, Refusal> {
    admission.check_space(frame)?;
    admission.check_frame(frame)?;
    make_room(state, topic, count as u64, batch as u64)
}

impl Delays {
    /// Asks for messages that are due, and notes when to look again.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>, admission: &Admission) {
        self.wake = None;
        if admission.draining || context.state.waiting.messages() == 0 {
            return;
        }
        let now = context.now;
        self.stalled.retain(|_, until| *until > now.mono);
        let rooms = &context.state.waiting;
        self.tries.retain(|id, _| rooms.get(*id).is_some());
        let Self { asked, stalled, tries, .. } = self;
        let Context { state, effects, .. } = context;
        // A quarter of a frame leaves room for the events, and for the last message that fitted.
        let frame = usize::try_from(admission.space.frame_bytes_max / 4).unwrap_or(usize::MAX);
        for (_, id) in state.waiting.heads().take_while(|(due, _)| *due <= now.wall) {
            if asked.len() >= LOADS_MAX {
                break;
            }
            let room = state.waiting.get(id).filter(|_| !stalled.contains_key(&id));
            let Some(room) = room.filter(|_| !asked.contains(&id)) else { continue };
            let Try { passed, count } = tries.get(&id).copied().unwrap_or_default();
            let mut offsets = room.due_by(now.wall, passed.saturating_add(count));
            offsets.drain(..passed.min(offsets.len()));
            if offsets.is_empty() {
                tries.remove(&id);
                stalled.insert(id, now.mono.plus_millis(RETRY_MS));
                continue;
            }
            asked.insert(id);
            let bytes_max = GROUP_BYTES_MAX.min(frame);
            effects.push(Effect::LoadDue { partition: id, offsets, bytes_max });
        }
        let next = state.waiting.next_head(now.wall).map(|due| {
            let wait = due.0.saturating_sub(now.wall.0);
            now.mono.plus_millis(wait.min(LOOK_MS_MAX))
        });
        self.wake = next.into_iter().chain(stalled.values().copied()).min();
    }

    /// So many messages of a room found no room together: the first one is tried alone, and passed
    /// over if it is alone already, so that it holds up no smaller one. After some of them the topic
    /// counts as full.
    fn had_no_room(&mut self, room: PartitionId, count: usize, now: Time) {
        let next = self.tries.entry(room).or_default();
        next.passed += usize::from(count == 1);
        next.count = 1;
        if next.passed > PASSED_MAX {
            self.tries.remove(&room);
            self.stalled.insert(room, now.plus_millis(RETRY_MS));
        }
    }

    /// Twice as many may be tried the next time.
    fn had_room(&mut self, room: PartitionId) {
        if let Some(next) = self.tries.get_mut(&room) {
            next.count = GROUP_MAX.min(next.count * 2);
            if next.count == GROUP_MAX && next.passed == 0 {
                self.tries.remove(&room);
            }
        }
    }

    /// When [`Self::flush`] has something to do.
    pub(crate) const fn next_deadline(&self) -> Option<Time> {
        self.wake
    }
}
