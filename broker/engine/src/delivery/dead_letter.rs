//! Messages out of attempts or rejected: copied into the dead letter topic and settled, in one
//! frame.
//!
//! Which ones wait for it is in the durable state, so a restart goes on with them. Only a few are
//! loaded at a time: each may be as large as a message can be.

use super::Deliveries;
use crate::context::Context;
use crate::effect::{BatchAppend, DEAD_HEADER_PREFIX, Effect};
use crate::event::{self, DeadLettered, Event};
use crate::input::{LoadPurpose, WindowEntry};
use crate::state::{Rejection, State, Subscription, Topic};
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::settings::{Durability, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{Name, Offset, PartitionId, SubscriptionId, TopicId, limits};
use std::collections::BTreeSet;

/// Dead letters that are loaded at the same time.
const LOADS_MAX: usize = 16;
/// The subscription of a dead letter topic that keeps its messages until they are dealt with.
pub(super) const REDRIVE: &str = "redrive";

/// Dead letters in the making.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Subscriptions that may have rejected messages not asked for yet.
    wanted: BTreeSet<SubscriptionId>,
    /// Asked for and not answered.
    asked: BTreeSet<(SubscriptionId, Offset)>,
}

/// Where a message is to be published, by the broker itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub topic: TopicId,
    pub partition: PartitionId,
    pub base: Offset,
    pub written: bool,
}

impl Letters {
    /// A subscription has rejected messages.
    pub(super) fn wanted(&mut self, subscription: SubscriptionId) {
        self.wanted.insert(subscription);
    }
}

impl Deliveries {
    /// Asks for the messages that are to become dead letters.
    pub(super) fn ask_for_letters(&mut self, context: &mut Context<'_>) {
        let Letters { wanted, asked } = &mut self.letters;
        while let Some(id) = wanted.first().copied().filter(|_| asked.len() < LOADS_MAX) {
            let subscription = context.state.subscriptions.get(&id);
            let next = subscription.and_then(|subscription| {
                let mut rejected = subscription.rejected.iter();
                let unasked = rejected.find(|(offset, _)| !asked.contains(&(id, **offset)));
                unasked.map(|(offset, rejection)| (subscription, *offset, rejection))
            });
            let Some((subscription, offset, rejection)) = next else {
                wanted.remove(&id);
                continue;
            };
            asked.insert((id, offset));
            context.effects.push(Effect::LoadMessage {
                purpose: LoadPurpose::DeadLetter { subscription: id, offset },
                partition: subscription.partition,
                offset,
                headers: headers(context.state, subscription, offset, rejection),
            });
        }
    }

    /// Makes a dead letter of a message that was asked for. If its bytes are damaged there is
    /// nothing to keep.
    pub(crate) fn bury(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        offset: Offset,
        batch: Option<Bytes>,
    ) {
        if !self.letters.asked.remove(&(id, offset)) {
            return;
        }
        let subscription = context.state.subscriptions.get(&id);
        let Some(subscription) = subscription.filter(|s| s.rejected.contains_key(&offset)) else {
            return;
        };
        self.letters.wanted.insert(id);
        let mut events = Vec::new();
        let place =
            batch.as_ref().and_then(|_| dead_place(context.state, subscription, &mut events));
        let dead = Event::DeadLettered(DeadLettered { subscription: id, offset });
        match batch.zip(place) {
            None => {
                context.append(vec![dead], Vec::new());
            }
            Some((batch, place)) => {
                events.push(published(place, &batch));
                events.push(dead);
                self.publish(context, events, place, batch);
            }
        }
    }

    /// Appends a frame that publishes a batch of the broker's own.
    pub(crate) fn publish(
        &mut self,
        context: &mut Context<'_>,
        events: Vec<Event>,
        place: Place,
        batch: Bytes,
    ) {
        let Place { partition, base, .. } = place;
        let (count, header_crc) = BatchView::parse_trusted(&batch)
            .map_or((0, 0), |view| (view.count(), view.header_crc()));
        let entries = entries_of(&batch, base);
        let append = BatchAppend { partition, base, count, header_crc, bytes: batch };
        context.append(events, vec![append]);
        self.published(context, partition, &entries);
    }
}

/// The event that publishes a batch of the broker's own at `place`.
pub(crate) fn published(place: Place, batch: &Bytes) -> Event {
    Event::Published(event::Published {
        topic: place.topic,
        base: place.base,
        count: count_of(batch),
        bytes: u32::try_from(batch.len()).unwrap_or(u32::MAX),
        written: place.written,
        sender: None,
    })
}

