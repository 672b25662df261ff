//! A disk without room while folding: everything else goes on, and what can be given up is.

use crate::damage::{P, fresh, names, publish, settle};
use crate::world::{Model, World, options};
use posthouse_protocol::Offset;
use posthouse_storage::Options;
use posthouse_storage::checkpointer::{Step, Task};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::names::FileKind;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_full_disk_stops_nothing_but_the_fold_and_is_got_over() {
    let (disk, mut world) = fresh();
    let mut random = Dice::new(4);
    let mut full = 0;
    for round in 0..12 {
        for _ in 0..6 {
            world.append(&mut random).unwrap();
        }
        world.shared.request_roll();
        world.journal.roll_if_requested().unwrap();
        world.sync().unwrap();
        world.checkpointer.hurry();
        disk.set_capacity(used(&disk) + round * 700);
        for _ in 0..60 {
            full += u64::from(matches!(world.step().unwrap(), Step::OutOfSpace { .. }));
            world.now += Duration::from_millis(60);
        }
        world.check_readable();
        disk.set_capacity(u64::MAX);
        world.settle().unwrap();
    }
    assert!(full > 20, "full={full}");
    let mut leftovers = disk.all_names();
    leftovers.retain(|name| name.contains("tmp"));
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn a_disk_without_room_for_a_run_or_a_segment_gets_it_by_folding_what_was_settled() {
    let (disk, mut world) = fresh();
    world.settle().unwrap();
    while world.shared.ready_count() > 1 {
        // A segment of which less is needed is not adopted, which takes no room.
        let offset = publish(&mut world, 1);
        if offset.0.is_multiple_of(3) {
            settle(&mut world, offset, offset.next());
        }
    }
    disk.set_capacity(used(&disk) + 20_000);
    let mut full = 0;
    for _ in 0..50 {
        world.now += Duration::from_millis(100);
        full += u64::from(matches!(world.step().unwrap(), Step::OutOfSpace { .. }));
    }
    assert!(full > 0, "what is needed so far has no room in a run");

    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    world.shared.request_roll();
    world.journal.roll_if_requested().unwrap();
    world.sync().unwrap();
    for _ in 0..200 {
        world.now += Duration::from_millis(100);
        world.step().unwrap();
    }

    assert_eq!(world.shared.ready_count(), 2);
    publish(&mut world, 1);
    world.settle().unwrap();
}

#[test]
fn history_goes_when_a_fold_finds_no_room() {
    let (disk, mut world) = many_ready(u64::MAX);
    for _ in 0..4 {
        publish_segments(&mut world, 2);
        world.settle().unwrap();
    }
    publish_segments(&mut world, 1);
    let before = world.shared.manifest().journal.len();
    disk.set_capacity(used(&disk) + 2_000);

    fold_without_help(&mut world);

    let left = world.shared.manifest().journal.len();
    assert_eq!(left, before - 2, "one is kept as a spare, one gives room");
}

#[test]
fn history_goes_when_a_segment_finds_no_room_that_the_system_counts() {
    let disk = SimFs::new();
    let options = Options { journal_keep_bytes: u64::MAX, ..options() };
    let mut world = World::open(Arc::new(disk.clone()), options, Model::default()).unwrap();
    publish_segments(&mut world, 4);
    world.settle().unwrap();
    let before = world.shared.manifest().journal_first;
    disk.claim_free(u64::MAX);
    // Enough to fold what is settled.
    disk.set_capacity(used(&disk) + 20_000);

    for fill in 0..u8::MAX {
        let offset = publish(&mut world, fill);
        settle(&mut world, offset, offset.next());
        let step = world.step().unwrap();
        assert!(!matches!(step, Step::OutOfSpace { .. }));
        world.now += Duration::from_millis(100);
    }

    let left = world.shared.manifest().journal_first;
    assert!(left > before, "left={left} before={before}");
    assert_eq!(world.shared.ready_count(), 2);
}

#[test]
fn merging_of_runs_without_room_leaves_the_history() {
    let fs = FaultFs::new(SimFs::new());
    let options = Options { segments_ready: 40, journal_keep_bytes: u64::MAX, ..options() };
    let mut world = World::open(Arc::new(fs.clone()), options, Model::default()).unwrap();
    while world.task() != Task::Gather {
        publish_segments(&mut world, 1);
        while world.task() != Task::Gather && !matches!(world.step().unwrap(), Step::Idle { .. }) {}
    }
    let before = world.shared.manifest().journal.len();
    fs.plan(0, Fault::Full);

    while !matches!(world.step().unwrap(), Step::Idle { .. }) {
        world.now += Duration::from_secs(1);
    }

    assert!(fs.hit().is_some());
    assert!(before > 3, "before={before}");
    assert_eq!(world.shared.manifest().journal.len(), before);
}

#[test]
fn spares_go_when_a_fold_finds_no_room() {
    let (disk, mut world) = many_ready(0);
    publish_segments(&mut world, 6);
    world.settle().unwrap();
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    world.settle().unwrap();
    world.settle().unwrap();
    let before = names(&disk, FileKind::Spare).len();
    assert!(before > 3, "before={before}");
    publish_segments(&mut world, 1);
    disk.set_capacity(used(&disk) + 2_000);

    fold_without_help(&mut world);

    let left = names(&disk, FileKind::Spare).len();
    assert!(left < before, "left={left} before={before}");
    assert_eq!(world.shared.manifest().spares.len(), left);
    assert_eq!(world.shared.spare_count(), left);
}

#[test]
fn spares_go_before_history() {
    let (disk, mut world) = many_ready(3 * options().segment_bytes);
    publish_segments(&mut world, 12);
    world.settle().unwrap();
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    publish_segments(&mut world, 3);
    world.settle().unwrap();
    publish_segments(&mut world, 1);
    disk.set_capacity(used(&disk) + 2_000);
    finish(&mut world);
    while !matches!(world.step().unwrap(), Step::OutOfSpace { .. }) {}
    let (spares, history) = (world.shared.spare_count(), world.shared.manifest().journal_first);
    assert!(spares > 2, "spares={spares}");
    world.now += Duration::from_secs(1);

    for _ in 0..1_000 {
        world.step().unwrap();
        world.now += Duration::from_millis(10);
        if world.task() == Task::Swap {
            break;
        }
    }

    assert_eq!(world.task(), Task::Swap, "folded");
    assert!(world.shared.spare_count() < spares);
    assert_eq!(world.shared.manifest().journal_first, history);
}

/// So much is ready for the journal that space does not count as short, and a fold can use none of it.
fn many_ready(journal_keep_bytes: u64) -> (SimFs, World) {
    let disk = SimFs::new();
    let options = Options { segments_ready: 40, journal_keep_bytes, ..options() };
    let world = World::open(Arc::new(disk.clone()), options, Model::default()).unwrap();
    (disk, world)
}

/// Fills so many segments with what is needed, and as much again of what is not, so that none is
/// adopted.
fn publish_segments(world: &mut World, count: usize) {
    let before = world.shared.view().segments.len();
    while world.shared.view().segments.len() < before + count {
        let offset = publish(world, 1);
        if offset.0.is_multiple_of(2) {
            settle(world, offset, offset.next());
        }
    }
}

/// The fold meets the full disk, and gets over it without anybody's help.
fn fold_without_help(world: &mut World) {
    finish(world);
    let mut full = 0;
    for _ in 0..200 {
        full += u64::from(matches!(world.step().unwrap(), Step::OutOfSpace { .. }));
        world.now += Duration::from_millis(100);
    }
    assert!(full > 0);
    let last = world.shared.manifest().checkpoints.last().map(|newest| newest.index);
    assert_eq!(last, Some(world.journal.written()), "folded");
    world.check_readable();
}

/// Has everything folded next.
fn finish(world: &mut World) {
    world.shared.request_roll();
    world.journal.roll_if_requested().unwrap();
    world.sync().unwrap();
    world.checkpointer.hurry();
}

fn used(disk: &SimFs) -> u64 {
    disk.all_names().iter().map(|name| disk.contents(name).unwrap().len() as u64).sum()
}
