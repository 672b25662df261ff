//! What recovery says about damage, and how it finds it in batches.

use crate::frame::TableEntry;
use crate::names::FileId;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{LogIndex, Offset, PartitionId};
use std::fmt;

/// Something that was durable and cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptRange {
    /// Whole frames, events and all. Which partitions they touched is not known.
    Frames {
        /// The first.
        first: LogIndex,
        /// The last.
        last: LogIndex,
    },
    /// Messages of one batch. Their frame's events are sound.
    Messages {
        /// Their partition.
        partition: PartitionId,
        /// The first.
        first: Offset,
        /// The last.
        last: Offset,
        /// Their frame.
        index: LogIndex,
    },
    /// A mark, a footer, or bytes between frames. No event and no message is lost.
    Bytes {
        /// The segment.
        file: FileId,
        /// Where it begins.
        position: u64,
    },
}

impl fmt::Display for CorruptRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames { first, last } => write!(f, "corrupt frames={first}..={last}"),
            Self::Messages { partition, first, last, index } => write!(
                f,
                "corrupt messages partition={partition} offsets={first}..={last} frame={index}"
            ),
            Self::Bytes { file, position } => {
                write!(f, "corrupt bytes file={file} position={position}")
            }
        }
    }
}

/// The end of the journal that was being written when the process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The first frame that does not count.
    pub index: LogIndex,
    /// The segment.
    pub file: FileId,
    /// Where it was noticed.
    pub position: u64,
    /// Sound frames after it that do not count either.
    pub frames_dropped: u64,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, file, position, frames_dropped } = self;
        write!(
            f,
            "torn tail frame={index} file={file} position={position} dropped={frames_dropped}"
        )
    }
}

/// Adds what is damaged in the batch that `entry` describes: nothing, single messages, or all.
pub(crate) fn damaged_messages(
    bytes: &[u8],
    entry: &TableEntry,
    index: LogIndex,
    corrupt: &mut Vec<CorruptRange>,
) {
    let partition = entry.partition;
    let sound = BatchView::parse(bytes)
        .ok()
        .filter(|view| view.header_crc() == entry.header_crc && view.count() == entry.count);
    let Some(view) = sound else {
        let last = Offset(entry.base.0 + u64::from(entry.count.max(1)) - 1);
        corrupt.push(CorruptRange::Messages { partition, first: entry.base, last, index });
        return;
    };
    for (place, message) in (0_u64..).zip(view.messages()) {
        if message.verify().is_ok() {
            continue;
        }
        let offset = entry.base.plus(place);
        match corrupt.last_mut() {
            Some(CorruptRange::Messages { partition: same, last, .. })
                if *same == partition && last.next() == offset =>
            {
                *last = offset;
            }
            Some(_) | None => {
                let (first, last) = (offset, offset);
                corrupt.push(CorruptRange::Messages { partition, first, last, index });
            }
        }
    }
}
