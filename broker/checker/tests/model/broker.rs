//! The smallest honest broker, with a switch for each lie.

use posthouse_checker::history::{Fence, MessageId, Verdict};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const LEASE_MS: u64 = 200;
pub(crate) const BACKOFF_MS: u64 = 20;
pub(crate) const ATTEMPTS_MAX: u32 = 4;
const MS: u64 = 1_000_000;

/// What the broker does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    AckIsLostInRestart,
    PublishIsLostInRestart,
    SeenMessageIsLostInRestart,
    LeaseIsIgnored,
    ExtensionIsIgnored,
    RestartCountsAsFailure,
    ReleaseCountsAsFailure,
    NackIsNotCounted,
    AttemptsAreForgottenInRestart,
    FencesStartAgain,
    EpochStaysInRestart,
    StaleFenceSettles,
    RepeatsAreStored,
    HalfOfABatchIsStored,
    BodyIsDamaged,
    OffsetsAreUsedAgain,
    RefusedPublishIsStored,
    PipelinedPublishesChangePlaces,
    DeadLetterIsKeptTwice,
    DeadLetterIsLost,
    DeadLetterComesTooEarly,
    CursorIsLostInRestart,
    FetchSkipsAMessage,
    AnotherTopicsMessage,
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: MessageId,
    pub(crate) crc: u32,
}

/// One message in the queue subscription.
#[derive(Clone, Debug, Default)]
struct Queued {
    attempt: u32,
    ready_at: u64,
    fence: Option<Fence>,
    /// Consumer and end of the lease.
    lease: Option<(u64, u64)>,
    failed_under: Option<Fence>,
}

#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) bug: Bug,
    pub(crate) epoch: u32,
    pub(crate) fence_counter: u64,
    pub(crate) log: BTreeMap<u64, Stored>,
    pub(crate) end: u64,
    /// Messages not settled.
    queue: BTreeMap<u64, Queued>,
    /// Those of them under a lease.
    leased: BTreeSet<u64>,
    last_acked: Option<(u64, Queued)>,
    pub(crate) dead: Vec<Stored>,
    pub(crate) cursor: u64,
    pub(crate) released: u64,
    last_sequence: BTreeMap<u64, (u64, Vec<u64>)>,
    sabotaged: bool,
}

impl Broker {
    pub(crate) fn new(bug: Bug) -> Self {
        Self {
            bug,
            epoch: 1,
            fence_counter: 0,
            log: BTreeMap::new(),
            end: 0,
            queue: BTreeMap::new(),
            leased: BTreeSet::new(),
            last_acked: None,
            dead: Vec::new(),
            cursor: 0,
            released: 0,
            last_sequence: BTreeMap::new(),
            sabotaged: false,
        }
    }

    /// Stores a batch; the offsets, and whether it is a repeat.
    pub(crate) fn publish(
        &mut self,
        producer: u64,
        sequence: u64,
        batch: &[Stored],
    ) -> (Vec<u64>, bool) {
        if let Some((last, offsets)) = self.last_sequence.get(&producer)
            && sequence <= *last
            && self.bug != Bug::RepeatsAreStored
        {
            return (offsets.clone(), true);
        }
        let half = self.bug == Bug::HalfOfABatchIsStored && sequence.is_multiple_of(7);
        let kept = if half { batch.len().div_ceil(2) } else { batch.len() };
        let first = self.end;
        for stored in batch.iter().take(kept) {
            let mut stored = stored.clone();
            if self.bug == Bug::BodyIsDamaged && self.end % 50 == 7 {
                stored.crc ^= 1;
            }
            self.log.insert(self.end, stored);
            self.queue.insert(self.end, Queued::default());
            self.end += 1;
        }
        if self.bug == Bug::PipelinedPublishesChangePlaces
            && first > 0
            && sequence.is_multiple_of(9)
        {
            // The message before moves behind: only wrong if it is the same producer's.
            self.swap(first - 1, first);
        }
        let last = first + batch.len() as u64;
        let offsets: Vec<u64> = (first..last).collect();
        self.last_sequence.insert(producer, (sequence, offsets.clone()));
        (offsets, false)
    }

    fn swap(&mut self, one: u64, other: u64) {
        let (a, b) = (self.log.remove(&one), self.log.remove(&other));
        b.map(|stored| self.log.insert(one, stored));
        a.map(|stored| self.log.insert(other, stored));
    }

    /// Hands the next ready message to `consumer`.
    pub(crate) fn hand_out(
        &mut self,
        consumer: u64,
        now: u64,
    ) -> Option<(u64, Stored, Fence, u32)> {
        let careless = self.bug == Bug::LeaseIsIgnored && now.is_multiple_of(20);
        let ready =
            |queued: &Queued| queued.ready_at <= now && (careless || queued.lease.is_none());
        let (offset, queued) = self.queue.iter_mut().find(|(_, queued)| ready(queued))?;
        self.fence_counter += 1;
        let fence = Fence { epoch: self.epoch, counter: self.fence_counter };
        queued.fence = Some(fence);
        queued.lease = Some((consumer, now + LEASE_MS * MS));
        self.leased.insert(*offset);
        let mut stored = self.log.get(offset)?.clone();
        if self.bug == Bug::AnotherTopicsMessage && self.fence_counter % 60 == 59 {
            stored.id = MessageId(u128::MAX);
        }
        Some((*offset, stored, fence, queued.attempt))
    }

