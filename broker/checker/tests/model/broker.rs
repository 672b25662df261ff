//! The smallest honest broker, with a switch for each lie.

use posthouse_checker::history::{Fence, MessageId, Verdict};
use std::collections::BTreeMap;

pub const LEASE_MS: u64 = 200;
pub const BACKOFF_MS: u64 = 20;
pub const ATTEMPTS_MAX: u32 = 4;
const MS: u64 = 1_000_000;

/// What the broker does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
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
pub struct Stored {
    pub id: MessageId,
    pub crc: u32,
}

/// One message in the queue subscription.
#[derive(Clone, Debug, Default)]
pub struct Queued {
    pub settled: bool,
    pub attempt: u32,
    pub ready_at: u64,
    pub fence: Option<Fence>,
    /// Consumer and end of the lease.
    pub lease: Option<(u64, u64)>,
    handed_at: u64,
    failed_under: Option<Fence>,
}

#[derive(Clone, Debug)]
pub struct Broker {
    pub bug: Bug,
    pub epoch: u32,
    pub fence_counter: u64,
    pub log: BTreeMap<u64, Stored>,
    pub end: u64,
    pub queue: BTreeMap<u64, Queued>,
    pub dead: Vec<Stored>,
    pub cursor: u64,
    pub released: u64,
    last_sequence: BTreeMap<u64, (u64, Vec<u64>)>,
    sabotaged: bool,
}

impl Broker {
    pub fn new(bug: Bug) -> Self {
        Self {
            bug,
            epoch: 1,
            fence_counter: 0,
            log: BTreeMap::new(),
            end: 0,
            queue: BTreeMap::new(),
            dead: Vec::new(),
            cursor: 0,
            released: 0,
            last_sequence: BTreeMap::new(),
            sabotaged: false,
        }
    }

