//! Which frames count: the walk over the journal after a stop.
//!
//! Two passes. The survey finds the durable mark D, the highest durable position
//! that any sound frame anywhere names. The walk then goes from frame to frame.
//! The first bad position above D is a torn tail: it and everything after it was
//! acknowledged to nobody and is dropped. At or below D it is damage: exactly
//! those frames are fenced, and the walk goes on behind them.

use super::damage::{CorruptRange, TornTail, damaged_messages};
use crate::frame::{FrameKey, FrameView, Kind};
use crate::manifest::{Fence, SegmentEnd};
use crate::names::FileId;
use crate::segment::{HEADER_LEN, Scanner};
use posthouse_protocol::{LogIndex, StartEpoch};

/// One segment's content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    pub(crate) id: FileId,
    pub(crate) key: FrameKey,
    /// Cut where the manifest says that the segment ends.
    pub(crate) bytes: &'a [u8],
}

/// What the first pass finds in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The first sound frame's index.
    pub(crate) first: Option<LogIndex>,
    /// The highest durable position named.
    pub(crate) durable: LogIndex,
    /// The highest term.
    pub(crate) term: StartEpoch,
    /// Whether it ends with a footer: the next segment was in use.
    pub(crate) closed: bool,
}

/// Looks at every sound frame of a segment.
pub(crate) fn survey(content: &Content<'_>) -> Survey {
    let mut found = Survey::default();
    for (_, frame) in Scanner::new(content.key, content.bytes) {
        let first = if frame.kind == Kind::Data { frame.index } else { frame.index.next() };
        found.first = found.first.or(Some(first));
        found.durable = found.durable.max(frame.durable);
        found.term = found.term.max(frame.term);
        found.closed |= frame.kind == Kind::Footer;
    }
    found
}

/// The second pass, across all segments.
#[derive(Debug)]
pub(crate) struct Walk {
    /// D.
    mark: LogIndex,
    /// The next data frame's index.
    next: LogIndex,
    /// The last frame's checksum, if nothing is missing since.
    prev_crc: Option<u32>,
    /// The checksum of the last frame that counts, whatever was met behind it: the next frame to be
    /// written is chained to it.
    last_crc: u32,
    /// Whether the segment before ended without a footer.
    open_end: bool,
    term: StartEpoch,
    /// Frames that an earlier recovery gave up; they stay so even if they read well now.
    fences: Vec<Fence>,
    pub(crate) corrupt: Vec<CorruptRange>,
    pub(crate) torn: Option<TornTail>,
}

/// What the walk made of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    /// The next index when the walk came to it.
    pub(crate) base: LogIndex,
    /// Behind the last frame that counts.
    pub(crate) end: SegmentEnd,
    /// How many frames count, marks and footers included.
    pub(crate) frames: u64,
}

/// What is to be done with a frame.
enum Verdict {
    Accept,
    Ignore,
    Stop,
}

impl Walk {
    /// Starts at `next`, with nothing known of what is before it.
    pub(crate) fn new(mark: LogIndex, next: LogIndex, fences: Vec<Fence>) -> Self {
        let (corrupt, torn) = (Vec::new(), None);
        let (open_end, term) = (false, StartEpoch::ZERO);
        let last_crc = 0;
        Self { mark, next, prev_crc: None, last_crc, open_end, term, fences, corrupt, torn }
    }

    /// The index after the last frame that counts.
    pub(crate) const fn next(&self) -> LogIndex {
        self.next
    }

    /// The checksum of the last frame that counts, 0 if there is none.
    pub(crate) const fn prev_crc(&self) -> u32 {
        self.last_crc
    }

