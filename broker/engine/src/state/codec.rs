//! The state as bytes: the body of a checkpoint.
//!
//! ```text
//! version u8 | index | start_epoch | last ids | is_lossy u8 | lost | owed
//! topics | partitions | subscriptions | producers | waiting rooms, each: varint count, then entries by ascending id
//! ```
//!
//! Storage adds the checksum. Names are not indexed on disk; the maps from names to ids are made
//! again. Equal states have equal bytes.

use super::handed::HandedRuns;
use super::milestone::{Milestone, Milestones};
use super::producer::{Kept, Recent};
use super::subscription::{Failure, Rejection};
use super::{LastIds, Partition, Producer, State, Subscription, Topic, WaitingRoom};
use crate::ranges::{RangeSet, put_varint, varint};
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::settings::{SubscriptionSettings, TopicSettings};
use posthouse_protocol::wire::Wire;
use posthouse_protocol::{
    DecodeError, LogIndex, Name, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
    StartEpoch, SubscriptionId, Timestamp, TopicId,
};
use std::collections::{BTreeMap, VecDeque};

/// Version of this layout.
const VERSION: u8 = 4;

impl State {
    /// Appends the whole state to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        self.index.encode(out);
        self.start_epoch.encode(out);
        self.last_ids.encode(out);
        self.is_lossy.encode(out);
        self.lost.encode(out);
        self.owed.encode(out);
        put_all(out, self.topics.values(), |topic, out| topic.encode(out));
        put_all(out, self.partitions.values(), |partition, out| partition.encode(out));
        put_all(out, self.subscriptions.values(), |subscription, out| subscription.encode(out));
        put_all(out, self.producers.values(), |producer, out| producer.encode(out));
        put_all(out, self.waiting.iter(), |room, out| room.encode(out));
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: not this version, cut off, or entries that do not fit each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        let version = source.u8("state.version")?;
        if version != VERSION {
            let found = u64::from(version);
            return Err(DecodeError::Invalid { field: "state.version", found });
        }
        let mut state = Self {
            index: LogIndex::decode(&mut source, "state.index")?,
            start_epoch: StartEpoch::decode(&mut source, "state.start_epoch")?,
            last_ids: LastIds::decode(&mut source, "state.last_ids")?,
            is_lossy: bool::decode(&mut source, "state.is_lossy")?,
            lost: u64::decode(&mut source, "state.lost")?,
            owed: u64::decode(&mut source, "state.owed")?,
            ..Self::default()
        };
        state.topics = take_all(&mut source, "state.topics", Topic::decode, |topic| topic.id)?;
        state.partitions =
            take_all(&mut source, "state.partitions", Partition::decode, |partition| partition.id)?;
        state.subscriptions =
            take_all(&mut source, "state.subscriptions", Subscription::decode, |s| s.id)?;
        state.producers = take_all(&mut source, "state.producers", Producer::decode, |p| p.id)?;
        let rooms: BTreeMap<_, _> =
            take_all(&mut source, "state.waiting", WaitingRoom::decode, |room| room.id)?;
        rooms.into_values().for_each(|room| state.waiting.open(room));
        source.end()?;
        state.connect()?;
        Ok(state)
    }

    /// Makes the maps from names, and checks that everything named is there.
    fn connect(&mut self) -> Result<(), DecodeError> {
        for subscription in self.subscriptions.values() {
            let topic = self.topics.get_mut(&subscription.topic);
            let topic = topic.filter(|topic| topic.partition == subscription.partition);
            let topic =
                topic.ok_or_else(|| dangling("subscription.topic", subscription.topic.0))?;
            topic.subscriptions.insert(subscription.name.clone(), subscription.id);
        }
        for topic in self.topics.values() {
            let partition = self.partitions.get(&topic.partition);
            if partition.is_none_or(|partition| partition.topic != topic.id) {
                return Err(dangling("topic.partition", topic.partition.0));
            }
            self.topic_ids.insert(topic.name.clone(), topic.id);
        }
        if self.topics.len() != self.partitions.len() || self.topic_ids.len() != self.topics.len() {
            return Err(dangling("state.partitions", 0));
        }
        for room in self.waiting.iter() {
            let topic = self.topics.get_mut(&room.topic);
            let topic = topic.filter(|topic| topic.waiting_room.is_none());
            let topic = topic.filter(|_| !self.partitions.contains_key(&room.id));
            let topic = topic.ok_or_else(|| dangling("waiting.topic", room.topic.0))?;
            topic.waiting_room = Some(room.id);
        }
        for producer in self.producers.values() {
            if let Some(name) = &producer.name {
                self.producer_ids.insert(name.clone(), producer.id);
            }
        }
        Ok(())
    }
}

