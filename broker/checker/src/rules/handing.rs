//! Undone, exclusive, unexplained, fence: who gets a message, and when somebody else may.

use crate::handouts::{self, Handout, is_final};
use crate::history::{Fence, Outcome, Settle, Time};
use crate::report::{Rule, Violation, Violations, seconds};
use crate::timeline::{At, SubscriptionNo, Timeline, group};
use std::collections::BTreeMap;

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Violations) {
    for deliveries in timeline.deliveries.chunk_by(|one, next| one.key == next.key) {
        let handouts = handouts::of_message(timeline, deliveries);
        for (one, next) in handouts.iter().zip(handouts.iter().skip(1)) {
            if let Some(violation) = pair(one, next) {
                found.add(violation);
            }
        }
        order(&handouts, found);
        if let Some(first) = deliveries.first() {
            settlements(
                timeline,
                group(&timeline.settles, |at| at.key, first.key),
                &handouts,
                found,
            );
        }
    }
}

/// Two hand-outs, one after the other.
fn pair(one: &Handout<'_, '_>, next: &Handout<'_, '_>) -> Option<Violation> {
    let violation = |rule, text| {
        let events = vec![one.at.event, next.at.event];
        Some(Violation { rule, subject: one.timeline.delivery(next.at), text, events })
    };
    if one.at.is.fence == next.at.is.fence {
        return violation(Rule::Fence, "the fence was given out twice".to_owned());
    }
    let judged_elsewhere = backwards(one, next) || one.settles.iter().any(|at| ended(at.is));
    if judged_elsewhere || one.reason_to_end(next.at.is).is_some() {
        return None;
    }
    let (fence, holder) = (one.at.is.fence, one.at.is.consumer);
    if next.at.is.t < one.held_until() {
        let until = seconds(one.held_until());
        let text = format!("is with consumer={holder} under fence={fence} until {until} or longer");
        return violation(Rule::Exclusive, text);
    }
    let text = format!("follows fence={fence} of consumer={holder} without a reason");
    violation(Rule::Unexplained, text)
}

/// Whether the higher fence was certainly handed out first; [`order`] judges that.
fn backwards(lower: &Handout<'_, '_>, higher: &Handout<'_, '_>) -> bool {
    let same_consumer = lower.at.is.consumer == higher.at.is.consumer;
    higher.at.is.t < lower.own_earliest || same_consumer && higher.at.is.t < lower.at.is.t
}

/// Whether [`settlements`] judges what comes after it.
fn ended(settle: &Settle) -> bool {
    is_final(settle) && settle.outcome == Outcome::Ok
}

/// A higher fence was handed out later.
fn order(handouts: &[Handout<'_, '_>], found: &mut Violations) {
    let mut last_of: BTreeMap<u64, &Handout<'_, '_>> = BTreeMap::new();
    let mut add = |higher: &Handout<'_, '_>, lower: &Handout<'_, '_>| {
        found.add(Violation {
            rule: Rule::Fence,
            subject: lower.timeline.delivery(lower.at),
            text: format!("was handed out after the higher fence={}", higher.at.is.fence),
            events: vec![higher.at.event, lower.at.event],
        });
    };
    for handout in handouts {
        let last = last_of.insert(handout.at.is.consumer, handout);
        if let Some(lower) = last.filter(|lower| lower.at.is.t > handout.at.is.t) {
            add(handout, lower);
        }
    }
    let mut first: Option<&Handout<'_, '_>> = None;
    for handout in handouts.iter().rev() {
        match first {
            Some(higher) if higher.at.is.t < handout.own_earliest => add(higher, handout),
            Some(higher) if higher.at.is.t <= handout.at.is.t => {}
            Some(_) | None => first = Some(handout),
        }
    }
    handouts.iter().for_each(|handout| epoch(handout, found));
}

/// A fence's epoch is that of the broker that gave it out.
fn epoch(handout: &Handout<'_, '_>, found: &mut Violations) {
    let (timeline, epoch) = (handout.timeline, handout.at.is.fence.epoch);
    let mut add = |text: String, mut events: Vec<usize>| {
        events.push(handout.at.event);
        let subject = timeline.delivery(handout.at);
        found.add(Violation { rule: Rule::Fence, subject, text, events });
    };
    if timeline.deaths.never_started(epoch) {
        add(format!("no broker started with epoch={epoch}"), Vec::new());
    }
    // `own_earliest` counts the epoch's own start in, which would hide that a later one was over.
    let known = handout.at.is.after.unwrap_or(Time::ZERO);
    let known = known.max(timeline.consumers.opened(handout.at.is.consumer));
    if let Some(later) = timeline.deaths.epoch_at(known).filter(|start| start.epoch > epoch) {
        add(format!("was handed out when epoch={} had started", later.epoch), vec![later.event]);
    }
}

/// What was settled for good stays it, and only the highest fence settles.
fn settlements(
    timeline: &Timeline<'_>,
    settles: &[At<(SubscriptionNo, u64), &Settle>],
    handouts: &[Handout<'_, '_>],
    found: &mut Violations,
) {
    let accepted = settles.iter().filter(|at| at.is.outcome == Outcome::Ok);
    let mut reported: Vec<Fence> = Vec::new();
    for settle in accepted {
        let later = handouts.iter().filter(|handout| handout.at.is.fence > settle.is.fence);
        for handout in later {
            let was_known = handout.at.is.t <= settle.is.t0;
            // Hand-outs are written, not synced: a power loss takes the fence along.
            let stale = was_known && !timeline.deaths.power_lost_in(handout.at.is.t, settle.is.t1);
            let undone =
                !was_known && is_final(settle.is) && !may_be_lost(timeline, settle, handout);
            if !(stale || undone) || reported.contains(&handout.at.is.fence) {
                continue;
            }
            reported.push(handout.at.is.fence);
            let (fence, verdict) = (settle.is.fence, settle.is.verdict);
            let (rule, text) = if stale {
                (Rule::Fence, format!("was known when {verdict:?} of fence={fence} was accepted"))
            } else {
                (Rule::Undone, format!("follows the accepted {verdict:?} of fence={fence}"))
            };
            found.add(Violation {
                rule,
                subject: timeline.delivery(handout.at),
                text,
                events: vec![settle.event, handout.at.event],
            });
        }
    }
}

/// Whether a power loss may have taken the settlement along.
fn may_be_lost(
    timeline: &Timeline<'_>,
    settle: &At<(SubscriptionNo, u64), &Settle>,
    handout: &Handout<'_, '_>,
) -> bool {
    timeline.is_written(timeline.names.topic_of(settle.key.0))
        && timeline.deaths.power_lost_in(settle.is.t0, handout.at.is.t)
}
