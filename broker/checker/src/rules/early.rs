//! Early: a delayed message is seen by nobody before it is due by the broker's clock.

use crate::report::{Rule, Violation, Violations};
use crate::sightings::{How, Sighting, Sightings};
use crate::timeline::Timeline;

pub(super) fn check(timeline: &Timeline<'_>, sightings: &Sightings, found: &mut Violations) {
    if timeline.clocks.is_empty() {
        return;
    }
    let read = sightings.list.iter().filter(|seen| seen.how == How::Read);
    read.filter_map(|seen| early(timeline, seen)).for_each(|violation| found.add(violation));
}

fn early(timeline: &Timeline<'_>, seen: &Sighting) -> Option<Violation> {
    let publishes = timeline.publishes_of(timeline.origin(seen.topic), seen.id);
    // Of several tries, the one that asked for no delay may be the one that is there.
    let dues = publishes.iter().map(|at| (at.is.due_ms, at.event));
    let (due_ms, sent) = dues.min().and_then(|(due, event)| Some((due?, event)))?;
    let now = timeline.wall_ms(seen.at)?;
    (now < due_ms).then(|| Violation {
        rule: Rule::Early,
        subject: timeline.message(seen.topic, Some(seen.offset), seen.id),
        text: format!("was seen {} ms before it was due", due_ms - now),
        events: vec![sent, seen.event],
    })
}