fn dangling(field: &'static str, found: u32) -> DecodeError {
    DecodeError::Invalid { field, found: u64::from(found) }
}

impl Topic {
    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.name.encode(out);
        self.partition.encode(out);
        self.settings.encode(out);
        self.dead_of.encode(out);
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: TopicId::decode(source, "topic.id")?,
            name: Name::decode(source, "topic.name")?,
            partition: PartitionId::decode(source, "topic.partition")?,
            waiting_room: None,
            settings: TopicSettings::decode(source, "topic.settings")?,
            dead_of: Option::<SubscriptionId>::decode(source, "topic.dead_of")?,
            subscriptions: BTreeMap::new(),
        })
    }
}

impl Partition {
    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.topic.encode(out);
        self.start.encode(out);
        self.next.encode(out);
        self.empty.encode(out);
        self.ever_written.encode(out);
        self.milestones.encode(out);
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        let partition = Self {
            id: PartitionId::decode(source, "partition.id")?,
            topic: TopicId::decode(source, "partition.topic")?,
            start: Offset::decode(source, "partition.start")?,
            next: Offset::decode(source, "partition.next")?,
            empty: RangeSet::decode(source, "partition.empty")?,
            ever_written: bool::decode(source, "partition.ever_written")?,
            milestones: Milestones::decode(source)?,
        };
        let outside = |range: &std::ops::Range<Offset>| {
            range.start <= partition.start || range.end > partition.next
        };
        if partition.start > partition.next || partition.empty.iter().any(|range| outside(&range)) {
            return Err(DecodeError::Invalid {
                field: "partition.start",
                found: partition.start.0,
            });
        }
        Ok(partition)
    }
}

impl WaitingRoom {
    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.topic.encode(out);
        self.next.encode(out);
        put_due(out, self.due());
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        let id = PartitionId::decode(source, "waiting.id")?;
        let topic = TopicId::decode(source, "waiting.topic")?;
        let next = Offset::decode(source, "waiting.next")?;
        let mut room = Self::new(id, topic, Offset::ZERO);
        let mut last = Timestamp::ZERO;
        for position in 0..varint(source, "waiting.due")? {
            let step = varint(source, "waiting.due")?;
            if step & 1 == 1 {
                room.next = room.next.plus(varint(source, "waiting.offset")?.max(1));
            }
            let due = unzigzag(last, step >> 1).filter(|due| *due <= Self::DUE_MAX);
            let due = due.filter(|_| room.next < next);
            last = due.ok_or(DecodeError::Invalid { field: "waiting.due", found: position })?;
            room.push(last);
        }
        room.next = next;
        Ok(room)
    }
}

/// Appends a count and, for each message, a number that says with its lowest bit whether offsets were
/// left out before it, and with the others how much later than the one before it it is due, or
/// earlier; then how many offsets were left out, if any.
fn put_due(out: &mut Vec<u8>, (count, due): (usize, impl Iterator<Item = (Offset, Timestamp)>)) {
    put_varint(out, count as u64);
    let mut last = (Offset::ZERO, Timestamp::ZERO);
    for (offset, due) in due {
        let gap = offset.distance_from(last.0);
        put_varint(out, zigzag(last.1, due) << 1 | u64::from(gap > 0));
        if gap > 0 {
            put_varint(out, gap);
        }
        last = (offset.next(), due);
    }
}

/// How far `to` lies behind `from`, or before it, as a number that is small if that is.
fn zigzag(from: Timestamp, to: Timestamp) -> u64 {
    if to >= from { (to.0 - from.0) << 1 } else { (from.0 - to.0) << 1 | 1 }
}

fn unzigzag(from: Timestamp, distance: u64) -> Option<Timestamp> {
    let to = if distance & 1 == 0 {
        from.0.checked_add(distance >> 1)
    } else {
        from.0.checked_sub(distance >> 1)
    };
    to.map(Timestamp)
}

