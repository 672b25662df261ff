//! All commits of a client: shared lanes for those of nobody in particular, and one for each named
//! producer, in which they go one after the other.

use super::Key;
use super::job::Job;
use super::lane::{Ask, Lane, Reason};
use crate::driver::{Outgoing, Owner, Timers};
use crate::error::Refusal;
use bytes::Bytes;
use posthouse_protocol::message::{
    Commit, ProducerDescribe, ProducerInfo, ProducerOpen, ProducerOpened,
};
use posthouse_protocol::{Name, message};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// Most shared lanes: so many commits of nobody in particular are under way at a time.
const SHARED_MAX: u64 = 32;

/// The lanes and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    shared: BTreeMap<Key, Lane<Job>>,
    named: BTreeMap<Key, Named>,
    /// Commits that wait for a shared lane, in order.
    waiting: BTreeMap<u64, Job>,
    idle: Vec<Key>,
    /// Lanes with something to send.
    ready: BTreeSet<Key>,
    timers: Option<Timers<Slot>>,
    jobs_made: u64,
    is_closing: bool,
}

/// A named producer's lane.
#[derive(Debug)]
struct Named {
    lane: Lane<Job>,
    waiting: VecDeque<(u64, Job)>,
    /// The last sequence, for its handle.
    last: Arc<AtomicU64>,
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Lane(Key),
    Waiting(u64),
    /// In the queue of a named producer.
    Queued(Key, u64),
}

impl Lanes {
    /// A commit is to be made.
    pub(crate) fn add(&mut self, job: Job) {
        // A client that is closing takes nothing new, but what was delivered can still be settled.
        if self.is_closing && job.deliveries.is_empty() {
            return job.refused(Reason::Closed);
        }
        let number = self.jobs_made;
        self.jobs_made += 1;
        let deadline = job.deadline;
        let Some(key) = job.lane else {
            self.waiting.insert(number, job);
            self.set_timer(Slot::Waiting(number), Some(deadline));
            return self.hand_out();
        };
        let Some(named) = self.named.get_mut(&key) else {
            return job.refused(Reason::Closed);
        };
        named.waiting.push_back((number, job));
        self.set_timer(Slot::Queued(key, number), Some(deadline));
        self.advance(key);
    }

    /// A named producer was opened.
    pub(crate) fn open(
        &mut self,
        key: Key,
        name: Name,
        opened: &ProducerOpened,
        last: Arc<AtomicU64>,
    ) {
        let lane = Lane::named(name, opened);
        self.named.insert(key, Named { lane, waiting: VecDeque::new(), last, is_dropped: false });
    }

    /// Its handle is gone; what was handed over goes on.
    pub(crate) fn dropped(&mut self, key: Key) {
        if let Some(named) = self.named.get_mut(&key) {
            named.is_dropped = true;
        }
        self.advance(key);
    }

    /// Gives waiting commits to idle lanes.
    fn hand_out(&mut self) {
        while let Some((number, _)) = self.waiting.first_key_value() {
            let number = *number;
            let Some(key) = self.idle.pop().or_else(|| self.add_shared()) else {
                return;
            };
            let Some((job, lane)) = self.waiting.remove(&number).zip(self.shared.get_mut(&key))
            else {
                return;
            };
            let (sequence, deadline) = (job.sequence, job.deadline);
            lane.begin(job, number, sequence, deadline);
            self.set_timer(Slot::Waiting(number), None);
            self.mark(key);
        }
    }

    fn add_shared(&mut self) -> Option<Key> {
        let count = self.shared.len() as u64;
        let key = Key::Shared(count);
        (count < SHARED_MAX).then(|| {
            self.shared.insert(key, Lane::unnamed());
            key
        })
    }

    /// Something happened in a lane: begins its next commit, and looks when it is to be seen to.
    fn advance(&mut self, key: Key) {
        if let Some(named) = self.named.get_mut(&key) {
            let begun = named.advance();
            if named.is_dropped && named.lane.is_idle() {
                self.named.remove(&key);
            }
            if let Some(number) = begun {
                self.set_timer(Slot::Queued(key, number), None);
            }
        } else if self.shared.get(&key).is_some_and(Lane::is_idle) {
            if !self.idle.contains(&key) {
                self.idle.push(key);
            }
            self.hand_out();
        }
        self.mark(key);
    }

    fn mark(&mut self, key: Key) {
        let deadline = self.lane(key).and_then(|lane| lane.next_deadline());
        self.set_timer(Slot::Lane(key), deadline);
        self.ready.insert(key);
    }

    fn set_timer(&mut self, slot: Slot, at: Option<Instant>) {
        self.timers.get_or_insert_with(Timers::new).set(slot, at);
    }

    fn lane(&mut self, key: Key) -> Option<&mut Lane<Job>> {
        match key {
            Key::Shared(_) => self.shared.get_mut(&key),
            Key::Named(_) => self.named.get_mut(&key).map(|named| &mut named.lane),
        }
    }

