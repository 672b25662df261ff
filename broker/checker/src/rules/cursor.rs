//! Cursor: what was saved last is what is found.

use crate::history::{Cursor, CursorChange, Outcome};
use crate::report::{Rule, Violation, Violations};
use crate::timeline::{At, SubscriptionNo, Timeline};

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Violations) {
    for changes in timeline.cursors.chunk_by(|one, next| one.key == next.key) {
        let mut saves: Vec<&At<SubscriptionNo, &Cursor>> = Vec::new();
        for at in changes {
            match at.is.change {
                CursorChange::Saved if matches!(at.is.outcome, Outcome::Refused(_)) => {}
                CursorChange::Saved => saves.push(at),
                CursorChange::Loaded if at.is.outcome == Outcome::Ok => {
                    let later = changes.iter().skip_while(|save| save.is.t0 < at.is.t0);
                    let during = later.take_while(|save| save.is.t0 <= at.is.t1);
                    let during = during.filter(|save| is_save(save.is));
                    let may_be: Vec<_> = saves.iter().copied().chain(during).collect();
                    loaded(timeline, at, &may_be, found);
                }
                CursorChange::Loaded => {}
            }
        }
    }
}

fn is_save(cursor: &Cursor) -> bool {
    cursor.change == CursorChange::Saved && !matches!(cursor.outcome, Outcome::Refused(_))
}

/// A load finds the last accepted save that was over before it, or one that may have come later.
fn loaded(
    timeline: &Timeline<'_>,
    load: &At<SubscriptionNo, &Cursor>,
    saves: &[&At<SubscriptionNo, &Cursor>],
    found: &mut Violations,
) {
    let over = saves.iter().filter(|save| save.is.outcome == Outcome::Ok);
    let over = over.filter(|save| save.is.t1 <= load.is.t0);
    // The last of those that were over is the one that began last: any that ended before it began
    // is overwritten.
    let Some(last) = over.max_by_key(|save| (save.is.t0, save.event)) else { return };
    let lossy = timeline.is_written(timeline.names.topic_of(load.key));
    if lossy && timeline.deaths.power_lost_in(last.is.t0, load.is.t1) {
        return;
    }
    let overwritten = |save: &Cursor| save.outcome == Outcome::Ok && save.t1 <= last.is.t0;
    let may_be = saves.iter().filter(|save| !overwritten(save.is));
    if may_be.clone().any(|save| save.is.offset == load.is.offset) {
        return;
    }
    found.add(Violation {
        rule: Rule::Cursor,
        subject: timeline.subscription(load.key),
        text: format!("is at offset={}, was saved as offset={}", load.is.offset, last.is.offset),
        events: vec![last.event, load.event],
    });
}
