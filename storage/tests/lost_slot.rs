//! One slot of the manifest is damaged, missing or unreadable: nothing that was durable goes, and
//! a start that is refused leaves everything as it was.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use posthouse_protocol::{DecodeError, LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::fs::Fs;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::inspect::inspect;
use posthouse_storage::manifest::{Manifest, ManifestSlots};
use posthouse_storage::names::{FileKind, FileName, MANIFEST};
use posthouse_storage::recover::Origin;
use posthouse_storage::{Fold, Options, Store, spare};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use support::{Ledger, frame, options};

const P: PartitionId = PartitionId(3);

/// What can happen to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Damaged,
    Missing,
    Unreadable,
}

const LOSSES: [Loss; 3] = [Loss::Damaged, Loss::Missing, Loss::Unreadable];

#[test]
fn segment_that_only_the_lost_slot_names_is_taken_in_whatever_its_number() {
    for loss in LOSSES {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..5);
        spare::prepare(&store.shared).unwrap();
        roll(&mut store);
        append(&mut store, 5..11);
        drop(store);
        let [older, newest] = by_age(&disk);
        let named = manifest(&disk, newest);
        let segment = named.journal.last().unwrap().id;
        // Another thread has committed between the taking of the number and the segment's commit.
        let mut before = manifest(&disk, older);
        assert!(before.journal.iter().all(|entry| entry.id != segment));
        before.next_file = named.next_file;
        put(&disk, older, &before);
        lose(&disk, newest, loss);

        let store = open(&disk);

        assert_eq!(store.report.last, LogIndex(11), "{loss:?}: {}", store.report);
        assert_eq!(store.state.frames(), 11);
        assert!(store.report.orphans.is_empty(), "{loss:?}: {}", store.report);
        assert!(store.report.manifest_damaged.is_some());
        assert!(store.report.corrupt.is_empty());
    }
}

#[test]
fn frames_behind_a_salt_that_only_the_lost_slot_knows_are_found() {
    for loss in LOSSES {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..5);
        spare::prepare(&store.shared).unwrap();
        drop(store);
        // This start goes on in the ready segment, under a new salt.
        let mut store = open(&disk);
        append(&mut store, 5..11);
        drop(store);
        let [_, newest] = by_age(&disk);
        lose(&disk, newest, loss);

        let store = open(&disk);

        assert_eq!(store.report.last, LogIndex(11), "{loss:?}: {}", store.report);
        assert_eq!(store.state.frames(), 11);
        assert!(store.report.corrupt.is_empty());
        assert!(store.report.damaged_headers.is_empty(), "{}", store.report);
    }
}

#[test]
fn segment_made_for_a_start_that_never_came_to_be_is_used_with_either_salt() {
    for loss in LOSSES {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..5);
        spare::prepare(&store.shared).unwrap();
        drop(store);
        drop(open(&disk));
        let [_, newest] = by_age(&disk);
        lose(&disk, newest, loss);

        let mut store = open(&disk);
        append(&mut store, 5..7);
        drop(store);
        let store = open(&disk);

        assert_eq!(store.report.last, LogIndex(7), "{loss:?}: {}", store.report);
        assert_eq!(store.state.frames(), 7);
    }
}

#[test]
fn power_lost_while_a_lost_slot_is_made_up_for_costs_nothing() {
    let mut losses = 0;
    for loss in LOSSES {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..5);
        spare::prepare(&store.shared).unwrap();
        spare::prepare(&store.shared).unwrap();
        drop(store);
        let mut store = open(&disk);
        append(&mut store, 5..8);
        spare::prepare(&store.shared).unwrap();
        roll(&mut store);
        append(&mut store, 8..11);
        drop(store);
        disk.overwrite("notes.txt", vec![1]);
        let [_, newest] = by_age(&disk);
        lose(&disk, newest, loss);
        for operation in 0.. {
            let faulty = FaultFs::new(disk.crash_with(&mut |_, versions| kept(versions)));
            faulty.plan(operation, Fault::PowerLoss);
            let opened = Store::<Ledger>::open(Arc::new(faulty.clone()), small());
            let done = opened.is_ok();
            drop(opened);
            for seed in 0..20 {
                let store = open(&faulty.disk().crash(&mut Dice::new(seed)));

                assert_eq!(store.report.last, LogIndex(11), "{loss:?} {operation}");
                assert_eq!(store.state.frames(), 11);
                assert!(store.report.corrupt.is_empty());
                losses += 1;
            }
            if done {
                break;
            }
        }
    }
    assert!(losses > 300, "losses={losses}");
}

