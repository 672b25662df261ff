//! The driver's end of a publisher: moves batches from its handles into the window and to the broker.

use super::accumulator::{Batch, Take};
use super::pending::Accepted;
use super::shared::{Key, Shared};
use super::window::{Failed, Refused, Reopened, Window};
use crate::driver::{Outgoing, Owner};
use crate::error::{PublishError, Refusal};
use posthouse_protocol::message::{
    ProducerOpen, ProducerOpened, Receipt, TopicDescribe, TopicInfo,
};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{ErrorCode, Outcome, Sequence, StartEpoch, TopicId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// While so many batches have no answer, only full ones follow: what is submitted meanwhile travels
/// together.
const EAGER_BATCHES: usize = 4;
/// Pause before topic or producer are asked for again, unless the broker names one.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// One publisher, as the driver keeps it.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    topic: Topic,
    window: Window<Batch>,
    asking: Asking,
}

/// Whether a request for the topic or the producer may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// It may.
    No,
    /// One has no answer yet.
    Now,
    /// The broker asked for a pause.
    After(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Known(TopicId),
    /// To be looked up again: the broker has said that there is none, or that it takes less.
    Lost,
}

impl Link {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        topic: TopicId,
        producer: &ProducerOpened,
    ) -> Self {
        Self {
            shared,
            topic: Topic::Known(topic),
            window: Window::new(producer),
            asking: Asking::No,
        }
    }

    /// Sends what can be sent; `true` if there may be more once `out` has room again.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        while out.has_room() {
            let Some(topic) = self.ready_topic(out) else {
                return false;
            };
            if let Some((publish, batch)) = self.window.send_next(topic, now) {
                let (publisher, sequence) = (self.shared.key, publish.sequence);
                let owner = Owner::Publish { publisher, sequence };
                out.send(publish, batch.bytes.clone(), owner);
            } else if !self.take(now) {
                return false;
            }
        }
        true
    }

    /// The topic to publish to; asks for whatever is missing first.
    fn ready_topic(&mut self, out: &mut Outgoing) -> Option<TopicId> {
        if self.asking != Asking::No || self.is_idle() {
            return None;
        }
        let key = self.shared.key;
        if self.window.needs_producer() {
            let open = ProducerOpen { name: self.shared.producer.clone(), epoch: None };
            out.ask(open, Owner::Producer(key));
            self.asking = Asking::Now;
            return None;
        }
        match self.topic {
            Topic::Known(topic) => Some(topic),
            Topic::Lost if !self.window.is_answered() => None,
            Topic::Lost => {
                out.ask(TopicDescribe { topic: self.shared.topic.clone() }, Owner::Topic(key));
                self.asking = Asking::Now;
                None
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.window.len() == 0 && self.shared.oldest().is_none()
    }

    fn take(&mut self, now: Instant) -> bool {
        if !self.window.is_flowing(now) {
            return false;
        }
        let eager = self.window.len() < EAGER_BATCHES;
        let Some(batch) = self.shared.take(if eager { Take::Any } else { Take::Full }) else {
            return false;
        };
        let deadline = batch.since + self.shared.timeout;
        self.window.push(batch, deadline);
        true
    }

    /// A batch was accepted.
    pub(crate) fn on_receipt(&mut self, sequence: Sequence, receipt: &Receipt) {
        let Receipt { base, durability, duplicate, .. } = *receipt;
        if let Some(batch) = self.window.on_receipt(sequence) {
            self.shared.complete(&batch, Ok(Accepted { base, durability, duplicate }));
        }
    }

    /// A batch was refused.
    pub(crate) fn on_refusal(&mut self, sequence: Sequence, refusal: Refusal, now: Instant) {
        // Made again under another id, or altered to take smaller messages only.
        if matches!(refusal.code(), Some(ErrorCode::NotFound | ErrorCode::TooLarge)) {
            self.topic = Topic::Lost;
        }
        match self.window.on_refusal(sequence, refusal, now) {
            Refused::Resent => {}
            Refused::Failed(failed) => self.complete([failed]),
            Refused::Fenced(refusal) => {
                let outcome = Outcome::Definite;
                self.shared.close(PublishError::Refused { refusal: refusal.clone(), outcome });
                self.fail_all(|outcome| PublishError::Refused {
                    refusal: refusal.clone(),
                    outcome,
                });
            }
        }
    }

    /// The topic was looked up again.
    pub(crate) fn on_topic(&mut self, found: Result<TopicInfo, Refusal>, now: Instant) {
        self.asking = Asking::No;
        match found {
            Ok(info) => {
                self.topic = Topic::Known(info.id);
                self.shared.set_message_bytes_max(info.settings.message_bytes_max);
            }
            Err(refusal) => self.on_not_told(&refusal, now),
        }
    }

    /// The producer was opened anew.
    pub(crate) fn on_producer(&mut self, opened: Result<ProducerOpened, Refusal>, now: Instant) {
        self.asking = Asking::No;
        match opened {
            Ok(opened) => {
                let Reopened { stored, failed } = self.window.on_reopened(&opened);
                for batch in stored {
                    // Whether more than this was reached, nobody can tell any more.
                    let durability = Durability::Written;
                    let accepted = Accepted { base: None, durability, duplicate: true };
                    self.shared.complete(&batch, Ok(accepted));
                }
                self.complete(failed);
            }
            Err(refusal) => self.on_not_told(&refusal, now),
        }
    }

    /// Topic or producer is asked for again when it is needed: later, if that can help what waits.
    fn on_not_told(&mut self, refusal: &Refusal, now: Instant) {
        if refusal.is_retriable() {
            let pause = refusal.retry_after().unwrap_or(ASK_PAUSE);
            self.asking = Asking::After(now + pause);
        } else {
            self.fail_all(|outcome| PublishError::Refused { refusal: refusal.clone(), outcome });
        }
    }

    /// Gives up what has waited too long.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if let Asking::After(at) = self.asking
            && at <= now
        {
            self.asking = Asking::No;
        }
        let failed = self.window.expire(now);
        self.complete(failed);
        let Some(limit) = now.checked_sub(self.shared.timeout) else {
            return;
        };
        while let Some(batch) = self.shared.take_older(limit) {
            let error = PublishError::TimedOut { outcome: Outcome::Definite, last: None };
            self.complete([(batch, error)]);
        }
    }

    /// When [`Self::on_time`] or [`Self::fill`] next has something to do that nothing else announces.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.shared.oldest().map(|since| since + self.shared.timeout);
        let ask = match self.asking {
            Asking::After(at) => Some(at),
            Asking::No | Asking::Now => None,
        };
        [waiting, self.window.next_deadline(), ask].into_iter().flatten().min()
    }

    /// There is a connection to this start of the broker.
    pub(crate) const fn on_connect(&mut self, start: StartEpoch) {
        self.window.on_connect(start);
    }

    /// The connection is gone.
    pub(crate) fn on_disconnect(&mut self) {
        self.asking = Asking::No;
        self.window.on_disconnect();
    }

    /// Whether it is dropped and has nothing left to send.
    pub(crate) fn is_finished(&self) -> bool {
        self.window.len() == 0 && self.shared.is_finished()
    }

    /// Whether nothing waits for a receipt.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_idle()
    }

    /// Takes no more messages.
    pub(crate) fn close(&self) {
        self.shared.close(PublishError::Closed { outcome: Outcome::Definite });
    }

    /// Gives up everything and counts the messages.
    pub(crate) fn abandon(&mut self) -> u64 {
        self.close();
        self.fail_all(|outcome| PublishError::Closed { outcome })
    }

    fn fail_all(&mut self, error: impl Fn(Outcome) -> PublishError) -> u64 {
        let mut failed = self.window.fail_all(&error);
        while let Some(batch) = self.shared.take(Take::Any) {
            failed.push((batch, error(Outcome::Definite)));
        }
        let messages = failed.iter().map(|(batch, _)| u64::from(batch.count)).sum();
        self.complete(failed);
        messages
    }

    fn complete(&self, failed: impl IntoIterator<Item = Failed<Batch>>) {
        for (batch, error) in failed {
            self.shared.complete(&batch, Err(error));
        }
    }

    pub(crate) fn key(&self) -> Key {
        self.shared.key
    }
}
