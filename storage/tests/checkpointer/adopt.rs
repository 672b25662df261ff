//! Segments that become runs where they lie.

use crate::damage::{P, damage, fold, fresh, publish, publish_to, reopened, settle};
use crate::toy::Toy;
use crate::world::{Model, World, options};
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{Offset, PartitionId};
use posthouse_storage::checkpointer::{DamagedBatch, Step};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::inspect::{Content, Standing, inspect};
use posthouse_storage::manifest::RunEntry;
use posthouse_storage::names::{FileId, FileKind, FileName};
use posthouse_storage::reader::ReadError;
use posthouse_storage::{Options, Store};
use std::sync::Arc;

/// Publishes until the journal has left so many segments for good; gives the last offset.
fn fill(world: &mut World, segments: usize) -> Offset {
    let before = world.shared.view().segments.len();
    loop {
        let last = publish(world, 7);
        let now = world.shared.view().segments.len();
        while world.shared.ready_count() == 0 {
            assert!(matches!(world.step().unwrap(), Step::Worked(_)));
        }
        if now >= before + segments {
            return last;
        }
    }
}

/// The runs over adopted segments.
fn adopted(world: &World) -> Vec<(RunEntry, FileId)> {
    let runs = world.shared.manifest().runs.into_iter();
    runs.filter_map(|run| run.adopted.map(|segment| (run, segment))).collect()
}

fn segment_name(id: FileId) -> String {
    FileName::new(FileKind::Segment, id).to_string()
}

fn run_name(id: FileId) -> String {
    FileName::new(FileKind::Run, id).to_string()
}

/// Changes the first entry of the run's index, which follows the header.
fn damage_index(disk: &SimFs, run: FileId) {
    let mut bytes = disk.contents(&run_name(run)).unwrap();
    bytes.iter_mut().skip(128 + 8).take(1).for_each(|byte| *byte ^= 1);
    disk.overwrite(&run_name(run), bytes);
}

/// The journal keeps its history.
fn with_history() -> Options {
    Options { journal_keep_bytes: 1 << 30, ..options() }
}

/// A disk with one adopted segment that the journal has left, the run over it, and a few messages
/// in another run.
fn outlived() -> (SimFs, Model, RunEntry) {
    let (disk, mut world) = fresh();
    fill(&mut world, 1);
    fold(&mut world);
    for fill in 0..3 {
        publish(&mut world, fill);
        fold(&mut world);
    }
    let [(run, segment)] = adopted(&world)[..] else { panic!("one is adopted") };
    let journal = world.shared.manifest().journal;
    assert!(journal.iter().all(|entry| entry.id != segment), "history is not kept");
    (disk, world.model.clone(), run)
}

#[test]
fn sustained_stream_is_written_once() {
    let (disk, mut world) = fresh();
    fill(&mut world, 8);
    fold(&mut world);

    let found = adopted(&world);
    assert!(found.len() >= 8, "{found:?}");
    let written: usize =
        found.iter().map(|(run, _)| disk.contents(&run_name(run.id)).unwrap().len()).sum();
    let segment_bytes = usize::try_from(world.shared.options.segment_bytes).unwrap();
    assert!(written < found.len() * segment_bytes / 16, "{written} bytes of index");
    world.check_readable();

    // Once more, out of a journal that has forgotten them.
    for fill in 0..3 {
        publish(&mut world, fill);
        fold(&mut world);
    }
    let manifest = world.shared.manifest();
    for (_, segment) in &found {
        assert!(manifest.journal.iter().all(|entry| entry.id != *segment), "history is not kept");
        assert!(disk.contents(&segment_name(*segment)).is_some(), "and its file stays");
    }
    world.check_readable();
    let model = world.model.clone();
    drop(world);
    let world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
    assert_eq!(adopted(&world), found);
    assert!(disk.all_names().iter().all(|name| !name.starts_with("orphan/")));
}

#[test]
fn mostly_settled_segment_is_copied() {
    let (_, mut world) = fresh();
    let last = fill(&mut world, 1);
    settle(&mut world, Offset(0), Offset(last.0 / 2));

    fold(&mut world);

    assert!(adopted(&world).is_empty());
    assert_eq!(world.shared.manifest().runs.len(), 1);
    world.check_readable();
}

