//! What is left of a slice, and how messages are checked and taken from it.

use crate::consumer::cut;
use crate::error::ReadError;
use crate::record::Record;
use crate::records::{Records, Sound};
use bytes::Bytes;
use posthouse_protocol::message::Slice;
use posthouse_protocol::{DecodeError, Offset};

/// Messages that are checked together before they are taken one by one: what they occupy stays in the
/// processor's first cache.
const CHECKED_TOGETHER: u32 = 64;
/// Messages that are taken together at most.
const RECORDS_MAX: u32 = 1_000;

/// What is left of a slice.
#[derive(Debug)]
pub(super) struct Part {
    index: Bytes,
    bodies: Bytes,
    next: Offset,
    left: u32,
    /// The lengths of entry and body of those in front that are known to be sound, the first one last.
    sound: Vec<(usize, usize)>,
}

impl Part {
    /// Cuts a slice's messages off the front of what has come.
    pub(super) fn cut(slice: &Slice, tail: &mut Bytes) -> Result<Self, DecodeError> {
        let index = cut(tail, slice.index_len)?;
        let bodies = cut(tail, slice.bodies_len)?;
        Ok(Self { index, bodies, next: slice.first, left: slice.count, sound: Vec::new() })
    }

    /// How many messages are left.
    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    /// Takes the next message.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Record, ReadError> {
        loop {
            if let Some(lens) = self.sound.pop() {
                let offset = self.next;
                self.passed(1);
                let (index, bodies) = (&mut self.index, &mut self.bodies);
                return Ok(Record::cut_sound(offset, lens, index, bodies));
            }
            let mut sound = std::mem::take(&mut self.sound);
            let checked = self.check(CHECKED_TOGETHER, |entry, body| sound.push((entry, body)));
            sound.reverse();
            self.sound = sound;
            checked?;
        }
    }

    /// Takes the next messages up to one that is damaged.
    pub(super) fn take_many(&mut self) -> Result<Records, ReadError> {
        self.sound.clear();
        let sound = self.check(RECORDS_MAX, |_, _| {})?;
        let records = Records::cut(self.next, sound, &mut self.index, &mut self.bodies);
        self.passed(sound.count);
        Ok(records)
    }

    /// Checks at most so many, of which at least one is sound. A damaged one in front is passed over.
    fn check(&mut self, most: u32, each: impl FnMut(usize, usize)) -> Result<Sound, ReadError> {
        // A slice that claims to have none has at least one error.
        let most = self.left.min(most).max(1);
        Sound::in_front(&self.index, &self.bodies, most, each).map_err(|error| {
            let offset = self.next;
            let cut = Record::cut(offset, &mut self.index, &mut self.bodies);
            // Where entries and bodies do not fit together, nothing behind can be found.
            self.passed(if cut.is_ok() { 1 } else { self.left });
            ReadError::Damaged { offset, error }
        })
    }

    fn passed(&mut self, count: u32) {
        self.next = self.next.plus(u64::from(count));
        self.left = self.left.saturating_sub(count);
    }
}