#[test]
fn lost_slot_raises_the_epoch_by_two_and_is_reported() {
    for loss in LOSSES {
        for slot in MANIFEST {
            let disk = SimFs::new();
            let mut store = open(&disk);
            append(&mut store, 0..3);
            let epoch = store.report.start_epoch;
            drop(store);
            // No frame names the epoch of the newest slot: it may have been in use nevertheless.
            drop(open(&disk));
            let newest = by_age(&disk)[1];
            lose(&disk, slot, loss);

            let store = open(&disk);

            let known = if slot == newest { epoch } else { epoch.next() };
            assert_eq!(store.report.start_epoch, StartEpoch(known.0 + 2), "{loss:?} of {slot}");
            assert!(store.report.manifest_damaged.is_some(), "{loss:?} of {slot}");
            assert_eq!(store.report.last, LogIndex(3));
            drop(store);
            let report = open(&disk).report;
            assert!(loss == Loss::Unreadable || report.manifest_damaged.is_none(), "{report}");
        }
    }
}

#[test]
fn slot_that_is_not_there_yet_in_a_store_being_made_is_not_lost() {
    let disk = SimFs::new();
    drop(open(&disk));
    let first = manifest(&disk, MANIFEST[0]);
    let disk = SimFs::new();
    ManifestSlots::create(&disk, first).unwrap();
    disk.sync_dir().unwrap();
    disk.lose(MANIFEST[1]);

    let store = open(&disk);

    assert!(store.report.manifest_damaged.is_none(), "{}", store.report);
    assert_eq!(store.report.start_epoch, StartEpoch(1));
}

#[test]
fn missing_slot_of_a_store_with_one_commit_is_lost() {
    let disk = SimFs::new();
    let mut store = open(&disk);
    append(&mut store, 0..3);
    drop(store);
    disk.lose(by_age(&disk)[1]);

    let store = open(&disk);

    assert!(store.report.manifest_damaged.is_some());
    assert_eq!(store.report.last, LogIndex(3));
    assert_eq!(store.state.frames(), 3);
}

#[test]
fn both_slots_unreadable_are_refused_and_left_alone() {
    for both in [true, false] {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..3);
        drop(store);
        lose(&disk, MANIFEST[0], Loss::Unreadable);
        lose(&disk, MANIFEST[1], if both { Loss::Unreadable } else { Loss::Damaged });
        let before = everything(&disk);

        let refused = Store::<Ledger>::open(Arc::new(disk.clone()), small());

        assert!(refused.is_err(), "what cannot be read now may be read later");
        assert!(everything(&disk) == before);
    }
}

#[test]
fn refused_start_changes_nothing() {
    for slots in 0..=2 {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..3);
        drop(store);
        drop(open(&disk));
        for slot in MANIFEST.iter().take(slots) {
            disk.overwrite(slot, vec![0xAB; 4096]);
        }
        let leftover = FileName::new(FileKind::Run, posthouse_storage::names::FileId(99));
        for name in ["notes.txt", &leftover.to_string(), &leftover.temporary().to_string()] {
            // With neither slot left, a run alone is a reason to refuse.
            if slots < 2 || name != leftover.to_string() {
                disk.overwrite(name, vec![1; 10]);
            }
        }
        let before = everything(&disk);

        let refused = Store::<Refusing>::open(Arc::new(disk.clone()), small());

        assert!(refused.is_err());
        assert!(everything(&disk) == before, "slots={slots}");
        let store = open(&disk);
        assert_eq!(store.state.frames(), 3);
        let rebuilt = store.report.origin == Origin::Rebuilt;
        assert_eq!(rebuilt, slots == 2, "{}", store.report);
        assert!(store.report.orphans.iter().any(|name| name.ends_with("notes.txt")));
    }
}

