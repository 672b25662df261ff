//! Attempt: the counter counts failures, all of them and nothing else.

use crate::handouts::{self, Handout};
use crate::history::Time;
use crate::report::{Rule, Violation, Violations};
use crate::timeline::Timeline;

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Violations) {
    for deliveries in timeline.deliveries.chunk_by(|one, next| one.key == next.key) {
        let handouts = handouts::of_message(timeline, deliveries);
        let Some(first) = handouts.first() else { continue };
        let most = first_at_most(first);
        if u64::from(first.at.is.attempt) > most {
            add(first, &format!("is the first hand-out seen; at most {most} failed before"), found);
        }
        let mut failed = 0;
        for (one, next) in handouts.iter().zip(handouts.iter().skip(1)) {
            failed += u64::from(one.failed_for_sure());
            step(one, next, failed, found);
        }
        handouts.iter().for_each(|handout| limit(handout, found));
    }
}

/// How many hand-outs may have failed, all unseen, before the first one that was seen.
fn first_at_most(first: &Handout<'_, '_>) -> u64 {
    let (timeline, is) = (first.timeline, first.at.is);
    let publishes = timeline.publishes_of(timeline.names.topic_of(first.at.key.0), is.id);
    let published = publishes.first().map_or(Time::ZERO, |at| at.is.t0);
    let ran_out = first.leases_in(published, is.t);
    let span = (published, is.t);
    ran_out + timeline.consumers.crashes_in(first.at.key.0, span, None)
}

/// From one hand-out to the next, of which `failed` and more are known to have failed by then.
fn step(one: &Handout<'_, '_>, next: &Handout<'_, '_>, failed: u64, found: &mut Violations) {
    let (before, after) = (u64::from(one.at.is.attempt), u64::from(next.at.is.attempt));
    let may_fail = u64::from(one.may_have_failed(next.at.is.t));
    let most = before + may_fail + one.unseen_failures(next.at.is.t);
    let for_sure = u64::from(one.failed_for_sure());
    let timeline = one.timeline;
    let least = if timeline.deaths.power_lost_in(one.earliest, next.at.is.t) {
        // Failures that nobody was told of may be lost with the power.
        let written = timeline.is_written(timeline.names.topic_of(one.at.key.0));
        if written { 0 } else { failed.min(before + for_sure) }
    } else {
        before + for_sure
    };
    if after < least || after > most {
        add(next, &format!("after attempt={before} it must be {least} to {most}"), found);
    }
}

/// Whoever has failed often enough is not handed out any more.
fn limit(handout: &Handout<'_, '_>, found: &mut Violations) {
    let declared = handout.timeline.declaration(handout.at.key.0);
    let most = declared.map_or(0, |declared| declared.attempts_max);
    if most > 0 && handout.at.is.attempt >= most {
        add(handout, &format!("should be dead-lettered after {most} failures"), found);
    }
}

fn add(handout: &Handout<'_, '_>, text: &str, found: &mut Violations) {
    found.add(Violation {
        rule: Rule::Attempt,
        subject: handout.timeline.delivery(handout.at),
        text: format!("attempt={}: {text}", handout.at.is.attempt),
        events: vec![handout.at.event],
    });
}