/// The end of a topic.
pub(crate) fn place_in(state: &State, topic: &Topic) -> Option<Place> {
    let partition = state.partitions.get(&topic.partition)?;
    Some(Place {
        topic: topic.id,
        partition: partition.id,
        base: partition.next,
        written: topic.settings.durability == Durability::Written,
    })
}

/// The topic that keeps a subscription's dead letters, if there is one.
pub(super) fn dead_topic<'a>(state: &'a State, source: &Subscription) -> Option<&'a Topic> {
    let known = source.dead_topic.and_then(|id| state.topics.get(&id));
    known.or_else(|| {
        // That of an earlier subscription of the same name: dead letter topics stay.
        let named = state.topic_named(&dead_name(state, source)?)?;
        let owner = named.dead_of?;
        (!state.subscriptions.contains_key(&owner)).then_some(named)
    })
}

/// Where a dead letter goes; adds to `events` what has to be made for it first.
fn dead_place(state: &State, source: &Subscription, events: &mut Vec<Event>) -> Option<Place> {
    let (place, has_redrive) = match dead_topic(state, source) {
        Some(topic) => {
            let redrive = topic.subscriptions.keys().any(|name| name.as_str() == REDRIVE);
            (place_in(state, topic)?, redrive)
        }
        None => (create(state, source, events)?, false),
    };
    if !has_redrive {
        let start = state.partitions.get(&place.partition).map_or(Offset::ZERO, |held| held.start);
        events.push(Event::SubscriptionCreated(event::SubscriptionCreated {
            id: state.last_ids.subscription.next(),
            topic: place.topic,
            subscription: Name::new(REDRIVE).ok()?,
            // A dead letter that fails again has nowhere else to go.
            settings: SubscriptionSettings {
                attempts_max: u32::MAX,
                ..SubscriptionSettings::default()
            },
            start,
        }));
    }
    Some(place)
}

fn create(state: &State, source: &Subscription, events: &mut Vec<Event>) -> Option<Place> {
    let usual = dead_name(state, source).filter(|name| state.topic_named(name).is_none());
    let name = usual.or_else(|| fallback_name(state, source))?;
    let (topic, partition) = (state.last_ids.topic.next(), state.last_ids.partition.next());
    events.push(Event::TopicCreated(event::TopicCreated {
        id: topic,
        topic: name,
        partition,
        settings: TopicSettings {
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            ..TopicSettings::default()
        },
        dead_of: Some(source.id),
    }));
    Some(Place { topic, partition, base: Offset::ZERO, written: false })
}

/// `<topic>.<subscription>.dead`, if that is not too long for a name.
fn dead_name(state: &State, source: &Subscription) -> Option<Name> {
    let topic = state.topics.get(&source.topic)?;
    Name::new(&format!("{}.{}.dead", topic.name, source.name)).ok()
}

/// A name for when the usual one is too long or taken by something else.
fn fallback_name(state: &State, source: &Subscription) -> Option<Name> {
    let numbered = (0_u64..).map(|number| match number {
        0 => format!("dead.{}", source.id),
        number => format!("dead.{}.{number}", source.id),
    });
    numbered.map_while(|name| Name::new(&name).ok()).find(|name| state.topic_named(name).is_none())
}

fn headers(
    state: &State,
    source: &Subscription,
    offset: Offset,
    rejection: &Rejection,
) -> Vec<(Bytes, Bytes)> {
    let topic = state.topics.get(&source.topic).map_or("", |topic| topic.name.as_str());
    let header = |name: &str, value: String| {
        (Bytes::from(format!("{DEAD_HEADER_PREFIX}{name}")), Bytes::from(value))
    };
    vec![
        header("topic", topic.to_owned()),
        header("subscription", source.name.as_str().to_owned()),
        header("offset", offset.to_string()),
        header("attempts", rejection.attempt.to_string()),
        header("reason", rejection.reason.clone()),
        header("at", rejection.at.to_string()),
    ]
}

fn count_of(batch: &Bytes) -> u32 {
    BatchView::parse_trusted(batch).map_or(0, |view| view.count())
}

fn entries_of(batch: &Bytes, base: Offset) -> Vec<WindowEntry> {
    let Ok(view) = BatchView::parse_trusted(batch) else { return Vec::new() };
    let entries = (base.0..).map(Offset).zip(view.entries());
    entries.map(|(offset, entry)| WindowEntry::new(offset, &entry)).collect()
}
