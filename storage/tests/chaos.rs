//! Arbitrary damage to arbitrary files: a start never panics, never loops, and serves no batch as
//! sound that was not appended as it is.
//!
//! `POSTHOUSE_CHAOS_ROUNDS` says how many directories to ruin; `POSTHOUSE_SEED` replays one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{Offset, PartitionId};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::{Options, ReadError, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{Ledger, frame, options};

const ROUNDS_DEFAULT: u64 = 400;
const PARTITIONS: u32 = 3;

type Appended = BTreeMap<(PartitionId, Offset), Bytes>;

#[test]
fn nothing_wrong_is_served_whatever_happens_to_the_files() {
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("POSTHOUSE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("POSTHOUSE_CHAOS_ROUNDS").unwrap_or(ROUNDS_DEFAULT),
    };
    let (mut opened, mut refused, mut served) = (0, 0, 0);
    for seed in seeds {
        println!("replay with: POSTHOUSE_SEED={seed} cargo test -p posthouse-storage --test chaos");
        let mut dice = Dice::new(seed);
        let (disk, older, appended) = build(&mut dice);
        for _ in 0..=dice.below(4) {
            ruin(&disk, &older, &mut dice);
        }
        match Store::<Ledger>::open(Arc::new(disk.clone()), small()) {
            Ok(mut store) => {
                opened += 1;
                served += check(&store, &appended);
                // It goes on, and the next start finds what it appended.
                let first = store.report.last;
                let late = frame(PartitionId(9), 0, 1, 50);
                store.journal.append(std::slice::from_ref(&late)).unwrap();
                store.journal.sync().unwrap();
                drop(store);
                let store = open(&disk);
                assert_eq!(store.report.last, first.next());
                let found = store.reader.read(PartitionId(9), Offset(0), 1).unwrap();
                assert!(found.first().unwrap().bytes == late.batches.first().unwrap().bytes);
                check(&store, &appended);
            }
            Err(_) => refused += 1,
        }
    }
    println!("opened={opened} refused={refused} batches served={served}");
    assert!(opened > 0 && served > 0);
}

/// A store of several starts and segments, and an older state of it.
fn build(dice: &mut Dice) -> (SimFs, SimFs, Appended) {
    let disk = SimFs::new();
    let mut older = SimFs::new();
    let mut appended = Appended::new();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for start in 0..=dice.below(3) {
        let mut store = open(&disk);
        for _ in 0..=dice.below(60) {
            let partition = u32::try_from(dice.below(u64::from(PARTITIONS))).unwrap();
            let base = next.entry(partition).or_default();
            let bytes = usize::try_from(dice.below(900)).unwrap();
            let frame = frame(PartitionId(partition), *base, 2, bytes);
            *base += 2;
            let batch = frame.batches.first().unwrap();
            appended.insert((batch.partition, batch.base), batch.bytes.clone());
            store.journal.append(&[frame]).unwrap();
            if dice.percent(40) {
                store.journal.sync().unwrap();
            }
        }
        store.journal.sync().unwrap();
        if start == 0 {
            older = copy(&disk);
        }
        drop(store);
    }
    (copy(&disk), older, appended)
}

fn ruin(disk: &SimFs, older: &SimFs, dice: &mut Dice) {
    let names = disk.all_names();
    let pick = |dice: &mut Dice| {
        let at = dice.below(names.len() as u64);
        names.get(usize::try_from(at).unwrap()).unwrap().clone()
    };
    let name = pick(dice);
    let Some(mut bytes) = disk.contents(&name) else { return };
    let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
    match dice.below(8) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x40),
        1 => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
        2 => {
            let noise = std::iter::repeat_with(|| dice.throw().to_le_bytes()[0]);
            for (byte, noise) in bytes.iter_mut().skip(at).take(2_000).zip(noise) {
                *byte = noise;
            }
        }
        3 => bytes.truncate(at),
        4 => return disk.lose(&name),
        5 => {
            // Pieces of an older state of the same file.
            let Some(old) = older.contents(&name) else { return };
            for (piece, old) in bytes.chunks_mut(4096).zip(old.chunks(4096)) {
                if dice.percent(50) && piece.len() == old.len() {
                    piece.copy_from_slice(old);
                }
            }
        }
        6 => bytes = disk.contents(&pick(dice)).unwrap_or(bytes),
        _ => bytes.extend_from_slice(&bytes.clone()),
    }
    disk.overwrite(&name, bytes);
}

/// Reads everything; gives the number of sound batches.
fn check(store: &Store<Ledger>, appended: &Appended) -> usize {
    let mut sound = 0;
    for partition in (0..PARTITIONS).map(PartitionId) {
        let mut from = Offset(0);
        loop {
            let found = match store.reader.read(partition, from, 4096) {
                Ok(found) => found,
                Err(ReadError::Corrupt { last, .. }) => {
                    from = last.next();
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let Some(last) = found.last() else { break };
            assert!(last.next_offset() > from, "reading gets on");
            from = last.next_offset();
            for batch in &found {
                let view = BatchView::parse(&batch.bytes).unwrap();
                if view.verify_bodies().is_ok() {
                    let known = appended.get(&(partition, batch.base));
                    assert!(known == Some(&batch.bytes), "offset={}", batch.base);
                    sound += 1;
                }
            }
        }
    }
    sound
}

fn copy(disk: &SimFs) -> SimFs {
    disk.crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 })
}

fn open(disk: &SimFs) -> Store<Ledger> {
    Store::open(Arc::new(disk.clone()), small()).unwrap()
}

fn small() -> Options {
    Options { segment_bytes: 32 << 10, ..options(1) }
}
