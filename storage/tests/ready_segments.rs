//! What a new segment is made of: zeros or room, as the journal needs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use posthouse_protocol::PartitionId;
use posthouse_storage::fs::faults::FaultFs;
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::{Options, Store, spare};
use std::sync::Arc;
use support::{Ledger, frame, options};

const P: PartitionId = PartitionId(7);
/// A segment has so many pieces that are written by themselves, 64 KiB each.
const PIECES: u64 = 64;
const SEGMENT_BYTES: u64 = PIECES << 16;
/// Writes, renamings and syncs of a segment that are not for its content.
const REST: u64 = 16;

/// How many operations of the disk the next segment takes, after one that was synced whenever so
/// many bytes had been written.
fn operations(sync_bytes: usize) -> u64 {
    let fs = FaultFs::new(SimFs::new());
    let options = Options { segment_bytes: SEGMENT_BYTES, segments_ready: 2, ..options(1) };
    let mut store: Store<Ledger> = Store::open(Arc::new(fs.clone()), options).unwrap();
    let pieces = usize::try_from(SEGMENT_BYTES).unwrap() / sync_bytes;
    for piece in 0..pieces as u64 {
        store.journal.append(&[frame(P, piece, 1, sync_bytes)]).unwrap();
        store.journal.sync().unwrap();
    }
    while spare::prepare(&store.shared).unwrap() {}
    store.shared.request_roll();
    store.journal.roll_if_requested().unwrap();
    let before = fs.operations();
    assert!(spare::prepare(&store.shared).unwrap());
    fs.operations() - before
}

#[test]
fn journal_that_is_synced_in_small_pieces_gets_zeros() {
    let operations = operations(4 << 10);

    assert!(operations > PIECES, "{operations} operations");
}

#[test]
fn journal_that_is_synced_in_large_pieces_gets_room_only() {
    let operations = operations(64 << 10);

    assert!(operations < REST, "{operations} operations");
}