    /// Goes through one segment and gives every data frame that counts to `accept`, with its
    /// position. Frames from `cut` on were written again in a later segment.
    pub(crate) fn segment<E>(
        &mut self,
        content: &Content<'_>,
        cut: LogIndex,
        mut accept: impl FnMut(u64, &FrameView<'_>) -> Result<(), E>,
    ) -> Result<Walked, E> {
        let base = self.next;
        let mut position = HEADER_LEN as u64;
        let mut expected = position;
        let mut frames = 0;
        let mut closed = false;
        for (at, frame) in Scanner::new(content.key, content.bytes) {
            if self.torn.is_some() {
                self.drop_frame();
                continue;
            }
            if frame.index >= cut {
                continue;
            }
            if std::mem::take(&mut self.open_end) {
                // Its footer may be what is missing, and the chain with it.
                self.prev_crc = None;
            }
            if at != expected {
                self.meet_gap(content, expected, &frame);
            }
            expected = at + frame.len();
            match self.judge(content, at, &frame) {
                Verdict::Ignore => continue,
                Verdict::Stop => {
                    self.drop_frame();
                    continue;
                }
                Verdict::Accept => {}
            }
            frames += 1;
            position = expected;
            closed = frame.kind == Kind::Footer;
            self.prev_crc = Some(frame.header_crc);
            self.last_crc = frame.header_crc;
            self.term = frame.term;
            if frame.kind == Kind::Data {
                self.next = frame.index.next();
                if self.is_fenced(frame.index) {
                    self.corrupt
                        .push(CorruptRange::Frames { first: frame.index, last: frame.index });
                } else {
                    accept(at, &frame)?;
                }
            }
        }
        if frames > 0 {
            self.open_end = !closed;
        }
        if !closed {
            self.end_open(content, position);
        }
        let end = SegmentEnd { last: LogIndex(self.next.0 - 1), position };
        Ok(Walked { base, end, frames })
    }

    /// Ends the walk: whatever is missing up to the mark was durable, and is lost.
    pub(crate) fn finish(&mut self) {
        if self.next <= self.mark {
            self.lose(self.mark);
        }
    }

    /// Bytes between two frames that are no frame.
    fn meet_gap(&mut self, content: &Content<'_>, position: u64, frame: &FrameView<'_>) {
        self.prev_crc = None;
        let missing = if frame.kind == Kind::Data { frame.index } else { frame.index.next() };
        if missing != self.next {
            // Frames are missing; `judge` tells whether they are torn or lost.
            return;
        }
        if self.next > self.mark {
            self.tear(content, position);
        } else {
            self.corrupt.push(CorruptRange::Bytes { file: content.id, position });
        }
    }

    fn judge(&mut self, content: &Content<'_>, at: u64, frame: &FrameView<'_>) -> Verdict {
        if self.torn.is_some() {
            return Verdict::Stop;
        }
        let data = frame.kind == Kind::Data;
        // The index that the next data frame must have where this frame stands.
        let here = if data { frame.index } else { frame.index.next() };
        if here < self.next {
            return Verdict::Ignore;
        }
        if here > self.next {
            if self.next > self.mark {
                self.tear(content, at);
                return Verdict::Stop;
            }
            let last = LogIndex(here.0 - 1).min(self.mark);
            self.lose(last);
            if self.next != here {
                self.tear(content, at);
                return Verdict::Stop;
            }
        }
        let chained = self.prev_crc.is_none_or(|crc| crc == frame.prev_crc);
        if !chained || frame.term < self.term {
            return self.judge_foreign(content, at, data);
        }
        if !data {
            return Verdict::Accept;
        }
        self.judge_bodies(content, at, frame)
    }

    /// A sound frame that does not follow from the one before it.
    fn judge_foreign(&mut self, content: &Content<'_>, at: u64, data: bool) -> Verdict {
        if self.next > self.mark {
            self.tear(content, at);
            return Verdict::Stop;
        }
        self.corrupt.push(CorruptRange::Bytes { file: content.id, position: at });
        if data {
            let index = self.next;
            self.lose(index);
        }
        Verdict::Ignore
    }

    fn judge_bodies(&mut self, content: &Content<'_>, at: u64, frame: &FrameView<'_>) -> Verdict {
        let before = self.corrupt.len();
        for entry in frame.batches {
            damaged_messages(frame.batch_bytes(&entry), &entry, frame.index, &mut self.corrupt);
        }
        if self.corrupt.len() > before && frame.index > self.mark {
            self.corrupt.truncate(before);
            self.tear(content, at);
            return Verdict::Stop;
        }
        Verdict::Accept
    }

    /// Fences the frames from the next one up to `last`.
    fn lose(&mut self, last: LogIndex) {
        let range = CorruptRange::Frames { first: self.next, last };
        if let Some(CorruptRange::Frames { last: end, .. }) = self.corrupt.last_mut()
            && end.next() == self.next
        {
            *end = last;
        } else {
            self.corrupt.push(range);
        }
        self.next = last.next();
        self.prev_crc = None;
    }

    fn tear(&mut self, content: &Content<'_>, position: u64) {
        let torn = TornTail { index: self.next, file: content.id, position, frames_dropped: 0 };
        self.torn.get_or_insert(torn);
    }

    const fn drop_frame(&mut self) {
        if let Some(torn) = &mut self.torn {
            torn.frames_dropped += 1;
        }
    }

    /// A segment that ends without a footer: what begins like a frame there is a torn one.
    fn end_open(&mut self, content: &Content<'_>, position: u64) {
        let at = usize::try_from(position).unwrap_or(usize::MAX);
        let magic = content.bytes.get(at.saturating_add(4)..at.saturating_add(8));
        if magic == Some(&content.key.magic()) && self.next > self.mark {
            self.tear(content, position);
        }
    }

    fn is_fenced(&self, index: LogIndex) -> bool {
        self.fences.iter().any(|fence| (fence.first..=fence.last).contains(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameDraft, Salt, Stamp, encode_head};

    const KEY_SALT: Salt = Salt([5; 16]);

    #[test]
    fn frame_that_does_not_follow_from_the_one_before_is_lost() {
        let mut segment = Segment::default();
        segment.frame(1, 0);
        segment.frame(2, 1);
        segment.prev_crc = 7;
        segment.frame(3, 2);
        segment.frame(4, 3);

        let (walk, accepted) = walk(&segment, 3);

        assert_eq!(accepted, [1, 2, 4]);
        let lost = CorruptRange::Frames { first: LogIndex(3), last: LogIndex(3) };
        assert!(walk.corrupt.contains(&lost), "{:?}", walk.corrupt);
        assert_eq!(walk.torn, None);
    }

    #[test]
    fn frame_of_an_earlier_start_after_a_later_one_is_not_believed() {
        let mut segment = Segment { term: 4, ..Segment::default() };
        segment.frame(1, 0);
        segment.term = 3;
        segment.frame(2, 1);

        let (walk, accepted) = walk(&segment, 1);

        assert_eq!(accepted, [1]);
        assert_eq!(walk.torn.map(|torn| torn.index), Some(LogIndex(2)));
    }

    #[test]
    fn hole_across_the_mark_is_damage_up_to_it_and_torn_above() {
        let mut segment = Segment::default();
        segment.frame(1, 0);
        segment.frame(6, 3);
        segment.frame(7, 3);

        let (walk, accepted) = walk(&segment, 3);

        assert_eq!(accepted, [1]);
        let lost = CorruptRange::Frames { first: LogIndex(2), last: LogIndex(3) };
        assert_eq!(walk.corrupt, [lost]);
        assert_eq!(walk.torn.map(|torn| (torn.index, torn.frames_dropped)), Some((LogIndex(4), 2)));
        assert_eq!(walk.next(), LogIndex(4));
    }

    #[test]
    fn mark_tells_of_frames_that_are_missing_before_it() {
        let mut segment = Segment::default();
        segment.frame(1, 0);
        segment.put(Kind::Mark, 2, 2);

        let (walk, accepted) = walk(&segment, 2);

        assert_eq!(accepted, [1]);
        let lost = CorruptRange::Frames { first: LogIndex(2), last: LogIndex(2) };
        assert_eq!(walk.corrupt, [lost]);
        assert_eq!(walk.next(), LogIndex(3));
    }

    #[test]
    fn torn_tail_behind_a_gap_leaves_the_chain_at_the_last_frame_that_counts() {
        let mut segment = Segment::default();
        segment.frame(1, 0);
        let last = segment.prev_crc;
        segment.bytes.resize(segment.bytes.len() + 256, 0xEE);
        segment.frame(2, 0);

        let (walk, accepted) = walk(&segment, 1);

        assert_eq!(accepted, [1]);
        assert!(walk.torn.is_some());
        assert_eq!(walk.prev_crc(), last, "what is written next is chained to it");
    }

    #[test]
    fn survey_finds_the_mark_behind_a_hole() {
        let mut segment = Segment::default();
        segment.bytes.resize(HEADER_LEN + 256, 0xEE);
        segment.frame(8, 7);

        let found = survey(&segment.content());

        assert_eq!(found.first, Some(LogIndex(8)));
        assert_eq!(found.durable, LogIndex(7));
    }

    fn walk(segment: &Segment, mark: u64) -> (Walk, Vec<u64>) {
        let mut walk = Walk::new(LogIndex(mark), LogIndex(1), Vec::new());
        let mut accepted = Vec::new();
        let _: Result<Walked, ()> = walk.segment(&segment.content(), LogIndex::MAX, |_, frame| {
            accepted.push(frame.index.0);
            Ok(())
        });
        walk.finish();
        (walk, accepted)
    }

    /// A segment made by hand.
    struct Segment {
        bytes: Vec<u8>,
        prev_crc: u32,
        term: u32,
    }

    impl Default for Segment {
        fn default() -> Self {
            Self { bytes: vec![0; HEADER_LEN], prev_crc: 0, term: 1 }
        }
    }

    impl Segment {
        fn frame(&mut self, index: u64, durable: u64) {
            self.put(Kind::Data, index, durable);
        }

        fn put(&mut self, kind: Kind, index: u64, durable: u64) {
            let stamp = Stamp {
                kind,
                index: LogIndex(index),
                term: StartEpoch(self.term),
                prev_crc: self.prev_crc,
                durable: LogIndex(durable),
            };
            let key = FrameKey::new(&KEY_SALT);
            self.prev_crc = encode_head(key, &stamp, &FrameDraft::default(), &mut self.bytes);
        }

        fn content(&self) -> Content<'_> {
            Content { id: FileId(1), key: FrameKey::new(&KEY_SALT), bytes: &self.bytes }
        }
    }
}