impl Milestones {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.spacing);
        put_varint(out, self.bytes_end);
        self.last_at.encode(out);
        put_all(out, self.list.iter(), Wire::encode);
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        let field = "partition.milestones";
        let spacing = varint(source, field)?;
        let bytes_end = varint(source, field)?;
        let last_at = Timestamp::decode(source, field)?;
        let list = take_list(source, field, |source| Milestone::decode(source, field))?;
        Ok(Self::new(list, spacing, bytes_end, last_at))
    }
}

impl Subscription {
    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.topic.encode(out);
        self.partition.encode(out);
        self.name.encode(out);
        self.settings.encode(out);
        self.dead_topic.encode(out);
        self.floor.encode(out);
        self.settled.encode(out);
        self.handed.encode(out);
        put_map(out, &self.failures);
        put_map(out, &self.rejected);
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: SubscriptionId::decode(source, "subscription.id")?,
            topic: TopicId::decode(source, "subscription.topic")?,
            partition: PartitionId::decode(source, "subscription.partition")?,
            name: Name::decode(source, "subscription.name")?,
            settings: SubscriptionSettings::decode(source, "subscription.settings")?,
            dead_topic: Option::<TopicId>::decode(source, "subscription.dead_topic")?,
            floor: Offset::decode(source, "subscription.floor")?,
            settled: RangeSet::decode(source, "subscription.settled")?,
            handed: HandedRuns::decode(source)?,
            failures: take_map::<Failure>(source, "subscription.failures")?,
            rejected: take_map::<Rejection>(source, "subscription.rejected")?,
        })
    }
}

impl Producer {
    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.name.encode(out);
        self.epoch.encode(out);
        self.last.encode(out);
        self.last_at.encode(out);
        put_all(out, self.recent.iter(), Wire::encode);
    }

    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: ProducerId::decode(source, "producer.id")?,
            name: Option::<Name>::decode(source, "producer.name")?,
            epoch: ProducerEpoch::decode(source, "producer.epoch")?,
            last: Sequence::decode(source, "producer.last")?,
            last_at: Timestamp::decode(source, "producer.last_at")?,
            recent: Recent::decode(source)?,
        })
    }
}

impl Recent {
    fn decode(source: &mut Source<'_>) -> Result<Self, DecodeError> {
        let field = "producer.recent";
        let mut recent = Self::default();
        let mut last = None;
        for position in 0..varint(source, field)? {
            let kept = Kept::decode(source, field)?;
            if last.replace(kept.sequence()).is_some_and(|last| last >= kept.sequence()) {
                return Err(DecodeError::Invalid { field, found: position });
            }
            recent.push(kept);
        }
        Ok(recent)
    }
}

/// Appends a count and the items.
fn put_all<'a, T: 'a>(
    out: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = &'a T>,
    encode: impl Fn(&T, &mut Vec<u8>),
) {
    put_varint(out, items.len() as u64);
    items.for_each(|item| encode(item, out));
}

fn put_map<T: Wire>(out: &mut Vec<u8>, map: &BTreeMap<Offset, T>) {
    put_varint(out, map.len() as u64);
    for (offset, value) in map {
        offset.encode(out);
        value.encode(out);
    }
}

/// Reads items that ascend by `key`.
fn take_all<K: Ord + Copy, T, C: FromIterator<(K, T)>>(
    source: &mut Source<'_>,
    field: &'static str,
    decode: impl Fn(&mut Source<'_>) -> Result<T, DecodeError>,
    key: impl Fn(&T) -> K,
) -> Result<C, DecodeError> {
    let mut last = None;
    let count = varint(source, field)?;
    let items = (0..count).map(|position| {
        let item = decode(source)?;
        let key = key(&item);
        if last.replace(key).is_some_and(|last| last >= key) {
            return Err(DecodeError::Invalid { field, found: position });
        }
        Ok((key, item))
    });
    items.collect()
}

fn take_map<T: Wire>(
    source: &mut Source<'_>,
    field: &'static str,
) -> Result<BTreeMap<Offset, T>, DecodeError> {
    let pair =
        |source: &mut Source<'_>| Ok((Offset::decode(source, field)?, T::decode(source, field)?));
    let pairs: BTreeMap<_, _> = take_all(source, field, pair, |(offset, _)| *offset)?;
    Ok(pairs.into_values().collect())
}

fn take_list<T>(
    source: &mut Source<'_>,
    field: &'static str,
    decode: impl Fn(&mut Source<'_>) -> Result<T, DecodeError>,
) -> Result<VecDeque<T>, DecodeError> {
    (0..varint(source, field)?).map(|_| decode(source)).collect()
}
