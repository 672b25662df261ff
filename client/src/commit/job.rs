//! A commit on its way: what is sent, and who waits for the answer.

use super::assemble::Legend;
use super::lane::{Failed, Reason};
use super::{Committed, Key};
use crate::Receipt;
use crate::consumer::Delivery;
use crate::error::{CommitError, CommitErrorKind};
use bytes::Bytes;
use posthouse_protocol::message::{self, Operation};
use posthouse_protocol::{DecodeError, Outcome, Sequence};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// One commit.
#[derive(Debug)]
pub(crate) struct Job {
    /// The named producer that it belongs to; `None` for any.
    pub(crate) lane: Option<Key>,
    /// The number that the application wants it to have.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) tail: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) key: Legend,
    pub(crate) deliveries: Vec<Arc<Delivery>>,
    pub(crate) answer: oneshot::Sender<Result<Committed, CommitError>>,
    /// Gives its room back when it is over.
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Job {
    /// Messages in it, for the report of what was left undone.
    pub(crate) fn messages(&self) -> u64 {
        self.key.messages().len() as u64
    }

    /// It is done, as the broker says.
    pub(crate) fn committed(self, committed: &message::Committed, sequence: Sequence) {
        if committed.published.len() != self.key.publishes() {
            let found = committed.published.len() as u64;
            let error = DecodeError::Invalid { field: "Committed.published", found };
            return self.end(CommitErrorKind::Protocol(error));
        }
        self.deliveries.iter().for_each(|delivery| delivery.settled_by_commit());
        let message::Committed { published, durability, duplicate } = committed;
        let (durability, duplicate) = (*durability, *duplicate);
        let receipt = |(id, publish, position): &(_, u32, u32)| {
            let place = usize::try_from(*publish).ok().and_then(|place| published.get(place));
            let base = place.and_then(|published| published.base);
            let offset = base.map(|base| base.plus(u64::from(*position)));
            Receipt { id: *id, offset, durability, duplicate }
        };
        let receipts = self.key.messages().iter().map(receipt).collect();
        let sequence = sequence.0;
        // Nobody may be waiting any more; it is done all the same.
        let _ = self.answer.send(Ok(Committed { receipts, durability, duplicate, sequence }));
    }

    /// It has failed. Its deliveries go back with the error, and are nacked where nobody takes it.
    pub(crate) fn failed(failed: Failed<Self>) {
        let Failed { job, reason, outcome } = failed;
        let kind = match reason {
            Reason::Refused(refusal) => {
                let at = refusal.at().and_then(|at| job.key.part(at));
                CommitErrorKind::Refused { refusal, outcome, at }
            }
            Reason::TimedOut(last) => CommitErrorKind::TimedOut { outcome, last },
            Reason::Closed => CommitErrorKind::Closed { outcome },
        };
        job.end(kind);
    }

    /// It was not taken on.
    pub(crate) fn refused(self, reason: Reason) {
        Self::failed(Failed { job: self, reason, outcome: Outcome::Definite });
    }

    fn end(self, kind: CommitErrorKind) {
        drop(self.answer.send(Err(CommitError::new(kind, self.deliveries))));
    }
}
