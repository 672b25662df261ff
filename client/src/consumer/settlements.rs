//! What was decided about deliveries and is not on the wire yet, put together into few frames.
//!
//! Pure. One group for each verdict, delay and reason; within it runs of consecutive offsets and
//! fences. Order does not matter: each settlement names its own message.

use crate::completion::Completion;
use crate::error::SettleError;
use posthouse_protocol::message::{DeliveryRun, RefusedRun, Verdict};
use posthouse_protocol::{Fence, Offset, limits};
use std::sync::Arc;

/// How far back a group is looked for; reasons that are all different would make a long search.
const GROUPS_SEARCHED: usize = 8;

/// What is to be done with deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// They are decided.
    Settle {
        /// How.
        verdict: Verdict,
        /// For a nack: milliseconds to wait.
        delay_ms: u64,
        /// For a nack and a reject: why.
        reason: String,
    },
    /// They take longer.
    Extend {
        /// Milliseconds from now.
        lease_ms: u64,
    },
}

impl Action {
    /// A settlement that needs no more words.
    pub(crate) const fn settle(verdict: Verdict) -> Self {
        Self::Settle { verdict, delay_ms: 0, reason: String::new() }
    }

    pub(crate) const fn is_settlement(&self) -> bool {
        matches!(self, Self::Settle { .. })
    }
}

/// What became of a group, shared by its deliveries' futures.
pub(crate) type Outcomes = Completion<Result<Refused, SettleError>>;

/// The deliveries of a group that were refused; all others are accepted.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Which, and why.
    pub(crate) runs: Vec<RefusedRun>,
    /// Whether the group was sent more than once, so that a first sending may have counted.
    pub(crate) was_repeated: bool,
}

/// Deliveries with one thing to be done.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) action: Action,
    pub(crate) runs: Vec<DeliveryRun>,
    /// How many deliveries the runs have.
    pub(crate) messages: u64,
    /// Of them, how many were delivered since the last subscribing.
    pub(crate) fresh: u64,
    pub(crate) outcomes: Arc<Outcomes>,
}

/// The groups of one consumer that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    groups: Vec<Group>,
}

impl Settlements {
    /// Adds one delivery; `fresh` says whether it came since the last subscribing.
    pub(crate) fn add(
        &mut self,
        action: Action,
        offset: Offset,
        fence: Fence,
        fresh: bool,
    ) -> Arc<Outcomes> {
        let recent = self.groups.iter_mut().rev().take(GROUPS_SEARCHED);
        let full = limits::LIST_ENTRIES_MAX as usize;
        let mut fitting = recent.filter(|group| {
            group.runs.len() < full && group.action == action && !group.names(offset, fence)
        });
        if let Some(group) = fitting.next() {
            group.add(offset, fence, fresh);
            return Arc::clone(&group.outcomes);
        }
        let outcomes = Arc::new(Outcomes::new());
        let shared = Arc::clone(&outcomes);
        let mut group = Group { action, runs: Vec::new(), messages: 0, fresh: 0, outcomes: shared };
        group.add(offset, fence, fresh);
        self.groups.push(group);
        outcomes
    }

    /// Takes all groups, their runs in order and as long as can be.
    pub(crate) fn take(&mut self) -> Vec<Group> {
        let mut groups = std::mem::take(&mut self.groups);
        groups.iter_mut().for_each(Group::merge);
        groups
    }

    /// How many deliveries wait for their settlement to be sent.
    pub(crate) fn messages(&self) -> u64 {
        let settled = self.groups.iter().filter(|group| group.action.is_settlement());
        settled.map(|group| group.messages).sum()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Deliveries handed out since the last subscribing are now from before it.
    pub(crate) fn begin_again(&mut self) {
        self.groups.iter_mut().for_each(|group| group.fresh = 0);
    }
}

impl Group {
    /// Whether another hand-out of this message is among them. A refusal names offsets only, so it
    /// could not be told which of the two it means.
    fn names(&self, offset: Offset, fence: Fence) -> bool {
        let covers = |run: &DeliveryRun| {
            let place = offset.distance_from(run.first);
            offset >= run.first
                && place < u64::from(run.count)
                && run.fence.plus(place) != fence
        };
        self.runs.iter().any(covers)
    }

    fn add(&mut self, offset: Offset, fence: Fence, fresh: bool) {
        self.messages += 1;
        self.fresh += u64::from(fresh);
        match self.runs.last_mut() {
            Some(run) if run.continues_at(offset, fence) => run.count += 1,
            _ => self.runs.push(DeliveryRun { first: offset, fence, count: 1 }),
        }
    }

    fn merge(&mut self) {
        if self.runs.is_sorted_by_key(|run| run.first) && self.runs.len() == 1 {
            return;
        }
        self.runs.sort_unstable_by_key(|run| (run.first, run.fence));
        self.runs.dedup_by(|next, run| {
            let joins = run.continues_at(next.first, next.fence);
            run.count += if joins { next.count } else { 0 };
            joins
        });
    }
}

/// Whether a delivery follows a run directly.
trait Continues {
    fn continues_at(&self, offset: Offset, fence: Fence) -> bool;
}

impl Continues for DeliveryRun {
    fn continues_at(&self, offset: Offset, fence: Fence) -> bool {
        let count = u64::from(self.count);
        self.first.plus(count) == offset && self.fence.plus(count) == fence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::StartEpoch;

    #[test]
    fn acks_in_any_order_become_one_run() {
        let mut settlements = Settlements::default();
        for offset in [3, 1, 2, 5, 4] {
            add(&mut settlements, Action::settle(Verdict::Ack), offset, offset + 100);
        }

        let groups = settlements.take();

        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].runs, [run(1, 101, 5)]);
        assert_eq!(groups[0].messages, 5);
        assert!(settlements.is_empty());
    }

    #[test]
    fn run_ends_where_offsets_or_fences_jump() {
        let mut settlements = Settlements::default();
        for (offset, counter) in [(1, 1), (2, 2), (4, 3), (5, 5)] {
            add(&mut settlements, Action::settle(Verdict::Ack), offset, counter);
        }

        let groups = settlements.take();

        assert_eq!(groups[0].runs, [run(1, 1, 2), run(4, 3, 1), run(5, 5, 1)]);
    }

    #[test]
    fn verdicts_delays_and_reasons_have_groups_of_their_own() {
        let nack = |delay_ms, reason: &str| Action::Settle {
            verdict: Verdict::Nack,
            delay_ms,
            reason: reason.to_owned(),
        };
        let mut settlements = Settlements::default();
        let actions = [
            Action::settle(Verdict::Ack),
            nack(1, ""),
            nack(2, ""),
            nack(1, "no"),
            Action::Extend { lease_ms: 1 },
            Action::settle(Verdict::Ack),
        ];
        for (offset, action) in (0..).zip(actions) {
            add(&mut settlements, action, offset, offset);
        }

        let counts: Vec<_> = settlements.take().iter().map(|group| group.messages).collect();

        assert_eq!(counts, [2, 1, 1, 1, 1]);
    }

    fn add(settlements: &mut Settlements, action: Action, offset: u64, counter: u64) {
        settlements.add(action, Offset(offset), fence(counter), true);
    }

    fn run(first: u64, counter: u64, count: u32) -> DeliveryRun {
        DeliveryRun { first: Offset(first), fence: fence(counter), count }
    }

    fn fence(counter: u64) -> Fence {
        Fence { epoch: StartEpoch(1), counter }
    }
}
