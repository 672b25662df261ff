//! Lost, vanished, torn: what must be there, is there, whoever looks.

use crate::history::{Durability, Fetch, PublishOutcome, Time};
use crate::report::{Rule, Violation, Violations};
use crate::settled::{Place, Settled};
use crate::sightings::{How, Sighting, Sightings, acknowledged};
use crate::timeline::{At, SubscriptionNo, Timeline, TopicNo, group};
use std::collections::HashSet;

/// What the rules of this module look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'l, 'e> {
    pub(super) timeline: &'l Timeline<'e>,
    pub(super) sightings: &'l Sightings,
    pub(super) settled: &'l Settled<'l, 'e>,
}

pub(super) fn check(evidence: Evidence<'_, '_>, found: &mut Violations) {
    for at in &evidence.timeline.fetches {
        fetch(evidence, at, found);
    }
    let finals = &evidence.timeline.finals;
    for looks in finals.chunk_by(|one, next| one.key == next.key) {
        // Of several looks the last one counts.
        let Some(last) = looks.last() else { continue };
        let (topic, from) = (last.key.0, last.is.t);
        match last.key.1 {
            None => read_through(evidence, topic, (from, last.event), found),
            Some(subscription) => drained(evidence, subscription, (from, last.event), found),
        }
    }
    for looks in finals.chunk_by(|one, next| one.key.0 == next.key.0) {
        let Some(last) = looks.last() else { continue };
        nowhere(evidence, last.key.0, last.event, found);
    }
}

/// A fetch has everything that was known to be in its range before it began.
fn fetch(evidence: Evidence<'_, '_>, at: &At<TopicNo, &Fetch>, found: &mut Violations) {
    let known = evidence.sightings.of_topic(at.key);
    let start = known.partition_point(|seen| seen.offset < at.is.from);
    let known = known.get(start..).unwrap_or_default();
    let end = known.partition_point(|seen| seen.offset < at.is.next);
    let known = known.get(..end).unwrap_or_default();
    let mut sent: Vec<u64> = at.is.messages.iter().map(|seen| seen.offset).collect();
    sent.sort_unstable();
    let finals = group(&evidence.timeline.finals, |look| look.key, (at.key, None));
    let is_final = finals.iter().any(|look| look.is.t <= at.is.t0);
    for place in known.chunk_by(|one, next| one.offset == next.offset) {
        let before = place.partition_point(|seen| seen.at <= at.is.t0);
        let Some(last) = place.get(..before).and_then(<[Sighting]>::last) else { continue };
        if sent.binary_search(&last.offset).is_ok() {
            continue;
        }
        let excused = evidence.settled.released_from(place_of(last));
        let excused = excused.is_some_and(|from| from <= at.is.t1);
        if excused || evidence.power_took(last, at.is.t1) {
            continue;
        }
        let text = format!("is missing in a fetch of {}..{}", at.is.from, at.is.next);
        let rule = rule_for(place.get(..before).unwrap_or_default(), is_final);
        found.add(evidence.missing(rule, last, text, at.event));
    }
}

/// The final fetches of a topic reach every message.
fn read_through(
    evidence: Evidence<'_, '_>,
    topic: TopicNo,
    (from, look): (Time, usize),
    found: &mut Violations,
) {
    let fetches = group(&evidence.timeline.fetches, |at| at.key, topic).iter();
    let fetches = fetches.filter(|at| at.is.t0 >= from);
    let mut ranges: Vec<(u64, u64)> = fetches.map(|at| (at.is.from, at.is.next)).collect();
    ranges.sort_unstable();
    let mut ranges = ranges.into_iter().peekable();
    let mut reach = (0, 0);
    let known = evidence.sightings.of_topic(topic);
    for place in known.chunk_by(|one, next| one.offset == next.offset) {
        let Some(last) = place.last() else { continue };
        while let Some((start, end)) = ranges.next_if(|range| range.0 <= last.offset) {
            reach = if start <= reach.1 { (reach.0, reach.1.max(end)) } else { (start, end) };
        }
        let seen = last.at >= from && last.how == How::Read;
        if seen || (reach.0 <= last.offset && last.offset < reach.1) {
            continue;
        }
        let released = evidence.settled.released_from(place_of(last)).is_some();
        if !released && !evidence.power_took(last, Time::MAX) {
            let text = "is not reached by the final fetches".to_owned();
            found.add(evidence.missing(rule_for(place, true), last, text, look));
        }
    }
}

