//! Who has something to send, in turn.

use crate::publisher;
use posthouse_protocol::ConsumerId;
use std::collections::{HashSet, VecDeque};

/// A publisher or a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    Publisher(publisher::Key),
    Consumer(ConsumerId),
}

/// A queue in which each party stands at most once.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    queue: VecDeque<Party>,
    members: HashSet<Party>,
}

impl Ready {
    /// Puts `party` at the end, unless it stands in the queue already.
    pub(crate) fn mark(&mut self, party: Party) {
        if self.members.insert(party) {
            self.queue.push_back(party);
        }
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self) -> Option<Party> {
        let party = self.queue.pop_front()?;
        self.members.remove(&party);
        Some(party)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
