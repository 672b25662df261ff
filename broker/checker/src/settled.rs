//! Since when a message may be done with, in one subscription or in all.

use crate::handouts::{self, Handout, is_final};
use crate::history::{CursorChange, MessageId, Outcome, Settle, Time};
use crate::sightings::{How, Sightings};
use crate::timeline::{At, SubscriptionNo, Timeline, TopicNo, group};
use std::collections::{HashMap, HashSet};

/// Evidence that messages may be settled.
#[derive(Debug)]
pub(crate) struct Settled<'l, 'e> {
    timeline: &'l Timeline<'e>,
    /// Saved cursors by subscription and offset, each with the earliest save of it or a higher one.
    saved: Vec<(SubscriptionNo, u64, Time)>,
    /// Messages that may have used up their attempts, and from when on.
    exhausted: HashMap<(SubscriptionNo, u64), Time>,
    /// Messages that were seen as dead letters.
    dead: HashSet<(SubscriptionNo, MessageId)>,
}

/// A message at an offset of a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) topic: TopicNo,
    pub(crate) offset: u64,
    pub(crate) id: MessageId,
}

impl<'l, 'e> Settled<'l, 'e> {
    pub(crate) fn new(timeline: &'l Timeline<'e>, sightings: &Sightings) -> Self {
        let read = sightings.list.iter().filter(|seen| seen.how == How::Read);
        let dead = read.filter_map(|seen| Some((timeline.dead_letters_of(seen.topic)?, seen.id)));
        let dead = dead.collect();
        Self { timeline, saved: saved(timeline), exhausted: exhausted(timeline), dead }
    }

    /// From when on a message may be settled in a subscription; `None` if it cannot be.
    pub(crate) fn from(&self, subscription: SubscriptionNo, place: Place) -> Option<Time> {
        let declared = self.timeline.declaration(subscription);
        if declared.is_some_and(|declared| place.offset < declared.start) {
            return Some(Time::ZERO);
        }
        let key = (subscription, place.offset);
        let settles = group(&self.timeline.settles, |at| at.key, key).iter();
        let settled = settles.filter(|at| may_settle(at)).map(|at| at.is.t0);
        settled
            .chain(self.cursor_above(subscription, place.offset))
            .chain(self.dead_from(subscription, place))
            .min()
    }

    /// From when on a message may be a dead letter. Where dead letters are looked at, it must be
    /// there to be believed, unless it may have been given back before anybody looked.
    fn dead_from(&self, subscription: SubscriptionNo, place: Place) -> Option<Time> {
        let exhausted = self.exhausted.get(&(subscription, place.offset)).copied();
        let declared = self.timeline.declaration(subscription);
        let looked_at = declared.is_some_and(|declared| declared.dead_topic.is_some());
        if self.dead.contains(&(subscription, place.id)) {
            return Some(exhausted.unwrap_or(Time::ZERO));
        }
        exhausted.filter(|_| !looked_at || self.timeline.is_redriven(subscription))
    }

    /// From when on a message may be gone from its topic; `None` if it must be there.
    pub(crate) fn released_from(&self, place: Place) -> Option<Time> {
        let releases = group(&self.timeline.releases, |at| at.key, place.topic).iter();
        let purged = releases.filter(|at| place.offset < at.is.below).map(|at| at.is.t0).min();
        let declared = self.timeline.declared(place.topic).iter();
        let settled: Option<Vec<Time>> = declared.map(|at| self.from(at.key.1, place)).collect();
        let settled = settled.and_then(|settled| settled.into_iter().max());
        purged.into_iter().chain(settled).min()
    }

    /// Whether a message may have used up its attempts.
    pub(crate) fn may_be_exhausted(&self, subscription: SubscriptionNo, offset: u64) -> bool {
        self.exhausted.contains_key(&(subscription, offset))
    }

    fn cursor_above(&self, subscription: SubscriptionNo, offset: u64) -> Option<Time> {
        let at = self.saved.partition_point(|saved| (saved.0, saved.1) <= (subscription, offset));
        self.saved.get(at).filter(|saved| saved.0 == subscription).map(|saved| saved.2)
    }
}

fn may_settle(at: &At<(SubscriptionNo, u64), &Settle>) -> bool {
    is_final(at.is) && !matches!(at.is.outcome, Outcome::Refused(_))
}

fn saved(timeline: &Timeline<'_>) -> Vec<(SubscriptionNo, u64, Time)> {
    let cursors = timeline.cursors.iter();
    let may_be = |outcome: &Outcome| !matches!(outcome, Outcome::Refused(_));
    let saves = cursors.filter(|at| at.is.change == CursorChange::Saved && may_be(&at.is.outcome));
    let mut saved: Vec<_> = saves.map(|at| (at.key, at.is.offset, at.is.t0)).collect();
    saved.sort_unstable();
    let mut above: Option<(SubscriptionNo, Time)> = None;
    for (subscription, _, at) in saved.iter_mut().rev() {
        if let Some((_, earlier)) = above.filter(|(of, _)| of == subscription) {
            *at = (*at).min(earlier);
        }
        above = Some((*subscription, *at));
    }
    saved
}

/// Messages whose last recorded hand-out, or unrecorded ones after it, may have been one too many.
fn exhausted(timeline: &Timeline<'_>) -> HashMap<(SubscriptionNo, u64), Time> {
    let mut exhausted = HashMap::new();
    for deliveries in timeline.deliveries.chunk_by(|one, next| one.key == next.key) {
        let Some(first) = deliveries.first() else { continue };
        let declared = timeline.declaration(first.key.0);
        let most = u64::from(declared.map_or(0, |declared| declared.attempts_max));
        if most == 0 {
            continue;
        }
        let handouts = handouts::of_message(timeline, deliveries);
        let last = handouts.iter().find(|handout| may_be_last(handout, most, timeline.end));
        if let Some(last) = last {
            exhausted.insert(first.key, last.earliest);
        }
    }
    exhausted
}

fn may_be_last(handout: &Handout<'_, '_>, most: u64, end: Time) -> bool {
    let failed = u64::from(handout.at.is.attempt) + u64::from(handout.may_have_failed(end));
    failed + handout.unseen_failures(end) >= most
}
