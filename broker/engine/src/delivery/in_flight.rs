//! Messages under a lease: whose, under which fence, until when.
//!
//! Leases of one length end in the order in which they were given, so their ends stand in a queue
//! whose entries die silently when the lease is over; only extended leases need a sorted set.

use super::consumer::ConsumerKey;
use super::disjoint::Disjoint;
use super::ready::Waiting;
use super::span::{Span, Stretch};
use crate::time::Time;
use posthouse_protocol::{Attempt, Offset};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// Dead entries that the ends of leases may hold beyond twice the number of leases.
const DEAD_ENDS_MAX: usize = 1024;

/// Consecutive messages handed out together.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Which.
    pub span: Span,
    /// Fence counter of the first one; the others' follow it.
    pub fence: u64,
    /// How often each had failed.
    pub attempt: Attempt,
    /// Who holds them.
    pub consumer: ConsumerKey,
    /// The first one's number among all that this consumer was sent.
    pub position: u64,
    /// When they were handed out.
    pub since: Time,
    /// When the lease ends.
    pub until: Time,
}

impl Held {
    /// Whether the fences of these messages are those of a run that starts with `fence` at `first`.
    pub(super) fn has_fences_of(&self, first: Offset, fence: u64) -> bool {
        self.fence.wrapping_sub(self.span.first().0) == fence.wrapping_sub(first.0)
    }

    /// Without the lease.
    pub(super) fn into_waiting(self) -> Waiting {
        Waiting { span: self.span, attempt: self.attempt }
    }
}

impl Stretch for Held {
    fn first(&self) -> Offset {
        self.span.first()
    }

    fn end(&self) -> Offset {
        self.span.end()
    }

    fn split_before(&mut self, at: Offset) -> Self {
        let front = Self { span: self.span.split_before(at), ..self.clone() };
        self.fence += front.messages();
        self.position += front.messages();
        front
    }
}

/// The end of leases that were given or extended together. Dead once none of them ends then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LeaseEnd {
    at: Time,
    first: Offset,
    end: Offset,
    fence: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    held: Disjoint<Held>,
    ends: VecDeque<LeaseEnd>,
    extended: BTreeSet<LeaseEnd>,
}

impl InFlight {
    /// How many messages are under a lease.
    pub(super) const fn messages(&self) -> u64 {
        self.held.messages()
    }

    /// Takes messages in. All leases of one `InFlight` are given for the same length of time.
    pub(super) fn insert(&mut self, held: Held) {
        let end =
            LeaseEnd { at: held.until, first: held.first(), end: held.end(), fence: held.fence };
        debug_assert!(self.ends.back().is_none_or(|last| last.at <= end.at), "leases end in order");
        self.ends.push_back(end);
        self.held.insert(held);
    }

    /// Takes out everything in `range`.
    pub(super) fn take(&mut self, range: Range<Offset>, sink: impl FnMut(Held)) {
        self.held.take(range, sink);
        self.forget_dead_ends();
    }

    /// Takes out everything that one consumer holds.
    pub(super) fn take_from(&mut self, consumer: ConsumerKey, sink: impl FnMut(Held)) {
        self.held.take_if(Offset::ZERO..Offset::MAX, |held| held.consumer == consumer, sink);
        self.forget_dead_ends();
    }

    /// Takes out everything whose lease has ended at `now`.
    pub(super) fn take_ended(&mut self, now: Time, mut sink: impl FnMut(Held)) {
        while let Some(end) = self.pop_ended(now) {
            let ended = |held: &Held| held.has_fences_of(end.first, end.fence) && held.until <= now;
            self.held.take_if(end.first..end.end, ended, &mut sink);
        }
        self.forget_dead_ends();
    }

    /// Lets the leases in `range` with consecutive fences from `fence` on end when `until` says,
    /// which is told when each was given. Passes to `sink` which ones it found.
    pub(super) fn extend(
        &mut self,
        range: Range<Offset>,
        fence: u64,
        until: impl Fn(Time) -> Time,
        mut sink: impl FnMut(Range<Offset>),
    ) {
        let first = range.start;
        let mut found = Vec::new();
        self.held.take_if(range, |held| held.has_fences_of(first, fence), |held| found.push(held));
        for mut held in found {
            held.until = until(held.since);
            sink(held.first()..held.end());
            self.extended.insert(LeaseEnd {
                at: held.until,
                first: held.first(),
                end: held.end(),
                fence: held.fence,
            });
            self.held.insert(held);
        }
        self.forget_dead_ends();
    }

    /// When [`Self::take_ended`] may next have something to do.
    pub(super) fn next_end(&self) -> Option<Time> {
        let given = self.ends.front().map(|end| end.at);
        let extended = self.extended.first().map(|end| end.at);
        given.into_iter().chain(extended).min()
    }

    /// Whether a consumer holds nothing.
    pub(super) fn is_idle(&self, consumer: ConsumerKey) -> bool {
        self.held.iter().all(|held| held.consumer != consumer)
    }

    /// Whether everything lies below `offset`.
    pub(super) fn ends_below(&self, offset: Offset) -> bool {
        self.held.end().is_none_or(|end| end <= offset)
    }

