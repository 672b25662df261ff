//! What is found of due messages on damaged disks.

use super::*;
use posthouse_protocol::batch::Message;
use posthouse_protocol::{DecodeError, LogIndex, StartEpoch};
use posthouse_storage::checkpointer::Step;
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::names::{FileKind, FileName};

use posthouse_storage::{BatchDraft, Fold, FrameDraft, Options, Store};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const ROOM: PartitionId = PartitionId(7);

/// A state in which everything waits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllWaits;

impl Fold for AllWaits {
    type Error = DecodeError;

    fn empty() -> Self {
        Self
    }

    fn apply(
        &mut self,
        _: LogIndex,
        _: StartEpoch,
        _: Timestamp,
        _: &[u8],
    ) -> Result<(), DecodeError> {
        Ok(())
    }

    fn lost(&mut self, _: LogIndex, _: LogIndex) {}

    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        vec![ROOM]
    }

    fn needed(&self, _: PartitionId, within: Range<Offset>) -> Vec<Range<Offset>> {
        vec![within]
    }
}

fn open(disk: &SimFs) -> Store<AllWaits> {
    let options = Options { segment_bytes: 64 << 10, ..Options::new([7; 16]) };
    Store::open(Arc::new(disk.clone()), options).unwrap()
}

/// A disk with runs of so many batches of two messages each, and the names of the runs.
fn disk_of_runs(batches: &[u64]) -> (SimFs, Vec<String>) {
    let disk = SimFs::new();
    let mut store = open(&disk);
    let mut next = Offset::ZERO;
    let mut runs = Vec::new();
    for count in batches {
        for _ in 0..*count {
            store.journal.append(&[frame(next)]).unwrap();
            next = next.plus(2);
        }
        store.shared.request_roll();
        store.journal.roll_if_requested().unwrap();
        store.journal.sync().unwrap();
        store.checkpointer.hurry();
        while let Step::Worked(_) = store.checkpointer.step(Duration::ZERO).unwrap() {}
        let newest = store.shared.manifest().runs.last().unwrap().id;
        runs.push(FileName::new(FileKind::Run, newest).to_string());
    }
    (disk, runs)
}

fn frame(base: Offset) -> FrameDraft {
    let mut builder = BatchBuilder::new();
    for at in [base, base.next()] {
        let body = Bytes::copy_from_slice(at.to_string().as_bytes());
        builder.push(&Message { body, ..Message::default() }).unwrap();
    }
    let bytes = builder.finish(Timestamp(1));
    let header_crc = BatchView::parse(&bytes).unwrap().header_crc();
    let batches = vec![BatchDraft { partition: ROOM, base, count: 2, header_crc, bytes }];
    FrameDraft { batches, ..FrameDraft::default() }
}

/// Asks for all of `wanted` at once.
fn read(disk: &SimFs, wanted: Range<u64>) -> Due {
    let wanted: Vec<_> = wanted.map(Offset).collect();
    read_due(&open(disk).reader, ROOM, &wanted, 1 << 20)
}

fn offsets(range: Range<u64>) -> Vec<Offset> {
    range.map(Offset).collect()
}

#[test]
fn message_in_a_run_that_could_not_be_opened_is_not_dropped() {
    let (disk, runs) = disk_of_runs(&[2, 1]);
    let contents = disk.contents(&runs[0]).unwrap();
    disk.lose(&runs[0]);

    assert_eq!(read(&disk, 0..6).damaged, []);

    disk.overwrite(&runs[0], contents);
    let due = read(&disk, 0..8);
    assert_eq!((due.offsets, due.damaged), (offsets(0..6), offsets(6..8)));
}
