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
type Stored = BTreeMap<u64, ([u8; 16], u32)>;

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
        let mut dead = BTreeSet::new();
        let known: BTreeMap<PartitionId, TopicId> = self
            .topics
            .iter()
            .filter(|(_, topic)| !topic.is_dead_letters)
            .map(|(id, topic)| (topic.partition, *id))
            .collect();
        let mut stored = BTreeMap::new();
        for partition in state.partitions() {
            let found = read_all(state, reader, partition)?;
            match known.get(&partition) {
                Some(topic) => _ = stored.insert(*topic, found),
                None => dead.extend(found.into_values().map(|(id, _)| id)),
            }
        }
        for (id, topic) in self.topics.iter().filter(|(_, topic)| !topic.is_dead_letters) {
            let Some(found): Option<&Stored> = stored.get(id) else {
                if topic.since > left || (is_power_lost && !topic.is_synced) {
                    continue;
                }
                return Err(format!("topic {id} is gone"));
            };
            let subscriptions: Vec<&Subscription> =
                self.subscriptions.values().filter(|known| known.topic == *id).collect();
            let left = if is_power_lost && !topic.is_synced { 0 } else { left };
            let topic = Audited { id: *id, topic, subscriptions, found, dead: &dead, left };
            topic.published(self)?;
            topic.settled()?;
        }
        self.audit_commits(&stored, &dead)
    }

    /// How many frames have left.
    pub(crate) const fn frames_left(&self) -> u64 {
        self.left
    }
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
    for range in state.needed(partition) {
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
