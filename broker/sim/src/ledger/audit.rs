//! Holding the promises against what recovery has found.

use super::{Ledger, Promise, Subscription, Topic};
use posthouse_broker::Folded;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::settings::Mode;
use posthouse_protocol::{Offset, PartitionId, TopicId};
use posthouse_storage::Fold;
use posthouse_storage::reader::Reader;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes asked from the reader at once.
const READ_BYTES: usize = 256 << 10;

/// Messages by offset, as the recovered broker would serve them.
pub(super) type Stored = BTreeMap<u64, ([u8; 16], u32)>;

impl Ledger {
    /// Checks every promise made by the first `left` frames; after a power loss those of `written`
    /// topics do not count.
    ///
    /// # Errors
    ///
    /// The first broken one, in words.
    pub(crate) fn audit(
        &self,
        state: &Folded,
        reader: &Reader,
        left: u64,
        is_power_lost: bool,
    ) -> Result<(), String> {
        let mut all = Found::default();
        let known: BTreeMap<PartitionId, TopicId> = self
            .topics
            .iter()
            .filter(|(_, topic)| !topic.is_dead_letters)
            .map(|(id, topic)| (topic.partition, *id))
            .collect();
        let rooms: BTreeMap<PartitionId, TopicId> = state.0.waiting_rooms().collect();
        for partition in state.partitions() {
            let found = read_all(state, reader, partition)?;
            match (known.get(&partition), rooms.get(&partition)) {
                (Some(topic), _) => _ = all.stored.insert(*topic, found),
                (None, Some(topic)) => _ = all.waiting.insert(*topic, found),
                (None, None) => all.dead.extend(found.into_values().map(|(id, _)| id)),
            }
        }
        for (id, topic) in self.topics.iter().filter(|(_, topic)| !topic.is_dead_letters) {
            let Some(found): Option<&Stored> = all.stored.get(id) else {
                if topic.since > left || (is_power_lost && !topic.is_synced) {
                    continue;
                }
                return Err(format!("topic {id} is gone"));
            };
            let subscriptions: Vec<&Subscription> =
                self.subscriptions.values().filter(|known| known.topic == *id).collect();
            let left = if is_power_lost && !topic.is_synced { 0 } else { left };
            let topic = Audited { id: *id, topic, subscriptions, found, dead: &all.dead, left };
            topic.published(self)?;
            topic.settled()?;
            topic.delayed(self, all.waiting.get(id).unwrap_or(&Stored::new()))?;
        }
        self.audit_commits(&all)
    }

    /// How many frames have left.
    pub(crate) const fn frames_left(&self) -> u64 {
        self.left
    }
}

/// What the recovered broker has.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Of each topic.
    pub(super) stored: BTreeMap<TopicId, Stored>,
    /// Of each topic, what waits until it is due.
    pub(super) waiting: BTreeMap<TopicId, Stored>,
    /// Everything else: dead letters.
    pub(super) dead: BTreeSet<[u8; 16]>,
}

struct Audited<'a> {
    id: TopicId,
    topic: &'a Topic,
    subscriptions: Vec<&'a Subscription>,
    found: &'a Stored,
    dead: &'a BTreeSet<[u8; 16]>,
    left: u64,
}

