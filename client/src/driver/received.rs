//! Bytes that have come and were not taken as frames yet.
//!
//! Frames share the memory that they were read into as long as the application keeps anything of
//! them. Fresh memory costs about as much as reading into it, for the system gives and clears it page
//! by page; so a buffer is used again once all frames in it are gone.

use bytes::BytesMut;
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::{DecodeError, limits};
use std::collections::VecDeque;

/// Room that is made at a time, unless a frame is known to need more.
const READ_BYTES: usize = 128 << 10;
/// Buffers with frames in use that are kept in mind: a reader has three parts at a time.
const FORMER_MAX: usize = 5;
/// Larger buffers are given back once they are full, or nothing comes for a while.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// What was received and in which buffers.
#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: BytesMut,
    /// Length of the buffer that `bytes` is in.
    size: usize,
    /// Other buffers and their lengths, oldest first. Frames in them may still be in use.
    former: VecDeque<(BytesMut, usize)>,
}

impl Received {
    /// Where to read to, with room that makes a read worth a call.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        let (least, wanted) = match self.missing() {
            // Twice as much: who takes no frames any more would else copy everything again and again.
            0 => (READ_BYTES / 4, READ_BYTES.max(self.bytes.len())),
            missing => (missing, missing.max(READ_BYTES)),
        };
        if self.bytes.capacity() - self.bytes.len() < least {
            self.make_room(wanted);
        }
        &mut self.bytes
    }

    /// The next whole frame.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; what follows cannot be understood.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        frame::decode(&mut self.bytes, limits::FRAME_BYTES_MAX)
    }

    /// Gives back the memory of buffers that are not being read into.
    pub(super) fn rest(&mut self) {
        self.former.clear();
        if self.size > KEPT_BYTES_MAX && self.bytes.is_empty() {
            *self = Self::default();
        }
    }

    /// Bytes of the frame in front that have not come yet, as far as is known. It gets its room at
    /// once: grown step by step it would be copied with each.
    fn missing(&self) -> usize {
        match frame::frame_len(&self.bytes, limits::FRAME_BYTES_MAX) {
            Ok(Some(len)) => len.saturating_sub(self.bytes.len()),
            // A length that makes no sense is found when the frame is decoded.
            Ok(None) | Err(_) => 0,
        }
    }

    fn make_room(&mut self, wanted: usize) {
        if self.size <= KEPT_BYTES_MAX && self.bytes.try_reclaim(wanted) {
            return;
        }
        let needed = self.bytes.len() + wanted;
        let (mut bytes, size) = self.former_with(needed).unwrap_or_else(|| {
            let size = needed.next_multiple_of(READ_BYTES);
            (BytesMut::with_capacity(size), size)
        });
        bytes.extend_from_slice(&self.bytes);
        let (mut former, size) =
            (std::mem::replace(&mut self.bytes, bytes), std::mem::replace(&mut self.size, size));
        if size == 0 || size > KEPT_BYTES_MAX {
            return;
        }
        former.clear();
        self.former.push_back((former, size));
        if self.former.len() > FORMER_MAX {
            self.former.pop_front();
        }
    }

    /// A former buffer with room for `needed` bytes that nobody uses any more.
    fn former_with(&mut self, needed: usize) -> Option<(BytesMut, usize)> {
        let is_free = |(bytes, _): &mut (BytesMut, usize)| bytes.try_reclaim(needed);
        let place = self.former.iter_mut().position(is_free)?;
        self.former.remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use posthouse_protocol::message::Fetched;
    use posthouse_protocol::{CorrelationId, Offset, Reply};

    const PART: usize = 1 << 20;

    #[test]
    fn frames_are_taken_as_they_were_sent_whatever_comes_of_their_buffers() {
        let mut received = Received::default();
        let mut held = VecDeque::new();
        for number in 0..50_u8 {
            let len = [10, 3000, PART, PART + 77][usize::from(number) % 4];
            held.push_back((number, len, receive(&mut received, number, len)));
            if held.len() > usize::from(number) % 7 {
                let (number, len, tail) = held.pop_front().unwrap();
                assert_eq!(tail, vec![number; len]);
            }
        }
        for (number, len, tail) in held {
            assert_eq!(tail, vec![number; len]);
        }
    }

    #[test]
    fn memory_is_used_again_once_its_frames_are_gone() {
        let mut received = Received::default();
        let mut places = std::collections::BTreeSet::new();
        let mut held = VecDeque::new();
        for number in 0..100 {
            let tail = receive(&mut received, number, PART);
            places.insert(tail.as_ptr());
            held.push_back(tail);
            if held.len() > 3 {
                held.pop_front();
            }
        }
        assert!(places.len() <= 5, "{} buffers", places.len());
    }

    #[test]
    fn what_is_kept_is_bounded_and_given_back() {
        let mut received = Received::default();
        let held: Vec<Bytes> = (0..20).map(|number| receive(&mut received, number, PART)).collect();
        assert_eq!(received.former.len(), FORMER_MAX);
        drop(held);
        received.rest();
        assert!(received.former.is_empty());

        let large = receive(&mut received, 1, KEPT_BYTES_MAX);
        drop(receive(&mut received, 2, PART));
        let is_kept = |(_, size): &(BytesMut, usize)| *size > KEPT_BYTES_MAX;
        assert!(!received.former.iter().any(is_kept), "{:?}", large.len());

        drop(receive(&mut received, 1, KEPT_BYTES_MAX));
        (0..4).for_each(|number| drop(receive(&mut received, number, PART)));
        assert!(received.size <= KEPT_BYTES_MAX, "full, and nothing of it is in use");
        drop(receive(&mut received, 1, KEPT_BYTES_MAX));
        received.rest();
        assert_eq!(received.size, 0, "nothing comes any more");
    }

    #[test]
    fn frame_stays_where_its_first_bytes_came_once_its_length_is_known() {
        for len in (PART..PART + READ_BYTES).step_by(READ_BYTES / 8) {
            let mut received = Received::default();
            let mut places = std::collections::BTreeSet::new();
            for piece in frame(7, len).chunks(10_000) {
                let space = received.space();
                assert!(space.capacity() - space.len() >= piece.len());
                space.extend_from_slice(piece);
                places.insert(space.as_ptr());
            }
            assert!(received.next_frame().unwrap().is_some());
            assert!(places.len() <= 2, "{} places", places.len());
        }
    }

    #[test]
    fn frames_that_nobody_takes_are_copied_a_few_times_only() {
        let mut received = Received::default();
        let sent = frame(7, 100);
        let mut sizes = std::collections::BTreeSet::new();
        for _ in 0..40_000 {
            received.space().extend_from_slice(&sent);
            sizes.insert(received.size);
        }
        assert!(received.bytes.len() > 40 * READ_BYTES);
        assert!(sizes.len() < 10, "{} copies", sizes.len());
    }

    /// Receives a frame with `len` bytes `fill` behind its head, in pieces; gives those bytes.
    fn receive(received: &mut Received, fill: u8, len: usize) -> Bytes {
        let mut sent = frame(fill, len);
        loop {
            if let Some(frame) = received.next_frame().unwrap() {
                return frame.tail;
            }
            let space = received.space();
            let room = space.capacity() - space.len();
            assert!(room > 0);
            let piece = sent.split_to(room.min(sent.len()).min(200_000));
            assert!(!piece.is_empty(), "all was sent, and it is no whole frame");
            let before = space.as_ptr();
            space.extend_from_slice(&piece);
            assert_eq!(space.as_ptr(), before, "there was room for it");
        }
    }
    fn frame(fill: u8, len: usize) -> BytesMut {
        let reply = Reply::Fetched(Fetched {
            next: Offset(0),
            end: Offset(0),
            damaged_from: None,
            slices: Vec::new(),
        });
        let mut sent = BytesMut::new();
        frame::encode_head(&mut sent, reply.kind(), CorrelationId(1), len, |out| reply.encode(out));
        sent.resize(sent.len() + len, fill);
        sent
    }
}
