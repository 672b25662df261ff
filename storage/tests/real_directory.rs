//! The store on a real directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use posthouse_protocol::{LogIndex, Offset, PartitionId, Timestamp};
use posthouse_storage::fs::real::{LockError, RealFs};
use posthouse_storage::fs::{Aligned, BLOCK, Fs};
use posthouse_storage::{Options, Store};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use support::{Ledger, frame, options};

const P: PartitionId = PartitionId(7);

#[test]
fn what_was_synced_comes_back_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for round in 0..40 {
        store.journal.append(&[frame(P, round * 3, 3, 900)]).unwrap();
    }
    store.journal.sync().unwrap();
    drop(store);

    let store = open(dir.path());

    assert_eq!(store.report.last, LogIndex(40));
    assert!(!store.report.clean);
    assert!(!store.report.is_damaged(), "{:?}", store.report);
    assert_eq!(store.state.frames(), 40);
    let batches = store.reader.read(P, Offset(61), usize::MAX).unwrap();
    assert_eq!(batches.first().unwrap().base, Offset(60));
    assert_eq!(batches.len(), 20);
}

#[test]
fn reader_finds_what_was_appended_before_it_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());

    store.journal.append(&[frame(P, 10, 2, 100), frame(P, 20, 2, 100)]).unwrap();

    let batches = store.reader.read(P, Offset(0), 1).unwrap();
    assert_eq!(batches.len(), 1, "at least one batch, however small the room");
    assert_eq!(batches[0].base, Offset(10));
    assert!(batches[0].journal_tail);
    assert_eq!(store.reader.read(P, Offset(12), 1 << 20).unwrap()[0].base, Offset(20));
    assert!(store.reader.read(P, Offset(22), 1 << 20).unwrap().is_empty());
    assert!(store.reader.is_hot(P, Offset(10)));
    assert!(!store.reader.is_hot(P, Offset(9)));
}

#[test]
fn clean_stop_is_remembered_once() {
    let dir = tempfile::tempdir().unwrap();
    {
        let Store { mut journal, .. } = open(dir.path());
        journal.append(&[frame(P, 0, 1, 10)]).unwrap();
        journal.mark(Timestamp(5)).unwrap();
        journal.close().unwrap();
    }

    let first = open(dir.path()).report;
    let second = open(dir.path()).report;

    assert!(first.clean);
    assert_eq!(first.last, LogIndex(1));
    assert!(!second.clean, "the store was not closed in between");
    assert_eq!(second.start_epoch, first.start_epoch.next());
}

#[test]
fn second_open_is_refused_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let held = RealFs::open(dir.path()).unwrap();

    let refused = RealFs::open(dir.path()).unwrap_err();

    let LockError::Held { holder, .. } = refused else { panic!("{refused}") };
    assert_eq!(holder, Some(std::process::id()));
    drop(held);
    RealFs::open(dir.path()).unwrap();
}

#[test]
fn foreign_files_are_moved_aside_and_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    std::fs::write(dir.path().join("segment-00000000000000aa"), "not a segment").unwrap();

    let report = open(dir.path()).report;

    assert_eq!(report.orphans.len(), 2, "{report:?}");
    let contents = std::fs::read(dir.path().join(&report.orphans[0])).unwrap();
    assert_eq!(contents, b"mine");
}

#[test]
fn files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(open(&path));

    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn sync_on_another_thread_covers_what_was_written_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.journal.append(&[frame(P, 0, 1, 10)]).unwrap();
    let job = store.journal.begin_sync().unwrap();
    assert!(store.journal.begin_sync().is_none(), "one at a time");
    store.journal.append(&[frame(P, 1, 1, 10)]).unwrap();

    let done = std::thread::spawn(move || job.run()).join().unwrap();
    let durable = store.journal.finish_sync(done).unwrap();

    assert_eq!(durable, LogIndex(1));
    assert_eq!(store.journal.written(), LogIndex(2));
    assert_eq!(store.journal.sync().unwrap(), LogIndex(2));
    assert!(store.journal.begin_sync().is_none(), "nothing to sync");
}

fn open(path: &Path) -> Store<Ledger> {
    let fs = RealFs::open(path).unwrap();
    let options = Options { segment_bytes: 64 << 10, ..options(1) };
    Store::open(Arc::new(fs), options).unwrap()
}

#[test]
fn what_is_written_past_the_cache_is_seen_by_every_way_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let fs = RealFs::open(dir.path()).unwrap();
    let file = fs.create("a").unwrap();
    let (mut blocks, mut read) = (Aligned::new(2), Aligned::new(2));
    for (number, fill) in (0..3).zip([1, 2, 3]) {
        blocks.clear();
        blocks.push(&vec![fill; 2 * BLOCK]);
        file.write_past_cache(number * 2 * BLOCK as u64, &blocks).unwrap();
    }
    // Cached and changed, at both ends.
    file.write_at(5, &[IoSlice::new(&[9])]).unwrap();
    let end = 6 * BLOCK as u64;
    file.write_at(end, &[IoSlice::new(&[4; 100])]).unwrap();
    fs.rename("a", "b").unwrap();

    let mut expected = [vec![1; 2 * BLOCK], vec![2; 2 * BLOCK], vec![3; 2 * BLOCK]].concat();
    expected.extend([4; 100]);
    expected[5] = 9;
    let mut found = Vec::new();
    while let count @ 1.. = file.read_past_cache(found.len() as u64, &mut read).unwrap() {
        found.extend_from_slice(&read.whole()[..count]);
        if !count.is_multiple_of(BLOCK) {
            break;
        }
    }
    assert!(found == expected, "{} of {} bytes", found.len(), expected.len());
    let mut cached = vec![0; expected.len()];
    file.read_at(0, &mut cached).unwrap();
    assert!(cached == expected);
    let map = file.map(end + 100).unwrap();
    assert!(map.slice(0..end + 100).unwrap() == expected);
}
