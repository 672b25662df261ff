//! Damage that is found while folding, and after it.

use crate::toy::{Event, Toy, encode_events};
use crate::world::{Model, ModelFrame, World, options};
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message};
use posthouse_protocol::{Offset, PartitionId, Timestamp};
use posthouse_storage::checkpointer::{CheckpointError, DamagedBatch, Step, Task};
use posthouse_storage::frame::{BatchDraft, FrameDraft};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::fs::{File, Fs};
use posthouse_storage::inspect::inspect;
use posthouse_storage::names::{FileKind, FileName};
use posthouse_storage::reader::ReadError;
use posthouse_storage::store::Store;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const P: PartitionId = PartitionId(5);

/// A world on a fresh disk, and the disk.
pub(crate) fn fresh() -> (SimFs, World) {
    let disk = SimFs::new();
    let world = World::open(Arc::new(disk.clone()), options(), Model::default()).unwrap();
    (disk, world)
}

/// Appends one durable message of 600 bytes to `P`; gives its offset.
pub(crate) fn publish(world: &mut World, fill: u8) -> Offset {
    publish_to(world, P, fill)
}

pub(crate) fn publish_to(world: &mut World, partition: PartitionId, fill: u8) -> Offset {
    let start = world.state.partitions.entry(partition).or_default().next;
    let event = Event::Publish { partition, start, end: start.next() };
    world.state.apply_event(&event);
    world.state.applied += 1;
    let batches = vec![batch(partition, start, fill)];
    append(world, ModelFrame { events: vec![event], batches });
    start
}

/// One message of 600 bytes.
fn batch(partition: PartitionId, base: Offset, fill: u8) -> BatchDraft {
    let mut builder = BatchBuilder::new();
    let body = Bytes::from(vec![fill; 600]);
    builder.push(&Message { body, ..Message::default() }).unwrap();
    let bytes = builder.finish(Timestamp(0));
    let header_crc = BatchView::parse(&bytes).unwrap().header_crc();
    BatchDraft { partition, base, count: 1, header_crc, bytes }
}

pub(crate) fn settle(world: &mut World, start: Offset, end: Offset) {
    let event = Event::Settle { partition: P, start, end };
    world.state.apply_event(&event);
    world.state.applied += 1;
    append(world, ModelFrame { events: vec![event], batches: Vec::new() });
}

fn append(world: &mut World, frame: ModelFrame) {
    let draft = FrameDraft {
        events: encode_events(&frame.events).into(),
        batches: frame.batches.clone(),
        ..FrameDraft::default()
    };
    world.model.frames.push(frame);
    world.journal.append(&[draft]).unwrap();
    world.sync().unwrap();
}

/// Folds everything there is, and works until there is nothing to do; gives the damage found.
pub(crate) fn fold(world: &mut World) -> Vec<DamagedBatch> {
    let mut damaged = Vec::new();
    world.shared.request_roll();
    world.journal.roll_if_requested().unwrap();
    world.sync().unwrap();
    world.checkpointer.hurry();
    while let Step::Worked(_) = world.checkpointer.step(world.now).unwrap() {
        damaged.extend(world.checkpointer.take_damaged());
    }
    damaged
}

/// Changes one byte of the file behind the first place where `pattern` stands in it.
pub(crate) fn damage(disk: &SimFs, name: &str, pattern: &[u8]) {
    let mut bytes = disk.contents(name).unwrap();
    let at = bytes.windows(pattern.len()).position(|window| window == pattern).unwrap();
    bytes.get_mut(at + pattern.len() - 1).into_iter().for_each(|byte| *byte ^= 1);
    let file = Fs::open(disk, name).unwrap();
    file.write_at(0, &[io::IoSlice::new(&bytes)]).unwrap();
    file.sync().unwrap();
}

pub(crate) fn names(disk: &SimFs, kind: FileKind) -> Vec<String> {
    let names = disk.all_names().into_iter();
    names.filter(|name| FileName::parse(name).is_some_and(|name| name.kind == kind)).collect()
}

