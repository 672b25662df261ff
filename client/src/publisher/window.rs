//! A producer's batches from the first sending to the receipt: sequences, resending, renumbering.
//!
//! Pure: no clock, no IO, and it does not look into the batches. Each batch names the one before it
//! (`prev`), so the broker takes them in order or not at all. An answer that is not a receipt ends
//! the flow: nothing is sent until every batch under way has its answer, then it goes on from the
//! first one without a receipt.
//!
//! ```text
//! Flowing --refusal--> Rewinding --all answered--> Flowing                 (resend, at once or later)
//!                                                  needs a producer --> Flowing (renumbered)
//! ```

use crate::error::{PublishError, Refusal};
use posthouse_protocol::message::{ProducerOpened, Publish};
use posthouse_protocol::{
    ErrorCode, Outcome, ProducerEpoch, ProducerId, Sequence, StartEpoch, TopicId,
};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Pause after a refusal that asks for another try and names no time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The batches of one producer that have no receipt yet, oldest first.
#[derive(Debug)]
pub(crate) struct Window<B> {
    producer: ProducerId,
    epoch: ProducerEpoch,
    /// The highest sequence given to a batch.
    used: Sequence,
    /// The last link of the chain: `prev` of the next batch.
    tail: Sequence,
    entries: VecDeque<Entry<B>>,
    /// Entries whose flight is [`Flight::Sent`].
    unanswered: usize,
    stage: Stage,
    /// The start of the broker that is connected.
    start: StartEpoch,
    /// The refusal that made the producer unusable.
    cause: Option<Refusal>,
}

#[derive(Debug)]
struct Entry<B> {
    sequence: Sequence,
    prev: Sequence,
    /// `None` for a ghost: given up with unknown outcome, and kept because the broker may have it as
    /// the last link of its chain.
    batch: Option<B>,
    deadline: Instant,
    flight: Flight,
    /// The start of the broker in which an earlier sending was lost without an answer.
    lost_in: Option<StartEpoch>,
    last: Option<Refusal>,
}

impl<B> Entry<B> {
    /// Whether it may be stored by an earlier sending.
    const fn is_uncertain(&self) -> bool {
        self.lost_in.is_some()
    }

    /// The broker does not have it. An earlier sending over a connection to the same start of the
    /// broker may still lie in a buffer and come later; those to an earlier start are gone.
    fn is_not_stored(&mut self, start: StartEpoch) {
        self.lost_in = self.lost_in.filter(|lost_in| *lost_in >= start);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    Waiting,
    Sent { prev: Sequence },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flowing,
    Rewinding(Next),
}

/// What follows when all batches under way are answered; a later one takes precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Resend,
    ResendAt(Instant),
    Reopen,
}

/// A batch that will get no receipt, and why.
pub(crate) type Failed<B> = (B, PublishError);

/// What opening the producer anew told of the batches that it may have stored.
#[derive(Debug)]
pub(crate) struct Reopened<B> {
    /// They are stored; where is not known.
    pub(crate) stored: Vec<B>,
    /// They may be.
    pub(crate) failed: Vec<Failed<B>>,
}

/// What a refusal led to.
#[derive(Debug)]
pub(crate) enum Refused<B> {
    /// The batch will be sent again.
    Resent,
    /// The batch has failed.
    Failed(Failed<B>),
    /// A newer epoch of the producer exists: nothing can be sent any more.
    Fenced(Refusal),
}

impl<B> Window<B> {
    /// An empty window of a producer just opened.
    pub(crate) const fn new(opened: &ProducerOpened) -> Self {
        Self {
            producer: opened.producer,
            epoch: opened.epoch,
            used: opened.last,
            tail: opened.last,
            entries: VecDeque::new(),
            unanswered: 0,
            stage: Stage::Flowing,
            start: StartEpoch::ZERO,
            cause: None,
        }
    }

    /// There is a connection to this start of the broker.
    pub(crate) const fn on_connect(&mut self, start: StartEpoch) {
        self.start = start;
    }

