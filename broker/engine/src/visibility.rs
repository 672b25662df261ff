//! How far each partition may be seen.
//!
//! Readers of a synced topic see only what is committed, of a written topic only what is written.
//! A partition with nothing on its way is not in the map: all of it may be seen. A publish costs
//! one entry in a queue, whatever the number of topics.
//!
//! What a commit puts into a written topic may have to wait for the commit of its frame, because
//! something else in it is synced. Whatever comes behind it in that topic then waits, too: a
//! partition is seen from its front on. So does what comes to a topic that has just become written.

use crate::state::State;
use posthouse_protocol::{IdMap, LogIndex, Offset, PartitionId};
use std::collections::{BTreeMap, VecDeque};

/// Publishes that are on their way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Visibility {
    /// Those of synced topics.
    uncommitted: VecDeque<Pending>,
    /// Those of written topics.
    unwritten: VecDeque<Pending>,
    /// The partitions that do not show everything.
    ends: IdMap<PartitionId, Shown>,
    committed: LogIndex,
    /// Waiting rooms with messages that are seen only when their frame is committed.
    held_rooms: BTreeMap<PartitionId, LogIndex>,
}

/// How far a partition may be seen that does not show everything.
#[derive(Clone, Copy, Debug)]
struct Shown {
    end: Offset,
    /// The last frame with messages of it that are seen only when committed.
    held_until: LogIndex,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    index: LogIndex,
    partition: PartitionId,
    end: Offset,
}

impl Visibility {
    /// Notes that the frame `index` puts messages into `base..end`; with `written`, they may be
    /// seen as soon as they are written.
    pub(crate) fn published(
        &mut self,
        index: LogIndex,
        partition: PartitionId,
        (base, end): (Offset, Offset),
        written: bool,
    ) {
        let Self { uncommitted, unwritten, ends, committed, .. } = self;
        let fresh = Shown { end: base, held_until: LogIndex::ZERO };
        let shown = ends.get_or_insert_with(partition, || fresh);
        let pending = Pending { index, partition, end };
        if written && shown.held_until <= *committed {
            return unwritten.push_back(pending);
        }
        // What is only behind others holds as well. Else a receipt could leave before the one of what
        // came before it, and only that would be sent again after a loss of both: behind the other.
        shown.held_until = index;
        uncommitted.push_back(pending);
    }

    /// Notes that what comes to `partition`, which ends at `next`, is seen only when the frame
    /// `index` is committed: that frame lets it be seen when it is written. Lost, it would take with
    /// it that offsets may be missing there.
    pub(crate) fn altered(&mut self, index: LogIndex, partition: PartitionId, next: Offset) {
        let fresh = Shown { end: next, held_until: LogIndex::ZERO };
        self.ends.get_or_insert_with(partition, || fresh).held_until = index;
    }

    /// Notes that the frame `index` puts messages into a waiting room.
    pub(crate) fn delayed(&mut self, index: LogIndex, room: PartitionId, written: bool) {
        if !written {
            self.held_rooms.insert(room, index);
        }
    }

    /// Whether what waits in `room` may be seen before the frame that publishes it is committed.
    pub(crate) fn may_leave(&self, room: PartitionId) -> bool {
        !self.held_rooms.contains_key(&room)
    }

    /// Whether messages of `partition` wait until their frame is committed, and with them whatever
    /// comes next.
    pub(crate) fn is_held(&self, partition: PartitionId) -> bool {
        self.ends.get(&partition).is_some_and(|shown| shown.held_until > self.committed)
    }

    /// Whether the frame `index` is still to be committed.
    pub(crate) fn is_pending(&self, index: LogIndex) -> bool {
        index > self.committed
    }

    /// Moves on to what is written and committed, and notes in `moved` the partitions that can be
    /// seen further than before, each perhaps more than once.
    pub(crate) fn advance(
        &mut self,
        state: &State,
        (written, committed): (LogIndex, LogIndex),
        moved: &mut Vec<PartitionId>,
    ) {
        self.committed = self.committed.max(committed);
        let reached = self.committed;
        self.held_rooms.retain(|_, index| *index > reached);
        let Self { uncommitted, unwritten, ends, .. } = self;
        for (queue, reached) in [(unwritten, written), (uncommitted, committed)] {
            while let Some(pending) = queue.pop_front_if(|pending| pending.index <= reached) {
                show(ends, state, pending, moved);
            }
        }
    }

    /// Forgets a partition; what is on its way there no longer matters.
    pub(crate) fn deleted(&mut self, partition: PartitionId) {
        self.ends.remove(&partition);
    }

    /// Everything below may be seen; `next` is the partition's end.
    pub(crate) fn end(&self, partition: PartitionId, next: Offset) -> Offset {
        self.ends.get(&partition).map_or(next, |shown| shown.end)
    }
}

fn show(
    ends: &mut IdMap<PartitionId, Shown>,
    state: &State,
    pending: Pending,
    moved: &mut Vec<PartitionId>,
) {
    let Some(shown) = ends.get_mut(&pending.partition) else { return };
    if shown.end < pending.end {
        shown.end = pending.end;
        if moved.last() != Some(&pending.partition) {
            moved.push(pending.partition);
        }
    }
    let next = state.partitions.get(&pending.partition).map(|partition| partition.next);
    if next.is_none_or(|next| pending.end >= next) {
        ends.remove(&pending.partition);
    }
}
