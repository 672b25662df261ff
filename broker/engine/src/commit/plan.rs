//! What a commit is going to do, made by checking all of it against the state as it is.

use super::Received;
use crate::admission::Admission;
use crate::context::Context;
use crate::cursor;
use crate::delay::{self, due_times};
use crate::delivery::Settlement;
use crate::effect::BatchAppend;
use crate::event::{Committed, CursorSaved, Delayed, Event, Placed, Published, TopicTrimmed};
use crate::input::WindowEntry;
use crate::ranges::RangeSet;
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::state::{State, Topic};
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::message::{CommitPublish, CursorSave, Operation, Settle};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{
    ErrorCode, Offset, PartitionId, SubscriptionId, Timestamp, TopicId, limits,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a commit does.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub publishes: Vec<Placement>,
    pub settlements: Vec<Settlement>,
    saves: Vec<CursorSaved>,
    /// Of every topic that is published to.
    pub demands: BTreeMap<TopicId, Demand>,
    /// The waiting room of every topic with delayed messages, and the offset that is next there.
    rooms: BTreeMap<TopicId, (PartitionId, Offset)>,
    /// How many of these are new.
    rooms_made: u32,
    /// Delayed messages so far.
    delayed: usize,
    /// Every topic that is published to, settled in or whose cursor is saved.
    topics: BTreeSet<TopicId>,
    /// What is settled so far: a delivery is settled once.
    settled: BTreeMap<SubscriptionId, RangeSet>,
}

/// One batch and its place.
#[derive(Debug)]
pub(super) struct Placement {
    pub topic: TopicId,
    pub partition: PartitionId,
    base: Offset,
    count: u32,
    header_crc: u32,
    batch: Bytes,
    pub entries: Vec<WindowEntry>,
    /// When each message is due; empty if none has to wait.
    pub due: Vec<Timestamp>,
}

/// What a topic is to take in all.
#[derive(Debug)]
pub(super) struct Demand {
    pub partition: PartitionId,
    /// Where the next batch goes.
    next: Offset,
    count: u64,
    bytes: u64,
    /// The operation that publishes to it last.
    operation: usize,
    /// Where the topic must start so that all of it fits.
    pub trim: Option<Offset>,
}

impl Plan {
    /// Checks every operation and notes what it does.
    pub(super) fn check(
        &mut self,
        context: &Context<'_>,
        admission: &mut Admission,
        received: &Received<'_>,
    ) -> Result<(), Refusal> {
        check_count(received)?;
        let mut batches = received.batches.iter().zip(received.views);
        for (place, operation) in received.request.operations.iter().enumerate() {
            let checked = match operation {
                Operation::Settle(request) => self.settle(context, request),
                Operation::CursorSave(request) => self.save(context, request),
                Operation::Publish(request) => match batches.next() {
                    Some(((_, batch), view)) => {
                        self.publish(context, admission, request, (place, batch, view))
                    }
                    None => Err(Refusal::of_request(ErrorCode::Malformed, "a batch is missing")),
                },
            };
            checked.map_err(|refusal| refusal.of_operation(place))?;
        }
        self.make_room(context.state)
    }

    fn settle(&mut self, context: &Context<'_>, request: &Settle) -> Result<(), Refusal> {
        let settlement = Settlement::judged(context, request)?;
        let settled = self.settled.entry(settlement.subscription).or_default();
        for range in &settlement.accepted {
            if settled.iter_in(range.clone()).next().is_some() {
                let (first, end) = (range.start, range.end);
                let text = format!("the commit settles offsets of {first}..{end} twice");
                return Err(Refusal::of_request(ErrorCode::Invalid, text));
            }
            settled.insert(range.clone());
        }
        self.topics.insert(settlement.topic);
        self.settlements.push(settlement);
        Ok(())
    }

    fn save(&mut self, context: &Context<'_>, request: &CursorSave) -> Result<(), Refusal> {
        let (topic, saved) = cursor::target(context, request)?;
        // A queue has no cursor and a stream no settlements, so that one map serves both.
        if self.settled.insert(request.subscription, RangeSet::new()).is_some() {
            let text = format!("the commit saves the cursor of {} twice", request.subscription);
            return Err(Refusal::of_request(ErrorCode::Invalid, text));
        }
        self.topics.insert(topic);
        self.saves.extend(saved);
        Ok(())
    }

