//! What happened in a history, and whether that is enough.

use crate::expect::{Counts, Expectations, Shortfall};
use crate::history::{
    BrokerChange, ConsumerChange, CursorChange, Event, Mode, Outcome, PublishOutcome, Time,
};
use crate::sightings::acknowledged;
use crate::timeline::Timeline;

/// Counts everything.
pub(crate) fn counts(events: &[Event], timeline: &Timeline<'_>) -> Counts {
    let mut counts = Counts::default();
    events.iter().for_each(|event| count(&mut counts, event));
    let repeats = timeline.deliveries.chunk_by(|one, next| one.key == next.key);
    let repeats = repeats.map(|same| same.iter().skip(1).map(|_| 1).sum::<u64>());
    counts.redeliveries = repeats.sum();
    let dead = timeline.deliveries.iter().map(|at| timeline.names.topic_of(at.key.0));
    let fetched = timeline.fetches.iter().flat_map(|at| at.is.messages.iter().map(|_| at.key));
    let dead = dead.chain(fetched).filter(|topic| timeline.dead_letters_of(*topic).is_some());
    counts.dead_letters = dead.map(|_| 1).sum();
    counts.kills_effective = kills_effective(events);
    counts
}

fn count(counts: &mut Counts, event: &Event) {
    match event {
        Event::Topic(_) | Event::Subscription(_) | Event::Released(_) | Event::Clock(_) => {}
        Event::Publish(publish) => match publish.outcome {
            PublishOutcome::Ok { duplicate, .. } => {
                counts.publishes_ok += 1;
                counts.publishes_delayed += one_if(publish.due_ms.is_some());
                counts.publishes_duplicate += u64::from(duplicate);
            }
            PublishOutcome::Failed(_) => counts.publishes_failed += 1,
            PublishOutcome::Unknown => counts.publishes_unknown += 1,
        },
        Event::Deliver(_) => counts.deliveries += 1,
        Event::Settle(settle) => match settle.outcome {
            Outcome::Ok => counts.settles_ok += 1,
            Outcome::Refused(_) => counts.settles_refused += 1,
            Outcome::Unknown => counts.settles_unknown += 1,
        },
        Event::Extend(extend) => counts.extends_ok += one_if(extend.outcome == Outcome::Ok),
        Event::Consumer(consumer) => match consumer.change {
            ConsumerChange::Opened => counts.consumers_opened += 1,
            ConsumerChange::Lost | ConsumerChange::Crashed => counts.consumers_lost += 1,
            ConsumerChange::Closed => {}
        },
        Event::Fetch(fetch) => counts.fetched += fetch.messages.iter().map(|_| 1).sum::<u64>(),
        Event::Cursor(cursor) => {
            let saved = cursor.change == CursorChange::Saved && cursor.outcome == Outcome::Ok;
            counts.cursors_saved += one_if(saved);
        }
        Event::Redrive(redrive) => counts.redrives += one_if(redrive.outcome == Outcome::Ok),
        Event::Broker(broker) => match broker.change {
            BrokerChange::Started { .. } => counts.starts += 1,
            BrokerChange::Killed => counts.kills += 1,
            BrokerChange::PowerLost => counts.power_losses += 1,
            BrokerChange::Stopped => {}
        },
        Event::Final(_) => counts.finals += 1,
    }
}

fn one_if(condition: bool) -> u64 {
    u64::from(condition)
}

/// Kills that hit a publish or settlement under way.
fn kills_effective(events: &[Event]) -> u64 {
    let mut spans: Vec<(Time, Time)> = events.iter().filter_map(under_way).collect();
    spans.sort_unstable();
    // The latest end of all spans that begin no later than this one.
    let mut latest = Time::ZERO;
    for (_, end) in &mut spans {
        latest = latest.max(*end);
        *end = latest;
    }
    let hit = |event: &&Event| {
        let Event::Broker(broker) = event else { return false };
        let begun = spans.partition_point(|(t0, _)| *t0 <= broker.t1);
        let last = spans.get(..begun).and_then(<[_]>::last);
        broker.change == BrokerChange::Killed && last.is_some_and(|(_, end)| *end >= broker.t0)
    };
    events.iter().filter(hit).map(|_| 1).sum()
}

fn under_way(event: &Event) -> Option<(Time, Time)> {
    match event {
        Event::Publish(publish) => Some((publish.t0, publish.t1)),
        Event::Settle(settle) => Some((settle.t0, settle.t1)),
        Event::Topic(_)
        | Event::Subscription(_)
        | Event::Deliver(_)
        | Event::Extend(_)
        | Event::Consumer(_)
        | Event::Fetch(_)
        | Event::Cursor(_)
        | Event::Redrive(_)
        | Event::Released(_)
        | Event::Broker(_)
        | Event::Clock(_)
        | Event::Final(_) => None,
    }
}

/// Where a history falls short of what its suite expects.
pub(crate) fn shortfalls(
    counts: &Counts,
    expectations: &Expectations,
    timeline: &Timeline<'_>,
) -> Vec<Shortfall> {
    let mut shortfalls = Vec::new();
    let expected = expectations.at_least.entries();
    for ((what, found), (_, at_least)) in counts.entries().into_iter().zip(expected) {
        if found < at_least {
            shortfalls.push(Shortfall::TooFew { what, found, at_least });
        }
    }
    let unknown = counts.publishes_unknown + counts.settles_unknown;
    let known = counts.publishes_ok + counts.publishes_failed;
    let of = unknown + known + counts.settles_ok + counts.settles_refused;
    let percent_max = expectations.unknown_percent_max;
    if unknown * 100 > of * u64::from(percent_max) {
        shortfalls.push(Shortfall::TooManyUnknown { unknown, of, percent_max });
    }
    if expectations.final_looks {
        final_looks(timeline, &mut shortfalls);
    }
    shortfalls
}

fn final_looks(timeline: &Timeline<'_>, shortfalls: &mut Vec<Shortfall>) {
    for topic in timeline.names.topics() {
        if acknowledged(timeline, topic).next().is_none() {
            continue;
        }
        let name = timeline.names.topic_name(topic).to_owned();
        let declared = timeline.declared(topic).iter();
        let queues: Vec<_> = declared.filter(|at| at.is.mode == Mode::Queue).collect();
        if queues.is_empty() && !timeline.finals.iter().any(|look| look.key == (topic, None)) {
            shortfalls.push(Shortfall::NoFinalLook { topic: name, subscription: None });
            continue;
        }
        for queue in queues {
            let key = (topic, Some(queue.key.1));
            if !timeline.finals.iter().any(|look| look.key == key) {
                let subscription = Some(queue.is.subscription.clone());
                shortfalls.push(Shortfall::NoFinalLook { topic: name.clone(), subscription });
            }
        }
    }
}
