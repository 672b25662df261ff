//! Delayed messages: accepted into the waiting room of their topic, published when they are due.
//!
//! What waits is in the durable state, so a restart goes on with it. Messages that are due are loaded
//! in groups, one group of a waiting room at a time, and each group is published as one batch in one
//! frame that takes it out of the waiting room. A group is no larger than a few hundred KiB, or is
//! one message. A topic that is full, or a broker without room, lets its due messages wait and is
//! tried again.

mod tries;

use crate::admission::Admission;
use crate::context::Context;
use crate::delivery::{place_in, published};
use crate::effect::Effect;
use crate::engine::Volatile;
use crate::event::{DelayEnded, Event, OffsetRun, TopicTrimmed};
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::state::{State, Topic, Waiting};
use crate::time::Time;
use bytes::Bytes;
use posthouse_protocol::batch::{BatchView, EntryRef, HEADER_LEN};
use posthouse_protocol::{ErrorCode, Offset, PartitionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use tries::{Outcome, Rest, Try};

/// Most messages of a broker that wait until they are due.
pub(crate) const DELAYED_MAX: usize = 10_000_000;
/// Waiting rooms of which messages are loaded at the same time because they are due.
const LOADS_MAX: usize = 16;
/// Most messages of a group.
const GROUP_MAX: usize = 1_024;
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
    /// What is tried of a room where that is not the usual: some had no room, or cannot be read.
    tries: BTreeMap<PartitionId, Try>,
    /// Waiting rooms of which all that is due has to wait.
    resting: BTreeMap<PartitionId, Rest>,
    /// Until when nothing is read, since the broker has no room to publish any of it.
    full_until: Option<Time>,
    /// When to look for messages that are due.
    wake: Option<Time>,
}

/// What was found of messages that were asked for because they are due.
#[derive(Debug)]
pub(crate) struct Found {
    /// Which messages `batch` has, in its order.
    pub(crate) offsets: Vec<Offset>,
    /// Messages that are damaged or gone.
    pub(crate) damaged: Vec<Offset>,
    /// Messages that cannot be read now.
    pub(crate) unreadable: Vec<Offset>,
    pub(crate) batch: Option<Bytes>,
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
    pub(crate) fn publish_due(&mut self, context: &mut Context<'_>, id: PartitionId, found: Found) {
        if !self.delays.asked.remove(&id) {
            return;
        }
        let Found { offsets, damaged, unreadable, batch } = found;
        let room = context.state.waiting.get(id);
        let places = |offsets: &[Offset]| {
            offsets.iter().map(|at| room.and_then(|room| room.at(*at))).collect::<Option<Vec<_>>>()
        };
        // A purge takes all of them, and what came after it has other offsets.
        let places = (places(&offsets), places(&damaged), places(&unreadable));
        let (Some(offsets_at), Some(_), Some(unreadable)) = places else {
            self.delays.tries.remove(&id);
            return;
        };
        if !damaged.is_empty() {
            context.append(vec![ended(id, &damaged)], Vec::new());
        }
        let outcome = batch.map(|batch| self.publish_batch(context, id, &offsets, batch));
        let tried = outcome.zip(offsets_at.first());
        let tried = tried.map(|(outcome, first)| (outcome, *first, offsets.len()));
        if tried.is_some() || !unreadable.is_empty() {
            self.delays.tried(id, context.now.mono, tried, &unreadable);
        }
    }

    fn publish_batch(
        &mut self,
        context: &mut Context<'_>,
        room: PartitionId,
        offsets: &[Offset],
        batch: Bytes,
    ) -> Outcome {
        let Self { deliveries, sweeps, admission, .. } = self;
        let state = &*context.state;
        let topic = state.waiting.get(room).and_then(|room| state.topics.get(&room.topic));
        let Some((topic, mut place)) = topic.zip(topic.and_then(|topic| place_in(state, topic)))
        else {
            return Outcome::TopicFull;
        };
        let bytes = batch.len() + offsets.len() * ENDED_BYTES;
        if admission.check_space(bytes).is_err() {
            return Outcome::BrokerFull;
        }
        let trim = make_room(state, topic, offsets.len() as u64, batch.len() as u64);
        let Some(trim) = trim.ok().filter(|_| admission.check_frame(bytes).is_ok()) else {
            return Outcome::TopicFull;
        };
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
        Outcome::Published
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

impl Delays {
    /// Asks for messages that are due, and notes when to look again.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>, admission: &Admission) {
        self.wake = None;
        if admission.draining || context.state.waiting.messages() == 0 {
            return;
        }
        let now = context.now;
        self.full_until = self.full_until.filter(|until| *until > now.mono);
        if self.full_until.is_none() && admission.check_space(ENDED_BYTES).is_err() {
            self.full_until = Some(now.mono.plus_millis(RETRY_MS));
        }
        if self.full_until.is_some() {
            self.wake = self.full_until;
            return;
        }
        self.resting.retain(|_, rest| rest.until > now.mono);
        let rooms = &context.state.waiting;
        self.tries.retain(|id, _| rooms.get(*id).is_some());
        let Self { asked, resting, tries, .. } = self;
        let Context { state, effects, .. } = context;
        // A quarter of a frame leaves room for the events, and for the last message that fitted.
        let frame = usize::try_from(admission.space.frame_bytes_max / 4).unwrap_or(usize::MAX);
        for (_, id) in state.waiting.heads().take_while(|(due, _)| *due <= now.wall) {
            if asked.len() >= LOADS_MAX {
                break;
            }
            let Some(room) = state.waiting.get(id).filter(|_| !asked.contains(&id)) else {
                continue;
            };
            if resting.get(&id).is_some_and(|rest| !rest.is_over(room)) {
                continue;
            }
            let mut usual = Try::default();
            let next = tries.get_mut(&id).unwrap_or(&mut usual);
            let offsets = next.next(room, now);
            if offsets.is_empty() {
                resting.insert(id, next.rest(room, now));
                continue;
            }
            resting.remove(&id);
            asked.insert(id);
            let (bytes_max, told) = (GROUP_BYTES_MAX.min(frame), next.has_unread());
            effects.push(Effect::LoadDue { partition: id, offsets, bytes_max, told });
        }
        let next = state.waiting.next_head(now.wall).map(|due| {
            let wait = due.0.saturating_sub(now.wall.0);
            now.mono.plus_millis(wait.min(LOOK_MS_MAX))
        });
        self.wake = next.into_iter().chain(resting.values().map(|rest| rest.until)).min();
    }

    /// What became of messages of a room that were asked for.
    fn tried(
        &mut self,
        room: PartitionId,
        now: Time,
        tried: Option<(Outcome, Waiting, usize)>,
        unreadable: &[Waiting],
    ) {
        let next = self.tries.entry(room).or_default();
        next.tried(now, tried, unreadable);
        if next.is_usual() {
            self.tries.remove(&room);
        }
        // No other message of this room has room, or few: nor do those of other rooms.
        if let Some((Outcome::BrokerFull, _, 1)) = tried {
            self.resting.insert(room, Rest::retry(now));
        }
    }

    /// When [`Self::flush`] has something to do.
    pub(crate) const fn next_deadline(&self) -> Option<Time> {
        self.wake
    }
}
