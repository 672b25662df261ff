//! One producer that sends commits, one at a time: its number, its repeats, and what a refusal means.
//!
//! Pure: no clock, no IO, and it does not look into the commits. A lane without a name opens another
//! producer when its own is not sure any more; a named one asks where its producer stands.
//!
//! ```text
//! Waiting --ask--> Sent --committed, refused for good, timed out--> (no job)
//!    ^-- connection lost, RetryAt over --'
//! ```

use crate::error::Refusal;
use posthouse_protocol::message::{ProducerInfo, ProducerOpened};
use posthouse_protocol::{ErrorCode, Name, Outcome, ProducerEpoch, ProducerId, Sequence};
use std::time::Duration;
use tokio::time::Instant;

/// Pause after a refusal that asks for another try and names no time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A producer and the commit that it is at.
#[derive(Debug)]
pub(crate) struct Lane<J> {
    name: Option<Name>,
    standing: Option<Standing>,
    /// Whether a named producer has to be asked for its last sequence before the next commit.
    is_in_doubt: bool,
    /// The highest sequence of which a try may still reach the broker.
    doubtful: Sequence,
    asking: Asking,
    running: Option<Running<J>>,
    /// Why a named producer can send nothing any more.
    closed: Option<Refusal>,
}

/// A producer as the broker knows it.
#[derive(Clone, Copy, Debug)]
struct Standing {
    producer: ProducerId,
    epoch: ProducerEpoch,
    last: Sequence,
}

#[derive(Debug)]
struct Running<J> {
    job: J,
    number: u64,
    /// As the application wants it.
    wanted: Option<Sequence>,
    /// As that, or as it was sent first.
    sequence: Option<Sequence>,
    deadline: Instant,
    flight: Flight,
    /// Whether a try was lost without an answer.
    is_uncertain: bool,
    last: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    Waiting,
    Sent,
    RetryAt(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    No,
    Now,
    After(Instant),
}

/// What the lane has to say to the broker.
#[derive(Debug)]
pub(crate) enum Ask<'a, J> {
    /// Open a producer without a name.
    Open,
    /// Describe this producer.
    Describe(&'a Name),
    /// Carry out the commit.
    Commit(Address, &'a J),
}

/// How a commit is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Of the job, to know its answer by.
    pub(crate) number: u64,
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
    pub(crate) prev: Sequence,
}

/// A commit without a result, and why.
#[derive(Debug)]
pub(crate) struct Failed<J> {
    pub(crate) job: J,
    pub(crate) reason: Reason,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Refused(Refusal),
    /// With what the broker refused it before.
    TimedOut(Option<Refusal>),
    Closed,
}

impl<J> Lane<J> {
    /// Without a name and not opened yet.
    pub(crate) const fn unnamed() -> Self {
        Self {
            name: None,
            standing: None,
            is_in_doubt: false,
            doubtful: Sequence::ZERO,
            asking: Asking::No,
            running: None,
            closed: None,
        }
    }

    /// Of a named producer just opened.
    pub(crate) fn named(name: Name, opened: &ProducerOpened) -> Self {
        let ProducerOpened { producer, epoch, last } = *opened;
        let mut lane = Self::unnamed();
        lane.name = Some(name);
        lane.standing = Some(Standing { producer, epoch, last });
        lane
    }

    /// Whether it can begin another commit.
    pub(crate) const fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// The highest sequence known to be accepted.
    pub(crate) fn last(&self) -> Option<Sequence> {
        self.standing.map(|standing| standing.last)
    }

    /// Takes on a commit; only when idle. Without a sequence it gets the next one.
    pub(crate) fn begin(
        &mut self,
        job: J,
        number: u64,
        sequence: Option<Sequence>,
        deadline: Instant,
    ) {
        let (flight, last) = (Flight::Waiting, None);
        let (wanted, is_uncertain) = (sequence, false);
        let running =
            Running { job, number, wanted, sequence, deadline, flight, is_uncertain, last };
        self.running = Some(running);
    }

