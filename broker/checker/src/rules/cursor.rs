//! Cursor: what was saved last is what is found.

use crate::history::{Cursor, CursorChange, Outcome};
use crate::report::{Rule, Violation, Violations};
use crate::timeline::{At, SubscriptionNo, Timeline};

type Change<'l, 'e> = &'l At<SubscriptionNo, &'e Cursor>;

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Violations) {
    for changes in timeline.cursors.chunk_by(|one, next| one.key == next.key) {
        let mut saves: Vec<Change<'_, '_>> = Vec::new();
        for (place, at) in changes.iter().enumerate() {
            match at.is.change {
                CursorChange::Saved if may_be_done(at) => saves.push(at),
                CursorChange::Loaded if at.is.outcome == Outcome::Ok => {
                    let later = changes.iter().skip(place);
                    let during = later.take_while(|other| other.is.t0 <= at.is.t1);
                    let during = during.filter(|other| may_be_done(other));
                    loaded(timeline, at, (&mut saves, during), found);
                }
                CursorChange::Saved | CursorChange::Loaded => {}
            }
        }
    }
}

fn may_be_done(at: Change<'_, '_>) -> bool {
    at.is.change == CursorChange::Saved && !matches!(at.is.outcome, Outcome::Refused(_))
}

/// A load finds the last accepted save that was over before it, or one that may have come later.
fn loaded<'l, 'e: 'l>(
    timeline: &Timeline<'e>,
    load: Change<'l, 'e>,
    (before, during): (&mut Vec<Change<'l, 'e>>, impl Iterator<Item = Change<'l, 'e>>),
    found: &mut Violations,
) {
    let over = before.iter().filter(|save| save.is.outcome == Outcome::Ok);
    let over = over.filter(|save| save.is.t1 <= load.is.t0);
    let Some(last) = over.max_by_key(|save| (save.is.t0, save.event)).copied() else { return };
    // For this load and all later ones, `last` has overwritten what was over before it began.
    before.retain(|save| save.is.outcome != Outcome::Ok || save.is.t1 > last.is.t0);
    let lossy = timeline.is_written(timeline.names.topic_of(load.key));
    let lossy = lossy && timeline.deaths.power_lost_in(last.is.t0, load.is.t1);
    let mut may_be = before.iter().copied().chain(during);
    if lossy || may_be.any(|save| save.is.offset == load.is.offset) {
        return;
    }
    found.add(Violation {
        rule: Rule::Cursor,
        subject: timeline.subscription(load.key),
        text: format!("is at offset={}, was saved as offset={}", load.is.offset, last.is.offset),
        events: vec![last.event, load.event],
    });
}
