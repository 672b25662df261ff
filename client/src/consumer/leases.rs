//! Which deliveries are held under which lease, and when to prolong it.
//!
//! Pure: every method that depends on time takes `now`. Kept by run (what came together) with a bit
//! for each delivery, so that a message costs no allocation.

use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::{Fence, Offset};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Names a run of deliveries that came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunNumber(u64);

impl RunNumber {
    /// Of no run.
    pub(crate) const NONE: Self = Self(u64::MAX);
}

/// The leases of one consumer's deliveries on the present connection.
#[derive(Debug)]
pub(crate) struct Leases {
    terms: Terms,
    runs: BTreeMap<RunNumber, Run>,
    /// When the lease of a run has to be prolonged; one entry for each run that can be.
    due: BTreeSet<(Instant, RunNumber)>,
    next: RunNumber,
}

/// What the subscription says of leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Length of one.
    pub(crate) lease: Duration,
    /// Longest that it can become.
    pub(crate) lease_max: Duration,
}

#[derive(Debug)]
struct Run {
    first: Offset,
    fence: Fence,
    held: Bits,
    since: Instant,
    ends_at: Instant,
    /// Whether half of the last lease that there can be is over.
    is_final: bool,
    /// Deliveries that the application has prolonged beyond `ends_at`, by position.
    longer: BTreeMap<u32, Instant>,
}

impl Leases {
    pub(crate) const fn new() -> Self {
        let terms = Terms { lease: Duration::ZERO, lease_max: Duration::ZERO };
        Self { terms, runs: BTreeMap::new(), due: BTreeSet::new(), next: RunNumber(0) }
    }

    /// Sets what holds for runs added from now on.
    pub(crate) const fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Length of a lease.
    pub(crate) const fn lease(&self) -> Duration {
        self.terms.lease
    }

    /// Adds `count` deliveries that came together.
    pub(crate) fn add(
        &mut self,
        first: Offset,
        fence: Fence,
        count: u32,
        now: Instant,
    ) -> RunNumber {
        let number = self.next;
        self.next = RunNumber(number.0 + 1);
        let ends_at = now + self.terms.lease.min(self.terms.lease_max);
        let held = Bits::first(count);
        let longer = BTreeMap::new();
        let run = Run { first, fence, held, since: now, ends_at, is_final: false, longer };
        self.due.extend(run.due_at(&self.terms).map(|at| (at, number)));
        self.runs.insert(number, run);
        number
    }

    /// One delivery is settled; its lease ends with it.
    pub(crate) fn settle(&mut self, number: RunNumber, position: u32) {
        let Some(run) = self.runs.get_mut(&number) else {
            return;
        };
        run.held.clear(position);
        run.longer.remove(&position);
        if run.held.is_empty()
            && let Some(run) = self.runs.remove(&number)
            && let Some(at) = run.due_at(&self.terms)
        {
            self.due.remove(&(at, number));
        }
    }

    /// When a delivery's lease ends; `None` if it has ended with its connection.
    pub(crate) fn ends_at(&self, number: RunNumber, position: u32) -> Option<Instant> {
        let run = self.runs.get(&number)?;
        let longer = run.longer.get(&position).copied();
        Some(longer.map_or(run.ends_at, |longer| longer.max(run.ends_at)))
    }

    /// The application prolongs one delivery's lease.
    pub(crate) fn prolong(&mut self, number: RunNumber, position: u32, until: Instant) {
        if let Some(run) = self.runs.get_mut(&number) {
            let until = until.min(run.since + self.terms.lease_max);
            run.longer.insert(position, until);
        }
    }

    /// When [`Self::prolong_due`] next has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Prolongs the leases of which half is over at `now`, and returns what to ask the broker for.
    pub(crate) fn prolong_due(&mut self, now: Instant) -> Vec<DeliveryRun> {
        let mut prolonged = Vec::new();
        while let Some((_, number)) = self.due.first().filter(|(at, _)| *at <= now).copied() {
            self.due.pop_first();
            if let Some(run) = self.runs.get_mut(&number) {
                run.prolong(now, &self.terms, &mut prolonged);
                self.due.extend(run.due_at(&self.terms).map(|at| (at, number)));
            }
        }
        prolonged
    }

    /// Whether a run's leases are about to end for good.
    pub(crate) fn is_final(&self, number: RunNumber) -> bool {
        self.runs.get(&number).is_some_and(|run| run.is_final)
    }

    /// The connection is gone and all leases with it.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.due.clear();
    }
}

impl Run {
    /// Half a lease before the end.
    fn due_at(&self, terms: &Terms) -> Option<Instant> {
        let at = self.ends_at.checked_sub(terms.lease / 2).unwrap_or(self.since);
        (!self.is_final).then_some(at)
    }

    fn prolong(&mut self, now: Instant, terms: &Terms, prolonged: &mut Vec<DeliveryRun>) {
        let ends_at_last = self.since + terms.lease_max;
        // Ended while nobody looked (the process was stopped, say), it cannot be had back.
        if self.ends_at >= ends_at_last || self.ends_at <= now {
            self.is_final = true;
            return;
        }
        let ends_at = (now + terms.lease).min(ends_at_last);
        self.ends_at = ends_at;
        // Asking for those that the application has prolonged further would shorten their lease.
        self.longer.retain(|_, until| *until > ends_at);
        let mut open: Option<DeliveryRun> = None;
        for position in self.held.iter().filter(|position| !self.longer.contains_key(position)) {
            let (first, fence) = self.at(position);
            match &mut open {
                Some(run) if run.first.plus(u64::from(run.count)) == first => run.count += 1,
                _ => prolonged.extend(open.replace(DeliveryRun { first, fence, count: 1 })),
            }
        }
        prolonged.extend(open);
    }