#[test]
fn dead_run_frees_itself_and_its_segment() {
    let (disk, model, run) = outlived();
    let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
    let segment = run.adopted.unwrap();
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);

    fold(&mut world);

    assert!(disk.contents(&run_name(run.id)).is_none());
    assert!(disk.contents(&segment_name(segment)).is_none());
    let manifest = world.shared.manifest();
    assert!(!manifest.uses_segment(segment) && manifest.retired.is_empty(), "{manifest:?}");
    assert!(!manifest.spares.is_empty(), "the segment's file is used again");
}

#[test]
fn segment_of_a_dead_run_stays_as_long_as_it_is_history() {
    let disk = SimFs::new();
    let mut world = World::open(Arc::new(disk.clone()), with_history(), Model::default()).unwrap();
    fill(&mut world, 1);
    fold(&mut world);
    let (run, segment) = adopted(&world)[0];
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    fold(&mut world);
    fold(&mut world);

    assert!(disk.contents(&run_name(run.id)).is_none());
    let manifest = world.shared.manifest();
    assert!(manifest.journal.iter().any(|entry| entry.id == segment));
    assert!(manifest.retired.is_empty());

    let model = world.model.clone();
    drop(world);
    let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
    fold(&mut world);
    assert!(disk.contents(&segment_name(segment)).is_none(), "then it goes");
}

#[test]
fn adopted_history_is_not_counted_as_room() {
    let disk = SimFs::new();
    let mut world = World::open(Arc::new(disk), with_history(), Model::default()).unwrap();
    fill(&mut world, 4);
    fold(&mut world);
    publish(&mut world, 1);
    fold(&mut world);
    let space = |world: &World| world.checkpointer.progress().space(&world.shared).unwrap();

    let manifest = world.shared.manifest();
    let folded = manifest.checkpoints.first().unwrap().index;
    let history = manifest.journal.iter().filter(|entry| {
        entry.end.is_some_and(|end| end.last <= folded) && !manifest.is_adopted(entry.id)
    });

    assert!(adopted(&world).len() >= 4);
    let segment_bytes = world.shared.options.segment_bytes;
    assert_eq!(space(&world).history_bytes, history.count() as u64 * segment_bytes);
    assert!(world.checkpointer.progress().adopted_bytes() >= 4 * segment_bytes);
}

#[test]
fn slice_keeps_the_segment_from_being_recycled() {
    let (disk, mut world) = fresh();
    let first = publish(&mut world, 1);
    let from_journal = world.reader.read(P, first, 1).unwrap();
    assert!(from_journal[0].journal_tail);
    fill(&mut world, 1);
    fold(&mut world);
    let segment = segment_name(adopted(&world)[0].1);
    let from_run = world.reader.read(P, first, 1).unwrap();
    assert!(!from_run[0].journal_tail);
    assert_eq!(from_run[0].bytes, from_journal[0].bytes);
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    for fill in 0..3 {
        publish(&mut world, fill);
        fold(&mut world);
    }
    assert!(adopted(&world).is_empty());

    assert!(disk.contents(&segment).is_some());
    drop(from_run);
    fold(&mut world);
    assert!(disk.contents(&segment).is_some(), "read as journal");
    drop(from_journal);
    fold(&mut world);
    assert!(disk.contents(&segment).is_none());
}

/// The journal has the segment, and a run. Both are opened by a start, and the file must have one map.
#[test]
fn slice_of_a_run_keeps_the_segment_after_a_restart_too() {
    let disk = SimFs::new();
    let open = |model, options| World::open(Arc::new(disk.clone()), options, model).unwrap();
    let mut world = open(Model::default(), with_history());
    fill(&mut world, 1);
    fold(&mut world);
    let segment = adopted(&world)[0].1;
    let model = world.model.clone();
    drop(world);
    let mut world = open(model, Options { journal_keep_bytes: 7 * (64 << 10), ..options() });
    assert!(world.shared.view().segments.contains_key(&segment));
    let held = world.reader.read(P, Offset(0), 1).unwrap();
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), end);
    fold(&mut world);
    assert!(adopted(&world).is_empty(), "the run goes first");
    assert!(world.shared.view().segments.contains_key(&segment));
    for _ in 0..10 {
        let offset = publish(&mut world, 1);
        settle(&mut world, offset, offset.next());
        fold(&mut world);
    }
    assert!(!world.shared.view().segments.contains_key(&segment), "then the history");

    assert!(disk.contents(&segment_name(segment)).is_some());
    drop(held);
    fold(&mut world);
    assert!(disk.contents(&segment_name(segment)).is_none());
}

