//! Settlements inside a commit: judged with everything else before anything changes, and carried
//! out once the commit's frame is appended.

use super::Deliveries;
use super::failing::{Failing, Fate};
use super::settle::{judge, offsets, settled_events};
use crate::context::Context;
use crate::event::Event;
use crate::refusal::Refusal;
use posthouse_protocol::message::{Settle, Verdict};
use posthouse_protocol::{ErrorCode, LogIndex, Offset, SubscriptionId, TopicId};
use std::ops::Range;

/// A settlement that is possible as a whole and has not been carried out.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) subscription: SubscriptionId,
    /// The subscription's topic.
    pub(crate) topic: TopicId,
    /// Which messages; ascending and disjoint.
    pub(crate) accepted: Vec<Range<Offset>>,
    /// What has to be appended.
    pub(crate) events: Vec<Event>,
    verdict: Verdict,
    /// What becomes of the messages that failed.
    fates: Vec<(Offset, Fate)>,
    /// Whether some are to become dead letters.
    rejects: bool,
}

impl Settlement {
    /// Says what `request` does.
    ///
    /// # Errors
    ///
    /// A refusal if it is not possible for every delivery that it names.
    pub(crate) fn judged(context: &Context<'_>, request: &Settle) -> Result<Self, Refusal> {
        if request.verdict == Verdict::Release {
            let text = "a release has no place in a commit: leave it out, or settle without commit";
            return Err(Refusal::of_request(ErrorCode::Invalid, text));
        }
        let (subscription, accepted) = judge_whole(context, request)?;
        let mut settlement = Self {
            subscription: subscription.id,
            topic: subscription.topic,
            accepted,
            events: Vec::new(),
            verdict: request.verdict,
            fates: Vec::new(),
            rejects: false,
        };
        let mut failing =
            Failing::new(subscription, context.now, &request.reason).delayed_by(request.delay_ms);
        match request.verdict {
            Verdict::Ack => {
                let Self { subscription, accepted, .. } = &settlement;
                settlement.events = settled_events(*subscription, accepted);
                return Ok(settlement);
            }
            Verdict::Nack => {
                for offset in settlement.accepted.iter().flat_map(offsets) {
                    // The lease end or an earlier copy of this request has counted it.
                    if !failing.is_counted(offset) {
                        settlement.fates.push((offset, failing.fail(offset)));
                    }
                }
            }
            Verdict::Reject | Verdict::Release => {
                settlement.accepted.iter().flat_map(offsets).for_each(|at| failing.reject(at));
            }
        }
        (settlement.events, settlement.rejects) = (failing.events, failing.rejects);
        Ok(settlement)
    }
}

/// What is accepted, if that is all of it.
fn judge_whole<'a>(
    context: &'a Context<'_>,
    request: &Settle,
) -> Result<(&'a crate::state::Subscription, Vec<Range<Offset>>), Refusal> {
    let (subscription, judged) = judge(context, request.subscription, &request.deliveries)?;
    let Some(refused) = judged.refused.first() else {
        return Ok((subscription, judged.accepted));
    };
    let (name, first) = (&subscription.name, refused.first);
    let text = format!(
        "offset {first} of subscription \"{name}\" has been handed out again or is settled: this \
         delivery no longer counts"
    );
    Err(Refusal::of_state(ErrorCode::StaleFence, text))
}

impl Deliveries {
    /// Carries out a settlement whose events are appended. What it changes is seen once the frame
    /// `held_until` is committed, with the rest of its commit.
    pub(crate) fn settled(&mut self, settlement: &Settlement, held_until: Option<LogIndex>) {
        let id = settlement.subscription;
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.held_until = queue.held_until.max(held_until.unwrap_or_default());
        }
        if settlement.rejects {
            self.letters.wanted(id);
        }
        if settlement.verdict != Verdict::Nack {
            for range in &settlement.accepted {
                self.forget(id, range.clone());
            }
            return;
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            for (offset, fate) in &settlement.fates {
                match *fate {
                    Fate::Retry { attempt, due } => queue.postpone(*offset, attempt, due),
                    Fate::Gone => queue.forget(*offset..offset.next()),
                }
            }
        }
        self.dirty.insert(id);
    }
}
