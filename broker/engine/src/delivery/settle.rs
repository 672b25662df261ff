//! Verdicts on deliveries: ack, nack, release, reject; and more time.
//!
//! A verdict counts if it names the highest fence that was handed out for the message, whatever
//! has become of lease and connection since. That is asked of the durable state, run by run.

use super::failing::{Failing, Fate};
use super::{Deliveries, append_in_frames};
use crate::context::{Client, Context};
use crate::effect::Gate;
use crate::event::{self, Event, OffsetRun};
use crate::refusal::Refusal;
use crate::state::Subscription;
use posthouse_protocol::message::{DeliveryRun, Extend, RefusedRun, Settle, Settled, Verdict};
use posthouse_protocol::settings::Mode;
use posthouse_protocol::{ErrorCode, LogIndex, Offset, SubscriptionId, limits};
use std::ops::Range;

/// Runs that one event of settlements holds at most, so that frames can be split between events.
const EVENT_RUNS_MAX: usize = 2048;

/// Which of the deliveries that a request names it applies to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Ascending and disjoint after [`Self::finish`].
    pub accepted: Vec<Range<Offset>>,
    pub refused: Vec<RefusedRun>,
}

impl Deliveries {
    /// Settles deliveries.
    pub(crate) fn settle(&mut self, context: &mut Context<'_>, client: Client, request: &Settle) {
        let judged = match judge(context, request.subscription, &request.deliveries) {
            Ok((_, judged)) => judged,
            Err(refusal) => return context.refuse(client, refusal),
        };
        let Judged { accepted, refused } = judged;
        let gate = if accepted.is_empty() {
            context.present()
        } else {
            match request.verdict {
                Verdict::Ack => self.ack(context, request.subscription, &accepted),
                Verdict::Nack => self.nack(context, request, &accepted),
                Verdict::Reject => self.reject(context, request, &accepted),
                Verdict::Release => self.release(context, request.subscription, &accepted),
            }
        };
        context.reply(client, Settled { refused }, gate);
    }

    /// Prolongs leases.
    pub(crate) fn extend(&mut self, context: &mut Context<'_>, client: Client, request: &Extend) {
        let answer = self.prolong(context, request);
        context.answer(client, answer);
    }

    fn ack(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        accepted: &[Range<Offset>],
    ) -> Gate {
        for range in accepted {
            self.forget(id, range.clone());
        }
        let topic = context.state.subscriptions.get(&id).map(|subscription| subscription.topic);
        let index = append_settled(context, id, accepted);
        topic.map_or(Gate::Committed(index), |topic| context.gate(topic, index))
    }

    fn nack(
        &mut self,
        context: &mut Context<'_>,
        request: &Settle,
        accepted: &[Range<Offset>],
    ) -> Gate {
        let id = request.subscription;
        let Some(subscription) = context.state.subscriptions.get(&id) else {
            return context.present();
        };
        let topic = subscription.topic;
        let mut failing =
            Failing::new(subscription, context.now, &request.reason).delayed_by(request.delay_ms);
        let mut queue = self.queues.get_mut(&id);
        for offset in accepted.iter().flat_map(offsets) {
            // The lease end or an earlier copy of this request has counted it.
            if failing.is_counted(offset) {
                continue;
            }
            let fate = failing.fail(offset);
            let Some(queue) = queue.as_mut() else { continue };
            match fate {
                Fate::Retry { attempt, due } => queue.postpone(offset, attempt, due),
                Fate::Gone => queue.forget(offset..offset.next()),
            }
        }
        let Failing { events, rejects, .. } = failing;
        if rejects {
            self.letters.wanted(id);
        }
        let index = append_in_frames(context, events);
        self.dirty.insert(id);
        context.gate(topic, index)
    }

    fn reject(
        &mut self,
        context: &mut Context<'_>,
        request: &Settle,
        accepted: &[Range<Offset>],
    ) -> Gate {
        let id = request.subscription;
        for range in accepted {
            self.forget(id, range.clone());
        }
        let Some(subscription) = context.state.subscriptions.get(&id) else {
            return context.present();
        };
        let topic = subscription.topic;
        let mut failing = Failing::new(subscription, context.now, &request.reason);
        accepted.iter().flat_map(offsets).for_each(|offset| failing.reject(offset));
        let Failing { events, rejects, .. } = failing;
        if rejects {
            self.letters.wanted(id);
        }
        let index = append_in_frames(context, events);
        context.gate(topic, index)
    }

    fn release(
        &mut self,
        context: &Context<'_>,
        id: SubscriptionId,
        accepted: &[Range<Offset>],
    ) -> Gate {
        if let Some(queue) = self.queues.get_mut(&id) {
            for range in accepted {
                let mut held = Vec::new();
                queue.in_flight.take(range.clone(), |part| held.push(part));
                held.into_iter().for_each(|part| queue.give_back(part));
            }
            self.dirty.insert(id);
        }
        context.present()
    }

    fn prolong(&mut self, context: &Context<'_>, request: &Extend) -> Result<Settled, Refusal> {
        let subscription = queue_subscription(context, request.subscription)?;
        let longest = subscription.settings.lease_ms_max;
        let until = context.now.mono.plus_millis(request.lease_ms);
        let mut refused = Vec::new();
        for run in &request.deliveries {
            let asked = offsets_of(run)?;
            let mut next = asked.start;
            if run.fence.epoch == context.start_epoch()
                && let Some(queue) = self.queues.get_mut(&subscription.id)
            {
                let until = |since: crate::Time| until.min(since.plus_millis(longest));
                queue.in_flight.extend(asked.clone(), run.fence.counter, until, |found| {
                    refuse(&mut refused, next..found.start, ErrorCode::LeaseEnded);
                    next = found.end;
                });
            }
            refuse(&mut refused, next..asked.end, ErrorCode::LeaseEnded);
        }
        self.arm(subscription.id);
        check_refused(&refused)?;
        Ok(Settled { refused })
    }

