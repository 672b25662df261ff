//! Dead letter: it has a cause, exists once, and the message is in no other place.

use crate::handouts::{self, Handout};
use crate::history::{MessageId, Outcome, Verdict};
use crate::report::{Rule, Violation, Violations};
use crate::settled::Settled;
use crate::sightings::{How, Sighting, Sightings};
use crate::timeline::{At, SubscriptionNo, Timeline, TopicNo, group};
use std::collections::HashMap;

pub(super) fn check(
    timeline: &Timeline<'_>,
    sightings: &Sightings,
    settled: &Settled<'_, '_>,
    found: &mut Violations,
) {
    let first_seen = first_seen(timeline, sightings);
    let mut dead: Vec<(SubscriptionNo, &Sighting)> =
        first_seen.iter().map(|((subscription, _), seen)| (*subscription, *seen)).collect();
    dead.sort_by_key(|(subscription, seen)| (*subscription, seen.offset, seen.id));
    for (subscription, seen) in dead {
        once(timeline, sightings, seen, found);
        cause(timeline, sightings, settled, (subscription, seen), found);
    }
    for deliveries in timeline.deliveries.chunk_by(|one, next| one.key == next.key) {
        let handouts = handouts::of_message(timeline, deliveries);
        let Some(last) = handouts.last() else { continue };
        let seen = first_seen.get(&(last.at.key.0, last.at.is.id)).copied();
        if let Some(seen) = seen {
            elsewhere(sightings, seen, last, found);
        } else {
            missing(timeline, last, found);
        }
    }
}

/// The first look at each dead letter.
fn first_seen<'s>(
    timeline: &Timeline<'_>,
    sightings: &'s Sightings,
) -> HashMap<(SubscriptionNo, MessageId), &'s Sighting> {
    let mut first_seen: HashMap<_, &Sighting> = HashMap::new();
    for seen in sightings.list.iter().filter(|seen| seen.how == How::Read) {
        let Some(subscription) = timeline.dead_letters_of(seen.topic) else { continue };
        let first = first_seen.entry((subscription, seen.id)).or_insert(seen);
        if seen.at < first.at {
            *first = seen;
        }
    }
    first_seen
}

/// As many dead letters as there are messages that can have died.
fn once(timeline: &Timeline<'_>, sightings: &Sightings, seen: &Sighting, found: &mut Violations) {
    let offsets: Vec<u64> = sightings.offsets(seen.topic, seen.id).collect();
    let sources = sightings.offsets(timeline.origin(seen.topic), seen.id).count().max(1);
    if offsets.len() > sources {
        found.add(Violation {
            rule: Rule::DeadLetter,
            subject: timeline.message(seen.topic, Some(seen.offset), seen.id),
            text: format!("is there at offsets {offsets:?}, having died {sources} times"),
            events: vec![seen.event],
        });
    }
}

/// It was rejected, or may have failed too often.
fn cause(
    timeline: &Timeline<'_>,
    sightings: &Sightings,
    settled: &Settled<'_, '_>,
    (subscription, seen): (SubscriptionNo, &Sighting),
    found: &mut Violations,
) {
    let source = timeline.names.topic_of(subscription);
    let offsets: Vec<u64> = sightings.offsets(source, seen.id).collect();
    let unseen = offsets.iter().all(|offset| !was_delivered(timeline, subscription, *offset));
    let has_cause = offsets.iter().any(|offset| {
        let settles = group(&timeline.settles, |at| at.key, (subscription, *offset)).iter();
        let rejects = settles.filter(|at| at.is.verdict == Verdict::Reject);
        let mut rejects = rejects.filter(|at| !matches!(at.is.outcome, Outcome::Refused(_)));
        rejects.next().is_some() || settled.may_be_exhausted(subscription, *offset)
    });
    // Of a message without a recorded delivery, nobody knows how often it failed.
    let may_have_cause = unseen && may_exhaust(timeline, subscription);
    if !has_cause && !may_have_cause {
        found.add(Violation {
            rule: Rule::DeadLetter,
            subject: timeline.message(seen.topic, Some(seen.offset), seen.id),
            text: "is there without a reject and without enough failures".to_owned(),
            events: vec![seen.event],
        });
    }
}

fn was_delivered(timeline: &Timeline<'_>, subscription: SubscriptionNo, offset: u64) -> bool {
    !group(&timeline.deliveries, |at| at.key, (subscription, offset)).is_empty()
}

fn may_exhaust(timeline: &Timeline<'_>, subscription: SubscriptionNo) -> bool {
    timeline.declaration(subscription).is_some_and(|declared| declared.attempts_max > 0)
}

/// A message that was seen as a dead letter is not handed out any more.
fn elsewhere(
    sightings: &Sightings,
    seen: &Sighting,
    last: &Handout<'_, '_>,
    found: &mut Violations,
) {
    let source = last.timeline.names.topic_of(last.at.key.0);
    let redriven = sightings.offsets(source, seen.id).count() > 1;
    if redriven || last.own_earliest < seen.at {
        return;
    }
    found.add(Violation {
        rule: Rule::DeadLetter,
        subject: last.timeline.delivery(last.at),
        text: "was handed out after it was seen as a dead letter".to_owned(),
        events: vec![seen.event, last.at.event],
    });
}

/// A message that was rejected, or certainly failed too often, is among the dead letters that were
/// read to the end.
fn missing(timeline: &Timeline<'_>, last: &Handout<'_, '_>, found: &mut Violations) {
    let subscription = last.at.key.0;
    let Some(declared) = timeline.declaration(subscription) else { return };
    let looked_at = timeline.finals.iter().any(|look: &At<(TopicNo, _), _>| {
        timeline.dead_letters_of(look.key.0) == Some(subscription)
    });
    let rejected = last
        .settles
        .iter()
        .find(|at| at.is.verdict == Verdict::Reject && at.is.outcome == Outcome::Ok);
    let failed = last.at.is.attempt.saturating_add(u32::from(last.failed_for_sure()));
    let exhausted = declared.attempts_max > 0 && failed >= declared.attempts_max;
    let lossy = timeline.is_written(timeline.names.topic_of(subscription))
        && timeline.deaths.power_lost_in(last.earliest, timeline.end);
    // What was given back is a dead letter no more.
    let redriven = timeline.is_redriven(subscription);
    if !looked_at || lossy || redriven || !(rejected.is_some() || exhausted) {
        return;
    }
    let mut events = vec![last.at.event];
    events.extend(rejected.map(|at| at.event));
    found.add(Violation {
        rule: Rule::DeadLetter,
        subject: timeline.delivery(last.at),
        text: "must be a dead letter and is not there".to_owned(),
        events,
    });
}
