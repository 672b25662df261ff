//! How the checkpointer goes about a long journal.

use crate::toy::{Event, encode_events};
use crate::world::{Model, ModelFrame, World, options};
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message};
use posthouse_protocol::{PartitionId, Timestamp};
use posthouse_storage::Options;
use posthouse_storage::checkpointer::{Step, Task};
use posthouse_storage::frame::{BatchDraft, FrameDraft};
use posthouse_storage::fs::Fs;
use posthouse_storage::fs::real::RealFs;
use posthouse_storage::fs::sim::SimFs;
use std::sync::Arc;

/// A world with so many messages of so many bytes in finished segments, none of them folded.
fn filled(fs: Arc<dyn Fs>, options: Options, messages: u32, bytes: usize) -> World {
    filled_by_turns(fs, options, (messages, bytes), 1)
}

/// The same with messages to so many partitions by turns.
fn filled_by_turns(
    fs: Arc<dyn Fs>,
    options: Options,
    (messages, bytes): (u32, usize),
    partitions: u32,
) -> World {
    let mut world = World::open(fs, options, Model::default()).unwrap();
    for message in 0..messages {
        publish(&mut world, PartitionId(message % partitions), bytes);
    }
    world.shared.request_roll();
    world.journal.roll_if_requested().unwrap();
    world.sync().unwrap();
    world
}

fn publish(world: &mut World, partition: PartitionId, bytes: usize) {
    let start = world.state.partitions.entry(partition).or_default().next;
    let event = Event::Publish { partition, start, end: start.next() };
    world.state.apply_event(&event);
    world.state.applied += 1;
    let mut builder = BatchBuilder::new();
    builder.push(&Message { body: Bytes::from(vec![1; bytes]), ..Message::default() }).unwrap();
    let bytes = builder.finish(Timestamp(0));
    let header_crc = BatchView::parse(&bytes).unwrap().header_crc();
    let batches = vec![BatchDraft { partition, base: start, count: 1, header_crc, bytes }];
    let frame = ModelFrame { events: vec![event], batches };
    let draft = FrameDraft {
        events: encode_events(&frame.events).into(),
        batches: frame.batches.clone(),
        ..FrameDraft::default()
    };
    world.model.frames.push(frame);
    world.journal.append(&[draft]).unwrap();
}

#[test]
fn a_long_journal_gets_room_piece_by_piece() {
    let options = options();
    let piece = options.fold_bytes + options.segment_bytes;
    let mut world = filled(Arc::new(SimFs::new()), options, 600, 600);
    let unfolded =
        |world: &World| world.checkpointer.progress().space(&world.shared).unwrap().unfolded_bytes;
    let mut before = unfolded(&world);
    assert!(before > 3 * piece, "{before} bytes are no long journal");
    let mut folds = 0;
    while let Step::Worked(task) = world.step().unwrap() {
        let left = unfolded(&world);
        if task == Task::Swap && left < before {
            assert!(before - left <= piece, "{before} bytes were waiting, then {left}");
            (before, folds) = (left, folds + 1);
        }
    }
    assert!(folds > 3, "{folds} folds");
    world.settle().unwrap();
    world.check_readable();
}

#[test]
fn what_is_copied_is_synced_every_few_mebibytes() {
    let segment_bytes = 32 << 20;
    let options = Options { segment_bytes, fold_bytes: segment_bytes, ..options() };
    let disk = SimFs::new();
    let mut world = filled(Arc::new(disk.clone()), options, 200, 100 << 10);
    world.checkpointer.hurry();
    let mut copies = 0;
    while let Step::Worked(task) = world.step().unwrap() {
        if task == Task::Copy {
            copies += 1;
            // The names of the checkpoint and of the run, which are synced later.
            assert_eq!(disk.unsynced(), 2, "after copying {copies} times");
        }
    }
    assert!(copies > 4, "{copies} pieces were copied");
    world.check_readable();
}

#[test]
fn runs_of_several_mebibytes_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let fs = || Arc::new(RealFs::open(dir.path()).unwrap());
    let segment_bytes = 8 << 20;
    let options = Options { segment_bytes, fold_bytes: segment_bytes, ..options() };
    // By turns, so that no segment is adopted.
    let mut world = filled_by_turns(fs(), options.clone(), (9_000, 997), 2);
    world.settle().unwrap();
    let runs = world.shared.manifest().runs;
    assert!(runs.iter().all(|run| run.adopted.is_none()), "{runs:?}");
    assert!(runs.iter().map(|run| run.bytes).sum::<u64>() > segment_bytes, "{runs:?}");
    world.check_readable();
    let model = world.model.clone();
    drop(world);
    World::open(fs(), options, model).unwrap();
}
