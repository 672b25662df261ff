//! What of a waiting room is tried next, where some of it cannot be published now.
//!
//! A message that has no room alone is *held*: it is tried again by its own time, and while not too
//! many are held, those behind it are tried meanwhile. One that cannot be read is passed over, and
//! so may be millions: they are told from the rest by a place in the order of time.

use super::{GROUP_MAX, RETRY_MS};
use crate::state::{Waiting, WaitingRoom};
use crate::time::{Now, Time};
use posthouse_protocol::{Offset, Timestamp};
use std::collections::VecDeque;

/// Held messages of a waiting room from which on those behind them wait, too.
const HELD_MAX: usize = 65;
/// When to read again what could not be read: mostly that takes another start.
const READ_AGAIN_MS: u64 = 60_000;
/// Passed messages that are looked at again, in memory, for each millisecond in which they are not.
const LOOKED_AT_PER_MS: usize = 10_000;
/// Before everything that waits.
const FRONT: Waiting = (Timestamp::ZERO, Offset::ZERO);

/// Which messages of a waiting room are tried together.
#[derive(Debug)]
pub(super) struct Try {
    /// Nothing before this place is tried, some there cannot be read, and the rest strictly by its
    /// time. `None` is the front, in the usual order: of messages due within a second, some come
    /// first.
    from: Option<Waiting>,
    /// How many.
    count: usize,
    /// Messages that had no room alone, and when each is tried again: ascending.
    held: VecDeque<(Time, Offset)>,
    unread: Option<Unread>,
}

/// Messages before `from` that could not be read.
#[derive(Debug)]
struct Unread {
    count: usize,
    /// When to try them again.
    again: Time,
}

/// Until when nothing of a waiting room is tried.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) until: Time,
    /// The next offset of the room, if a message that comes meanwhile may be due before that.
    next: Option<Offset>,
}

/// What became of messages that were tried together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Published,
    /// The topic has no room, or no frame has.
    TopicFull,
    /// The broker has no room.
    BrokerFull,
}

impl Default for Try {
    fn default() -> Self {
        Self { from: None, count: GROUP_MAX, held: VecDeque::new(), unread: None }
    }
}

impl Rest {
    /// For so long, whatever comes.
    pub(super) const fn retry(now: Time) -> Self {
        Self { until: now.plus_millis(RETRY_MS), next: None }
    }

    pub(super) fn is_over(&self, room: &WaitingRoom) -> bool {
        self.next.is_some_and(|next| next != room.next)
    }
}

impl Try {
    /// Whether everything is tried in the usual way.
    pub(super) fn is_usual(&self) -> bool {
        self.count == GROUP_MAX && self.held.is_empty() && self.unread.is_none()
    }

    /// Whether some could not be read lately.
    pub(super) const fn has_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// What to try now; nothing if all that is due has to wait.
    pub(super) fn next(&mut self, room: &WaitingRoom, now: Now) -> Vec<Offset> {
        self.held.retain(|(_, offset)| room.at(*offset).is_some_and(|(due, _)| due <= now.wall));
        if let Some((_, offset)) = self.held.front().filter(|(again, _)| *again <= now.mono) {
            return vec![*offset];
        }
        if self.held.len() >= HELD_MAX {
            return Vec::new();
        }
        if self.from.is_none() {
            return room.due_by(now.wall, self.count);
        }
        // The clock was set back: what is due by it now may stand before that place.
        self.from = self.from.map(|from| if from.0 <= now.wall { from } else { FRONT });
        let mut next: Vec<_> = self.behind(room, now.wall, self.count).map(|due| due.1).collect();
        // Not before the end is reached, or what lies there would never be.
        if next.is_empty() && self.unread.take_if(|unread| unread.again <= now.mono).is_some() {
            self.from = Some(FRONT);
            next = self.behind(room, now.wall, self.count).map(|due| due.1).collect();
        }
        next
    }

    /// So many that are due at `at` and are not held, from the place on that was reached.
    fn behind(
        &self,
        room: &WaitingRoom,
        at: Timestamp,
        count: usize,
    ) -> impl Iterator<Item = Waiting> {
        let due = room.due_from(self.from.unwrap_or(FRONT), at, count + self.held.len());
        due.filter(|(_, offset)| !self.holds(*offset)).take(count)
    }

    fn holds(&self, offset: Offset) -> bool {
        self.held.iter().any(|(_, held)| *held == offset)
    }

