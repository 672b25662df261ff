//! A full disk, a failed write, a failed sync: what is refused, what is unknown, what goes on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use posthouse_protocol::{LogIndex, Offset, PartitionId};
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::names::FileName;
use posthouse_storage::{AppendError, Options, Store, SyncError, spare};
use std::sync::Arc;
use support::{Ledger, frame, options};

const P: PartitionId = PartitionId(1);
const SEGMENT_BYTES: u64 = 32 << 10;

#[test]
fn append_without_room_for_a_segment_is_refused_and_writes_nothing() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    let mut next = 0;
    // One more segment than the two there are does not fit.
    spare::prepare(&store.shared).unwrap();
    fs.disk().set_capacity((128 << 10) + 2 * SEGMENT_BYTES);
    let refused = loop {
        let written = store.journal.written();
        match store.journal.append(&[frame(P, next, 1, 3_000)]) {
            Ok(_) => next += 1,
            Err(error) => {
                assert_eq!(store.journal.written(), written, "definite: nothing was written");
                break error;
            }
        }
    };

    assert!(matches!(refused, AppendError::NoSegment(_)), "{refused}");
    assert!(!store.journal.is_poisoned());
    assert_eq!(store.journal.sync().unwrap(), LogIndex(next));
    store.journal.append(&[frame(P, next, 1, 10)]).unwrap();

    fs.disk().set_capacity(u64::MAX);
    store.journal.append(&[frame(P, next + 1, 1, 3_000)]).unwrap();
    store.journal.sync().unwrap();
    drop(store);
    let store = open(&FaultFs::new(lose_everything_unsynced(fs.disk())));
    assert_eq!(store.report.last, LogIndex(next + 2));
    assert!(!store.report.is_damaged());
    assert_eq!(store.reader.read(P, Offset(0), usize::MAX).unwrap().len() as u64, next + 2);
}

#[test]
fn segment_that_cannot_be_made_leaves_nothing_behind() {
    let mut failed = 0;
    for operation in 0.. {
        let fs = FaultFs::new(SimFs::new());
        let store = open(&fs);
        fs.plan(operation, Fault::Error);
        let made = spare::prepare(&store.shared);
        if fs.hit().is_none() {
            break;
        }
        failed += u32::from(matches!(made, Err(spare::SpareError::File { .. })));
        let manifest = store.shared.manifest();
        for name in fs.disk().all_names() {
            let named = FileName::parse(&name).is_none_or(|name| manifest.names(name));
            assert!(named, "{name} after {made:?}, operation={operation}");
        }
    }
    assert!(failed > 3, "failed={failed}");
}

#[test]
fn store_opens_on_a_full_disk_and_takes_frames() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    spare::prepare(&store.shared).unwrap();
    store.journal.append(&[frame(P, 0, 1, 100)]).unwrap();
    store.journal.sync().unwrap();
    drop(store);
    let disk = lose_everything_unsynced(fs.disk());
    disk.set_capacity(0);

    let mut store = open(&FaultFs::new(disk));

    assert_eq!(store.report.last, LogIndex(1));
    store.journal.append(&[frame(P, 1, 1, 100)]).unwrap();
    assert_eq!(store.journal.sync().unwrap(), LogIndex(2));
}

#[test]
fn frame_above_the_limit_is_refused_and_the_journal_goes_on() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    let limit = store.shared.options.frame_bytes_max();
    let large = frame(P, 1, 1, usize::try_from(limit).unwrap());

    let refused = store.journal.append(&[frame(P, 0, 1, 10), large]).unwrap_err();

    assert!(matches!(refused, AppendError::TooLarge { position: 1, .. }), "{refused}");
    assert_eq!(store.journal.written(), LogIndex(0));
    assert_eq!(store.journal.append(&[frame(P, 0, 1, 10)]).unwrap(), LogIndex(1));
}

#[test]
fn frames_of_every_length_up_to_the_limit_fill_segments_to_their_end() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    let limit = usize::try_from(store.shared.options.frame_bytes_max()).unwrap();
    let overhead = usize::try_from(frame(P, 0, 1, 0).encoded_len()).unwrap();
    let mut next = 0;
    for bytes in (0..=limit - overhead).rev().step_by(61).chain([limit - overhead; 20]) {
        store.journal.append(&[frame(P, next, 1, bytes)]).unwrap();
        next += 1;
    }
    store.journal.sync().unwrap();
    for segment in store.shared.view().segments.values() {
        assert_eq!(segment.file.size().unwrap(), SEGMENT_BYTES, "no segment grows");
    }
    drop(store);

    let store = open(&FaultFs::new(lose_everything_unsynced(fs.disk())));

    assert_eq!(store.report.last, LogIndex(next));
    assert!(!store.report.is_damaged(), "{:?}", store.report);
    assert_eq!(store.reader.read(P, Offset(0), usize::MAX).unwrap().len() as u64, next);
}

#[test]
fn failed_sync_poisons_and_its_ghost_is_never_believed() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    store.journal.append(&[frame(P, 0, 1, 100)]).unwrap();
    store.journal.sync().unwrap();
    store.journal.append(&[frame(P, 1, 1, 100)]).unwrap();
    fs.plan(0, Fault::Error);

    assert!(matches!(store.journal.sync(), Err(SyncError::Sync { .. })));
    assert!(matches!(store.journal.sync(), Err(SyncError::Poisoned)));
    assert!(matches!(store.journal.append(&[frame(P, 2, 1, 1)]), Err(AppendError::Poisoned)));
    assert!(store.journal.begin_sync().is_none());
    assert_eq!(store.journal.durable(), LogIndex(1));
    assert!(store.journal.close().is_err(), "not a clean stop");

    // The process ends; the page cache still shows the frame that never reached the disk.
    let disk = fs.disk().kill();
    let store = open(&FaultFs::new(disk.clone()));
    assert_eq!(store.report.last, LogIndex(1), "the ghost is not believed");
    assert!(!store.report.clean);
    drop(store);
    let store = open(&FaultFs::new(lose_everything_unsynced(&disk)));
    assert_eq!(store.report.last, LogIndex(1));
    assert!(!store.report.is_damaged(), "{:?}", store.report);
}

#[test]
fn failed_write_poisons() {
    let fs = FaultFs::new(SimFs::new());
    let mut store = open(&fs);
    fs.plan(0, Fault::Full);

    let failed = store.journal.append(&[frame(P, 0, 1, 100)]).unwrap_err();

    assert!(matches!(failed, AppendError::Write { .. }), "{failed}");
    assert!(store.journal.is_poisoned());
    assert!(matches!(store.journal.sync(), Err(SyncError::Poisoned)));
}

fn lose_everything_unsynced(disk: &SimFs) -> SimFs {
    disk.crash_with(&mut |_, _| Fate::Lost)
}

fn open(fs: &FaultFs) -> Store<Ledger> {
    let options = Options { segment_bytes: SEGMENT_BYTES, ..options(1) };
    Store::open(Arc::new(fs.clone()), options).unwrap()
}