    /// What is to be sent now, counted as sent.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<Ask<'_, J>> {
        let running = self.running.as_mut()?;
        match running.flight {
            Flight::Sent => return None,
            Flight::RetryAt(at) if at > now => return None,
            Flight::Waiting | Flight::RetryAt(_) => running.flight = Flight::Waiting,
        }
        match self.asking {
            Asking::Now => return None,
            Asking::After(at) if at > now => return None,
            Asking::No | Asking::After(_) => {}
        }
        let standing = match (&self.name, self.standing) {
            (None, None) => {
                self.asking = Asking::Now;
                return Some(Ask::Open);
            }
            (Some(name), _) if self.is_in_doubt => {
                self.asking = Asking::Now;
                return Some(Ask::Describe(name));
            }
            (_, standing) => standing?,
        };
        let Standing { producer, epoch, last } = standing;
        let sequence = *running.sequence.get_or_insert_with(|| last.max(self.doubtful).next());
        // An old number is a repeat, which the broker knows before it looks at the chain.
        let prev = last.min(Sequence(sequence.0.saturating_sub(1)));
        running.flight = Flight::Sent;
        let number = running.number;
        Some(Ask::Commit(Address { number, producer, epoch, sequence, prev }, &running.job))
    }

    /// An unnamed producer was opened.
    pub(crate) fn on_opened(&mut self, opened: &ProducerOpened) {
        let ProducerOpened { producer, epoch, last } = *opened;
        self.asking = Asking::No;
        self.standing = Some(Standing { producer, epoch, last });
        self.doubtful = Sequence::ZERO;
    }

    /// The named producer was described. One with another number is not the one that was opened.
    pub(crate) fn on_described(&mut self, info: &ProducerInfo) -> Option<Failed<J>> {
        self.asking = Asking::No;
        self.is_in_doubt = false;
        let standing = self.standing.as_mut()?;
        if standing.producer == info.producer {
            standing.last = info.last;
            return None;
        }
        let text = "the producer was retired, and another has its name";
        self.close(Refusal::new(ErrorCode::UnknownProducer.number(), text))
    }

    /// Opening or describing was refused.
    pub(crate) fn on_not_told(&mut self, refusal: Refusal, now: Instant) -> Option<Failed<J>> {
        if refusal.is_retriable() {
            let pause = refusal.retry_after().unwrap_or(RETRY_PAUSE);
            self.asking = Asking::After(now + pause);
            if let Some(running) = &mut self.running {
                running.last = Some(refusal);
            }
            return None;
        }
        self.asking = Asking::No;
        if self.name.is_some() {
            self.close(refusal)
        } else {
            self.fail(refusal, Outcome::Definite)
        }
    }

    /// The broker has carried the commit out, or says that it is a `duplicate`.
    pub(crate) fn on_committed(&mut self, number: u64, duplicate: bool) -> Option<(J, Sequence)> {
        let running = self.running.take_if(|running| running.number == number)?;
        if duplicate && running.wanted.is_none() && !running.is_uncertain {
            // Of what was sent once: so the number is somebody else's with this epoch, and its result
            // is not kept any more.
            self.running = Some(Running { sequence: None, flight: Flight::Waiting, ..running });
            self.lose_standing();
            return None;
        }
        let sequence = running.sequence.unwrap_or_default();
        if let Some(standing) = &mut self.standing {
            standing.last = standing.last.max(sequence);
        }
        Some((running.job, sequence))
    }

    /// The broker has refused the commit.
    pub(crate) fn on_refusal(
        &mut self,
        number: u64,
        refusal: Refusal,
        now: Instant,
    ) -> Option<Failed<J>> {
        let running = self.running.as_mut().filter(|running| running.number == number)?;
        let pause = refusal.retry_after().unwrap_or(RETRY_PAUSE);
        match refusal.code() {
            Some(ErrorCode::OutOfSequence) => {
                // The broker has lost this producer's last commit, and takes nothing that names it.
                running.is_uncertain = false;
                self.lose_standing();
                self.retry(refusal, now + pause);
                None
            }
            Some(ErrorCode::SequenceReused) => {
                // Somebody else with this epoch has used the number, so that no try of this commit
                // was accepted under it, nor will be.
                running.is_uncertain = false;
                self.lose_standing();
                self.number_anew(refusal, now)
            }
            Some(ErrorCode::UnknownProducer) if self.name.is_none() && !running.is_uncertain => {
                self.lose_standing();
                self.retry(refusal, now);
                None
            }
            Some(ErrorCode::UnknownProducer) if self.name.is_none() => {
                self.fail(refusal, Outcome::Unknown)
            }
            Some(ErrorCode::UnknownProducer | ErrorCode::Fenced) => self.close(refusal),
            _ if refusal.is_retriable() => {
                running.is_uncertain |= refusal.outcome() == Outcome::Unknown;
                self.retry(refusal, now + pause);
                None
            }
            // A try that was lost may still lie in a buffer of its connection, and come later.
            _ if running.is_uncertain => self.fail(refusal, Outcome::Unknown),
            _ => {
                let outcome = refusal.outcome();
                self.fail(refusal, outcome)
            }
        }
    }

