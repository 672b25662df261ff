//! What is in one file.

use super::PartitionDescription;
use crate::checkpoint::{self, Checkpoint};
use crate::frame::{FrameKey, Kind};
use crate::fs::{File, Fs, Map, Mapped};
use crate::manifest::{Manifest, SegmentEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::run::{Adopted, Header as RunHeader, Identity, OpenError, Run};
use crate::segment::{Header as SegmentHeader, Scanner};
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What is in a file, as far as it can be read.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing of interest, or nothing that is understood.
    Nothing,
    /// A piece of the journal.
    Segment(SegmentContent),
    /// What was a piece of the journal, and holds the batches of this run now.
    Adopted(FileId),
    /// Batches sorted by partition.
    Run(RunContent),
    /// A folded state.
    Checkpoint(CheckpointContent),
    /// It should be one of these, and is damaged so that nothing can be said.
    Damaged(String),
}

/// What is in a segment.
#[derive(Clone, Debug, Default)]
pub struct SegmentContent {
    /// Frames with events.
    pub frames: u64,
    /// Marks of an idle journal.
    pub marks: u64,
    /// The first frame.
    pub first: LogIndex,
    /// The last frame.
    pub last: LogIndex,
    /// The start epoch that wrote the last frame.
    pub term: StartEpoch,
    /// When the last frame was made.
    pub time: Timestamp,
    /// Whether it ends with a footer.
    pub is_finished: bool,
    /// Frames that should be there and are not, or cannot be read.
    pub holes: Vec<(LogIndex, LogIndex)>,
    /// What it holds of each partition.
    pub partitions: BTreeMap<PartitionId, PartitionDescription>,
    /// Batches that are damaged.
    pub damaged: Vec<(PartitionId, Offset)>,
}

/// What is in a run.
#[derive(Clone, Debug)]
pub struct RunContent {
    /// It holds batches of frames after this one
    pub after: LogIndex,
    /// and up to this one.
    pub through: LogIndex,
    /// The segment that its batches lie in, if it is only an index.
    pub adopted: Option<FileId>,
    /// What it holds of each partition.
    pub partitions: BTreeMap<PartitionId, PartitionDescription>,
    /// Batches that are damaged, and those noted as lost when it was made.
    pub damaged: Vec<(PartitionId, Offset)>,
    /// Partitions whose index is damaged.
    pub unreadable: Vec<PartitionId>,
}

/// What is in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointContent {
    /// The last frame in it.
    pub index: LogIndex,
    /// That frame's term.
    pub term: StartEpoch,
    /// That frame's time.
    pub time: Timestamp,
    /// Length of the state.
    pub state_bytes: u64,
}

impl Content {
    /// What is wrong with it, one line each.
    pub(super) fn damage(&self) -> Box<dyn Iterator<Item = String> + '_> {
        let batch = |(partition, base): &(PartitionId, Offset)| {
            format!("damaged batch partition={partition} base={base}")
        };
        match self {
            Self::Nothing | Self::Checkpoint(_) | Self::Adopted(_) => Box::new(std::iter::empty()),
            Self::Damaged(why) => Box::new(std::iter::once(why.clone())),
            Self::Segment(content) => {
                let holes = content.holes.iter();
                let holes = holes.map(|(first, last)| format!("damaged frames={first}..={last}"));
                Box::new(holes.chain(content.damaged.iter().map(batch)))
            }
            Self::Run(content) => {
                let unreadable = content.unreadable.iter();
                let unreadable =
                    unreadable.map(|partition| format!("damaged index partition={partition}"));
                Box::new(unreadable.chain(content.damaged.iter().map(batch)))
            }
        }
    }

    /// Adds what it holds to `partitions`.
    pub(super) fn count(&self, partitions: &mut BTreeMap<PartitionId, PartitionDescription>) {
        let own = match self {
            Self::Nothing | Self::Checkpoint(_) | Self::Adopted(_) | Self::Damaged(_) => return,
            Self::Segment(content) => &content.partitions,
            Self::Run(content) => &content.partitions,
        };
        for (id, found) in own {
            let whole = partitions.entry(*id).or_insert_with(|| PartitionDescription {
                first: found.first,
                ..PartitionDescription::default()
            });
            whole.batches += found.batches;
            whole.messages += found.messages;
            whole.bytes += found.bytes;
            whole.damaged += found.damaged;
            whole.first = whole.first.min(found.first);
            whole.end = whole.end.max(found.end);
        }
    }
}

/// A batch as its table or index names it.
struct Named<'a> {
    partition: PartitionId,
    base: Offset,
    count: u32,
    crc: u32,
    bytes: &'a [u8],
}

/// Counts a batch; gives how many of its messages cannot be read.
fn take(partitions: &mut BTreeMap<PartitionId, PartitionDescription>, batch: &Named<'_>) -> u64 {
    let messages = u64::from(batch.count);
    let found = partitions.entry(batch.partition).or_insert_with(|| PartitionDescription {
        first: batch.base,
        ..PartitionDescription::default()
    });
    let sound = BatchView::parse(batch.bytes).ok();
    let sound = sound.filter(|view| view.header_crc() == batch.crc && view.count() == batch.count);
    let damaged = sound.map_or(messages, |view| {
        view.messages().filter(|message| message.verify().is_err()).count() as u64
    });
    found.batches += 1;
    found.messages += messages;
    found.bytes += batch.bytes.len() as u64;
    found.damaged += damaged;
    found.first = found.first.min(batch.base);
    found.end = found.end.max(batch.base.plus(messages));
    damaged
}

