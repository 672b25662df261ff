//! Which message was seen at which offset of a topic, when, and by whom.

use crate::history::{MessageId, PublishOutcome, Time};
use crate::timeline::{At, Timeline, Told, TopicNo, group, told};

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    /// By topic, offset, time.
    pub(crate) list: Vec<Sighting>,
    /// Every offset that a message was seen at, by topic, message, offset.
    offsets: Vec<(TopicNo, MessageId, u64)>,
}

/// A message at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) topic: TopicNo,
    pub(crate) offset: u64,
    /// From then on it was known to be there.
    pub(crate) at: Time,
    pub(crate) id: MessageId,
    pub(crate) crc: u32,
    pub(crate) event: usize,
    pub(crate) how: How,
}

/// How a message is known to be at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// It was delivered or fetched.
    Read,
    /// A receipt says so.
    Told,
    /// Another message of its batch is where it must be then.
    Inferred,
}

impl Sightings {
    pub(crate) fn new(timeline: &Timeline<'_>) -> Self {
        let mut sightings = Self { list: read(timeline), offsets: Vec::new() };
        sightings.list.extend(receipts(timeline));
        sightings.sort();
        let offsets = sightings.list.iter().map(|seen| (seen.topic, seen.id, seen.offset));
        sightings.offsets = offsets.collect();
        sightings.offsets.sort_unstable();
        sightings.offsets.dedup();
        sightings
    }

    /// Adds what follows from other sightings.
    pub(crate) fn infer(&mut self, inferred: Vec<Sighting>) {
        if inferred.is_empty() {
            return;
        }
        let places = inferred.iter().map(|seen| (seen.topic, seen.id, seen.offset));
        self.offsets.extend(places);
        self.offsets.sort_unstable();
        self.offsets.dedup();
        self.list.extend(inferred);
        self.sort();
    }

    fn sort(&mut self) {
        self.list.sort_by_key(|seen| (seen.topic, seen.offset, seen.at, seen.how, seen.event));
    }

    /// Sightings grouped by topic and offset.
    pub(crate) fn places(&self) -> impl Iterator<Item = &[Sighting]> {
        self.list.chunk_by(|one, next| (one.topic, one.offset) == (next.topic, next.offset))
    }

    /// Sightings of a topic.
    pub(crate) fn of_topic(&self, topic: TopicNo) -> &[Sighting] {
        let start = self.list.partition_point(|seen| seen.topic < topic);
        let end = self.list.partition_point(|seen| seen.topic <= topic);
        self.list.get(start..end).unwrap_or_default()
    }

    /// The offsets that a message was seen at, ascending.
    pub(crate) fn offsets(
        &self,
        topic: TopicNo,
        id: MessageId,
    ) -> impl Iterator<Item = u64> + use<'_> {
        group(&self.offsets, |place| (place.0, place.1), (topic, id)).iter().map(|place| place.2)
    }

    /// From when on something was known to be at an offset.
    pub(crate) fn first_at(&self, topic: TopicNo, offset: u64) -> Time {
        let place = self.list.partition_point(|seen| (seen.topic, seen.offset) < (topic, offset));
        self.list.get(place).map_or(Time::MAX, |seen| seen.at)
    }

    /// All messages of a topic with their offsets, by message and then offset.
    pub(crate) fn messages(
        &self,
        topic: TopicNo,
    ) -> impl Iterator<Item = &[(TopicNo, MessageId, u64)]> {
        let start = self.offsets.partition_point(|place| place.0 < topic);
        let end = self.offsets.partition_point(|place| place.0 <= topic);
        let places = self.offsets.get(start..end).unwrap_or_default();
        places.chunk_by(|one, next| one.1 == next.1)
    }
}

fn read(timeline: &Timeline<'_>) -> Vec<Sighting> {
    let deliveries = timeline.deliveries.iter().map(|at| Sighting {
        topic: timeline.names.topic_of(at.key.0),
        offset: at.is.offset,
        at: at.is.t,
        id: at.is.id,
        crc: at.is.crc,
        event: at.event,
        how: How::Read,
    });
    let fetched = timeline.fetches.iter().flat_map(|at| {
        at.is.messages.iter().map(|seen| Sighting {
            topic: at.key,
            offset: seen.offset,
            at: at.is.t1,
            id: seen.id,
            crc: seen.crc,
            event: at.event,
            how: How::Read,
        })
    });
    deliveries.chain(fetched).collect()
}

fn receipts<'l>(timeline: &'l Timeline<'_>) -> impl Iterator<Item = Sighting> + use<'l> {
    timeline.publishes.iter().filter_map(|at| {
        let PublishOutcome::Ok { offset: Some(offset), .. } = at.is.outcome else { return None };
        Some(Sighting {
            topic: at.key.0,
            offset,
            at: at.is.t1,
            id: at.is.id,
            crc: at.is.crc,
            event: at.event,
            how: How::Told,
        })
    })
}

/// Messages of which a receipt came, each with its publishes.
pub(crate) fn acknowledged<'l, 'e>(
    timeline: &'l Timeline<'e>,
    topic: TopicNo,
) -> impl Iterator<Item = &'l [At<(TopicNo, MessageId), &'e crate::history::Publish>]> {
    let start = timeline.publishes.partition_point(|at| at.key.0 < topic);
    let end = timeline.publishes.partition_point(|at| at.key.0 <= topic);
    let publishes = timeline.publishes.get(start..end).unwrap_or_default();
    let messages = publishes.chunk_by(|one, next| one.key == next.key);
    messages.filter(|publishes| told(publishes) == Told::Ok)
}
