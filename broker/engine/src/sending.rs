//! Where a publish or a commit stands in its producer's sequence. Both share the sequence and the
//! results that repeats are answered with.

use crate::bugs::{Bug, planted};
use crate::effect::Gate;
use crate::refusal::Refusal;
use crate::state::{Kept, Producer, State};
use posthouse_protocol::message::{Commit, Publish};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{ErrorCode, LogIndex, ProducerEpoch, ProducerId, Sequence};

/// Who sends, and as which one of its publishes and commits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
    pub(crate) prev: Sequence,
}

/// Where it stands.
#[derive(Debug)]
pub(crate) enum Standing<'a> {
    /// It is the next one.
    Next,
    /// It was accepted before, with this result if that is still kept.
    Repeat(Option<&'a Kept>),
}

impl From<&Publish> for Sending {
    fn from(request: &Publish) -> Self {
        let Publish { producer, epoch, sequence, prev, .. } = *request;
        Self { producer, epoch, sequence, prev }
    }
}

impl From<&Commit> for Sending {
    fn from(request: &Commit) -> Self {
        let Commit { producer, epoch, sequence, prev, .. } = *request;
        Self { producer, epoch, sequence, prev }
    }
}

impl Sending {
    /// The producer, and where this stands in its sequence.
    ///
    /// # Errors
    ///
    /// A refusal: no such producer or epoch, a fenced one, or a gap in the sequence.
    pub(crate) fn standing<'a>(
        &self,
        state: &'a State,
    ) -> Result<(&'a Producer, Standing<'a>), Refusal> {
        let producer = state.producers.get(&self.producer);
        let producer = producer.ok_or_else(|| self.unknown())?;
        if self.epoch < producer.epoch {
            let text = format!("epoch {} was replaced by epoch {}", self.epoch, producer.epoch);
            return Err(Refusal::of_state(ErrorCode::Fenced, text));
        }
        if self.epoch > producer.epoch {
            return Err(self.unknown());
        }
        if self.sequence <= producer.last {
            if producer.has_passed_over(self.sequence) {
                return Err(self.passed_over(producer.last));
            }
            return Ok((producer, Standing::Repeat(producer.result_of(self.sequence))));
        }
        if self.prev != producer.last && !planted(Bug::LosePrevCheck) {
            let (prev, last) = (self.prev, producer.last);
            let text =
                format!("the last publish accepted is {last}, not {prev}: send that one first");
            return Err(Refusal::of_state(ErrorCode::OutOfSequence, text));
        }
        Ok((producer, Standing::Next))
    }

    /// The refusal of other content under a number that was used.
    pub(crate) fn reused(&self) -> Refusal {
        let text = format!("sequence {} was used before, with other content", self.sequence);
        Refusal::of_state(ErrorCode::SequenceReused, text)
    }

    /// The refusal of a number that was never used and cannot be any more.
    fn passed_over(&self, last: Sequence) -> Refusal {
        let text = format!(
            "sequence {} was left out when {last} was accepted: use one above it",
            self.sequence
        );
        Refusal::of_state(ErrorCode::SequenceReused, text)
    }

    fn unknown(&self) -> Refusal {
        let (producer, epoch) = (self.producer, self.epoch);
        let text = format!("no producer {producer} of epoch {epoch}: its results are forgotten");
        Refusal::of_state(ErrorCode::UnknownProducer, text)
    }
}

/// What the answer about the frame `index` waits for, and what it says.
pub(crate) const fn reached(written: bool, index: LogIndex) -> (Durability, Gate) {
    if written {
        (Durability::Written, Gate::Written(index))
    } else {
        (Durability::Synced, Gate::Committed(index))
    }
}