impl Audited<'_> {
    fn published(&self, ledger: &Ledger) -> Result<(), String> {
        for (offset, promise) in &self.topic.messages {
            match self.found.get(offset) {
                Some((id, crc)) if (*id, *crc) == (promise.id, promise.crc) => {}
                Some(_) => {
                    return Err(format!("topic {} offset {offset}: another message", self.id));
                }
                None if self.may_be_gone(*offset, promise, ledger) => {}
                None => {
                    return Err(format!(
                        "topic {} offset {offset}: promised by frame {} of {}, and lost",
                        self.id, promise.since, self.left
                    ));
                }
            }
        }
        Ok(())
    }

    fn may_be_gone(&self, offset: u64, promise: &Promise, ledger: &Ledger) -> bool {
        let settled = self.subscriptions.iter().all(|known| known.may_have_settled(offset));
        promise.since > self.left
            || (settled && !self.subscriptions.is_empty())
            || self.dead.contains(&promise.id)
            // Redriven: it has another offset now, or had one and was settled there.
            || ledger.moved.contains(&promise.id)
            || self.found.values().any(|(id, _)| *id == promise.id)
    }

    /// A delayed message waits, or it has come; not both.
    fn delayed(&self, ledger: &Ledger, waiting: &Stored) -> Result<(), String> {
        let of_topic = (self.id, [0; 16])..=(self.id, [u8::MAX; 16]);
        for ((_, id), promise) in ledger.delayed.range(of_topic) {
            let there: Vec<&([u8; 16], u32)> = waiting
                .values()
                .chain(self.found.values())
                .filter(|(found, _)| found == id)
                .collect();
            let may_be_gone = promise.since > self.left
                || self.dead.contains(id)
                || ledger.places.contains_key(&(self.id, *id));
            let was = format!("promised by frame {} of {}", promise.since, self.left);
            match there.as_slice() {
                [] if may_be_gone => {}
                [] => return Err(format!("topic {}: a delayed message is lost, {was}", self.id)),
                [(_, crc), ..] if *crc != promise.crc => {
                    return Err(format!("topic {}: a delayed message is another one", self.id));
                }
                [_] => {}
                [_, _, ..] if ledger.moved.contains(id) => {}
                [_, _, ..] => {
                    return Err(format!("topic {}: a delayed message is there twice", self.id));
                }
            }
        }
        self.delayed_once(ledger, waiting)
    }

    /// What somebody has seen for certain does not wait any more.
    fn delayed_once(&self, ledger: &Ledger, waiting: &Stored) -> Result<(), String> {
        let seen = |id: &[u8; 16]| {
            let place = ledger.places.get(&(self.id, *id));
            let promise = place.and_then(|offset| self.topic.messages.get(offset));
            promise.is_some_and(|promise| promise.since <= self.left)
        };
        match waiting.values().find(|(id, _)| seen(id)) {
            Some(_) => Err(format!("topic {}: a delayed message was seen, and waits", self.id)),
            None => Ok(()),
        }
    }

    fn settled(&self) -> Result<(), String> {
        if self.subscriptions.is_empty() {
            return Ok(());
        }
        for offset in self.found.keys() {
            if self.subscriptions.iter().all(|known| known.has_settled(*offset, self.left)) {
                let topic = self.id;
                return Err(format!("topic {topic} offset {offset}: settled, and there again"));
            }
        }
        Ok(())
    }
}

impl Subscription {
    fn may_have_settled(&self, offset: u64) -> bool {
        match self.mode {
            Mode::Queue => self.perhaps.contains(&offset) || self.settled.contains_key(&offset),
            Mode::Stream => Offset(offset) < self.cursor_perhaps,
        }
    }

    fn has_settled(&self, offset: u64, left: u64) -> bool {
        match self.mode {
            Mode::Queue => self.settled.get(&offset).is_some_and(|since| *since <= left),
            Mode::Stream => {
                let saved = self.cursors.iter().filter(|(since, _)| *since <= left);
                saved.map(|(_, cursor)| *cursor).max().is_some_and(|cursor| Offset(offset) < cursor)
            }
        }
    }
}

/// Everything of a partition that the state still needs.
fn read_all(state: &Folded, reader: &Reader, partition: PartitionId) -> Result<Stored, String> {
    let mut stored = Stored::new();
    for range in state.0.needed(partition) {
        let mut next = range.start;
        while next < range.end {
            let batches = reader
                .read(partition, next, READ_BYTES)
                .map_err(|error| format!("partition {partition} offset {next}: {error}"))?;
            let Some(last) = batches.last() else { break };
            let end = last.next_offset();
            for batch in &batches {
                // The reader has checked headers; bodies are compared with what was promised.
                let view = BatchView::parse_trusted(&batch.bytes).map_err(|e| e.to_string())?;
                for (offset, message) in (batch.base.0..).zip(view.messages()) {
                    if range.contains(&Offset(offset)) {
                        let crc = crc32fast::hash(message.body);
                        stored.insert(offset, (message.entry.id.0, crc));
                    }
                }
            }
            next = end.max(next.next());
        }
    }
    Ok(stored)
}