    /// Whether a message in `range` is under a lease.
    pub(super) fn holds_any(&self, range: Range<Offset>) -> bool {
        self.held.overlapping(range).next().is_some()
    }

    /// Each message under a lease, with its fence counter.
    #[cfg(test)]
    pub(super) fn leases(&self) -> impl Iterator<Item = (Offset, u64)> {
        self.held
            .iter()
            .flat_map(|held| (held.first().0..held.end().0).map(Offset).zip(held.fence..))
    }

    /// How many messages each lease of one connection has.
    #[cfg(test)]
    pub(super) fn held_by(
        &self,
        connection: crate::input::ConnectionId,
    ) -> impl Iterator<Item = usize> {
        let own = self.held.iter().filter(move |held| held.consumer.connection == connection);
        own.map(|held| held.span.count() as usize)
    }

    fn pop_ended(&mut self, now: Time) -> Option<LeaseEnd> {
        if self.ends.front().is_some_and(|end| end.at <= now) {
            return self.ends.pop_front();
        }
        self.extended.first().filter(|end| end.at <= now).copied().inspect(|end| {
            self.extended.remove(end);
        })
    }

    /// Keeps the number of ends in proportion to the number of leases: acks mostly come in the
    /// order of hand-outs, so the front dies first; one slow message is what lets others pile up.
    fn forget_dead_ends(&mut self) {
        while self.ends.front().is_some_and(|end| !is_alive(&self.held, end)) {
            self.ends.pop_front();
        }
        while self.extended.first().is_some_and(|end| !is_alive(&self.held, end)) {
            self.extended.pop_first();
        }
        let most = 2 * self.held.stretches() + DEAD_ENDS_MAX;
        if self.ends.len() + self.extended.len() > most {
            let held = &self.held;
            self.ends.retain(|end| is_alive(held, end));
            self.extended.retain(|end| is_alive(held, end));
        }
    }
}

fn is_alive(held: &Disjoint<Held>, end: &LeaseEnd) -> bool {
    held.overlapping(end.first..end.end)
        .any(|held| held.until == end.at && held.has_fences_of(end.first, end.fence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::ConnectionId;
    use posthouse_protocol::ConsumerId;

    #[test]
    fn lease_ends_at_its_time_and_not_before() {
        let mut leases = InFlight::default();
        leases.insert(held(0, 10, 0, 100));
        leases.insert(held(10, 10, 10, 200));
        assert_eq!(ended(&mut leases, 99), []);
        assert_eq!(ended(&mut leases, 100), [(0, 10)]);
        assert_eq!(ended(&mut leases, 100), []);
        assert_eq!(leases.next_end(), Some(Time(200)));
    }

    #[test]
    fn settled_part_of_a_run_does_not_end() {
        let mut leases = InFlight::default();
        leases.insert(held(0, 10, 0, 100));
        leases.take(Offset(3)..Offset(5), drop);
        assert_eq!(ended(&mut leases, 100), [(0, 3), (5, 10)]);
        assert_eq!(leases.next_end(), None);
    }

    #[test]
    fn extended_lease_outlives_its_first_end() {
        let mut leases = InFlight::default();
        leases.insert(held(0, 10, 50, 100));
        let mut found = Vec::new();
        leases.extend(Offset(4)..Offset(6), 54, |_| Time(300), |range| found.push(range));
        assert_eq!(found, [Offset(4)..Offset(6)]);
        assert_eq!(ended(&mut leases, 299), [(0, 4), (6, 10)]);
        assert_eq!(ended(&mut leases, 300), [(4, 6)]);
    }

    #[test]
    fn shortened_lease_ends_earlier() {
        let mut leases = InFlight::default();
        leases.insert(held(0, 1, 0, 100));
        leases.extend(Offset(0)..Offset(1), 0, |_| Time(10), drop);
        assert_eq!(ended(&mut leases, 10), [(0, 1)]);
    }

    #[test]
    fn other_fence_extends_nothing() {
        let mut leases = InFlight::default();
        leases.insert(held(0, 1, 7, 100));
        leases.extend(Offset(0)..Offset(1), 6, |_| Time(300), |_| panic!("not under this fence"));
        assert_eq!(ended(&mut leases, 100), [(0, 1)]);
    }

    #[test]
    fn ends_of_settled_leases_do_not_pile_up_behind_a_slow_one() {
        let mut leases = InFlight::default();
        for offset in 0..100_000 {
            leases.insert(held(offset, 1, offset, 100));
            if offset > 0 {
                leases.take(Offset(offset)..Offset(offset + 1), drop);
            }
        }
        assert!(leases.ends.len() < 2_000, "{}", leases.ends.len());
        assert_eq!(ended(&mut leases, 100), [(0, 1)]);
    }

    fn held(first: u64, count: u32, fence: u64, until: u64) -> Held {
        Held {
            span: Span::uniform(Offset(first), count, 1),
            fence,
            attempt: Attempt(0),
            consumer: ConsumerKey { connection: ConnectionId(1), id: ConsumerId(1) },
            position: first,
            since: Time(0),
            until: Time(until),
        }
    }

    fn ended(leases: &mut InFlight, now: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        leases.take_ended(Time(now), |held| out.push((held.first().0, held.end().0)));
        out
    }
}