    fn publish(
        &mut self,
        context: &Context<'_>,
        admission: &mut Admission,
        request: &CommitPublish,
        (place, batch, view): (usize, &Bytes, &BatchView<'_>),
    ) -> Result<(), Refusal> {
        let topic = context.state.topic_named(&request.topic);
        let topic = topic.ok_or_else(|| Refusal::no_topic(&request.topic))?;
        let (id, partition, count) = (topic.id, topic.partition, view.count());
        let due = due_times(view, context.now.wall)?;
        if !due.is_empty() {
            admission.check_messages(&topic.settings, view, Offset::ZERO)?;
            delay::check_fits(topic, view)?;
            return self.delay(context, admission, topic, (due, batch, view));
        }
        let demand = self.demands.entry(id).or_insert_with(|| Demand {
            partition,
            next: context.partition_end(partition),
            count: 0,
            bytes: 0,
            operation: place,
            trim: None,
        });
        let base = demand.next;
        admission.check_messages(&topic.settings, view, base)?;
        demand.next = base.plus(u64::from(count));
        demand.count += u64::from(count);
        demand.bytes += batch.len() as u64;
        demand.operation = place;
        self.topics.insert(id);
        let entries = std::mem::take(&mut admission.entries);
        self.publishes.push(Placement {
            topic: id,
            partition,
            base,
            count,
            header_crc: view.header_crc(),
            batch: batch.clone(),
            entries,
            due: Vec::new(),
        });
        Ok(())
    }

    fn delay(
        &mut self,
        context: &Context<'_>,
        admission: &Admission,
        topic: &Topic,
        (due, batch, view): (Vec<Timestamp>, &Bytes, &BatchView<'_>),
    ) -> Result<(), Refusal> {
        self.delayed += due.len();
        admission.check_waiting(context.state.waiting.messages(), self.delayed)?;
        let made = &mut self.rooms_made;
        let room = self.rooms.entry(topic.id).or_insert_with(|| {
            let place = delay::place_of(context.state, topic, *made);
            *made += u32::from(topic.waiting_room.is_none());
            place
        });
        let (partition, base) = *room;
        room.1 = base.plus(due.len() as u64);
        self.topics.insert(topic.id);
        let count = u32::try_from(due.len()).unwrap_or(u32::MAX);
        self.publishes.push(Placement {
            topic: topic.id,
            partition,
            base,
            count,
            header_crc: view.header_crc(),
            batch: batch.clone(),
            entries: Vec::new(),
            due,
        });
        Ok(())
    }

    fn make_room(&mut self, state: &State) -> Result<(), Refusal> {
        for (id, demand) in &mut self.demands {
            let Some(topic) = state.topics.get(id) else { continue };
            let trim = make_room(state, topic, demand.count, demand.bytes);
            demand.trim = trim.map_err(|refusal| refusal.of_operation(demand.operation))?;
        }
        Ok(())
    }

    /// Whether readers may see it before it is committed.
    pub(super) fn is_written(&self, context: &Context<'_>) -> bool {
        let is_written = |id: &TopicId| context.durability(*id) == Durability::Written;
        let is_held = |demand: &Demand| context.journal.visibility.is_held(demand.partition);
        !self.topics.is_empty()
            && self.topics.iter().all(is_written)
            && !self.demands.values().any(is_held)
    }

    /// Whether it settles or saves anything.
    pub(super) fn settles(&self) -> bool {
        !self.saves.is_empty()
            || self.settlements.iter().any(|settlement| !settlement.events.is_empty())
    }

    /// Where the batches go, in their order.
    pub(super) fn placed(&self) -> impl Iterator<Item = Placed> {
        self.publishes.iter().map(|publish| Placed {
            topic: publish.topic,
            base: publish.due.is_empty().then_some(publish.base),
            count: publish.count,
        })
    }

    /// What happens, in an order in which each event fits: what is settled is there, and trimmed
    /// topics have their room before they take messages.
    pub(super) fn events(&mut self, written: bool, committed: Committed) -> Vec<Event> {
        let mut events = Vec::new();
        for settlement in &mut self.settlements {
            events.append(&mut settlement.events);
        }
        events.extend(self.saves.drain(..).map(Event::CursorSaved));
        let trims = self.demands.iter().filter_map(|(id, demand)| Some((*id, demand.trim?)));
        events.extend(trims.map(|(id, start)| Event::TopicTrimmed(TopicTrimmed { id, start })));
        events.extend(self.publishes.iter().map(|publish| publish.event(written)));
        events.push(Event::Committed(committed));
        events
    }

    /// The batches of the frame.
    pub(super) fn batches(&self) -> Vec<BatchAppend> {
        let append = |publish: &Placement| BatchAppend {
            partition: publish.partition,
            base: publish.base,
            count: publish.count,
            header_crc: publish.header_crc,
            bytes: publish.batch.clone(),
        };
        self.publishes.iter().map(append).collect()
    }
}

impl Placement {
    fn event(&self, written: bool) -> Event {
        let (topic, base, sender) = (self.topic, self.base, None);
        if !self.due.is_empty() {
            let (partition, due) = (self.partition, self.due.clone());
            return Event::Delayed(Delayed { topic, partition, base, due, written, sender });
        }
        let count = self.count;
        let bytes = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        Event::Published(Published { topic, base, count, bytes, written, sender })
    }
}

/// Checks that the commit does not have too many parts.
fn check_count(received: &Received<'_>) -> Result<(), Refusal> {
    let messages = received.views.iter().map(|view| u64::from(view.count())).sum::<u64>();
    let others = received.request.operations.iter().map(|operation| match operation {
        Operation::Publish(_) => 0,
        Operation::Settle(settle) => settle.deliveries.iter().map(|run| u64::from(run.count)).sum(),
        Operation::CursorSave(_) => 1,
    });
    let (found, limit) = (messages + others.sum::<u64>(), limits::COMMIT_OPERATIONS_MAX);
    if found <= u64::from(limit) {
        return Ok(());
    }
    let text = format!(
        "a commit of {found} messages, deliveries and saves is above the limit of {limit}: divide it"
    );
    Err(Refusal::of_request(ErrorCode::TooLarge, text))
}
