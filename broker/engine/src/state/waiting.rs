//! Messages that wait until they are due: of each topic that ever had one, a waiting room.
//!
//! A waiting room is a partition that nobody reads. A message leaves it when it is published into
//! its topic, or is purged, or proves to be damaged. Its bytes stay needed until then.
//!
//! Ten million of them are to fit into memory twice, so each takes about 8 bytes, in whatever order
//! they come and go.

mod block;
mod room;

#[cfg(test)]
mod tests;

pub(crate) use block::Waiting;
pub(crate) use room::WaitingRoom;

use posthouse_protocol::{Offset, PartitionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The waiting rooms of all topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingRooms {
    rooms: BTreeMap<PartitionId, WaitingRoom>,
    /// The first message of each room that has any, in the order of their times.
    heads: BTreeSet<(Timestamp, PartitionId)>,
    /// Messages in all of them.
    messages: usize,
}

impl WaitingRooms {
    /// The room with this partition.
    pub(crate) fn get(&self, id: PartitionId) -> Option<&WaitingRoom> {
        self.rooms.get(&id)
    }

    /// All rooms, ascending.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &WaitingRoom> {
        self.rooms.values()
    }

    /// How many messages wait.
    pub(crate) const fn messages(&self) -> usize {
        self.messages
    }

    /// Rooms with messages, each with the time of its first one, the earliest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (Timestamp, PartitionId)> {
        self.heads.iter().copied()
    }

    /// The first room whose first message is due later than `at`, and when.
    pub(crate) fn next_head(&self, at: Timestamp) -> Option<Timestamp> {
        let later = (Timestamp(at.0.saturating_add(1)), PartitionId::ZERO);
        self.heads.range(later..).next().map(|(due, _)| *due)
    }

    /// Adds a room.
    pub(super) fn open(&mut self, room: WaitingRoom) {
        self.close(room.id);
        self.messages += room.len();
        self.heads.extend(room.head());
        self.rooms.insert(room.id, room);
    }

    /// Takes a room away with all that waits in it.
    pub(super) fn close(&mut self, id: PartitionId) {
        if let Some(room) = self.rooms.remove(&id) {
            self.messages -= room.len();
            if let Some(head) = room.head() {
                self.heads.remove(&head);
            }
        }
    }

    /// Adds messages at the end of a room, one for each time.
    pub(super) fn add(&mut self, id: PartitionId, due: &[Timestamp]) {
        self.change(id, |room| {
            for due in due {
                room.push(*due);
            }
        });
    }

    /// Takes what waits in `range` out of a room.
    pub(super) fn remove(&mut self, id: PartitionId, range: &Range<Offset>) {
        self.change(id, |room| room.remove(range));
    }

    /// Passes over all offsets of a room below `next`.
    pub(super) fn reach(&mut self, id: PartitionId, next: Offset) {
        self.change(id, |room| room.next = room.next.max(next));
    }

    /// Passes over `count` offsets of every room.
    pub(super) fn skip(&mut self, count: u64) {
        for room in self.rooms.values_mut() {
            room.next = room.next.plus(count);
        }
    }

    fn change(&mut self, id: PartitionId, change: impl FnOnce(&mut WaitingRoom)) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let (head, before) = (room.head(), room.len());
        change(room);
        self.messages = self.messages - before + room.len();
        if head != room.head() {
            if let Some(head) = head {
                self.heads.remove(&head);
            }
            self.heads.extend(room.head());
        }
    }
}