    /// How many batches have no receipt, ghosts left out.
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.batch.is_some()).count()
    }

    /// Whether every batch sent on this connection has its answer.
    pub(crate) const fn is_answered(&self) -> bool {
        self.unanswered == 0
    }

    /// Adds a batch behind all others.
    pub(crate) fn push(&mut self, batch: B, deadline: Instant) {
        self.used = self.used.next();
        self.entries.push_back(Entry {
            sequence: self.used,
            prev: self.tail,
            batch: Some(batch),
            deadline,
            flight: Flight::Waiting,
            lost_in: None,
            last: None,
        });
        self.tail = self.used;
    }

    /// Whether batches may be sent.
    pub(crate) fn is_flowing(&mut self, now: Instant) -> bool {
        match self.stage {
            Stage::Flowing => true,
            Stage::Rewinding(Next::Resend) if self.unanswered == 0 => {
                self.stage = Stage::Flowing;
                true
            }
            Stage::Rewinding(Next::ResendAt(at)) if self.unanswered == 0 && at <= now => {
                self.stage = Stage::Flowing;
                true
            }
            Stage::Rewinding(_) => false,
        }
    }

    /// The next batch to send, now counted as sent, and how to address it.
    pub(crate) fn send_next(&mut self, topic: TopicId, now: Instant) -> Option<(Publish, &B)> {
        if !self.is_flowing(now) {
            return None;
        }
        let (producer, epoch) = (self.producer, self.epoch);
        let waiting = |entry: &&mut Entry<B>| entry.flight == Flight::Waiting;
        let mut unsent = self.entries.iter_mut().filter(waiting);
        let (entry, batch) = unsent.find_map(|entry| {
            let Entry { sequence, prev, batch, flight, .. } = entry;
            batch.as_ref().map(|batch| ((*sequence, *prev, flight), batch))
        })?;
        let (sequence, prev, flight) = entry;
        *flight = Flight::Sent { prev };
        self.unanswered += 1;
        Some((Publish { topic, producer, epoch, sequence, prev }, batch))
    }

    /// Takes the batch that the broker has accepted.
    pub(crate) fn on_receipt(&mut self, sequence: Sequence) -> Option<B> {
        let (at, _) = self.answered(sequence)?;
        let accepted = self.entries.remove(at)?;
        // With a later link accepted, the ghosts before it can be the end of the chain no more.
        self.entries.retain(|entry| {
            entry.batch.is_some() || entry.flight != Flight::Waiting || entry.sequence > sequence
        });
        accepted.batch
    }

    /// Finds out what a refused batch needs.
    pub(crate) fn on_refusal(
        &mut self,
        sequence: Sequence,
        refusal: Refusal,
        now: Instant,
    ) -> Refused<B> {
        let Some((at, sent_prev)) = self.answered(sequence) else {
            return Refused::Resent;
        };
        match refusal.code() {
            Some(ErrorCode::OutOfSequence) => self.on_out_of_sequence(at, sent_prev, refusal),
            Some(ErrorCode::Fenced) => return Refused::Fenced(refusal),
            Some(ErrorCode::UnknownProducer) => {
                self.cause = Some(refusal);
                self.rewind(Next::Reopen);
            }
            Some(ErrorCode::SequenceReused) => {
                self.cause = Some(refusal.clone());
                self.rewind(Next::Reopen);
                return self.fail(at, refusal);
            }
            _ if refusal.is_retriable() => self.on_retriable(at, refusal, now),
            _ => return self.fail(at, refusal),
        }
        Refused::Resent
    }

    fn answered(&mut self, sequence: Sequence) -> Option<(usize, Sequence)> {
        let at = self.entries.iter().position(|entry| entry.sequence == sequence)?;
        let entry = self.entries.get_mut(at)?;
        let Flight::Sent { prev } = entry.flight else {
            return None;
        };
        entry.flight = Flight::Waiting;
        self.unanswered -= 1;
        Some((at, prev))
    }

    fn rewind(&mut self, next: Next) {
        let next = match self.stage {
            Stage::Flowing => next,
            Stage::Rewinding(before) => before.max(next),
        };
        self.stage = Stage::Rewinding(next);
    }

    fn on_retriable(&mut self, at: usize, refusal: Refusal, now: Instant) {
        self.rewind(Next::ResendAt(now + refusal.retry_after().unwrap_or(RETRY_PAUSE)));
        if let Some(entry) = self.entries.get_mut(at) {
            if refusal.outcome() == Outcome::Unknown {
                entry.lost_in = Some(self.start);
            }
            // Room is looked at after repeats have been recognised, so this one was none.
            if refusal.code() == Some(ErrorCode::StorageFull) {
                entry.is_not_stored(self.start);
            }
            entry.last = Some(refusal);
        }
    }

    fn on_out_of_sequence(&mut self, at: usize, sent_prev: Sequence, refusal: Refusal) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        // Repeats are recognised before the chain is looked at.
        entry.is_not_stored(self.start);
        let was_relinked = entry.prev != sent_prev;
        let before = self.entries.iter().position(|entry| entry.sequence == sent_prev);
        match before.and_then(|before| Some((before, self.entries.get(before)?))) {
            _ if was_relinked => self.rewind(Next::Resend),
            Some((_, before)) if before.batch.is_some() => self.rewind(Next::Resend),
            Some((_, ghost)) if ghost.flight != Flight::Waiting => self.rewind(Next::Resend),
            Some((ghost, _)) => {
                self.unlink(ghost);
                self.rewind(Next::Resend);
            }
            // The link before was accepted, and the broker does not know it: it has lost the
            // producer's last publishes. Nothing behind them is stored.
            None => {
                let start = self.start;
                self.entries.iter_mut().skip(at).for_each(|entry| entry.is_not_stored(start));
                self.cause = Some(refusal);
                self.rewind(Next::Reopen);
            }
        }
    }

    /// Takes an entry that the broker does not have out of the chain.
    fn unlink(&mut self, at: usize) -> Option<Entry<B>> {
        let removed = self.entries.remove(at)?;
        let behind = self.entries.iter_mut().filter(|entry| entry.prev == removed.sequence);
        behind.for_each(|entry| entry.prev = removed.prev);
        if self.tail == removed.sequence {
            self.tail = removed.prev;
        }
        Some(removed)
    }

    fn fail(&mut self, at: usize, refusal: Refusal) -> Refused<B> {
        if self.unanswered > 0 {
            self.rewind(Next::Resend);
        }
        let uncertain = self.entries.get(at).is_some_and(Entry::is_uncertain);
        let outcome = if uncertain && !is_past_repeats(&refusal) {
            Outcome::Unknown
        } else {
            refusal.outcome()
        };
        let batch = match outcome {
            Outcome::Definite => self.unlink(at).and_then(|entry| entry.batch),
            Outcome::Unknown => self.entries.get_mut(at).and_then(|entry| entry.batch.take()),
        };
        let error = PublishError::Refused { refusal, outcome };
        batch.map_or(Refused::Resent, |batch| Refused::Failed((batch, error)))
    }

    /// Gives up the batches whose time is over at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Failed<B>> {
        let timed_out = |outcome, last| PublishError::TimedOut { outcome, last };
        self.give_up(|entry| entry.deadline <= now, timed_out)
    }

    /// Gives up everything; `error` is told the outcome.
    pub(crate) fn fail_all(&mut self, error: impl Fn(Outcome) -> PublishError) -> Vec<Failed<B>> {
        self.give_up(|_| true, |outcome, _| error(outcome))
    }

    fn give_up(
        &mut self,
        which: impl Fn(&Entry<B>) -> bool,
        error: impl Fn(Outcome, Option<Refusal>) -> PublishError,
    ) -> Vec<Failed<B>> {
        let mut failed = Vec::new();
        let mut at = 0;
        while let Some(entry) = self.entries.get_mut(at) {
            if entry.batch.is_none() || !which(entry) {
                at += 1;
                continue;
            }
            let last = entry.last.take();
            if entry.is_uncertain() || entry.flight != Flight::Waiting {
                let batch = entry.batch.take();
                failed.extend(batch.map(|batch| (batch, error(Outcome::Unknown, last))));
            } else {
                let batch = self.unlink(at).and_then(|entry| entry.batch);
                failed.extend(batch.map(|batch| (batch, error(Outcome::Definite, last))));
            }
        }
        failed
    }

    /// When there is next something to expire or to send that no answer will bring about.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let batches = self.entries.iter().filter(|entry| entry.batch.is_some());
        let expiry = batches.map(|entry| entry.deadline).min()?;
        match self.stage {
            Stage::Rewinding(Next::ResendAt(at)) if self.unanswered == 0 => Some(expiry.min(at)),
            Stage::Flowing | Stage::Rewinding(_) => Some(expiry),
        }
    }

    /// The connection is gone: what has no answer is sent again on the next one.
    pub(crate) fn on_disconnect(&mut self) {
        for entry in &mut self.entries {
            if entry.flight != Flight::Waiting {
                entry.lost_in = Some(self.start);
            }
            entry.flight = Flight::Waiting;
        }
        self.unanswered = 0;
        if self.stage != Stage::Rewinding(Next::Reopen) {
            self.stage = Stage::Flowing;
        }
    }

    /// Whether the producer has to be opened anew.
    pub(crate) fn needs_producer(&self) -> bool {
        self.unanswered == 0 && self.stage == Stage::Rewinding(Next::Reopen)
    }

    /// Goes on under another producer, or the next epoch of the same one.
    ///
    /// Another one does not know what the former may have stored: those batches fail, because sent
    /// again they could be stored twice. The next epoch fences what is still on its way, so that the
    /// last sequence tells which of them are stored.
    pub(crate) fn on_reopened(&mut self, opened: &ProducerOpened) -> Reopened<B> {
        let next = Self::new(opened);
        let before = std::mem::replace(self, next);
        self.start = before.start;
        let is_same = opened.producer == before.producer;
        let mut reopened = Reopened { stored: Vec::new(), failed: Vec::new() };
        for entry in before.entries {
            let (is_uncertain, sequence) = (entry.is_uncertain(), entry.sequence);
            match (entry.batch, &before.cause) {
                (Some(batch), _) if is_same && is_uncertain && sequence <= opened.last => {
                    reopened.stored.push(batch);
                }
                (Some(batch), Some(cause)) if is_uncertain && !is_same => {
                    let (refusal, outcome) = (cause.clone(), Outcome::Unknown);
                    reopened.failed.push((batch, PublishError::Refused { refusal, outcome }));
                }
                (Some(batch), _) => self.push(batch, entry.deadline),
                (None, _) => {}
            }
        }
        reopened
    }
}

/// Whether the broker looks for repeats before it refuses with this code, so that a refused repeat
/// shows that the first sending was not accepted either.
fn is_past_repeats(refusal: &Refusal) -> bool {
    let before = [
        ErrorCode::Malformed,
        ErrorCode::UnsupportedVersion,
        ErrorCode::OutOfState,
        ErrorCode::Forbidden,
    ];
    refusal.code().is_some_and(|code| !before.contains(&code))
}

#[cfg(test)]
mod tests;
