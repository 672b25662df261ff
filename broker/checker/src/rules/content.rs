//! Unexpected, aborted, agreement: what was seen is what was published, and stays it.

use crate::report::{Rule, Violation, Violations, seconds};
use crate::sightings::{How, Sighting, Sightings};
use crate::timeline::{Timeline, Told, told};

pub(super) fn check(timeline: &Timeline<'_>, sightings: &Sightings, found: &mut Violations) {
    for place in sightings.places() {
        agree(timeline, place, found);
    }
    let mut read: Vec<&Sighting> =
        sightings.list.iter().filter(|seen| seen.how == How::Read).collect();
    read.sort_by_key(|seen| (seen.topic, seen.id, seen.at, seen.event));
    for copies in read.chunk_by(|one, next| (one.topic, one.id) == (next.topic, next.id)) {
        if let Some(violation) = published(timeline, copies) {
            found.add(violation);
        }
    }
}

/// One offset, one message, one content.
fn agree(timeline: &Timeline<'_>, place: &[Sighting], found: &mut Violations) {
    let Some(first) = place.first() else { return };
    let other = place
        .iter()
        .find(|seen| seen.how != How::Inferred && (seen.id, seen.crc) != (first.id, first.crc));
    if let Some(other) = other.filter(|_| first.how != How::Inferred) {
        let text = format!(
            "was id={} crc={:08x}, later id={} crc={:08x}",
            first.id, first.crc, other.id, other.crc
        );
        found.add(Violation {
            rule: Rule::Agreement,
            subject: timeline.message(first.topic, Some(first.offset), first.id),
            text,
            events: vec![first.event, other.event],
        });
    }
}

/// All sightings of one message by readers, the earliest first.
fn published(timeline: &Timeline<'_>, copies: &[&Sighting]) -> Option<Violation> {
    let first = copies.first()?;
    let publishes = timeline.publishes_of(timeline.origin(first.topic), first.id);
    let subject = timeline.message(first.topic, Some(first.offset), first.id);
    let violation = |rule, text, events| Some(Violation { rule, subject, text, events });
    let Some(earliest) = publishes.first() else {
        let text = "was never published".to_owned();
        return violation(Rule::Unexpected, text, vec![first.event]);
    };
    if first.at < earliest.is.t0 {
        let (seen, sent) = (seconds(first.at), seconds(earliest.is.t0));
        let text = format!("was seen at {seen}, before it was published at {sent}");
        return violation(Rule::Unexpected, text, vec![earliest.event, first.event]);
    }
    if told(publishes) == Told::Failed {
        let text = "was refused with a definite error and is there all the same".to_owned();
        return violation(Rule::Aborted, text, vec![earliest.event, first.event]);
    }
    let other = copies.iter().find(|seen| seen.crc != earliest.is.crc)?;
    let (sent, seen) = (earliest.is.crc, other.crc);
    let text = format!("was published with crc={sent:08x} and seen with crc={seen:08x}");
    violation(Rule::Agreement, text, vec![earliest.event, other.event])
}