#[test]
fn run_over_a_segment_that_is_less_than_half_needed_is_rewritten() {
    let (disk, model, run) = outlived();
    let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
    let end = world.state.partitions[&P].next;
    // More than half of the batches, less than half of the file.
    settle(&mut world, Offset(0), Offset(end.0 * 45 / 100));

    fold(&mut world);

    assert!(disk.contents(&run_name(run.id)).is_none());
    assert!(disk.contents(&segment_name(run.adopted.unwrap())).is_none());
    assert!(adopted(&world).is_empty());
    world.check_readable();
    let model = world.model.clone();
    drop(world);
    World::open(Arc::new(disk), options(), model).unwrap().settle().unwrap();
}

#[test]
fn compaction_leaves_a_segment_to_the_history() {
    let disk = SimFs::new();
    let open = |model| World::open(Arc::new(disk.clone()), with_history(), model).unwrap();
    let mut world = open(Model::default());
    fill(&mut world, 1);
    fold(&mut world);
    let (run, segment) = adopted(&world)[0];
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(0), Offset(end.0 / 2));

    fold(&mut world);

    assert!(disk.contents(&run_name(run.id)).is_none(), "rewritten");
    assert!(adopted(&world).is_empty());
    let manifest = world.shared.manifest();
    assert!(manifest.journal.iter().any(|entry| entry.id == segment));
    assert!(manifest.retired.is_empty());
    let model = world.model.clone();
    drop(world);
    open(model).settle().unwrap();
    assert!(disk.contents(&segment_name(segment)).is_some());
}

/// The checkpoint that came with the run cannot be read, so that the segment is folded again.
#[test]
fn segment_is_adopted_again_only_where_its_index_is_damaged_and_freed_once() {
    for index_is_damaged in [false, true] {
        let (disk, mut world) = fresh();
        fill(&mut world, 1);
        fold(&mut world);
        let (run, segment) = adopted(&world)[0];
        let model = world.model.clone();
        let checkpoint = world.shared.manifest().checkpoints[0].id;
        drop(world);
        let checkpoint = FileName::new(FileKind::Checkpoint, checkpoint).to_string();
        damage(&disk, &checkpoint, b"PHCKP00");
        if index_is_damaged {
            damage_index(&disk, run.id);
        }
        let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();
        fold(&mut world);
        let again: Vec<_> = adopted(&world).into_iter().map(|(_, segment)| segment).collect();
        assert_eq!(again.len(), if index_is_damaged { 2 } else { 1 });
        assert!(again.iter().all(|found| *found == segment));
        let end = world.state.partitions[&P].next;
        settle(&mut world, Offset(0), end);

        fold(&mut world);
        fold(&mut world);

        let manifest = world.shared.manifest();
        assert!(manifest.runs.is_empty() && manifest.retired.is_empty(), "{manifest:?}");
        assert!(disk.contents(&segment_name(segment)).is_none());
        world.settle().unwrap();
    }
}

#[test]
fn damage_found_on_adoption_is_recorded_as_on_copying() {
    let (disk, mut world) = fresh();
    publish(&mut world, 1);
    publish(&mut world, 2);
    fill(&mut world, 1);
    let segment = *world.shared.view().segments.keys().next().unwrap();
    damage(&disk, &segment_name(segment), &[2; 100]);
    let bytes = disk.contents(&segment_name(segment)).unwrap();
    let header = world.model.frames[0].batches[0].bytes.slice(..64);
    let at = bytes.windows(64).position(|window| window == header).unwrap();
    let mut bytes = bytes;
    bytes[at + 16] ^= 1;
    let file = posthouse_storage::fs::Fs::open(&disk, &segment_name(segment)).unwrap();
    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
    file.sync().unwrap();

    let damaged = fold(&mut world);

    let found =
        |base, is_lost| DamagedBatch { partition: P, base: Offset(base), count: 1, is_lost };
    assert_eq!(damaged, [found(0, true), found(1, false)]);
    assert_eq!(adopted(&world)[0].1, segment);
    let error = world.reader.read(P, Offset(0), 1).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { first: Offset(0), last: Offset(0), .. }));
    let read = world.reader.read(P, Offset(1), 1).unwrap();
    assert!(BatchView::parse(&read[0].bytes).unwrap().verify_bodies().is_err());
    let end = world.state.partitions[&P].next;
    settle(&mut world, Offset(2), Offset(end.0 / 2));
    assert_eq!(fold(&mut world), [found(1, false)], "what is lost is not news when it is copied");
    assert!(adopted(&world).is_empty());
}

