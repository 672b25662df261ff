//! The broker in the model: one producer, one log, and what it says to a commit.

use super::super::machine::{BrokerFault, Call, Producer, Sent};
use crate::outbox::RowId;
use std::collections::BTreeMap;

/// Mistakes of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flaw {
    /// It takes a commit whose predecessor it has not taken.
    NoPrevCheck,
    /// The high-water mark is in a record of its own, which a crash may lose.
    SeparateMark,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Broker {
    pub(super) epoch: Option<u64>,
    pub(super) last: u64,
    /// The mark that a crash leaves, under [`Flaw::SeparateMark`].
    pub(super) last_on_disk: u64,
    pub(super) results: BTreeMap<u64, Vec<RowId>>,
    pub(super) log: Vec<RowId>,
    /// Whether the topic of the odd-numbered poison row is there.
    pub(super) has_topic: bool,
    pub(super) flaw: Option<Flaw>,
}

/// A commit on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Commit {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) prev: u64,
    pub(super) rows: Vec<RowId>,
}

impl Broker {
    /// Takes a commit or says why not. `poison` is the row whose topic may be missing.
    pub(super) fn take(&mut self, commit: &Commit, poison: Option<RowId>) -> Sent {
        let Some(epoch) = self.epoch else { return Sent::UnknownProducer };
        if commit.epoch < epoch {
            return Sent::Fenced;
        }
        if commit.sequence <= self.last {
            return match self.results.get(&commit.sequence) {
                Some(rows) if *rows != commit.rows => Sent::Reused,
                _ => Sent::Accepted,
            };
        }
        let bad = poison.filter(|row| !self.has_topic && commit.rows.contains(row));
        if let Some(row) = bad {
            return Sent::Poison { rows: vec![row], reason: String::new() };
        }
        if commit.prev != self.last && self.flaw != Some(Flaw::NoPrevCheck) {
            return Sent::OutOfSequence;
        }
        self.last_on_disk = self.last;
        self.last = commit.sequence;
        self.log.extend(&commit.rows);
        self.results.insert(commit.sequence, commit.rows.clone());
        Sent::Accepted
    }

    pub(super) fn call(&mut self, call: Call) -> Result<Producer, BrokerFault> {
        let last = self.last;
        match call {
            Call::Describe { .. } => {
                Ok(self.epoch.map_or(Producer::Unknown, |epoch| Producer::Known { epoch, last }))
            }
            Call::Open { epoch } if self.epoch.is_some_and(|present| epoch < present) => {
                Err(BrokerFault::Fenced)
            }
            Call::Open { epoch } => {
                self.epoch = Some(epoch);
                Ok(Producer::Known { epoch, last })
            }
        }
    }

    /// Stops and starts: what is on disk is there again.
    pub(super) fn crash(&mut self) {
        if self.flaw == Some(Flaw::SeparateMark) {
            self.last = self.last_on_disk;
            self.results.retain(|sequence, _| *sequence <= self.last_on_disk);
        }
    }
}