    /// Makes frames while `out` has room.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Outgoing) {
        while out.has_room() {
            let Some(key) = self.ready.pop_first() else {
                return;
            };
            let Some(lane) = self.lane(key) else {
                continue;
            };
            match lane.ask(now) {
                None => {}
                Some(Ask::Open) => {
                    out.ask(ProducerOpen { name: None, epoch: None }, Owner::Lane(key));
                }
                Some(Ask::Describe(name)) => {
                    out.ask(ProducerDescribe { name: name.clone() }, Owner::Lane(key));
                }
                Some(Ask::Commit(address, job)) => {
                    let commit = Commit {
                        producer: address.producer,
                        epoch: address.epoch,
                        sequence: address.sequence,
                        prev: address.prev,
                        operations: job.operations.clone(),
                    };
                    let tail: Bytes = job.tail.clone();
                    out.send(commit, tail, Owner::Commit { lane: key, number: address.number });
                }
            }
        }
    }

    /// A commit was carried out.
    pub(crate) fn on_committed(&mut self, key: Key, number: u64, committed: &message::Committed) {
        if let Some((job, sequence)) =
            self.lane(key).and_then(|lane| lane.on_committed(number, committed.duplicate))
        {
            if let Some(named) = self.named.get(&key) {
                named.tell_last();
            }
            job.committed(committed, sequence);
        }
        self.advance(key);
    }

    /// A commit was refused.
    pub(crate) fn on_refusal(&mut self, key: Key, number: u64, refusal: Refusal, now: Instant) {
        let failed = self.lane(key).and_then(|lane| lane.on_refusal(number, refusal, now));
        failed.into_iter().for_each(Job::failed);
        self.advance(key);
    }

    /// A shared lane's producer was opened.
    pub(crate) fn on_opened(&mut self, key: Key, opened: &ProducerOpened) {
        if let Some(lane) = self.lane(key) {
            lane.on_opened(opened);
        }
        self.advance(key);
    }

    /// A named producer was described.
    pub(crate) fn on_described(&mut self, key: Key, info: &ProducerInfo) {
        let failed = self.lane(key).and_then(|lane| lane.on_described(info));
        failed.into_iter().for_each(Job::failed);
        if let Some(named) = self.named.get(&key) {
            named.tell_last();
        }
        self.advance(key);
    }

    /// Opening or describing was refused.
    pub(crate) fn on_not_told(&mut self, key: Key, refusal: Refusal, now: Instant) {
        let failed = self.lane(key).and_then(|lane| lane.on_not_told(refusal, now));
        failed.into_iter().for_each(Job::failed);
        self.advance(key);
    }

    /// Gives up what has waited too long, and marks what is to be tried again.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some(slot) = self.timers.as_mut().and_then(|timers| timers.pop(now)) {
            match slot {
                Slot::Waiting(number) => {
                    if let Some(job) = self.waiting.remove(&number) {
                        job.refused(Reason::TimedOut(None));
                    }
                }
                Slot::Lane(key) => {
                    let failed = self.lane(key).and_then(|lane| lane.on_time(now));
                    failed.into_iter().for_each(Job::failed);
                    self.advance(key);
                }
                Slot::Queued(key, number) => {
                    let job = self.named.get_mut(&key).and_then(|named| named.remove(number));
                    job.into_iter().for_each(|job| job.refused(Reason::TimedOut(None)));
                }
            }
        }
    }

    /// When [`Self::on_time`] next has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.as_ref().and_then(Timers::next)
    }

    /// The connection is gone.
    pub(crate) fn on_disconnect(&mut self) {
        let named = self.named.values_mut().map(|named| &mut named.lane);
        self.shared.values_mut().chain(named).for_each(Lane::on_disconnect);
        let keys: Vec<Key> = self.shared.keys().chain(self.named.keys()).copied().collect();
        keys.into_iter().for_each(|key| self.mark(key));
    }

    /// Takes nothing new, except what settles deliveries.
    pub(crate) const fn close(&mut self) {
        self.is_closing = true;
    }

    /// Whether every commit has its result.
    pub(crate) fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
            && self.shared.values().all(Lane::is_idle)
            && self.named.values().all(|named| named.lane.is_idle())
    }

    /// Gives up everything and counts the messages.
    pub(crate) fn abandon(&mut self) -> u64 {
        self.is_closing = true;
        let mut messages = 0;
        let mut named: Vec<Named> = std::mem::take(&mut self.named).into_values().collect();
        let lanes = named.iter_mut().map(|named| &mut named.lane);
        for failed in self.shared.values_mut().chain(lanes).filter_map(Lane::abandon) {
            messages += failed.job.messages();
            Job::failed(failed);
        }
        let waiting = std::mem::take(&mut self.waiting).into_values();
        let queued = named.into_iter().flat_map(|named| named.waiting).map(|(_, job)| job);
        for job in waiting.chain(queued) {
            messages += job.messages();
            job.refused(Reason::Closed);
        }
        messages
    }
}

impl Named {
    /// Begins the next commit if the one before is over.
    fn advance(&mut self) -> Option<u64> {
        if let Some(refusal) = self.lane.closed() {
            let reason = Reason::Refused(refusal.clone());
            self.waiting.drain(..).for_each(|(_, job)| job.refused(reason.clone()));
        }
        if !self.lane.is_idle() {
            return None;
        }
        let (number, job) = self.waiting.pop_front()?;
        let (sequence, deadline) = (job.sequence, job.deadline);
        self.lane.begin(job, number, sequence, deadline);
        Some(number)
    }

    /// Takes a commit out of the queue.
    fn remove(&mut self, number: u64) -> Option<Job> {
        let at = self.waiting.iter().position(|(found, _)| *found == number)?;
        self.waiting.remove(at).map(|(_, job)| job)
    }

    fn tell_last(&self) {
        if let Some(last) = self.lane.last() {
            self.last.store(last.0, Ordering::Release);
        }
    }
}