#[test]
fn start_leaves_out_a_run_whose_segment_is_missing_or_cut_and_keeps_what_there_is() {
    let (disk, _, run) = outlived();
    let segment = segment_name(run.adopted.unwrap());
    let contents = disk.contents(&segment).unwrap();
    for cut in [None, Some(contents.len() - 1)] {
        match cut {
            None => disk.lose(&segment),
            Some(len) => disk.overwrite(&segment, contents[..len].to_vec()),
        }

        let store = reopened(&disk);

        let damaged = &store.report.runs_damaged;
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        let id = format!("segment={}", run.adopted.unwrap());
        assert!(damaged[0].contains(&id), "{damaged:?}");
        let error = store.reader.find(P, Offset(0)).unwrap_err();
        assert!(matches!(error, ReadError::LeftOut { runs: 1 }), "{error}");
        assert!(store.report.orphans.is_empty());
        work(store);
        assert_eq!(disk.contents(&segment).is_some(), cut.is_some());
    }
    let damage = {
        disk.lose(&segment);
        inspect(&disk).unwrap().damage()
    };
    assert!(damage.contains(&format!("{segment}: missing")), "{damage:?}");
    disk.overwrite(&segment, contents);

    let store = reopened(&disk);

    assert!(store.report.runs_damaged.is_empty());
    assert_eq!(store.reader.find(P, Offset(0)).unwrap().unwrap().base, Offset(0));
}

/// Works until there is nothing to do.
fn work(mut store: Store<Toy>) {
    while let Step::Worked(_) = store.checkpointer.step(std::time::Duration::ZERO).unwrap() {}
}

#[test]
fn damaged_body_costs_that_message_and_damaged_index_that_run() {
    let (disk, _, run) = outlived();
    let segment = segment_name(run.adopted.unwrap());
    damage(&disk, &segment, &[7; 100]);
    let store = reopened(&disk);
    assert!(store.report.runs_damaged.is_empty());
    let read = store.reader.read(P, Offset(0), 1).unwrap();
    assert!(BatchView::parse(&read[0].bytes).unwrap().verify_bodies().is_err());
    let read = store.reader.read(P, Offset(1), 1).unwrap();
    assert!(BatchView::parse(&read[0].bytes).unwrap().verify_bodies().is_ok());
    drop(store);

    damage_index(&disk, run.id);
    let store = reopened(&disk);
    assert!(store.report.runs_damaged.is_empty());
    let error = store.reader.read(P, Offset(0), 1).unwrap_err();
    assert!(matches!(error, ReadError::Index { file, .. } if file == run.id), "{error}");
    work(store);
    assert!(disk.contents(&segment).is_some(), "what can be read of it later, is kept");
}

#[test]
fn inspection_tells_of_adopted_segments_and_counts_them_once() {
    let (disk, mut world) = fresh();
    fill(&mut world, 1);
    publish_to(&mut world, PartitionId(6), 1);
    fold(&mut world);
    let (run, segment) = adopted(&world)[0];
    let content = |name: &str| {
        let described = inspect(&disk).unwrap();
        assert!(described.damage().is_empty(), "{:?}", described.damage());
        let file = described.files.into_iter().find(|file| file.name == name).unwrap();
        assert_eq!(file.standing, Standing::Named);
        file.content
    };
    assert!(matches!(content(&segment_name(segment)), Content::Segment(_)), "journal still");
    for fill in 0..3 {
        publish(&mut world, fill);
        fold(&mut world);
    }

    assert!(matches!(content(&segment_name(segment)), Content::Adopted(id) if id == run.id));
    let Content::Run(found) = content(&run_name(run.id)) else { panic!("a run") };
    assert_eq!(found.adopted, Some(segment));
    assert!(found.partitions[&P].messages > 50);
    let held = world.state.partitions[&P].needed.len() as u64;
    let counted = inspect(&disk).unwrap().partitions[&P].messages;
    assert!(counted < held + 10, "{counted} messages of {held}, and a few in the journal too");
}
