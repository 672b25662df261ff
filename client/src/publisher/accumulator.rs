//! Messages that wait to be sent, encoded as they come and cut into batches.
//!
//! Pure: no clock, no IO. A batch is cut when it is full or when the driver can send it, so its
//! size follows the load without anybody waiting for more.

use super::pending::Outcomes;
use bytes::Bytes;
use posthouse_protocol::batch::{self, BatchBuilder, ENTRY_LEN_MIN, encoded_len};
use posthouse_protocol::{DecodeError, Timestamp, limits};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes at which a batch is cut. A larger message travels alone.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

// So many bytes never hold more messages than a batch may have.
const _: () = assert!(BATCH_BYTES / ENTRY_LEN_MIN < limits::BATCH_MESSAGES_MAX as usize);

/// A batch ready to be sent.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Its encoding.
    pub(crate) bytes: Bytes,
    /// How many messages it has.
    pub(crate) count: u32,
    /// Room that its messages take in the publisher.
    pub(crate) charge: usize,
    /// Where its messages' futures look.
    pub(crate) outcomes: Arc<Outcomes>,
    /// When its first message was submitted.
    pub(crate) since: Instant,
}

/// Which batches may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Only those that are full.
    Full,
    /// Also the one that is being filled.
    Any,
}

/// Where a message went.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Its batch's result.
    pub(crate) outcomes: Arc<Outcomes>,
    /// Its position in the batch.
    pub(crate) position: u32,
    /// Whether a batch became full by it.
    pub(crate) cut: bool,
}

/// The waiting messages of one publisher.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    full: VecDeque<Batch>,
    builder: BatchBuilder,
    /// What the builder's messages share; there exactly if it has any.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    outcomes: Arc<Outcomes>,
    charge: usize,
    since: Instant,
    created_at: Timestamp,
    /// Whether its messages have times at which they are due: the broker takes no batch with both.
    timed: bool,
}

impl Accumulator {
    /// Adds a message that takes `charge` of room; a batch with others has at most `bytes_max`.
    /// `now` is asked only when a batch is begun.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] naming the limit that the message exceeds; nothing is added.
    pub(crate) fn push(
        &mut self,
        message: &batch::Message,
        charge: usize,
        bytes_max: usize,
        now: impl FnOnce() -> Instant,
    ) -> Result<Pushed, DecodeError> {
        let had_room = self.has_room_for(message, bytes_max);
        if !had_room {
            self.cut();
        }
        self.builder.push(message)?;
        let position = self.builder.count() - 1;
        let open = self.open.get_or_insert_with(|| Open {
            outcomes: Arc::new(Outcomes::new()),
            charge: 0,
            since: now(),
            created_at: message.created_at,
            timed: is_timed(message),
        });
        open.charge += charge;
        Ok(Pushed { outcomes: Arc::clone(&open.outcomes), position, cut: !had_room })
    }

    fn has_room_for(&self, message: &batch::Message, bytes_max: usize) -> bool {
        let bytes_max = bytes_max.min(BATCH_BYTES);
        let alike = self.open.as_ref().is_none_or(|open| open.timed == is_timed(message));
        let fits = self.builder.len() + encoded_len(message) <= bytes_max;
        self.builder.is_empty() || (alike && fits)
    }

    fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            let count = self.builder.count();
            let bytes = self.builder.finish(open.created_at);
            let Open { outcomes, charge, since, .. } = open;
            self.full.push_back(Batch { bytes, count, charge, outcomes, since });
        }
    }

    /// Takes the oldest batch that may leave.
    pub(crate) fn take(&mut self, which: Take) -> Option<Batch> {
        if self.full.is_empty() && which == Take::Any {
            self.cut();
        }
        self.full.pop_front()
    }

    /// Takes the oldest batch if its first message was submitted at `limit` or before.
    pub(crate) fn take_older(&mut self, limit: Instant) -> Option<Batch> {
        if self.oldest()? > limit { None } else { self.take(Take::Any) }
    }

    /// When the message that has waited longest was submitted.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let open = self.open.as_ref().map(|open| open.since);
        self.full.front().map(|batch| batch.since).or(open)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_none()
    }
}

fn is_timed(message: &batch::Message) -> bool {
    message.due_at != Timestamp::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_leaves_as_one_batch() {
        let mut accumulator = Accumulator::default();
        let positions = [1, 1, 1].map(|len| push(&mut accumulator, len).position);

        let batch = accumulator.take(Take::Any).unwrap();

        assert_eq!(positions, [0, 1, 2]);
        assert_eq!((batch.count, batch.charge), (3, 30));
        assert!(accumulator.is_empty());
    }

    #[test]
    fn delayed_messages_and_others_are_never_in_one_batch() {
        let mut accumulator = Accumulator::default();
        for due in [0, 0, 7, 9, 0] {
            let message = batch::Message { due_at: Timestamp(due), ..batch::Message::default() };
            accumulator.push(&message, 10, BATCH_BYTES, Instant::now).unwrap();
        }
        let counts = std::iter::from_fn(|| accumulator.take(Take::Any)).map(|batch| batch.count);

        assert_eq!(counts.collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn batch_that_is_not_full_stays_unless_asked_for() {
        let mut accumulator = Accumulator::default();
        push(&mut accumulator, 1);

        assert!(accumulator.take(Take::Full).is_none());
        assert!(accumulator.take(Take::Any).is_some());
    }

    #[test]
    fn message_without_room_begins_the_next_batch() {
        let mut accumulator = Accumulator::default();
        push(&mut accumulator, BATCH_BYTES / 2);

        let second = push(&mut accumulator, BATCH_BYTES / 2);

        assert_eq!((second.cut, second.position), (true, 0));
        let counts = [(); 2].map(|()| accumulator.take(Take::Any).unwrap().count);
        assert_eq!(counts, [1, 1]);
    }

    #[test]
    fn message_larger_than_a_batch_travels_alone() {
        let mut accumulator = Accumulator::default();
        let cuts = [1, BATCH_BYTES * 2, 1].map(|len| push(&mut accumulator, len).cut);

        assert_eq!(cuts, [false, true, true]);
    }

    #[test]
    fn message_beyond_a_limit_changes_nothing() {
        let mut accumulator = Accumulator::default();
        let message = batch::Message { key: Some(vec![0; 2000].into()), ..Default::default() };

        let refused = accumulator.push(&message, 1, BATCH_BYTES, Instant::now);

        assert!(refused.is_err() && accumulator.is_empty());
    }

    fn push(accumulator: &mut Accumulator, len: usize) -> Pushed {
        let message = batch::Message { body: vec![0; len].into(), ..Default::default() };
        accumulator.push(&message, 10, BATCH_BYTES, Instant::now).unwrap()
    }
}