#[test]
fn a_batch_with_a_damaged_header_is_recorded_as_lost_and_the_others_are_copied() {
    let (disk, mut world) = fresh();
    publish(&mut world, 1);
    publish(&mut world, 2);
    publish(&mut world, 3);
    let header = world.model.frames[1].batches[0].bytes.slice(..40);
    let journal =
        FileName::new(FileKind::Segment, *world.shared.view().segments.keys().next().unwrap());
    let mut bytes = disk.contents(&journal.to_string()).unwrap();
    let at: Vec<usize> = bytes
        .windows(40)
        .enumerate()
        .filter(|(_, window)| *window == header)
        .map(|found| found.0)
        .collect();
    bytes[at[0] + 16] ^= 1;
    let file = Fs::open(&disk, &journal.to_string()).unwrap();
    file.write_at(0, &[io::IoSlice::new(&bytes)]).unwrap();

    let damaged = fold(&mut world);

    // All three batches have the same header but for its checksum, so the damage names one.
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].is_lost);
    let lost = damaged[0].base;
    for offset in (0..3).map(Offset) {
        let read = world.reader.read(P, offset, 1);
        if offset == lost {
            let error = read.unwrap_err();
            assert!(
                matches!(error, ReadError::Corrupt { partition: P, first, last, .. }
                if first == lost && last == lost),
                "{error}"
            );
        } else {
            assert_eq!(read.unwrap()[0].base, offset);
        }
    }
    let described = inspect(&disk).unwrap();
    assert_eq!(described.partitions[&P].damaged, 2, "in the run, and still in the journal");
}

#[test]
fn a_batch_with_a_damaged_body_is_copied_as_it_is_and_reported() {
    let (disk, mut world) = fresh();
    publish(&mut world, 1);
    publish(&mut world, 2);
    let segment = world.shared.view().segments.keys().next().copied().unwrap();
    let segment = FileName::new(FileKind::Segment, segment).to_string();
    damage(&disk, &segment, &[2; 100]);

    let damaged = fold(&mut world);

    let expected = DamagedBatch { partition: P, base: Offset(1), count: 1, is_lost: false };
    assert_eq!(damaged, [expected]);
    let read = world.reader.read(P, Offset(1), 1).unwrap();
    let view = BatchView::parse(&read[0].bytes).unwrap();
    assert!(view.verify_bodies().is_err(), "its own checksum tells the consumer");
}

#[test]
fn a_durable_frame_that_is_gone_stops_the_fold_and_keeps_the_journal() {
    let (disk, mut world) = fresh();
    publish(&mut world, 1);
    publish(&mut world, 2);
    let event = encode_events(&world.model.frames[1].events);
    let segment = world.shared.view().segments.keys().next().copied().unwrap();
    damage(&disk, &FileName::new(FileKind::Segment, segment).to_string(), &event);
    world.shared.request_roll();
    world.journal.roll_if_requested().unwrap();
    world.sync().unwrap();
    world.checkpointer.hurry();

    let error = loop {
        match world.checkpointer.step(world.now) {
            Ok(Step::Worked(_)) => {}
            Ok(idle) => panic!("{idle:?}"),
            Err(error) => break error,
        }
    };

    assert!(matches!(error, CheckpointError::Journal { index, .. } if index.0 == 2), "{error}");
    assert!(!error.is_fatal());
    assert!(world.shared.manifest().checkpoints.is_empty());
    world.now += Duration::from_secs(1);
    assert!(world.checkpointer.step(world.now).is_err(), "and it is not passed over later");
}

#[test]
fn with_the_newest_checkpoint_damaged_the_older_one_and_its_journal_do() {
    let (disk, mut world) = fresh();
    let mut random = Dice::new(3);
    for _ in 0..6 {
        for _ in 0..10 {
            world.append(&mut random).unwrap();
        }
        world.settle().unwrap();
    }
    let manifest = world.shared.manifest();
    let newest = manifest.checkpoints.last().unwrap();
    let name = FileName::new(FileKind::Checkpoint, newest.id).to_string();
    damage(&disk, &name, b"PHCKP00");
    let model = world.model.clone();
    drop(world);

    let mut world = World::open(Arc::new(disk.clone()), options(), model).unwrap();

    assert!(world.checkpointer.folded() < newest.index);
    world.check_readable();
    for _ in 0..3 {
        for _ in 0..10 {
            world.append(&mut random).unwrap();
        }
        world.settle().unwrap();
    }
    assert!(!world.shared.manifest().checkpoints.iter().any(|entry| entry.id == newest.id));
    assert!(disk.contents(&name).is_none());
    let model = world.model.clone();
    drop(world);
    World::open(Arc::new(disk), options(), model).unwrap().settle().unwrap();
}