    /// Settles; whether it is accepted.
    pub(crate) fn settle(&mut self, offset: u64, fence: Fence, verdict: Verdict, now: u64) -> bool {
        let Some(queued) = self.queue.get_mut(&offset) else { return false };
        let stale = queued.fence != Some(fence);
        if stale && self.bug != Bug::StaleFenceSettles {
            return false;
        }
        match verdict {
            Verdict::Ack => {
                let queued = self.queue.remove(&offset).unwrap_or_default();
                self.leased.remove(&offset);
                if queued.attempt == 0 {
                    self.last_acked = Some((offset, queued));
                }
            }
            Verdict::Reject => self.bury(offset),
            Verdict::Release => {
                queued.lease = None;
                self.leased.remove(&offset);
                if self.bug == Bug::ReleaseCountsAsFailure {
                    queued.attempt += 1;
                }
                if self.bug == Bug::DeadLetterComesTooEarly && offset % 10 == 3 {
                    self.bury(offset);
                }
            }
            Verdict::Nack => self.fail(offset, now),
        }
        true
    }

    pub(crate) fn extend(&mut self, offset: u64, fence: Fence, now: u64) -> bool {
        let Some(queued) = self.queue.get_mut(&offset) else { return false };
        let held = queued.lease.filter(|_| queued.fence == Some(fence));
        let Some((consumer, _)) = held else { return false };
        if self.bug != Bug::ExtensionIsIgnored {
            queued.lease = Some((consumer, now + 4 * LEASE_MS * MS));
        }
        true
    }

    fn fail(&mut self, offset: u64, now: u64) {
        let Some(queued) = self.queue.get_mut(&offset) else { return };
        queued.lease = None;
        self.leased.remove(&offset);
        if queued.failed_under == queued.fence {
            return;
        }
        queued.failed_under = queued.fence;
        queued.ready_at = now + BACKOFF_MS * MS;
        if self.bug != Bug::NackIsNotCounted {
            queued.attempt += 1;
        }
        if queued.attempt >= ATTEMPTS_MAX {
            self.bury(offset);
        }
    }

    fn bury(&mut self, offset: u64) {
        self.queue.remove(&offset);
        self.leased.remove(&offset);
        let Some(stored) = self.log.get(&offset).cloned() else { return };
        if self.bug == Bug::DeadLetterIsLost && self.dead.len() == 3 && !self.sabotaged {
            self.sabotaged = true;
            return;
        }
        if self.bug == Bug::DeadLetterIsKeptTwice {
            self.dead.push(stored.clone());
        }
        self.dead.push(stored);
    }

    /// Ends leases that have run out.
    pub(crate) fn tick(&mut self, now: u64) {
        let over = |offset: &&u64| {
            let lease = self.queue.get(offset).and_then(|queued| queued.lease);
            lease.is_some_and(|(_, end)| end <= now)
        };
        let mut ended = Vec::new();
        ended.extend(self.leased.iter().filter(over).copied());
        ended.into_iter().for_each(|offset| self.fail(offset, now));
        let unsettled = self.queue.keys().next().copied().unwrap_or(self.end);
        self.released = self.released.max(self.cursor.min(unsettled));
    }

    /// Takes back what a consumer holds.
    pub(crate) fn gone(&mut self, consumer: u64, taken: &[Fence], counted: bool, now: u64) {
        let held = self.leased.iter().filter_map(|offset| {
            let queued = self.queue.get(offset)?;
            queued.lease.filter(|(holder, _)| *holder == consumer)?;
            Some((*offset, queued.fence))
        });
        let held: Vec<_> = held.collect();
        for (offset, fence) in held {
            if counted && fence.is_some_and(|fence| taken.contains(&fence)) {
                self.fail(offset, now);
            } else if let Some(queued) = self.queue.get_mut(&offset) {
                queued.lease = None;
                self.leased.remove(&offset);
            }
        }
    }

    /// Dies and comes back with what was durable, which is everything unless there is a bug.
    pub(crate) fn restart(&mut self) {
        if self.bug != Bug::EpochStaysInRestart {
            self.epoch += 1;
            self.fence_counter = 0;
        }
        if self.bug == Bug::FencesStartAgain {
            self.epoch -= 1;
        }
        let tail_bugs = [
            Bug::PublishIsLostInRestart,
            Bug::SeenMessageIsLostInRestart,
            Bug::OffsetsAreUsedAgain,
        ];
        if tail_bugs.contains(&self.bug) {
            self.lose_tail();
        }
        if self.bug == Bug::OffsetsAreUsedAgain {
            self.end = self.log.keys().next_back().map_or(0, |last| last + 1);
        }
        if self.bug == Bug::CursorIsLostInRestart {
            self.cursor /= 2;
        }
        for offset in std::mem::take(&mut self.leased) {
            let Some(queued) = self.queue.get_mut(&offset) else { continue };
            queued.lease = None;
            queued.attempt += u32::from(self.bug == Bug::RestartCountsAsFailure);
        }
        if self.bug == Bug::AttemptsAreForgottenInRestart {
            self.queue.values_mut().for_each(|queued| queued.attempt = 0);
        }
        if self.bug == Bug::AckIsLostInRestart
            && let Some((offset, mut queued)) = self.last_acked.take()
        {
            queued.lease = None;
            self.queue.insert(offset, queued);
        }
    }

    fn lose_tail(&mut self) {
        let seen = self.bug == Bug::SeenMessageIsLostInRestart;
        let wanted = |queued: &Queued| queued.fence.is_some() == seen;
        let last = self.queue.iter().rev().find(|(_, queued)| wanted(queued));
        if let Some(offset) = last.map(|(offset, _)| *offset) {
            self.log.remove(&offset);
            self.queue.remove(&offset);
        }
    }
}
