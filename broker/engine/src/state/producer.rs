//! Senders: their high-water marks and the results that a repeat is answered with.

use crate::event::{self, Placed};
use posthouse_protocol::{
    LogIndex, Name, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId, wire_struct,
    wire_union,
};
use std::collections::VecDeque;

/// Results kept for each producer.
pub(crate) const RECENT_MAX: usize = 64;
/// Places kept for each producer, all its results together; the latest result is kept whatever it
/// has.
pub(crate) const RECENT_PLACES_MAX: usize = 4096;

wire_struct! {
    /// A publish that was accepted.
    pub struct Accepted {
        /// As which one.
        pub sequence: Sequence,
        /// Where.
        pub topic: TopicId,
        /// The first message's offset; `None` if the messages were delayed.
        pub base: Option<Offset>,
        /// How many messages.
        pub count: u32,
        /// The batch's header checksum.
        pub digest: u32,
        /// Whether the topic was `written` then.
        pub written: bool,
        /// The frame that it is in.
        pub index: LogIndex,
    }

    /// A commit that was accepted.
    pub struct AcceptedCommit {
        /// As which one.
        pub sequence: Sequence,
        /// Over operations and batches.
        pub digest: u32,
        /// Whether everything that it touched was `written` then.
        pub written: bool,
        /// The frame that it is in.
        pub index: LogIndex,
        /// Where its batches went, in the order of the operations.
        pub published: Vec<Placed>,
    }
}

wire_union! {
    /// A result that is kept for repeats.
    pub enum Kept {
        /// Of a publish.
        Publish(Accepted) = 1,
        /// Of a commit.
        Commit(AcceptedCommit) = 2,
    }
}

impl Kept {
    pub(crate) const fn sequence(&self) -> Sequence {
        match self {
            Self::Publish(accepted) => accepted.sequence,
            Self::Commit(accepted) => accepted.sequence,
        }
    }

    /// What it counts for in [`RECENT_PLACES_MAX`].
    fn places(&self) -> usize {
        match self {
            Self::Publish(_) => 1,
            Self::Commit(accepted) => accepted.published.len().max(1),
        }
    }
}

/// The durable state of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) id: ProducerId,
    pub(crate) name: Option<Name>,
    pub(crate) epoch: ProducerEpoch,
    /// The highest sequence accepted.
    pub(crate) last: Sequence,
    /// When that was, or when it was opened last, whichever is later.
    pub(crate) last_at: Timestamp,
    /// The latest results.
    pub(crate) recent: Recent,
}

/// Results of one producer, ascending by sequence; at most [`RECENT_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    results: VecDeque<Kept>,
    places: usize,
}

impl Producer {
    pub(super) fn new(event: &event::ProducerOpened, at: Timestamp) -> Self {
        Self {
            id: event.id,
            name: event.name.clone(),
            epoch: event.epoch,
            last: Sequence::ZERO,
            last_at: at,
            recent: Recent::default(),
        }
    }

    /// The result of `sequence`, if it is still kept.
    pub(crate) fn result_of(&self, sequence: Sequence) -> Option<&Kept> {
        let results = &self.recent.results;
        let at = results.binary_search_by_key(&sequence, Kept::sequence).ok()?;
        results.get(at)
    }

    /// Whether nothing was accepted as `sequence`, and nothing can be any more. Of a number below the
    /// oldest result that is kept this is not known, and the answer no.
    pub(crate) fn has_passed_over(&self, sequence: Sequence) -> bool {
        let oldest = self.recent.results.front().map(Kept::sequence);
        oldest.is_some_and(|oldest| oldest < sequence)
            && sequence <= self.last
            && self.result_of(sequence).is_none()
    }

    pub(super) fn accept(&mut self, at: Timestamp, kept: Kept) {
        self.last = kept.sequence();
        self.last_at = self.last_at.max(at);
        self.recent.push(kept);
    }
}

impl Recent {
    /// Adds the latest result and drops the oldest ones beyond the limits.
    pub(super) fn push(&mut self, kept: Kept) {
        self.places += kept.places();
        self.results.push_back(kept);
        while self.results.len() > RECENT_MAX
            || (self.places > RECENT_PLACES_MAX && self.results.len() > 1)
        {
            let oldest = self.results.pop_front();
            self.places -= oldest.map_or(0, |oldest| oldest.places());
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Kept> {
        self.results.iter()
    }
}