    const fn at(&self, position: u32) -> (Offset, Fence) {
        let position = position as u64;
        (self.first.plus(position), self.fence.plus(position))
    }
}

/// A set of positions; up to 64 without an allocation.
#[derive(Debug)]
struct Bits {
    first: u64,
    more: Vec<u64>,
}

impl Bits {
    /// The positions below `count`.
    fn first(count: u32) -> Self {
        let word = |at: u32| {
            let left = count.saturating_sub(at * 64);
            if left >= 64 { u64::MAX } else { (1 << left) - 1 }
        };
        Self { first: word(0), more: (1..count.div_ceil(64)).map(word).collect() }
    }

    fn clear(&mut self, position: u32) {
        let bit = 1_u64 << (position % 64);
        let word = match (position / 64) as usize {
            0 => Some(&mut self.first),
            at => self.more.get_mut(at - 1),
        };
        if let Some(word) = word {
            *word &= !bit;
        }
    }

    fn is_empty(&self) -> bool {
        self.first == 0 && self.more.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        let words = std::iter::once(self.first).chain(self.more.iter().copied());
        (0_u32..).zip(words).flat_map(|(at, word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::StartEpoch;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lease_is_prolonged_at_half_its_length_up_to_its_longest() {
        let (mut leases, start) = leases(30, 60);
        let number = leases.add(Offset(5), fence(9), 2, start);

        assert_eq!(leases.next_due(), Some(start + 15 * SECOND));
        assert_eq!(leases.prolong_due(start + 14 * SECOND), []);
        assert_eq!(leases.prolong_due(start + 15 * SECOND), [run(5, 9, 2)]);
        assert_eq!(leases.next_due(), Some(start + 30 * SECOND));
        assert_eq!(leases.prolong_due(start + 30 * SECOND), [run(5, 9, 2)]);
        assert_eq!(leases.next_due(), Some(start + 45 * SECOND));
        assert!(!leases.is_final(number));
        assert_eq!(leases.prolong_due(start + 45 * SECOND), []);
        assert_eq!(leases.next_due(), None);
        assert!(leases.is_final(number));
    }

    #[test]
    fn lease_that_has_ended_is_not_prolonged() {
        let (mut leases, start) = leases(30, 600);
        let number = leases.add(Offset(5), fence(9), 2, start);

        assert_eq!(leases.prolong_due(start + 31 * SECOND), []);
        assert_eq!(leases.ends_at(number, 0), Some(start + 30 * SECOND));
        assert_eq!(leases.next_due(), None);
    }

    #[test]
    fn settled_deliveries_are_not_prolonged() {
        let (mut leases, start) = leases(30, 600);
        let number = leases.add(Offset(5), fence(9), 130, start);
        [0, 64, 65, 129].into_iter().for_each(|position| leases.settle(number, position));

        let prolonged = leases.prolong_due(start + 15 * SECOND);

        assert_eq!(prolonged, [run(6, 10, 63), run(71, 75, 63)]);
    }

    #[test]
    fn run_with_everything_settled_is_forgotten() {
        let (mut leases, start) = leases(30, 600);
        let number = leases.add(Offset(5), fence(9), 2, start);
        leases.settle(number, 1);
        leases.settle(number, 0);

        assert_eq!((leases.next_due(), leases.runs.len()), (None, 0));
    }

    #[test]
    fn lease_that_the_application_has_prolonged_is_not_shortened() {
        let (mut leases, start) = leases(30, 600);
        let number = leases.add(Offset(5), fence(9), 3, start);
        leases.prolong(number, 1, start + 100 * SECOND);

        assert_eq!(leases.prolong_due(start + 15 * SECOND), [run(5, 9, 1), run(7, 11, 1)]);
        assert_eq!(leases.ends_at(number, 1), Some(start + 100 * SECOND));
        assert_eq!(leases.ends_at(number, 2), Some(start + 45 * SECOND));
        for seconds in [40, 65] {
            let prolonged = leases.prolong_due(start + seconds * SECOND);
            assert_eq!(prolonged, [run(5, 9, 1), run(7, 11, 1)]);
        }
        assert_eq!(leases.prolong_due(start + 90 * SECOND), [run(5, 9, 3)]);
    }

    fn leases(lease: u64, lease_max: u64) -> (Leases, Instant) {
        let mut leases = Leases::new();
        let [lease, lease_max] = [lease, lease_max].map(Duration::from_secs);
        leases.set_terms(Terms { lease, lease_max });
        (leases, Instant::now())
    }

    fn run(first: u64, counter: u64, count: u32) -> DeliveryRun {
        DeliveryRun { first: Offset(first), fence: fence(counter), count }
    }

    fn fence(counter: u64) -> Fence {
        Fence { epoch: StartEpoch(1), counter }
    }
}
