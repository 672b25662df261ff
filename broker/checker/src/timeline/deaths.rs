//! When the broker ended and started, and what an end can have taken along.

use crate::history::{Broker, BrokerChange, Fence, Time};
use std::collections::BTreeMap;

/// The broker's lives.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    /// Stops, kills and power losses; both ends of the spans ascend.
    ends: Vec<(Time, Time)>,
    /// Power losses; both ends of the spans ascend.
    power_losses: Vec<(Time, Time)>,
    /// Starts by their `t0`.
    starts: Vec<Start>,
    /// When each epoch can have begun.
    begun: BTreeMap<u32, Time>,
    /// Starts by their `t1`, each with the highest epoch up to then.
    over: Vec<Start>,
}

/// One recorded start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    pub(crate) t0: Time,
    pub(crate) t1: Time,
    pub(crate) epoch: u32,
    pub(crate) event: usize,
}

impl Deaths {
    pub(crate) fn add(&mut self, broker: &Broker, event: usize) {
        let (t0, t1) = (broker.t0, broker.t1);
        match broker.change {
            BrokerChange::Started { epoch } => self.starts.push(Start { t0, t1, epoch, event }),
            BrokerChange::Stopped | BrokerChange::Killed => self.ends.push((t0, t1)),
            BrokerChange::PowerLost => {
                self.ends.push((t0, t1));
                self.power_losses.push((t0, t1));
            }
        }
    }

    pub(crate) fn sort(&mut self) {
        ascend(&mut self.ends);
        ascend(&mut self.power_losses);
        self.starts.sort_unstable();
        for start in &self.starts {
            self.begun.entry(start.epoch).or_insert(start.t0);
        }
        self.over.clone_from(&self.starts);
        self.over.sort_unstable_by_key(|start| (start.t1, start.epoch, start.event));
        let mut highest: Option<Start> = None;
        for start in &mut self.over {
            if let Some(highest) = highest.filter(|highest| highest.epoch > start.epoch) {
                (start.epoch, start.event) = (highest.epoch, highest.event);
            }
            highest = Some(*start);
        }
    }

    pub(crate) fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// The earliest moment in `after..=before` at which the broker may have ended.
    pub(crate) fn first_end_in(&self, after: Time, before: Time) -> Option<Time> {
        first_in(&self.ends, after, before)
    }

    /// Whether an end lies certainly between the two.
    pub(crate) fn ended_between(&self, after: Time, before: Time) -> bool {
        self.ends.iter().any(|(t0, t1)| *t0 >= after && *t1 <= before)
    }

    /// Whether power may have been lost between the two.
    pub(crate) fn power_lost_in(&self, after: Time, before: Time) -> bool {
        first_in(&self.power_losses, after, before).is_some()
    }

    /// The earliest moment at which this fence can have been given out.
    pub(crate) fn given_after(&self, fence: Fence) -> Time {
        self.begun.get(&fence.epoch).copied().unwrap_or(Time::ZERO)
    }

    /// The highest epoch whose start was over by `at`, with its event.
    pub(crate) fn epoch_at(&self, at: Time) -> Option<Start> {
        let over = self.over.partition_point(|start| start.t1 <= at);
        self.over.get(..over).and_then(<[Start]>::last).copied()
    }

    /// Whether starts were recorded and none of them has this epoch.
    pub(crate) fn never_started(&self, epoch: u32) -> bool {
        !self.starts.is_empty() && !self.begun.contains_key(&epoch)
    }
}

/// Sorts spans, and makes their ends ascend too by moving them back where they do not.
pub(super) fn ascend(spans: &mut [(Time, Time)]) {
    spans.sort_unstable();
    let mut end = Time::ZERO;
    for (_, t1) in spans {
        end = end.max(*t1);
        *t1 = end;
    }
}

fn first_in(spans: &[(Time, Time)], after: Time, before: Time) -> Option<Time> {
    let first = spans.get(spans.partition_point(|(_, t1)| *t1 < after))?;
    (first.0 <= before).then(|| first.0.max(after))
}
