//! What the storage tests share: a state that remembers what it saw, frames, options.

#![allow(dead_code, reason = "not every test uses everything")]

use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message};
use posthouse_protocol::codec::Source;
use posthouse_protocol::{
    DecodeError, LogIndex, MessageId, Offset, PartitionId, StartEpoch, Timestamp,
};
use posthouse_storage::frame::{BatchDraft, FrameDraft};
use posthouse_storage::{Fold, Options};
use std::ops::Range;

/// A state that keeps the events of every frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) seen: Vec<(LogIndex, StartEpoch, Vec<u8>)>,
    /// Frames that will never be seen.
    pub(crate) lost: Vec<LogIndex>,
}

impl Ledger {
    pub(crate) fn frames(&self) -> usize {
        self.seen.len()
    }
}

impl Fold for Ledger {
    type Error = DecodeError;

    fn empty() -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        index: LogIndex,
        term: StartEpoch,
        _time: Timestamp,
        events: &[u8],
    ) -> Result<(), DecodeError> {
        self.seen.push((index, term, events.to_vec()));
        Ok(())
    }

    fn lost(&mut self, first: LogIndex, last: LogIndex) {
        let before = self.seen.last().map(|(index, ..)| *index).max(self.lost.last().copied());
        assert_eq!(first, before.unwrap_or_default().next(), "lost frames are told in their place");
        self.lost.extend((first.0..=last.0).map(LogIndex));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::try_from(self.lost.len()).unwrap().to_le_bytes());
        self.lost.iter().for_each(|index| out.extend_from_slice(&index.0.to_le_bytes()));
        for (index, term, events) in &self.seen {
            out.extend_from_slice(&index.0.to_le_bytes());
            out.extend_from_slice(&term.0.to_le_bytes());
            out.extend_from_slice(&u32::try_from(events.len()).unwrap().to_le_bytes());
            out.extend_from_slice(events);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        let lost = (0..source.u32("lost")?).map(|_| source.u64("lost").map(LogIndex));
        let lost = lost.collect::<Result<_, _>>()?;
        let mut seen = Vec::new();
        while source.remaining() > 0 {
            let index = LogIndex(source.u64("index")?);
            let term = StartEpoch(source.u32("term")?);
            seen.push((index, term, source.prefixed(usize::MAX, "events")?.to_vec()));
        }
        Ok(Self { seen, lost })
    }

    fn partitions(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    fn needed(&self, _partition: PartitionId, _within: Range<Offset>) -> Vec<Range<Offset>> {
        Vec::new()
    }
}

/// A frame with one batch of `count` messages of `bytes` bytes; its events name the base.
pub(crate) fn frame(partition: PartitionId, base: u64, count: u32, bytes: usize) -> FrameDraft {
    let batch = batch(partition, base, count, bytes);
    FrameDraft {
        time: Timestamp(1_000 + base),
        synced: true,
        events: Bytes::copy_from_slice(&base.to_le_bytes()),
        batches: vec![batch],
    }
}

/// A batch whose content follows from its place.
pub(crate) fn batch(partition: PartitionId, base: u64, count: u32, bytes: usize) -> BatchDraft {
    let mut builder = BatchBuilder::new();
    for place in 0..count {
        let offset = base + u64::from(place);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&offset.to_le_bytes());
        id[8..12].copy_from_slice(&partition.0.to_le_bytes());
        let fill = u8::try_from((offset ^ u64::from(partition.0)) & 0xFF).unwrap();
        let message = Message {
            id: MessageId(id),
            created_at: Timestamp(1_000),
            body: Bytes::from(vec![fill; bytes]),
            ..Message::default()
        };
        builder.push(&message).unwrap();
    }
    let bytes = builder.finish(Timestamp(1_000));
    let header_crc = BatchView::parse(&bytes).unwrap().header_crc();
    BatchDraft { partition, base: Offset(base), count, header_crc, bytes }
}

/// Small files, no randomness but `seed`.
pub(crate) fn options(seed: u8) -> Options {
    Options { segment_bytes: 16 << 10, segments_ready: 1, ..Options::new([seed; 16]) }
}

/// The batch `like` with the body of its only message replaced.
pub(crate) fn batch_with_body(like: &BatchDraft, body: &[u8]) -> BatchDraft {
    let mut builder = BatchBuilder::new();
    let message = Message { body: Bytes::copy_from_slice(body), ..Message::default() };
    builder.push(&message).unwrap();
    let bytes = builder.finish(Timestamp(1_000));
    let header_crc = BatchView::parse(&bytes).unwrap().header_crc();
    BatchDraft { header_crc, bytes, ..like.clone() }
}