#[test]
fn version_of_one_slot_is_seen_behind_damage_of_the_other() {
    for (newer, damaged) in [(0, 1), (1, 0)] {
        let disk = SimFs::new();
        let mut store = open(&disk);
        append(&mut store, 0..3);
        drop(store);
        let mut encoded = disk.contents(MANIFEST[newer]).unwrap();
        let len = u32::from_le_bytes(encoded[16..20].try_into().unwrap()) as usize;
        encoded[8] += 1;
        encoded[12..16].fill(0);
        let crc = crc32fast::hash(&encoded[..len]);
        encoded[12..16].copy_from_slice(&crc.to_le_bytes());
        disk.overwrite(MANIFEST[newer], encoded);
        disk.overwrite(MANIFEST[damaged], vec![0xAB; 4096]);
        let before = everything(&disk);

        let refused = Store::<Ledger>::open(Arc::new(disk.clone()), small());

        assert!(refused.is_err());
        assert!(everything(&disk) == before);
    }
}

#[test]
fn inspection_names_the_lost_slot() {
    for loss in LOSSES {
        let disk = SimFs::new();
        drop(open(&disk));
        drop(open(&disk));
        assert!(inspect(&disk).unwrap().damage().is_empty());
        match loss {
            Loss::Damaged => disk.overwrite(MANIFEST[0], vec![0xAB; 4096]),
            Loss::Missing | Loss::Unreadable => lose(&disk, MANIFEST[0], loss),
        }

        let damage = inspect(&disk).unwrap().damage();

        assert_eq!(damage.len(), 1, "{loss:?}: {damage:?}");
        assert!(damage[0].starts_with("manifest-0: "), "{damage:?}");
    }
}

/// A fold that understands no event.
#[derive(Clone, Debug)]
struct Refusing;

impl Fold for Refusing {
    type Error = DecodeError;

    fn empty() -> Self {
        Self
    }

    fn apply(
        &mut self,
        _index: LogIndex,
        _term: StartEpoch,
        _time: Timestamp,
        _events: &[u8],
    ) -> Result<(), DecodeError> {
        Err(DecodeError::Truncated { field: "event" })
    }

    fn lost(&mut self, _first: LogIndex, _last: LogIndex) {}

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(_bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    fn needed(&self, _partition: PartitionId, _within: Range<Offset>) -> Vec<Range<Offset>> {
        Vec::new()
    }
}

const fn kept(versions: usize) -> Fate {
    Fate::Kept { version: versions - 1 }
}

fn small() -> Options {
    Options { segment_bytes: 32 << 10, ..options(1) }
}

fn open(disk: &SimFs) -> Store<Ledger> {
    Store::open(Arc::new(disk.clone()), small()).unwrap()
}

fn append(store: &mut Store<Ledger>, bases: Range<u64>) {
    for base in bases {
        store.journal.append(&[frame(P, base, 1, 10)]).unwrap();
        store.journal.sync().unwrap();
    }
}

fn roll(store: &mut Store<Ledger>) {
    store.shared.request_roll();
    assert!(store.journal.roll_if_requested().unwrap());
}

fn manifest(disk: &SimFs, slot: &str) -> Manifest {
    Manifest::decode(&disk.contents(slot).unwrap()).unwrap()
}

/// The older slot and the newest.
fn by_age(disk: &SimFs) -> [&'static str; 2] {
    let mut slots = MANIFEST;
    slots.sort_by_key(|slot| {
        Manifest::decode(&disk.contents(slot).unwrap()).map_or(0, |manifest| manifest.generation)
    });
    slots
}

fn put(disk: &SimFs, slot: &str, manifest: &Manifest) {
    let mut bytes = Vec::new();
    manifest.encode(&mut bytes);
    disk.overwrite(slot, bytes);
}

fn lose(disk: &SimFs, slot: &str, loss: Loss) {
    match loss {
        Loss::Damaged => disk.overwrite(slot, vec![0; 4096]),
        Loss::Missing => disk.lose(slot),
        Loss::Unreadable => disk.fail_reads(slot, 0..1),
    }
}

fn everything(disk: &SimFs) -> BTreeMap<String, Vec<u8>> {
    let names = disk.all_names().into_iter();
    names.map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}
