//! Duplicate, order, torn: what idempotent producers are promised.

use crate::history::{MessageId, Publish, PublishOutcome, Sender, Time};
use crate::report::{Rule, Violation, Violations};
use crate::sightings::{How, Sighting, Sightings};
use crate::timeline::{At, Timeline, TopicNo};

/// Checks, and returns where the unseen messages of batches must be whose other messages were seen.
pub(super) fn check(
    timeline: &Timeline<'_>,
    sightings: &Sightings,
    found: &mut Violations,
) -> Vec<Sighting> {
    for topic in timeline.names.topics() {
        if timeline.dead_letters_of(topic).is_none() {
            duplicates(timeline, sightings, topic, found);
        }
    }
    let sent = sent(timeline, sightings);
    for producer in sent.chunk_by(|one, next| one.producer() == next.producer()) {
        order(timeline, producer, found);
    }
    let mut inferred = Vec::new();
    for batch in sent.chunk_by(|one, next| one.batch() == next.batch()) {
        torn((timeline, sightings), batch, &mut inferred, found);
    }
    inferred
}

/// A message has as many offsets as it was published under different sequences, and redriven.
fn duplicates(
    timeline: &Timeline<'_>,
    sightings: &Sightings,
    topic: TopicNo,
    found: &mut Violations,
) {
    let redrives = timeline.redrives_of(topic);
    for places in sightings.messages(topic).filter(|places| places.len() > 1) {
        let Some(&(_, id, offset)) = places.first() else { continue };
        let publishes = timeline.publishes_of(topic, id);
        let allowed = copies_allowed(publishes) + redrives;
        if publishes.is_empty() || places.len() <= allowed {
            continue;
        }
        // A copy that somebody saw may be lost with the power before the sender had its receipt. A
        // delayed message may be lost with the power once it is there: then it waits again.
        let lost = publishes.iter().any(|at| {
            let until = if at.is.due_ms.is_some() { Time::MAX } else { at.is.t1 };
            timeline.deaths.power_lost_in(at.is.t0, until)
        });
        if lost && timeline.is_written(topic) {
            continue;
        }
        let offsets: Vec<u64> = places.iter().map(|place| place.2).collect();
        found.add(Violation {
            rule: Rule::Duplicate,
            subject: timeline.message(topic, Some(offset), id),
            text: format!("is at offsets {offsets:?}, at most {allowed} allowed"),
            events: publishes.iter().map(|at| at.event).collect(),
        });
    }
}

/// Tries under one sequence make one copy; tries without a producer make one each.
fn copies_allowed(publishes: &[At<(TopicNo, MessageId), &Publish>]) -> usize {
    let may_be_there = |at: &&At<(TopicNo, MessageId), &Publish>| {
        !matches!(at.is.outcome, PublishOutcome::Failed(_))
    };
    let tries = publishes.iter().filter(may_be_there);
    let mut senders: Vec<_> = tries.clone().filter_map(|at| at.is.sender).collect();
    senders.sort_unstable();
    senders.dedup_by_key(|sender| (sender.producer, sender.sequence));
    senders.len() + tries.filter(|at| at.is.sender.is_none()).count()
}

/// A message that a producer sent, and where it is.
#[derive(Clone, Copy, Debug)]
struct Sent {
    topic: TopicNo,
    sender: Sender,
    id: MessageId,
    crc: u32,
    event: usize,
    /// From its receipt, or else the lowest one that it was seen at, in case that it was redriven.
    offset: Option<u64>,
    failed: bool,
}

impl Sent {
    const fn producer(&self) -> (TopicNo, u64) {
        (self.topic, self.sender.producer)
    }

    const fn batch(&self) -> (TopicNo, u64, u64) {
        (self.topic, self.sender.producer, self.sender.sequence)
    }
}

/// By topic, producer, sequence, position; the tries of one message as one. Without the delayed
/// ones, whose places are those of their times.
fn sent(timeline: &Timeline<'_>, sightings: &Sightings) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    for at in &timeline.publishes {
        let Some(sender) = at.is.sender.filter(|_| at.is.due_ms.is_none()) else { continue };
        let (topic, id) = at.key;
        let failed = matches!(at.is.outcome, PublishOutcome::Failed(_));
        let offset = match at.is.outcome {
            PublishOutcome::Ok { offset, .. } => offset,
            PublishOutcome::Failed(_) | PublishOutcome::Unknown => None,
        };
        sent.push(Sent { topic, sender, id, crc: at.is.crc, event: at.event, offset, failed });
    }
    let told_first = |sent: &Sent| (sent.failed, sent.offset.is_none(), sent.event);
    sent.sort_by_key(|sent| (sent.topic, sent.sender, told_first(sent)));
    sent.dedup_by_key(|sent| (sent.topic, sent.sender));
    for sent in sent.iter_mut().filter(|sent| sent.offset.is_none()) {
        // Of a message that was sent under several numbers, nobody knows which copy is which.
        if copies_allowed(timeline.publishes_of(sent.topic, sent.id)) == 1 {
            sent.offset = sightings.offsets(sent.topic, sent.id).next();
        }
    }
    sent
}

fn order(timeline: &Timeline<'_>, producer: &[Sent], found: &mut Violations) {
    let placed = producer.iter().filter_map(|sent| sent.offset.map(|offset| (sent, offset)));
    let mut highest: Option<(&Sent, u64)> = None;
    for (sent, offset) in placed {
        match highest {
            Some((before, above)) if above >= offset && before.id != sent.id => {
                let text = format!(
                    "sequence={}.{} is at offset={offset}, the one before it at offset={above}",
                    sent.sender.sequence, sent.sender.position
                );
                found.add(Violation {
                    rule: Rule::Order,
                    subject: timeline.message(sent.topic, Some(offset), sent.id),
                    text,
                    events: vec![before.event, sent.event],
                });
            }
            Some(_) | None => highest = Some((sent, offset)),
        }
    }
}

/// All messages of one batch lie side by side; those not seen yet are where the others say.
fn torn(
    (timeline, sightings): (&Timeline<'_>, &Sightings),
    batch: &[Sent],
    inferred: &mut Vec<Sighting>,
    found: &mut Violations,
) {
    let placed = |sent: &&Sent| sent.offset.is_some() && !sent.failed;
    let Some(first) = batch.iter().find(placed).filter(|_| batch.len() > 1) else { return };
    let offset = first.offset.unwrap_or_default();
    for sent in batch.iter().filter(|sent| !sent.failed) {
        let ahead = offset.saturating_add(u64::from(sent.sender.position));
        let Some(expected) = ahead.checked_sub(u64::from(first.sender.position)) else { continue };
        match sent.offset {
            Some(offset) if offset == expected => {}
            Some(offset) => found.add(Violation {
                rule: Rule::Torn,
                subject: timeline.message(sent.topic, Some(offset), sent.id),
                text: format!("is not at offset={expected}, beside the others of its batch"),
                events: vec![first.event, sent.event],
            }),
            None => inferred.push(Sighting {
                topic: sent.topic,
                offset: expected,
                at: sightings.first_at(sent.topic, offset),
                id: sent.id,
                crc: sent.crc,
                event: sent.event,
                how: How::Inferred,
            }),
        }
    }
}
