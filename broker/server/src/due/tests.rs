//! What is found of due messages on damaged disks.

use super::*;
use posthouse_protocol::batch::Message;
use posthouse_protocol::{DecodeError, LogIndex, StartEpoch};
use posthouse_storage::checkpointer::Step;
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::names::{FileKind, FileName};

use posthouse_storage::run::format::{ENTRY_LEN, FOOTER_LEN, PARTITION_LEN};
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

/// A disk with runs of batches of two messages each, whose first offsets are given, and the names
/// of the runs.
fn disk_of_runs(bases: &[&[u64]]) -> (SimFs, Vec<String>) {
    let disk = SimFs::new();
    let mut store = open(&disk);
    let mut runs = Vec::new();
    for bases in bases {
        let frames: Vec<_> = bases.iter().map(|base| frame(Offset(*base))).collect();
        store.journal.append(&frames).unwrap();
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

/// Changes one byte of a file.
fn damage(disk: &SimFs, name: &str, at: impl Fn(&[u8]) -> usize) {
    let mut bytes = disk.contents(name).unwrap();
    let at = at(&bytes);
    bytes[at] ^= 1;
    disk.overwrite(name, bytes);
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

fn unreadable(of: &[(Offset, ReadError)]) -> Vec<Offset> {
    of.iter().map(|(offset, _)| *offset).collect()
}

fn offsets(range: Range<u64>) -> Vec<Offset> {
    range.map(Offset).collect()
}

#[test]
fn message_in_a_run_that_could_not_be_opened_is_not_dropped() {
    let (disk, runs) = disk_of_runs(&[&[0, 2], &[4]]);
    let contents = disk.contents(&runs[0]).unwrap();
    disk.lose(&runs[0]);

    let due = read(&disk, 0..6);
    assert_eq!((due.offsets, due.damaged), (offsets(4..6), offsets(0..0)));
    assert_eq!(unreadable(&due.unreadable), offsets(0..4));

    disk.overwrite(&runs[0], contents);
    let due = read(&disk, 0..8);
    assert_eq!((due.offsets, due.damaged), (offsets(0..6), offsets(6..8)));
}

#[test]
fn messages_that_cannot_be_read_hold_up_none_behind_them() {
    let (disk, runs) = disk_of_runs(&[&[0], &[2, 4, 6], &[8]]);
    damage(&disk, &runs[1], |bytes| {
        let end = bytes.len() - usize::try_from(FOOTER_LEN + PARTITION_LEN + ENTRY_LEN).unwrap();
        end + 8
    });

    let due = read(&disk, 0..10);

    assert_eq!(due.offsets, [0, 1, 8, 9].map(Offset));
    assert_eq!(unreadable(&due.unreadable), offsets(2..8));
    assert_eq!(due.damaged, []);
}

#[test]
fn message_that_is_gone_is_gone_also_in_front_of_a_damaged_batch() {
    let (disk, runs) = disk_of_runs(&[&[0, 4]]);
    let header = frame(Offset(4)).batches[0].bytes.slice(..40);
    damage(&disk, &runs[0], |bytes| {
        bytes.windows(40).rposition(|window| window == header).unwrap() + 16
    });

    let due = read(&disk, 0..6);

    assert_eq!((due.offsets, due.damaged), (offsets(0..2), offsets(2..6)));
    assert_eq!(unreadable(&due.unreadable), []);
}
