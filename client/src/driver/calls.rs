//! The application's requests, from the mailbox to the answer, over as many connections as it takes.

use super::outgoing::{Outgoing, Owner};
use super::timers::Timers;
use crate::call::{Answer, Call, Repeat};
use crate::error::{Refusal, RequestError};
use posthouse_protocol::{ErrorCode, Outcome, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a refused request is made again, unless the broker names one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// All calls without an answer.
#[derive(Debug)]
pub(crate) struct Calls {
    calls: BTreeMap<u64, Waiting>,
    /// In the order in which they were made, also after a reconnect.
    unsent: BTreeSet<u64>,
    made: u64,
    timers: Timers<u64>,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    state: State,
    /// Whether an earlier sending was lost without an answer.
    is_uncertain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unsent,
    Sent,
    RetryAt(Instant),
}

impl Calls {
    pub(crate) const fn new() -> Self {
        Self { calls: BTreeMap::new(), unsent: BTreeSet::new(), made: 0, timers: Timers::new() }
    }

    /// Adds a call.
    pub(crate) fn add(&mut self, call: Call) {
        let number = self.made;
        self.made += 1;
        self.timers.set(number, Some(call.deadline));
        self.calls.insert(number, Waiting { call, state: State::Unsent, is_uncertain: false });
        self.unsent.insert(number);
    }

    /// Sends what is unsent while `out` has room.
    pub(crate) fn fill(&mut self, out: &mut Outgoing) {
        while out.has_room() {
            let Some(number) = self.unsent.pop_first() else {
                return;
            };
            let Some(waiting) = self.calls.get_mut(&number) else {
                continue;
            };
            if waiting.call.answer.is_closed() {
                self.take(number);
                continue;
            }
            waiting.state = State::Sent;
            let (request, tail) = (waiting.call.request.clone(), waiting.call.tail.clone());
            out.send(request, tail, Owner::Call(number));
        }
    }

    /// The broker has answered.
    pub(crate) fn on_answer(&mut self, number: u64, answer: Answer) {
        if let Some(waiting) = self.take(number) {
            waiting.finish(Ok(answer));
        }
    }

    /// The broker has refused.
    pub(crate) fn on_refusal(&mut self, number: u64, refusal: Refusal, now: Instant) {
        let Some(waiting) = self.calls.get_mut(&number) else {
            return;
        };
        let at = now + refusal.retry_after().unwrap_or(RETRY_PAUSE);
        // The same commit again is as much out of sequence; whoever numbers them has to act.
        let passes = refusal.is_retriable() && refusal.code() != Some(ErrorCode::OutOfSequence);
        if waiting.call.repeat == Repeat::Safe && passes && at < waiting.call.deadline {
            waiting.is_uncertain |= refusal.outcome() == Outcome::Unknown;
            waiting.state = State::RetryAt(at);
            self.timers.set(number, Some(at));
        } else if let Some(waiting) = self.take(number) {
            let refusal = waiting.speaking_of_all_tries(refusal);
            waiting.finish(Err(RequestError::Refused(refusal)));
        }
    }

    /// Gives up what has waited too long, and asks again what was to be asked later.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some(number) = self.timers.pop(now) {
            let Some(waiting) = self.calls.get_mut(&number) else {
                continue;
            };
            if now < waiting.call.deadline && matches!(waiting.state, State::RetryAt(_)) {
                waiting.state = State::Unsent;
                self.timers.set(number, Some(waiting.call.deadline));
                self.unsent.insert(number);
            } else if let Some(waiting) = self.take(number) {
                let outcome = waiting.outcome();
                waiting.finish(Err(RequestError::TimedOut { outcome }));
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn on_disconnect(&mut self) {
        let lost = |_: &u64, waiting: &mut Waiting| {
            waiting.state == State::Sent && waiting.call.repeat == Repeat::Never
        };
        for (number, waiting) in self.calls.extract_if(.., lost) {
            self.timers.set(number, None);
            waiting.finish(Err(RequestError::ConnectionLost));
        }
        for (number, waiting) in &mut self.calls {
            if waiting.state == State::Sent {
                waiting.state = State::Unsent;
                waiting.is_uncertain = true;
                self.unsent.insert(*number);
            }
        }
    }

    /// When [`Self::on_time`] next has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Ends all calls.
    pub(crate) fn abandon(&mut self) {
        for waiting in std::mem::take(&mut self.calls).into_values() {
            let outcome = waiting.outcome();
            waiting.finish(Err(RequestError::Closed { outcome }));
        }
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        self.timers.set(number, None);
        self.calls.remove(&number)
    }
}

impl Waiting {
    fn outcome(&self) -> Outcome {
        let was_sent = self.is_uncertain || self.state == State::Sent;
        if was_sent { Outcome::Unknown } else { Outcome::Definite }
    }

    /// A refusal of the last try, with what it says of the tries before.
    fn speaking_of_all_tries(&self, refusal: Refusal) -> Refusal {
        let is_numbered = matches!(self.call.request, Request::Commit(_));
        let covers = is_numbered && refusal.code().is_some_and(ErrorCode::covers_earlier_tries);
        if self.is_uncertain && !covers { refusal.after_lost_tries() } else { refusal }
    }

    fn finish(self, result: Result<Answer, RequestError>) {
        // Whoever asked may have given up.
        let _ = self.call.answer.send(result);
    }
}
