//! A slice of messages that has arrived and is being taken one by one.

use super::leases::RunNumber;
use crate::record::Record;
use bytes::Bytes;
use posthouse_protocol::message::{Deliver, DeliverySlice};
use posthouse_protocol::{Attempt, DecodeError, Fence, Offset};

/// What is left of a slice. It shares the memory of the frame that it came in.
#[derive(Debug)]
pub(super) struct Arrived {
    index: Bytes,
    bodies: Bytes,
    pub(super) next: Offset,
    pub(super) fence: Fence,
    pub(super) left: u32,
    pub(super) run: RunNumber,
    pub(super) position: u32,
    attempt: Attempt,
    ack_floor: Offset,
    broken: Option<DecodeError>,
}

/// Which delivery a message is.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) offset: Offset,
    pub(super) fence: Fence,
    pub(super) attempt: Attempt,
    pub(super) ack_floor: Offset,
    pub(super) run: RunNumber,
    pub(super) position: u32,
}

impl Arrived {
    /// Cuts a slice off the tail of its frame.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the tail is shorter than the slice says.
    pub(super) fn cut(
        deliver: &Deliver,
        slice: &DeliverySlice,
        tail: &mut Bytes,
    ) -> Result<Self, DecodeError> {
        Ok(Self {
            index: cut(tail, slice.slice.index_len)?,
            bodies: cut(tail, slice.slice.bodies_len)?,
            next: slice.slice.first,
            fence: Fence { epoch: deliver.fence_epoch, counter: slice.fence_counter },
            left: slice.slice.count,
            run: RunNumber::NONE,
            position: 0,
            attempt: slice.attempt,
            ack_floor: deliver.ack_floor,
            broken: None,
        })
    }

    /// Takes the next message. Once one cannot be read, neither can those behind it.
    pub(super) fn take(&mut self) -> (Result<Record, DecodeError>, At) {
        let at = At {
            offset: self.next,
            fence: self.fence,
            attempt: self.attempt,
            ack_floor: self.ack_floor,
            run: self.run,
            position: self.position,
        };
        let record = match self.broken {
            None => Record::cut(self.next, &mut self.index, &mut self.bodies),
            Some(error) => Err(error),
        };
        self.broken = record.as_ref().err().copied();
        self.next = self.next.next();
        self.fence = self.fence.plus(1);
        self.position += 1;
        self.left = self.left.saturating_sub(1);
        (record, at)
    }
}

/// Cuts `len` bytes off the front.
pub(crate) fn cut(tail: &mut Bytes, len: u32) -> Result<Bytes, DecodeError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if tail.len() < len {
        return Err(DecodeError::Truncated { field: "slice" });
    }
    Ok(tail.split_to(len))
}