#[test]
fn a_run_that_does_not_read_back_as_it_was_written_is_made_again() {
    for kind in [FileKind::Run, FileKind::Checkpoint] {
        let (disk, mut world) = fresh();
        publish(&mut world, 1);
        world.shared.request_roll();
        world.journal.roll_if_requested().unwrap();
        world.checkpointer.hurry();
        while world.step().unwrap() != Step::Worked(Task::Name) {}
        let made = names(&disk, kind);
        let magic: &[u8] = if kind == FileKind::Run { &[1; 100] } else { &[5, 0, 0, 0] };
        damage(&disk, &made[0], magic);

        let error = world.checkpointer.step(world.now).unwrap_err();

        assert!(!error.is_fatal(), "{error}");
        assert!(world.shared.manifest().runs.is_empty());
        world.settle().unwrap();
        assert_eq!(world.shared.manifest().runs.len(), 1);
        assert_ne!(names(&disk, kind), made);
    }
}

#[test]
fn a_failed_sync_ends_the_checkpointer_and_a_restart_finds_everything() {
    let mut failed = 0;
    for operation in (0..400).step_by(3) {
        let disk = FaultFs::new(SimFs::new());
        let mut world = World::open(Arc::new(disk.clone()), options(), Model::default()).unwrap();
        let mut random = Dice::new(operation);
        for _ in 0..6 {
            world.append(&mut random).unwrap();
        }
        world.sync().unwrap();
        disk.plan(operation, Fault::Error);
        if world.settle().is_err() {
            failed += 1;
        }
        let model = world.model.clone();
        drop(world);
        let killed = disk.disk().kill();
        World::open(Arc::new(killed), options(), model).unwrap().settle().unwrap();
        if disk.hit().is_none() {
            break;
        }
    }
    assert!(failed > 10, "failed={failed}");
}

#[test]
fn a_file_that_somebody_reads_is_not_recycled_before_its_time() {
    let (disk, mut world) = fresh();
    let first = publish(&mut world, 1);
    fold(&mut world);
    let held = world.reader.read(P, first, 1).unwrap();
    let runs = names(&disk, FileKind::Run);
    assert_eq!(runs.len(), 1);
    settle(&mut world, first, first.next());
    for fill in 0..3 {
        let offset = publish(&mut world, fill);
        settle(&mut world, offset, offset.next());
        fold(&mut world);
    }
    assert!(world.shared.manifest().runs.is_empty());
    assert_eq!(names(&disk, FileKind::Run), runs, "retired, and there as long as it is read");

    let bytes = held[0].bytes.clone();
    drop(held);
    fold(&mut world);
    assert_eq!(names(&disk, FileKind::Run), runs, "a slice is enough");
    drop(bytes);
    fold(&mut world);
    assert!(names(&disk, FileKind::Run).is_empty());
}

#[test]
fn a_segment_that_is_read_too_long_is_unlinked_and_not_recycled() {
    let (disk, mut world) = fresh();
    let first = publish(&mut world, 1);
    let held = world.reader.read(P, first, 1).unwrap();
    assert!(held[0].journal_tail);
    let segment = *world.shared.view().segments.keys().next().unwrap();
    let name = FileName::new(FileKind::Segment, segment).to_string();
    for fill in 0..3 {
        publish(&mut world, fill);
        fold(&mut world);
    }
    assert!(disk.contents(&name).is_some(), "waits for the reader");
    let expected = held[0].bytes.to_vec();

    world.now += Duration::from_secs(11);
    fold(&mut world);

    assert!(disk.contents(&name).is_none());
    assert_eq!(held[0].bytes, expected);
}