    /// How long to rest where [`Self::next`] gave nothing.
    pub(super) fn rest(&self, room: &WaitingRoom, now: Now) -> Rest {
        let is_full = self.held.len() >= HELD_MAX;
        let next_due =
            if is_full { None } else { self.behind(room, WaitingRoom::DUE_MAX, 1).next() };
        let next_due = next_due
            .map(|(due, _)| now.mono.plus_millis(due.0.saturating_sub(now.wall.0).min(RETRY_MS)));
        let held = self.held.front().map(|(again, _)| *again);
        let until =
            next_due.into_iter().chain(held).fold(now.mono.plus_millis(RETRY_MS), Time::min);
        let unread = self.unread.as_ref().map_or(0, |unread| unread.count) / LOOKED_AT_PER_MS;
        let least = now.mono.plus_millis(unread as u64);
        let next = (!is_full && unread == 0).then_some(room.next);
        Rest { until: until.max(least), next }
    }

    /// Takes note of what became of `offsets`, of which the first stood at `first`, and of the
    /// messages at `unreadable`, which were asked for together with them.
    pub(super) fn tried(
        &mut self,
        now: Time,
        tried: Option<(Outcome, Waiting, usize)>,
        unreadable: &[Waiting],
    ) {
        // The usual order is exact only at its front.
        let was_usual = self.from.is_none();
        let is_exact = !was_usual || unreadable.is_empty();
        let mut end = None;
        match tried {
            Some((Outcome::Published, first, _)) => self.published(now, first.1),
            Some((Outcome::TopicFull, first, 1)) if is_exact => {
                end = Some(first);
                self.hold(now, first.1);
            }
            Some((Outcome::TopicFull, first, _)) => {
                end = Some(first);
                self.from.get_or_insert(FRONT);
                self.count = 1;
            }
            Some((Outcome::BrokerFull, first, _)) => {
                end = Some(first);
                self.count = 1;
            }
            // It says nothing of the room.
            None => self.count = GROUP_MAX.min(self.count * 2),
        }
        self.pass(now, unreadable, end, was_usual);
    }

    fn published(&mut self, now: Time, first: Offset) {
        self.count = GROUP_MAX.min(self.count * 2);
        if self.holds(first) {
            self.held.retain(|(_, held)| *held != first);
            // Perhaps others have room now, too.
            self.held.iter_mut().for_each(|(again, _)| *again = now.min(*again));
        }
    }

    fn hold(&mut self, now: Time, first: Offset) {
        if self.holds(first) {
            self.held.retain(|(_, held)| *held != first);
        } else {
            self.count = 1;
            self.from.get_or_insert(FRONT);
        }
        self.held.push_back((now.plus_millis(RETRY_MS), first));
    }

    /// Passes over what cannot be read, up to `end`: there it goes on.
    fn pass(&mut self, now: Time, unreadable: &[Waiting], end: Option<Waiting>, was_usual: bool) {
        if unreadable.is_empty() {
            return;
        }
        let again = now.plus_millis(READ_AGAIN_MS);
        let unread = self.unread.get_or_insert(Unread { count: 0, again });
        let Some(from) = self.from.filter(|_| !was_usual) else {
            // What the usual order has left out would be passed over with it.
            self.from = Some(FRONT);
            return;
        };
        self.held.retain(|(_, held)| unreadable.iter().all(|(_, offset)| offset != held));
        let passed = unreadable.iter().filter(|at| end.is_none_or(|end| **at < end));
        unread.count += passed.clone().count();
        self.from = Some(passed.map(|at| behind(*at)).fold(from, Waiting::max));
    }
}

/// The place right behind this one.
const fn behind((due, offset): Waiting) -> Waiting {
    (due, offset.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of messages due within a second the usual order gives some, and what cannot be read may stand
    /// behind others in time.
    #[test]
    fn what_the_usual_order_left_out_is_not_passed_over_with_what_cannot_be_read() {
        let at = |due, offset| (Timestamp(due), Offset(offset));
        let unreadable = [at(10, 0), at(900, 1)];
        let full = |count| Some((Outcome::TopicFull, at(950, 5), count));
        for outcome in [full(3), Some((Outcome::Published, at(950, 5), 3)), None] {
            let mut next = Try::default();

            next.tried(Time(0), outcome, &unreadable);
            assert_eq!(next.from, Some(FRONT), "{outcome:?}");
            next.tried(Time(0), full(1), &unreadable);
            assert_eq!(next.from, Some(at(900, 2)), "by their time");
        }
    }
}
