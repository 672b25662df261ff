//! What was decided about deliveries and is not on the wire yet, put together into few frames.
//!
//! Pure. One group for each verdict, delay and reason. Order does not matter: each settlement names
//! its own message.

use super::runs::Runs;
use crate::completion::Completion;
use crate::error::SettleError;
use posthouse_protocol::message::{DeliveryRun, RefusedRun, Verdict};
use posthouse_protocol::{Fence, Offset, limits};
use std::sync::Arc;

/// How far back a group is looked for; reasons that are all different would make a long search.
const GROUPS_SEARCHED: usize = 8;
/// Deliveries in one frame.
const MESSAGES_MAX: u64 = limits::SETTLE_DELIVERIES_MAX as u64;

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

/// Deliveries with one thing to be done, as they are sent.
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
    groups: Vec<Gathering>,
}

/// A group that still grows.
#[derive(Debug)]
struct Gathering {
    action: Action,
    runs: Runs,
    messages: u64,
    fresh: u64,
    outcomes: Arc<Outcomes>,
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
        for group in self.groups.iter_mut().rev().take(GROUPS_SEARCHED) {
            if group.action == action && group.add(offset, fence, fresh) {
                return Arc::clone(&group.outcomes);
            }
        }
        let mut group = Gathering {
            action,
            runs: Runs::default(),
            messages: 0,
            fresh: 0,
            outcomes: Arc::new(Outcomes::new()),
        };
        group.add(offset, fence, fresh);
        let outcomes = Arc::clone(&group.outcomes);
        self.groups.push(group);
        outcomes
    }

    /// Takes all groups.
    pub(crate) fn take(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups).into_iter().map(Gathering::finish).collect()
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

impl Gathering {
    /// Adds a delivery; `false` if it needs a group of its own.
    fn add(&mut self, offset: Offset, fence: Fence, fresh: bool) -> bool {
        let fits = self.messages < MESSAGES_MAX && self.runs.add(offset, fence);
        if fits {
            self.messages += 1;
            self.fresh += u64::from(fresh);
        }
        fits
    }

    fn finish(self) -> Group {
        let Self { action, runs, messages, fresh, outcomes } = self;
        Group { action, runs: runs.finish(), messages, fresh, outcomes }
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
    fn group_has_no_more_deliveries_than_a_frame() {
        let mut settlements = Settlements::default();
        for offset in 0..MESSAGES_MAX + 2 {
            add(&mut settlements, Action::settle(Verdict::Ack), offset, offset);
        }

        let counts: Vec<_> = settlements.take().iter().map(|group| group.messages).collect();

        assert_eq!(counts, [MESSAGES_MAX, 2]);
    }

    #[test]
    fn two_hand_outs_of_one_message_are_not_mixed() {
        let mut settlements = Settlements::default();
        let first = add(&mut settlements, Action::settle(Verdict::Ack), 1, 1);
        let second = add(&mut settlements, Action::settle(Verdict::Ack), 1, 9);

        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(settlements.take().len(), 2);
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

    fn add(
        settlements: &mut Settlements,
        action: Action,
        offset: u64,
        counter: u64,
    ) -> Arc<Outcomes> {
        settlements.add(action, Offset(offset), fence(counter), true)
    }

    fn run(first: u64, counter: u64, count: u32) -> DeliveryRun {
        DeliveryRun { first: Offset(first), fence: fence(counter), count }
    }

    fn fence(counter: u64) -> Fence {
        Fence { epoch: StartEpoch(1), counter }
    }
}
