//! Files that a kill leaves behind: what is understood goes, and what may be needed stays.

use crate::toy::Toy;
use crate::world::{Model, World, options};
use posthouse_storage::Store;
use posthouse_storage::checkpointer::Step;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::manifest::Manifest;
use posthouse_storage::names::{FileKind, FileName, MANIFEST};
use posthouse_storage::run::Header;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const ACTIONS: u64 = 60;

/// A disk as a kill left it that came after a step of the checkpointer.
struct Killed {
    disk: SimFs,
    model: Model,
    /// Runs and checkpoints that the newest slot does not name.
    unnamed: BTreeSet<String>,
}

/// Kills at every step after which there are files that no manifest counts as part of the store.
/// Another thread commits before each kill, so that every number taken is durably given.
fn kills(seed: u64) -> Vec<Killed> {
    let disk = SimFs::new();
    let mut world = World::open(Arc::new(disk.clone()), options(), Model::default()).unwrap();
    let mut random = Dice::new(seed);
    let mut kills = Vec::new();
    let mut seen = BTreeSet::new();
    for action in 0..ACTIONS {
        world.append(&mut random).unwrap();
        if action % 12 == 0 {
            world.append_stream(&mut random).unwrap();
        }
        world.now += Duration::from_millis(1500);
        world.shared.request_roll();
        world.journal.roll_if_requested().unwrap();
        world.sync().unwrap();
        while let Step::Worked(_) = world.step().unwrap() {
            let unnamed = unnamed(&disk, &world.shared.manifest());
            if !unnamed.is_empty() && seen.insert(unnamed.clone()) {
                // Before the commit: the newest slot may be the first one not to name a file.
                kills.push(Killed { disk: copy(&disk), model: world.model.clone(), unnamed });
                world.shared.commit(|_| ()).unwrap();
                let unnamed = self::unnamed(&disk, &world.shared.manifest());
                kills.push(Killed { disk: copy(&disk), model: world.model.clone(), unnamed });
            }
        }
    }
    kills
}

/// As a killed process leaves it.
fn copy(disk: &SimFs) -> SimFs {
    disk.crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 })
}

fn unnamed(disk: &SimFs, manifest: &Manifest) -> BTreeSet<String> {
    let names = disk.all_names().into_iter();
    names
        .filter(|name| {
            FileName::parse(name).is_some_and(|name| {
                !name.temporary
                    && matches!(name.kind, FileKind::Run | FileKind::Checkpoint)
                    && !manifest.names(name)
            })
        })
        .collect()
}

fn orphans(disk: &SimFs) -> Vec<String> {
    let mut names = disk.all_names();
    names.retain(|name| name.starts_with("orphan/"));
    names
}

#[test]
fn a_kill_leaves_nothing_in_the_orphans() {
    let mut runs = 0;
    let mut checkpoints = 0;
    let mut adopted = 0;
    for seed in 0..6 {
        for killed in kills(seed) {
            let Killed { disk, model, unnamed } = killed;
            adopted += unnamed.iter().filter(|name| is_index(&disk, name)).count();
            runs += unnamed.iter().filter(|name| name.starts_with("run")).count();
            checkpoints += unnamed.iter().filter(|name| name.starts_with("checkpoint")).count();

            let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
            world.settle().unwrap();

            assert!(orphans(&disk).is_empty(), "{unnamed:?}: {:?}", orphans(&disk));
            let left = super::leftover::unnamed(&disk, &world.shared.manifest());
            assert!(left.is_empty(), "{unnamed:?}: {left:?}");
            assert!(world.shared.manifest().retired.is_empty(), "all that went has gone");
        }
    }
    assert!(runs > 5 && checkpoints > 5, "runs={runs} checkpoints={checkpoints}");
    assert!(adopted > 5, "adopted={adopted}");
}

/// Whether the file is a run over an adopted segment.
fn is_index(disk: &SimFs, name: &str) -> bool {
    let Some(bytes) = disk.contents(name).filter(|_| name.starts_with("run")) else {
        return false;
    };
    let header = bytes.get(..128).and_then(|header| Header::decode(header).ok());
    header.is_some_and(|header| header.identity.adopted.is_some())
}

#[test]
fn nothing_goes_that_a_slot_names_wherever_a_start_is_killed() {
    let mut named = 0;
    for killed in kills(1) {
        for operation in 0.. {
            let disk = FaultFs::new(copy(&killed.disk));
            disk.plan(operation, Fault::PowerLoss);
            let opened = Store::<Toy>::open(Arc::new(disk.clone()), options());
            let done = opened.is_ok();
            drop(opened);

            let disk = copy(disk.disk());
            for slot in MANIFEST {
                let Ok(manifest) = Manifest::decode(&disk.contents(slot).unwrap()) else {
                    continue;
                };
                let runs = manifest.runs.iter().map(|run| FileName::new(FileKind::Run, run.id));
                let checkpoints = manifest.checkpoints.iter();
                let checkpoints =
                    checkpoints.map(|entry| FileName::new(FileKind::Checkpoint, entry.id));
                let adopted = manifest.runs.iter().filter_map(|run| run.adopted);
                let adopted = adopted.map(|id| FileName::new(FileKind::Segment, id));
                for name in runs.chain(checkpoints).chain(adopted) {
                    let there = disk.contents(&name.to_string()).is_some();
                    assert!(there, "{slot} names {name}, operation={operation}");
                    named += 1;
                }
            }
            World::open(Arc::new(disk), options(), killed.model.clone()).unwrap();
            if done {
                break;
            }
        }
    }
    assert!(named > 1_000, "named={named}");
}

#[test]
fn files_that_no_slot_left_names_are_kept_when_a_slot_is_lost() {
    let mut kept = 0;
    for killed in kills(2) {
        for (slot, missing) in MANIFEST.into_iter().flat_map(|slot| [(slot, false), (slot, true)]) {
            let disk = copy(&killed.disk);
            if missing {
                disk.lose(slot);
            } else {
                disk.overwrite(slot, vec![0; 4096]);
            }
            let [other] =
                MANIFEST.into_iter().filter(|other| *other != slot).collect::<Vec<_>>()[..]
            else {
                panic!("there are two");
            };
            let Ok(manifest) = Manifest::decode(&disk.contents(other).unwrap()) else { continue };
            let unnamed = unnamed(&disk, &manifest);
            World::open(Arc::new(copy(&disk)), options(), killed.model.clone()).unwrap();

            let store = Store::<Toy>::open(Arc::new(disk.clone()), options()).unwrap();

            assert!(store.report.manifest_damaged.is_some(), "missing={missing}");
            for name in unnamed {
                let orphan = orphans(&disk).into_iter().any(|orphan| orphan.ends_with(&name));
                assert!(orphan, "missing={missing} {name}: {}", store.report);
                kept += 1;
            }
        }
    }
    assert!(kept > 10, "kept={kept}");
}

#[test]
fn damaged_and_foreign_files_of_our_names_are_set_aside() {
    let Some(killed) = kills(1).pop() else { panic!("there are kills") };
    for name in &killed.unnamed {
        let disk = copy(&killed.disk);
        let mut bytes = disk.contents(name).unwrap();
        bytes.iter_mut().skip(20).take(1).for_each(|byte| *byte ^= 1);
        disk.overwrite(name, bytes);

        let store = Store::<Toy>::open(Arc::new(disk.clone()), options()).unwrap();

        assert!(store.report.orphans.iter().any(|orphan| orphan.ends_with(name)));
    }
}