    /// Settles messages whose stored bytes are damaged: nobody can be given them.
    pub(super) fn settle_damaged(
        &mut self,
        context: &mut Context<'_>,
        id: SubscriptionId,
        damaged: impl Iterator<Item = Offset>,
    ) {
        let Some(subscription) = context.state.subscriptions.get(&id) else { return };
        let lost = |offset: &Offset| {
            !subscription.is_settled(*offset) && !subscription.rejected.contains_key(offset)
        };
        let judged = Judged {
            accepted: damaged.filter(lost).map(|offset| offset..offset.next()).collect(),
            refused: Vec::new(),
        }
        .finish();
        if !judged.accepted.is_empty() {
            append_settled(context, id, &judged.accepted);
        }
    }
}

/// Says which deliveries still have the highest fence of their messages.
pub(super) fn judge<'a>(
    context: &'a Context<'_>,
    id: SubscriptionId,
    deliveries: &[DeliveryRun],
) -> Result<(&'a Subscription, Judged), Refusal> {
    let subscription = queue_subscription(context, id)?;
    let mut judged = Judged::default();
    for run in deliveries {
        let asked = offsets_of(run)?;
        let mut next = asked.start;
        for (part, fence) in subscription.handed_in(asked.clone()) {
            refuse(&mut judged.refused, next..part.start, ErrorCode::StaleFence);
            next = part.end;
            if fence == run.fence.plus(part.start.distance_from(asked.start)) {
                judged.accepted.push(part);
            } else {
                refuse(&mut judged.refused, part, ErrorCode::StaleFence);
            }
        }
        refuse(&mut judged.refused, next..asked.end, ErrorCode::StaleFence);
    }
    check_refused(&judged.refused)?;
    Ok((subscription, judged.finish()))
}

impl Judged {
    /// Puts what is accepted in order, each message once.
    fn finish(mut self) -> Self {
        let apart = |pair: &[Range<Offset>]| match pair {
            [before, after] => before.end < after.start,
            _ => true,
        };
        if self.accepted.windows(2).all(apart) {
            return self;
        }
        self.accepted.sort_unstable_by_key(|range| range.start);
        self.accepted.dedup_by(|after, before| {
            let joined = after.start <= before.end;
            if joined {
                before.end = before.end.max(after.end);
            }
            joined
        });
        self
    }
}

fn queue_subscription<'a>(
    context: &'a Context<'_>,
    id: SubscriptionId,
) -> Result<&'a Subscription, Refusal> {
    let subscription = context.state.subscriptions.get(&id);
    let subscription = subscription.ok_or_else(|| Refusal::no_subscription_id(id))?;
    if subscription.settings.mode == Mode::Queue {
        return Ok(subscription);
    }
    let text = format!("subscription \"{}\" is in stream mode: save its cursor", subscription.name);
    Err(Refusal::of_state(ErrorCode::Invalid, text))
}

/// Appends settlements, and returns the last frame's number.
fn append_settled(
    context: &mut Context<'_>,
    subscription: SubscriptionId,
    ranges: &[Range<Offset>],
) -> LogIndex {
    append_in_frames(context, settled_events(subscription, ranges))
}

/// The events that settle `ranges`.
pub(super) fn settled_events(subscription: SubscriptionId, ranges: &[Range<Offset>]) -> Vec<Event> {
    let settled = |ranges: &[Range<Offset>]| {
        let runs = ranges.iter().map(run_of).collect();
        Event::Settled(event::Settled { subscription, runs })
    };
    ranges.chunks(EVENT_RUNS_MAX).map(settled).collect()
}

/// The run that an event names.
pub(super) fn run_of(range: &Range<Offset>) -> OffsetRun {
    OffsetRun { first: range.start, count: range.end.distance_from(range.start) }
}

pub(super) fn offsets(range: &Range<Offset>) -> impl Iterator<Item = Offset> + use<> {
    (range.start.0..range.end.0).map(Offset)
}

fn offsets_of(run: &DeliveryRun) -> Result<Range<Offset>, Refusal> {
    if run.count == 0 {
        let text = format!("the run at offset {} is empty", run.first);
        return Err(Refusal::of_request(ErrorCode::Invalid, text));
    }
    Ok(run.first..run.first.plus(u64::from(run.count)))
}

fn refuse(refused: &mut Vec<RefusedRun>, range: Range<Offset>, code: ErrorCode) {
    let Ok(count) = u32::try_from(range.end.distance_from(range.start)) else { return };
    let (first, code) = (range.start, code.number());
    if count == 0 {
        return;
    }
    if let Some(last) = refused.last_mut()
        && last.first.plus(u64::from(last.count)) == first
        && last.code == code
        && let Some(sum) = last.count.checked_add(count)
    {
        last.count = sum;
        return;
    }
    refused.push(RefusedRun { first, count, code });
}

/// A reply has to name every refusal; a request that it cannot be given for is refused whole.
fn check_refused(refused: &[RefusedRun]) -> Result<(), Refusal> {
    let most = usize::try_from(limits::LIST_ENTRIES_MAX).unwrap_or(usize::MAX);
    if refused.len() <= most {
        return Ok(());
    }
    let text =
        format!("more than {most} stretches would be refused: name fewer deliveries at once");
    Err(Refusal::of_state(ErrorCode::TooLarge, text))
}
