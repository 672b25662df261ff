//! A small fold: which offsets of which partitions are still needed.

use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::{DecodeError, LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::Fold;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const PUBLISH: u8 = 1;
const SETTLE: u8 = 2;

/// Offsets `start..end` of a partition came, or are not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Publish { partition: PartitionId, start: Offset, end: Offset },
    Settle { partition: PartitionId, start: Offset, end: Offset },
}

/// What the events add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Toy {
    pub(crate) applied: u64,
    pub(crate) lost: u64,
    pub(crate) partitions: BTreeMap<PartitionId, Partition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) next: Offset,
    pub(crate) needed: BTreeSet<Offset>,
}

pub(crate) fn encode_events(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        let (kind, partition, start, end) = match event {
            Event::Publish { partition, start, end } => (PUBLISH, partition, start, end),
            Event::Settle { partition, start, end } => (SETTLE, partition, start, end),
        };
        bytes.put_u8(kind);
        bytes.put_u32(partition.0);
        bytes.put_u64(start.0);
        bytes.put_u64(end.0);
    }
    bytes
}

fn read_event(source: &mut Source<'_>) -> Result<Event, DecodeError> {
    let kind = source.u8("toy.kind")?;
    let partition = PartitionId(source.u32("toy.partition")?);
    let start = Offset(source.u64("toy.start")?);
    let end = Offset(source.u64("toy.end")?);
    match kind {
        PUBLISH => Ok(Event::Publish { partition, start, end }),
        SETTLE => Ok(Event::Settle { partition, start, end }),
        found => Err(DecodeError::Invalid { field: "toy.kind", found: u64::from(found) }),
    }
}

impl Toy {
    pub(crate) fn apply_event(&mut self, event: &Event) {
        match *event {
            Event::Publish { partition, start, end } => {
                let partition = self.partitions.entry(partition).or_default();
                partition.next = end;
                partition.needed.extend((start.0..end.0).map(Offset));
            }
            Event::Settle { partition, start, end } => {
                let partition = self.partitions.entry(partition).or_default();
                partition.needed.retain(|offset| *offset < start || end <= *offset);
            }
        }
    }
}

impl Fold for Toy {
    type Error = DecodeError;

    fn empty() -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        index: LogIndex,
        _term: StartEpoch,
        _time: Timestamp,
        events: &[u8],
    ) -> Result<(), DecodeError> {
        assert_eq!(index.0, self.applied + 1, "every frame is applied once, in order");
        self.applied = index.0;
        let mut source = Source::new(events);
        while source.remaining() > 0 {
            let event = read_event(&mut source)?;
            self.apply_event(&event);
        }
        Ok(())
    }

    fn lost(&mut self, first: LogIndex, last: LogIndex) {
        assert_eq!(first.0, self.applied + 1, "every lost frame is told once, in its place");
        assert!(first <= last, "a loss is of something");
        self.applied = last.0;
        self.lost += last.0 - first.0 + 1;
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.applied);
        out.put_u64(self.lost);
        out.put_count(self.partitions.len());
        for (id, partition) in &self.partitions {
            out.put_u32(id.0);
            out.put_u64(partition.next.0);
            out.put_count(partition.needed.len());
            for offset in &partition.needed {
                out.put_u64(offset.0);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Source::new(bytes);
        let applied = source.u64("toy.applied")?;
        let mut toy = Self { applied, lost: source.u64("toy.lost")?, ..Self::default() };
        for _ in 0..source.count(u32::MAX, 16, "toy.partitions")? {
            let id = PartitionId(source.u32("toy.partition")?);
            let next = Offset(source.u64("toy.next")?);
            let count = source.count(u32::MAX, 8, "toy.needed")?;
            let needed = (0..count).map(|_| source.u64("toy.offset").map(Offset));
            let needed = needed.collect::<Result<_, _>>()?;
            toy.partitions.insert(id, Partition { next, needed });
        }
        source.end()?;
        Ok(toy)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.keys().copied().collect()
    }

    fn needed(&self, partition: PartitionId, within: Range<Offset>) -> Vec<Range<Offset>> {
        let mut ranges: Vec<Range<Offset>> = Vec::new();
        let Some(partition) = self.partitions.get(&partition) else {
            return ranges;
        };
        for offset in partition.needed.range(within) {
            match ranges.last_mut() {
                Some(last) if last.end == *offset => last.end = offset.next(),
                Some(_) | None => ranges.push(*offset..offset.next()),
            }
        }
        ranges
    }
}