    fn retry(&mut self, refusal: Refusal, at: Instant) {
        let is_named = self.name.is_some();
        if let Some(running) = &mut self.running {
            running.flight = Flight::RetryAt(at);
            running.last = Some(refusal);
            if self.standing.is_none() && !is_named {
                running.sequence = None;
            }
        }
    }

    /// Tries again under another number, if the application did not choose this one.
    fn number_anew(&mut self, refusal: Refusal, now: Instant) -> Option<Failed<J>> {
        let running = self.running.as_mut()?;
        if running.wanted.is_some() {
            return self.fail(refusal, Outcome::Definite);
        }
        running.sequence = None;
        self.retry(refusal, now);
        None
    }

    /// The last sequence is not sure any more: another producer, or asking, makes it so.
    fn lose_standing(&mut self) {
        if self.name.is_some() {
            self.is_in_doubt = true;
        } else {
            self.standing = None;
        }
    }

    /// Ends the commit with a refusal.
    fn fail(&mut self, refusal: Refusal, outcome: Outcome) -> Option<Failed<J>> {
        let running = self.running.take()?;
        if running.is_uncertain || outcome == Outcome::Unknown {
            self.may_still_arrive(running.sequence);
        }
        Some(Failed { job: running.job, reason: Reason::Refused(refusal), outcome })
    }

    /// Nothing can be sent any more.
    fn close(&mut self, refusal: Refusal) -> Option<Failed<J>> {
        self.closed = Some(refusal.clone());
        let uncertain = self.running.as_ref().is_some_and(|running| running.is_uncertain);
        self.fail(refusal, if uncertain { Outcome::Unknown } else { Outcome::Definite })
    }

    /// Why a named producer can send nothing any more.
    pub(crate) const fn closed(&self) -> Option<&Refusal> {
        self.closed.as_ref()
    }

    fn may_still_arrive(&mut self, sequence: Option<Sequence>) {
        self.doubtful = self.doubtful.max(sequence.unwrap_or_default());
        self.lose_standing();
    }

    /// Ends the pauses that are over, and gives the commit up if its time is.
    pub(crate) fn on_time(&mut self, now: Instant) -> Option<Failed<J>> {
        if let Asking::After(at) = self.asking
            && at <= now
        {
            self.asking = Asking::No;
        }
        if let Some(running) = &mut self.running
            && let Flight::RetryAt(at) = running.flight
            && at <= now
        {
            running.flight = Flight::Waiting;
        }
        let running = self.running.take_if(|running| running.deadline <= now)?;
        Some(self.give_up(running, Reason::TimedOut))
    }

    /// Gives the commit up.
    pub(crate) fn abandon(&mut self) -> Option<Failed<J>> {
        let running = self.running.take()?;
        Some(self.give_up(running, |_| Reason::Closed))
    }

    fn give_up(
        &mut self,
        running: Running<J>,
        reason: impl FnOnce(Option<Refusal>) -> Reason,
    ) -> Failed<J> {
        let is_unknown = running.is_uncertain || running.flight == Flight::Sent;
        if is_unknown {
            self.may_still_arrive(running.sequence);
        }
        let outcome = if is_unknown { Outcome::Unknown } else { Outcome::Definite };
        Failed { job: running.job, reason: reason(running.last), outcome }
    }

    /// When there is something to send or to give up that no answer will bring about.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let retry = match running.flight {
            Flight::RetryAt(at) => Some(at),
            Flight::Waiting | Flight::Sent => None,
        };
        let ask = match self.asking {
            Asking::After(at) => Some(at),
            Asking::No | Asking::Now => None,
        };
        [Some(running.deadline), retry, ask].into_iter().flatten().min()
    }

    /// The connection is gone: what has no answer is sent again on the next one.
    pub(crate) fn on_disconnect(&mut self) {
        self.asking = Asking::No;
        if let Some(running) = &mut self.running {
            running.is_uncertain |= running.flight == Flight::Sent;
            running.flight = Flight::Waiting;
        }
    }
}

#[cfg(test)]
mod tests;
