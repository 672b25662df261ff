//! The rules, one module for each thing that they watch.

mod attempts;
mod content;
mod cursor;
mod dead_letters;
mod early;
mod epochs;
mod handing;
mod presence;
mod producer;
mod whole;

use crate::report::Violations;
use crate::settled::Settled;
use crate::sightings::Sightings;
use crate::timeline::Timeline;

/// Checks every rule.
pub(crate) fn check(timeline: &Timeline<'_>) -> Violations {
    let mut found = Violations::default();
    let mut sightings = Sightings::new(timeline);
    content::check(timeline, &sightings, &mut found);
    early::check(timeline, &sightings, &mut found);
    let inferred = producer::check(timeline, &sightings, &mut found);
    sightings.infer(inferred);
    whole::check(timeline, &sightings, &mut found);
    let settled = Settled::new(timeline, &sightings);
    let evidence = presence::Evidence { timeline, sightings: &sightings, settled: &settled };
    presence::check(evidence, &mut found);
    handing::check(timeline, &mut found);
    attempts::check(timeline, &mut found);
    dead_letters::check(timeline, &sightings, &settled, &mut found);
    cursor::check(timeline, &mut found);
    epochs::check(timeline, &mut found);
    found
}
