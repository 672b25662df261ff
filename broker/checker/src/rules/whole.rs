//! Half: what one commit published is there in every topic, or in none.

use crate::history::{Publish, PublishOutcome, Time};
use crate::report::{Rule, Violation, Violations};
use crate::sightings::Sightings;
use crate::timeline::{At, Timeline, TopicNo, group};

/// A message of a commit.
type Sent<'e> = At<(TopicNo, crate::history::MessageId), &'e Publish>;

pub(super) fn check(timeline: &Timeline<'_>, sightings: &Sightings, found: &mut Violations) {
    let may_be_there = |at: &&Sent<'_>| !matches!(at.is.outcome, PublishOutcome::Failed(_));
    let sent = timeline.publishes.iter().filter(may_be_there);
    let mut sent: Vec<_> = sent.filter_map(|at| Some((number(at)?, at))).collect();
    sent.sort_by_key(|(number, at)| (*number, at.key, at.event));
    for commit in sent.chunk_by(|one, next| one.0 == next.0) {
        let messages: Vec<&Sent<'_>> = commit.iter().map(|(_, at)| *at).collect();
        half(timeline, sightings, &messages, found);
    }
}

/// The producer and the sequence: what is sent under one number is one commit or publish.
fn number(at: &Sent<'_>) -> Option<(u64, u64)> {
    at.is.sender.map(|sender| (sender.producer, sender.sequence))
}

fn half(
    timeline: &Timeline<'_>,
    sightings: &Sightings,
    messages: &[&Sent<'_>],
    found: &mut Violations,
) {
    let topics = messages.chunk_by(|one, next| one.key.0 == next.key.0).count();
    let is_seen = |at: &&&Sent<'_>| {
        timeline.names.topics().any(|topic| sightings.offsets(topic, at.key.1).next().is_some())
    };
    let Some(seen) = messages.iter().find(is_seen).filter(|_| topics > 1) else { return };
    for at in messages.iter().filter(|at| !is_seen(at)) {
        if would_be_seen(timeline, at.key.0) && !power_took(timeline, messages) {
            let there = timeline.names.topic_name(seen.key.0);
            found.add(Violation {
                rule: Rule::Half,
                subject: timeline.message(at.key.0, None, at.key.1),
                text: format!("was never seen, and the part of its commit in {there} was"),
                events: vec![seen.event, at.event],
            });
        }
    }
}

/// Whether whatever was in a topic is sure to be in the history.
fn would_be_seen(timeline: &Timeline<'_>, topic: TopicNo) -> bool {
    let is_read = !group(&timeline.finals, |at| at.key, (topic, None)).is_empty();
    let is_purged = !group(&timeline.releases, |at| at.key, topic).is_empty();
    let always = (Time::ZERO, Time::MAX);
    let crashes = |subscription| timeline.consumers.crashes_in(subscription, always, None) > 0;
    is_read && !is_purged && !timeline.declared(topic).iter().any(|at| crashes(at.key.1))
}

/// Whether a power loss may have taken all of a commit after a part of it was seen: nothing in it
/// was synced.
fn power_took(timeline: &Timeline<'_>, messages: &[&Sent<'_>]) -> bool {
    let since = messages.iter().map(|at| at.is.t0).min().unwrap_or(Time::ZERO);
    messages.iter().all(|at| timeline.is_written(at.key.0))
        && timeline.deaths.power_lost_in(since, Time::MAX)
}