#[test]
fn the_number_of_runs_stays_small() {
    for (messages, partitions) in [(1, 3), (8, 1), (16, 4)] {
        let (_, mut world) = fresh();
        let mut runs_max = 0;
        for fold_number in 0..100 {
            for message in 0..messages {
                let partition = PartitionId((fold_number + message) % partitions);
                publish_to(&mut world, partition, 1);
            }
            fold(&mut world);
            runs_max = runs_max.max(world.shared.manifest().runs.len());
        }
        world.check_readable();
        let bytes: u64 = world.shared.manifest().runs.iter().map(|run| run.bytes).sum();
        let files = usize::try_from(bytes / world.shared.options.segment_bytes).unwrap();
        assert!(runs_max < 24 + 3 * files, "runs={runs_max} of {bytes} bytes");
    }
}

/// Two messages of `P`, each in a run of its own; gives the disk and the name of the first.
fn two_runs() -> (SimFs, String) {
    let (disk, mut world) = fresh();
    let mut fold_one = |fill| {
        publish(&mut world, fill);
        fold(&mut world);
        names(&disk, FileKind::Run)
    };
    let (first, both) = (fold_one(1), fold_one(2));
    assert_eq!((first.len(), both.len()), (1, 2));
    (disk, first.into_iter().next().unwrap())
}

pub(crate) fn reopened(disk: &SimFs) -> Store<Toy> {
    Store::open(Arc::new(disk.clone()), options()).unwrap()
}

#[test]
fn nothing_is_said_to_be_gone_while_a_run_is_left_out() {
    let (disk, first) = two_runs();
    let contents = disk.contents(&first).unwrap();
    disk.lose(&first);

    let mut store = reopened(&disk);

    assert_eq!(store.report.runs_damaged.len(), 1);
    let check = |store: &Store<Toy>| {
        for offset in [Offset(0), Offset(7)] {
            let error = store.reader.find(P, offset).unwrap_err();
            assert!(matches!(error, ReadError::LeftOut { runs: 1 }), "{error}");
        }
        assert_eq!(store.reader.find(P, Offset(1)).unwrap().unwrap().base, Offset(1));
    };
    check(&store);
    // A run is made meanwhile, and goes again.
    let (partition, start, end) = (PartitionId(9), Offset(0), Offset(1));
    for (event, batches, runs) in [
        (Event::Publish { partition, start, end }, vec![batch(partition, start, 3)], 3),
        (Event::Settle { partition, start, end }, Vec::new(), 2),
    ] {
        let events = encode_events(&[event]).into();
        store.journal.append(&[FrameDraft { events, batches, ..Default::default() }]).unwrap();
        store.shared.request_roll();
        store.journal.roll_if_requested().unwrap();
        store.journal.sync().unwrap();
        store.checkpointer.hurry();
        while let Step::Worked(_) = store.checkpointer.step(Duration::ZERO).unwrap() {}
        assert_eq!(store.shared.manifest().runs.len(), runs);
        check(&store);
    }
    drop(store);
    disk.overwrite(&first, contents);

    let store = reopened(&disk);

    assert_eq!(store.reader.find(P, Offset(0)).unwrap().unwrap().base, Offset(0));
    assert!(store.reader.find(P, Offset(7)).unwrap().is_none());
}

/// A disk that refuses one file, as a system does that has too many open or gives no rights.
#[derive(Debug)]
struct Refusing {
    disk: SimFs,
    name: String,
    errno: Errno,
}

impl Fs for Refusing {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if name == self.name { Err(self.errno.into()) } else { self.disk.open(name) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

/// Its messages would count as damaged, and be settled as that.
#[test]
fn store_is_not_opened_without_a_run_that_the_system_only_refuses_for_now() {
    let (disk, name) = two_runs();
    let open = |errno| {
        let (disk, name) = (disk.clone(), name.clone());
        Store::<Toy>::open(Arc::new(Refusing { disk, name, errno }), options())
    };

    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM] {
        let error = open(errno).unwrap_err().to_string();
        assert!(error.contains("allow more open files"), "{error}");
    }
    assert_eq!(open(Errno::IO).unwrap().report.runs_damaged.len(), 1, "it will not get better");

    let store = reopened(&disk);
    assert!(store.report.runs_damaged.is_empty());
    assert_eq!(store.reader.find(P, Offset(0)).unwrap().unwrap().base, Offset(0));
}
