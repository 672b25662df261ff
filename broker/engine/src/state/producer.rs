//! Senders: their high-water marks and the results that a repeat is answered with.

use posthouse_protocol::{
    LogIndex, Name, Offset, ProducerEpoch, ProducerId, Sequence, TopicId, wire_struct,
};
use std::collections::VecDeque;

/// Results kept for each producer.
pub(crate) const RECENT_MAX: usize = 64;

wire_struct! {
    /// A publish that was accepted.
    pub struct Accepted {
        /// As which one.
        pub sequence: Sequence,
        /// Where.
        pub topic: TopicId,
        /// The first message's offset.
        pub base: Offset,
        /// How many messages.
        pub count: u32,
        /// The batch's header checksum.
        pub digest: u32,
        /// Whether the topic was `written` then.
        pub written: bool,
        /// The frame that it is in.
        pub index: LogIndex,
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
    /// The latest results, ascending by sequence; at most [`RECENT_MAX`].
    pub(crate) recent: VecDeque<Accepted>,
}

impl Producer {
    pub(super) const fn new(id: ProducerId, name: Option<Name>, epoch: ProducerEpoch) -> Self {
        Self { id, name, epoch, last: Sequence::ZERO, recent: VecDeque::new() }
    }

    /// The result of `sequence`, if it is still kept.
    pub(crate) fn result_of(&self, sequence: Sequence) -> Option<&Accepted> {
        let at = self.recent.binary_search_by_key(&sequence, |accepted| accepted.sequence).ok()?;
        self.recent.get(at)
    }

    pub(super) fn accept(&mut self, accepted: Accepted) {
        self.last = accepted.sequence;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(accepted);
    }
}