    /// Stores a batch; the offsets, and whether it is a repeat.
    pub fn publish(&mut self, producer: u64, sequence: u64, batch: &[Stored]) -> (Vec<u64>, bool) {
        if let Some((last, offsets)) = self.last_sequence.get(&producer)
            && sequence <= *last
            && self.bug != Bug::RepeatsAreStored
        {
            return (offsets.clone(), true);
        }
        let kept = match self.bug {
            Bug::HalfOfABatchIsStored if batch.len() > 1 && sequence % 7 == 0 => batch.len() / 2,
            _ => batch.len(),
        };
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
        if self.bug == Bug::PipelinedPublishesChangePlaces && first > 0 && sequence % 9 == 0 {
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
    pub fn hand_out(&mut self, consumer: u64, now: u64) -> Option<(u64, Stored, Fence, u32)> {
        let careless = self.bug == Bug::LeaseIsIgnored && now % 20 == 0;
        let ready = |queued: &Queued| {
            !queued.settled && queued.ready_at <= now && (careless || queued.lease.is_none())
        };
        let (offset, queued) = self.queue.iter_mut().find(|(_, queued)| ready(queued))?;
        self.fence_counter += 1;
        let fence = Fence { epoch: self.epoch, counter: self.fence_counter };
        queued.fence = Some(fence);
        queued.lease = Some((consumer, now + LEASE_MS * MS));
        queued.handed_at = now;
        let mut stored = self.log.get(offset)?.clone();
        if self.bug == Bug::AnotherTopicsMessage && self.fence_counter % 60 == 59 {
            stored.id = MessageId(u128::MAX);
        }
        Some((*offset, stored, fence, queued.attempt))
    }

    /// Settles; whether it is accepted.
    pub fn settle(&mut self, offset: u64, fence: Fence, verdict: Verdict, now: u64) -> bool {
        let Some(queued) = self.queue.get_mut(&offset) else { return false };
        let stale = queued.fence != Some(fence);
        if queued.settled || (stale && self.bug != Bug::StaleFenceSettles) {
            return false;
        }
        match verdict {
            Verdict::Ack => queued.settled = true,
            Verdict::Reject => self.bury(offset),
            Verdict::Release => {
                queued.lease = None;
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

    pub fn extend(&mut self, offset: u64, fence: Fence, now: u64) -> bool {
        let Some(queued) = self.queue.get_mut(&offset) else { return false };
        let held = queued.lease.filter(|_| !queued.settled && queued.fence == Some(fence));
        let Some((consumer, _)) = held else { return false };
        if self.bug != Bug::ExtensionIsIgnored {
            queued.lease = Some((consumer, now + 4 * LEASE_MS * MS));
        }
        true
    }

    fn fail(&mut self, offset: u64, now: u64) {
        let Some(queued) = self.queue.get_mut(&offset) else { return };
        queued.lease = None;
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
        let Some(queued) = self.queue.get_mut(&offset) else { return };
        queued.settled = true;
        queued.lease = None;
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
    pub fn tick(&mut self, now: u64) {
        let over = |queued: &Queued| queued.lease.is_some_and(|(_, end)| end <= now);
        let over = self.queue.iter().filter(|(_, queued)| over(queued)).map(|(offset, _)| *offset);
        for offset in over.collect::<Vec<u64>>() {
            self.fail(offset, now);
        }
        let settled = |offset: &u64| self.queue.get(offset).is_some_and(|queued| queued.settled);
        while self.released < self.cursor.min(self.end) && settled(&self.released) {
            self.released += 1;
        }
    }

    /// Takes back what a consumer holds.
    pub fn gone(&mut self, consumer: u64, taken: &[Fence], counted: bool, now: u64) {
        let held = |queued: &Queued| queued.lease.is_some_and(|(holder, _)| holder == consumer);
        let held = self.queue.iter().filter(|(_, queued)| held(queued));
        let held: Vec<_> = held.map(|(offset, queued)| (*offset, queued.fence)).collect();
        for (offset, fence) in held {
            if counted && fence.is_some_and(|fence| taken.contains(&fence)) {
                self.fail(offset, now);
            } else if let Some(queued) = self.queue.get_mut(&offset) {
                queued.lease = None;
            }
        }
    }

    /// Dies and comes back with what was durable, which is everything unless there is a bug.
    pub fn restart(&mut self) {
        if self.bug != Bug::EpochStaysInRestart {
            self.epoch += 1;
            self.fence_counter = 0;
        }
        if self.bug == Bug::FencesStartAgain {
            self.epoch -= 1;
        }
        match self.bug {
            Bug::PublishIsLostInRestart | Bug::SeenMessageIsLostInRestart => self.lose_tail(),
            Bug::OffsetsAreUsedAgain => {
                self.lose_tail();
                self.end = self.log.keys().next_back().map_or(0, |last| last + 1);
            }
            Bug::CursorIsLostInRestart => self.cursor /= 2,
            _ => {}
        }
        let (mut last_ack, bug) = (None, self.bug);
        for (offset, queued) in &mut self.queue {
            if queued.lease.take().is_some() && bug == Bug::RestartCountsAsFailure {
                queued.attempt += 1;
            }
            if bug == Bug::AttemptsAreForgottenInRestart {
                queued.attempt = 0;
            }
            if queued.settled && queued.attempt == 0 {
                last_ack = Some(*offset);
            }
        }
        if bug == Bug::AckIsLostInRestart
            && let Some(queued) = last_ack.and_then(|offset| self.queue.get_mut(&offset))
        {
            queued.settled = false;
        }
    }

    fn lose_tail(&mut self) {
        let seen = self.bug == Bug::SeenMessageIsLostInRestart;
        let wanted = |queued: &Queued| !queued.settled && queued.fence.is_some() == seen;
        let last = self.queue.iter().rev().find(|(_, queued)| wanted(queued));
        if let Some(offset) = last.map(|(offset, _)| *offset) {
            self.log.remove(&offset);
            self.queue.remove(&offset);
        }
    }
}
