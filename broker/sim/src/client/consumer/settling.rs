//! Settlements under way, and what the history says of them.

use super::Taken;
use crate::client::{Surroundings, refused};
use posthouse_checker::history::{self, Event, Outcome};
use posthouse_protocol::message::{DeliveryRun, Settled, Verdict};
use posthouse_protocol::{Fence, Offset};

/// A settlement or extension under way.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(super) t0: u64,
    pub(super) what: What,
    pub(super) deliveries: Vec<Taken>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Settle(Verdict),
    Extend(u64),
}

/// How a settlement ended.
pub(super) enum Told<'a> {
    Settled(&'a Settled),
    Refused(u16),
    Nothing,
}

impl Settling {
    /// Records what became of each delivery.
    pub(super) fn answered(
        &self,
        around: &mut Surroundings<'_>,
        at: (&str, &str),
        reply: &Told<'_>,
    ) {
        for taken in &self.deliveries {
            let outcome = match reply {
                Told::Settled(settled) => {
                    let refusal = settled.refused.iter().find(|run| {
                        (run.first.0..run.first.0 + u64::from(run.count)).contains(&taken.offset)
                    });
                    refusal.map_or(Outcome::Ok, |run| refused(run.code))
                }
                Told::Refused(code) => refused(*code),
                Told::Nothing => Outcome::Unknown,
            };
            self.record(around, at, taken, outcome);
        }
    }

    fn record(
        &self,
        around: &mut Surroundings<'_>,
        (topic, subscription): (&str, &str),
        taken: &Taken,
        outcome: Outcome,
    ) {
        let (t0, t1) = (history::Time(self.t0), around.time());
        let (topic, subscription) = (topic.to_owned(), subscription.to_owned());
        let (offset, fence) = (taken.offset, fence(taken.fence));
        around.history.push(match self.what {
            What::Extend(lease_ms) => Event::Extend(history::Extend {
                t0,
                t1,
                topic,
                subscription,
                offset,
                fence,
                lease_ms,
                outcome,
            }),
            What::Settle(verdict) => Event::Settle(history::Settle {
                t0,
                t1,
                topic,
                subscription,
                offset,
                fence,
                verdict: match verdict {
                    Verdict::Ack => history::Verdict::Ack,
                    Verdict::Nack => history::Verdict::Nack,
                    Verdict::Release => history::Verdict::Release,
                    Verdict::Reject => history::Verdict::Reject,
                },
                outcome,
            }),
        });
    }
}

/// Neighbours with neighbouring fences as one.
pub(super) fn runs(deliveries: &[Taken]) -> Vec<DeliveryRun> {
    let mut runs: Vec<DeliveryRun> = Vec::new();
    for taken in deliveries {
        match runs.last_mut() {
            Some(run)
                if run.first.0 + u64::from(run.count) == taken.offset
                    && run.fence.plus(u64::from(run.count)) == taken.fence =>
            {
                run.count += 1;
            }
            _ => {
                runs.push(DeliveryRun {
                    first: Offset(taken.offset),
                    fence: taken.fence,
                    count: 1,
                });
            }
        }
    }
    runs
}

/// As the history writes it.
pub(super) const fn fence(fence: Fence) -> history::Fence {
    history::Fence { epoch: fence.epoch.0, counter: fence.counter }
}
