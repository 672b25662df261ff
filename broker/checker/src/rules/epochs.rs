//! Epoch: every start is told apart from those before.

use crate::report::{Rule, Subject, Violation, Violations};
use crate::timeline::Timeline;

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Violations) {
    let deaths = &timeline.deaths;
    let starts = deaths.starts();
    for (one, next) in starts.iter().zip(starts.iter().skip(1)) {
        // Several clients may record the same start.
        let again = one.epoch == next.epoch && !deaths.ended_between(one.t1, next.t0);
        if next.epoch > one.epoch || again {
            continue;
        }
        found.add(Violation {
            rule: Rule::Epoch,
            subject: Subject::default(),
            text: format!("epoch={} follows epoch={}", next.epoch, one.epoch),
            events: vec![one.event, next.event],
        });
    }
}