pub(super) fn segment(
    mut bytes: Vec<u8>,
    entry: Option<&SegmentEntry>,
    manifest: Option<&Manifest>,
) -> Content {
    let header = SegmentHeader::decode(&bytes);
    let salt = match (entry, &header) {
        (Some(entry), _) => entry.salt,
        (None, Ok(header)) => header.salt,
        (None, Err(error)) => return Content::Damaged(error.to_string()),
    };
    if let Some(end) = entry.and_then(|entry| entry.end) {
        bytes.truncate(usize::try_from(end.position).unwrap_or(usize::MAX));
    }
    let mut content = SegmentContent::default();
    for (_, frame) in Scanner::new(FrameKey::new(&salt), &bytes) {
        match frame.kind {
            Kind::Footer => content.is_finished = true,
            Kind::Mark => content.marks += 1,
            Kind::Data => {
                if content.frames > 0 && frame.index > content.last.next() {
                    content.holes.push((content.last.next(), LogIndex(frame.index.0 - 1)));
                }
                if content.frames == 0 {
                    content.first = frame.index;
                }
                content.frames += 1;
                content.last = frame.index;
                content.term = frame.term;
                content.time = frame.time;
                for entry in frame.batches {
                    let batch = Named {
                        partition: entry.partition,
                        base: entry.base,
                        count: entry.count,
                        crc: entry.header_crc,
                        bytes: frame.batch_bytes(&entry),
                    };
                    if take(&mut content.partitions, &batch) > 0 {
                        content.damaged.push((entry.partition, entry.base));
                    }
                }
            }
        }
    }
    add_lost_ends(&mut content, entry, manifest);
    Content::Segment(content)
}

/// Frames that the manifest knows the segment to hold, before its first or after its last sound one.
fn add_lost_ends(
    content: &mut SegmentContent,
    entry: Option<&SegmentEntry>,
    manifest: Option<&Manifest>,
) {
    let Some(SegmentEntry { base: Some(base), end, .. }) = entry.copied() else {
        return;
    };
    let durable = manifest.map_or(LogIndex::ZERO, |manifest| manifest.durable);
    let last = end.map_or(LogIndex::ZERO, |end| end.last.min(durable));
    if content.frames == 0 {
        if base <= last {
            content.holes.push((base, last));
        }
        return;
    }
    if base < content.first {
        content.holes.insert(0, (base, LogIndex(content.first.0 - 1)));
    }
    if content.last < last {
        content.holes.push((content.last.next(), last));
    }
}

/// Reads the segment that a run adopted as well; a segment that is not there is damage of the run.
pub(super) fn run(fs: &dyn Fs, bytes: Vec<u8>) -> io::Result<Content> {
    let adopted = match RunHeader::decode(bytes.get(..128).unwrap_or(&bytes)) {
        Ok(RunHeader { identity: Identity { adopted: Some(id), .. }, .. }) => load(fs, id)?,
        Ok(_) | Err(_) => None,
    };
    Ok(match read_run(bytes, adopted) {
        Ok(content) => Content::Run(content),
        Err(error) => Content::Damaged(error.to_string()),
    })
}

fn load(fs: &dyn Fs, id: FileId) -> io::Result<Option<Adopted>> {
    let file = match fs.open(&FileName::new(FileKind::Segment, id).to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let bytes = super::read(&*file)?;
    let size = bytes.len() as u64;
    Ok(Some(Adopted { id, size, map: Map(Arc::new(Loaded(Bytes::from(bytes)))) }))
}

fn read_run(bytes: Vec<u8>, adopted: Option<Adopted>) -> Result<RunContent, OpenError> {
    let header = RunHeader::decode(bytes.get(..128).unwrap_or(&bytes))?;
    let run = Run::in_map(header, Map(Arc::new(Loaded(Bytes::from(bytes)))), adopted)?;
    let mut content = RunContent {
        after: header.identity.after,
        through: header.identity.through,
        adopted: header.identity.adopted,
        partitions: BTreeMap::new(),
        damaged: Vec::new(),
        unreadable: Vec::new(),
    };
    for partition in run.partitions() {
        let Ok(entries) = run.batches(&partition) else {
            content.unreadable.push(partition.id);
            continue;
        };
        for entry in entries {
            let bytes = run.batch(&entry).unwrap_or_default();
            let batch = Named {
                partition: entry.partition,
                base: entry.base,
                count: entry.count,
                crc: entry.crc,
                bytes: &bytes,
            };
            if take(&mut content.partitions, &batch) > 0 {
                content.damaged.push((entry.partition, entry.base));
            }
        }
    }
    Ok(content)
}

pub(super) fn checkpoint(file: &dyn File) -> Content {
    let read =
        checkpoint::read_header(file).and_then(|header| Checkpoint::read(file, &header.identity));
    match read {
        Ok(Checkpoint { index, term, time, state }) => {
            let state_bytes = state.len() as u64;
            Content::Checkpoint(CheckpointContent { index, term, time, state_bytes })
        }
        Err(error) => Content::Damaged(error.to_string()),
    }
}

/// A file read into memory, in the place of a map.
#[derive(Debug)]
struct Loaded(Bytes);

impl Mapped for Loaded {
    fn slice(self: Arc<Self>, range: Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        (start <= end && end <= self.0.len()).then(|| self.0.slice(start..end))
    }
}