/// The final drain of a queue delivers every message that is not settled.
fn drained(
    evidence: Evidence<'_, '_>,
    subscription: SubscriptionNo,
    (from, look): (Time, usize),
    found: &mut Violations,
) {
    let timeline = evidence.timeline;
    let deliveries = group(&timeline.deliveries, |at| at.key.0, subscription).iter();
    let drained: HashSet<u64> =
        deliveries.filter(|at| at.is.t >= from).map(|at| at.is.offset).collect();
    let topic = timeline.names.topic_of(subscription);
    let redriven_here = timeline.redrives.iter().any(|at| at.key == subscription);
    let redriven = timeline.redrives_of(topic) > 0;
    let known = evidence.sightings.of_topic(topic);
    for place in known.chunk_by(|one, next| one.offset == next.offset) {
        let Some(last) = place.last() else { continue };
        let settled = evidence.settled.from(subscription, place_of(last)).is_some();
        if settled || drained.contains(&last.offset) || evidence.power_took(last, Time::MAX) {
            continue;
        }
        let purged = group(&timeline.releases, |at| at.key, topic).iter();
        let purged = purged.map(|at| at.is.below).any(|below| last.offset < below);
        // A redriven copy is for the subscription that it was dead for, and for nobody else.
        let original = evidence.sightings.offsets(topic, last.id).next();
        let for_others = redriven && !redriven_here && original != Some(last.offset);
        if !purged && !for_others {
            let text = "is neither settled nor found in the final drain".to_owned();
            let mut violation = evidence.missing(rule_for(place, true), last, text, look);
            let name = timeline.names.subscription_name(subscription);
            violation.subject.subscription = Some(name.to_owned());
            found.add(violation);
        }
    }
}

/// Acknowledged, and nobody was ever told where it is nor saw it.
fn nowhere(evidence: Evidence<'_, '_>, topic: TopicNo, look: usize, found: &mut Violations) {
    let timeline = evidence.timeline;
    let everything_purged = group(&timeline.releases, |at| at.key, topic);
    if everything_purged.iter().any(|at| at.is.below == u64::MAX) {
        return;
    }
    for publishes in acknowledged(timeline, topic) {
        let Some(first) = publishes.first() else { continue };
        let (_, id) = first.key;
        let synced = publishes.iter().any(|at| {
            matches!(at.is.outcome, PublishOutcome::Ok { durability: Durability::Synced, .. })
        });
        let taken = !synced && timeline.deaths.power_lost_in(first.is.t0, Time::MAX);
        if taken || evidence.sightings.offsets(topic, id).next().is_some() {
            continue;
        }
        let mut events: Vec<usize> = publishes.iter().map(|at| at.event).collect();
        events.push(look);
        found.add(Violation {
            rule: Rule::Lost,
            subject: timeline.message(topic, None, id),
            text: "was acknowledged and never seen".to_owned(),
            events,
        });
    }
}

impl Evidence<'_, '_> {
    /// Whether a power loss after this sighting may have taken the message along.
    fn power_took(self, last: &Sighting, until: Time) -> bool {
        let lossy = match last.how {
            How::Told => self.is_only_written(last),
            How::Read | How::Inferred => self.timeline.is_written(last.topic),
        };
        lossy && self.timeline.deaths.power_lost_in(last.at, until)
    }

    fn is_only_written(self, told: &Sighting) -> bool {
        let publishes = self.timeline.publishes_of(told.topic, told.id).iter();
        let mut receipts = publishes.filter(|at| at.event == told.event);
        receipts.any(|at| {
            matches!(at.is.outcome, PublishOutcome::Ok { durability: Durability::Written, .. })
        })
    }

    fn missing(self, rule: Rule, last: &Sighting, text: String, look: usize) -> Violation {
        let subject = self.timeline.message(last.topic, Some(last.offset), last.id);
        Violation { rule, subject, text, events: vec![last.event, look] }
    }
}

/// Lost if its sender was told and this is the final look; torn if only others of its batch were
/// seen; else vanished.
fn rule_for(place: &[Sighting], is_final: bool) -> Rule {
    if is_final && place.iter().any(|seen| seen.how == How::Told) {
        Rule::Lost
    } else if place.iter().all(|seen| seen.how == How::Inferred) {
        Rule::Torn
    } else {
        Rule::Vanished
    }
}

fn place_of(seen: &Sighting) -> Place {
    Place { topic: seen.topic, offset: seen.offset, id: seen.id }
}
