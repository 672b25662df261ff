//! The hand-outs of one message in one subscription, with what can have ended each.

use crate::history::{Deliver, Extend, Outcome, Settle, Time, Verdict};
use crate::timeline::{At, SubscriptionNo, Timeline, group, of_fence};

type Key = (SubscriptionNo, u64);

/// A recorded hand-out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handout<'l, 'e> {
    pub(crate) timeline: &'l Timeline<'e>,
    pub(crate) at: &'l At<Key, &'e Deliver>,
    pub(crate) settles: &'l [At<Key, &'e Settle>],
    extends: &'l [At<Key, &'e Extend>],
    lease_ms_max: u64,
    untaken_may_expire: bool,
    /// Before which it cannot have been handed out, by what is known of itself.
    pub(crate) own_earliest: Time,
    /// The same, by what is known of the hand-outs before it too.
    pub(crate) earliest: Time,
}

/// The recorded hand-outs of one message, by fence.
pub(crate) fn of_message<'l, 'e>(
    timeline: &'l Timeline<'e>,
    deliveries: &'l [At<Key, &'e Deliver>],
) -> Vec<Handout<'l, 'e>> {
    let Some(first) = deliveries.first() else { return Vec::new() };
    let settles = group(&timeline.settles, |at| at.key, first.key);
    let extends = group(&timeline.extends, |at| at.key, first.key);
    let declared = timeline.declaration(first.key.0);
    let lease_ms_max = declared.map_or(0, |declared| declared.lease_ms_max);
    let mut handouts: Vec<Handout<'l, 'e>> = Vec::with_capacity(deliveries.len());
    for at in deliveries {
        let own_earliest = own_earliest(timeline, at.is);
        let mut earliest = own_earliest;
        if let Some(before) = handouts.last() {
            earliest = earliest.max(before.reason_to_end(at.is).unwrap_or(before.earliest));
        }
        handouts.push(Handout {
            timeline,
            at,
            settles: of_fence(settles, at.is.fence),
            extends: of_fence(extends, at.is.fence),
            lease_ms_max,
            untaken_may_expire: declared.is_some_and(|declared| declared.untaken_may_expire),
            own_earliest,
            earliest,
        });
    }
    handouts
}

fn own_earliest(timeline: &Timeline<'_>, is: &Deliver) -> Time {
    let after = is.after.unwrap_or(Time::ZERO);
    let opened = timeline.consumers.opened(is.consumer);
    after.max(opened).max(timeline.deaths.given_after(is.fence))
}

impl Handout<'_, '_> {
    /// The earliest moment at which the lease can have run out.
    pub(crate) fn lease_end(&self) -> Time {
        let longest = match self.lease_ms_max {
            0 => Time::MAX,
            lease_ms_max => self.earliest.plus_millis(lease_ms_max),
        };
        let mut end = self.earliest.plus_millis(self.at.is.lease_ms);
        for extend in self.extends {
            let extended = extend.is.t0.plus_millis(extend.is.lease_ms).min(longest);
            match extend.is.outcome {
                Outcome::Ok => end = extended,
                Outcome::Unknown => end = end.min(extended),
                Outcome::Refused(_) => {}
            }
        }
        end
    }

    /// The earliest of the reasons for which the broker may have handed the message out again as
    /// `next`; `None` if there is none.
    pub(crate) fn reason_to_end(&self, next: &Deliver) -> Option<Time> {
        let given_back = self.settles.iter().filter(|at| gives_back(at.is)).map(|at| at.is.t0);
        let restarted = (next.fence.epoch > self.at.is.fence.epoch).then_some(self.earliest);
        let reasons = given_back
            .chain(self.timeline.consumers.ended(self.at.is.consumer))
            .chain(self.timeline.deaths.first_end_in(self.earliest, next.t))
            .chain(restarted)
            .chain([self.lease_end()]);
        reasons.min().filter(|reason| *reason <= next.t).map(|reason| reason.max(self.earliest))
    }

    /// Until when nobody else can have got the message, unless the broker broke the lease.
    pub(crate) fn held_until(&self) -> Time {
        let settled = self.settles.iter().map(|at| at.is.t0);
        let ends = settled
            .chain(self.timeline.consumers.ended(self.at.is.consumer))
            .chain(self.timeline.deaths.first_end_in(self.earliest, Time::MAX))
            .chain([self.lease_end()]);
        ends.min().unwrap_or(Time::MAX)
    }

    /// Whether it certainly counts as a failure.
    pub(crate) fn failed_for_sure(&self) -> bool {
        let nack = |at: &At<Key, &Settle>| at.is.verdict == Verdict::Nack;
        self.settles.iter().any(|at| nack(at) && at.is.outcome == Outcome::Ok)
    }

    /// Whether it may count as a failure before `before`.
    pub(crate) fn may_have_failed(&self, before: Time) -> bool {
        let consumer = self.at.is.consumer;
        let nacked = self.settles.iter().any(|at| {
            let refused = matches!(at.is.outcome, Outcome::Refused(_));
            at.is.verdict == Verdict::Nack && !refused && at.is.t0 <= before
        });
        let lost = self.timeline.consumers.failed(consumer).is_some_and(|lost| lost <= before);
        nacked || lost || self.lease_end() <= before
    }

    /// How many leases may have run out in the span, one after the other and all unseen.
    pub(crate) fn leases_in(&self, after: Time, before: Time) -> u64 {
        if !self.untaken_may_expire {
            return 0;
        }
        before.0.saturating_sub(after.0) / 1_000_000 / self.at.is.lease_ms.max(1)
    }

    /// How many hand-outs may have failed after this one and before `before` without being
    /// recorded: leases that ran out unseen, and one for each consumer that crashed.
    pub(crate) fn unseen_failures(&self, before: Time) -> u64 {
        let ran_out = self.leases_in(self.lease_end().min(self.held_until()), before);
        let holder = Some(self.at.is.consumer);
        let subscription = self.at.key.0;
        let consumers = &self.timeline.consumers;
        ran_out + consumers.crashes_in(subscription, (self.earliest, before), holder)
    }
}

/// Whether a settlement lets the broker hand the message out again.
fn gives_back(settle: &Settle) -> bool {
    match (settle.verdict, &settle.outcome) {
        (_, Outcome::Unknown) | (Verdict::Nack | Verdict::Release, Outcome::Ok) => true,
        (Verdict::Ack | Verdict::Reject, Outcome::Ok) | (_, Outcome::Refused(_)) => false,
    }
}

/// Whether a settlement is the end of the message in its subscription.
pub(crate) fn is_final(settle: &Settle) -> bool {
    matches!(settle.verdict, Verdict::Ack | Verdict::Reject)
}
