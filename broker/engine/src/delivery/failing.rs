//! What a failure does to a message: it waits and comes again, or it has failed too often.

use super::backoff;
use crate::event::{DeadLettered, Event, Failed, Rejected};
use crate::state::Subscription;
use crate::time::{Now, Time};
use posthouse_protocol::message::BACKOFF;
use posthouse_protocol::{Attempt, Offset};

/// Bytes of a reason that are kept: many failures share a frame.
const REASON_BYTES_MAX: usize = 256;

/// Failures of one subscription that have one cause.
#[derive(Debug)]
pub(super) struct Failing<'a> {
    subscription: &'a Subscription,
    now: Now,
    delay_ms: u64,
    reason: &'a str,
    /// What has to be appended.
    pub events: Vec<Event>,
    /// Whether some of it is to become a dead letter.
    pub rejects: bool,
}

/// What becomes of a message that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is handed out again.
    Retry {
        /// How often it has failed now.
        attempt: Attempt,
        /// Not before.
        due: Time,
    },
    /// It never is.
    Gone,
}

impl<'a> Failing<'a> {
    /// Failures because of `reason`, each with a wait of `delay_ms` or, for [`BACKOFF`], what the
    /// settings say.
    pub(super) fn new(subscription: &'a Subscription, now: Now, reason: &'a str) -> Self {
        let reason = cut(reason);
        Self { subscription, now, delay_ms: BACKOFF, reason, events: Vec::new(), rejects: false }
    }

    /// Waits `delay_ms` each, unless that is [`BACKOFF`].
    pub(super) fn delayed_by(self, delay_ms: u64) -> Self {
        Self { delay_ms, ..self }
    }

    /// Whether the highest hand-out of `offset` has been counted as a failure already.
    pub(super) fn is_counted(&self, offset: Offset) -> bool {
        let failure = self.subscription.failures.get(&offset);
        failure
            .is_some_and(|failure| self.subscription.handed.fence_of(offset) == Some(failure.fence))
    }

    /// Counts one failure.
    pub(super) fn fail(&mut self, offset: Offset) -> Fate {
        let settings = &self.subscription.settings;
        let attempt = self.attempt_of(offset).next();
        if attempt.0 >= settings.attempts_max {
            self.reject(offset);
            return Fate::Gone;
        }
        let wait = match self.delay_ms {
            BACKOFF => backoff::wait_ms(settings, offset, attempt),
            millis => millis,
        };
        self.events.push(Event::Failed(Failed {
            subscription: self.subscription.id,
            offset,
            attempt,
            retry_at: self.now.wall.plus_millis(wait),
            reason: self.reason.to_owned(),
        }));
        Fate::Retry { attempt, due: self.now.mono.plus_millis(wait) }
    }

    /// Counts a failure after which there is no other attempt.
    pub(super) fn reject(&mut self, offset: Offset) {
        let subscription = self.subscription.id;
        if self.subscription.settings.dead_letter {
            let attempt = self.attempt_of(offset).next();
            let reason = self.reason.to_owned();
            let rejected = Rejected { subscription, offset, attempt, reason };
            self.events.push(Event::Rejected(rejected));
            self.rejects = true;
        } else {
            self.events.push(Event::DeadLettered(DeadLettered { subscription, offset }));
        }
    }

    fn attempt_of(&self, offset: Offset) -> Attempt {
        self.subscription.failures.get(&offset).map_or(Attempt::ZERO, |failure| failure.attempt)
    }
}

/// The part of a reason that an event holds.
fn cut(reason: &str) -> &str {
    let end =
        (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    end.and_then(|end| reason.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reason_is_cut_between_characters() {
        let long = "\u{e4}".repeat(600);
        assert_eq!(cut(&long).len(), REASON_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), REASON_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
