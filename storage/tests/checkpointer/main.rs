//! The checkpointer as a whole, against a model, on real and simulated disks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod adopt;
mod crash;
mod damage;
mod full_disk;
mod guard;
mod leftover;
mod pace;
mod toy;
mod world;

use posthouse_storage::checkpointer::{Step, Task};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::real::RealFs;
use posthouse_storage::inspect::inspect;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use world::{Model, World, options};

/// All that a checkpointer does.
const TASKS: [Task; 14] = [
    Task::Fold,
    Task::Save,
    Task::Copy,
    Task::Seal,
    Task::Name,
    Task::Verify,
    Task::Commit,
    Task::Swap,
    Task::Choose,
    Task::Retire,
    Task::Recycle,
    Task::Ready,
    Task::Survey,
    Task::Gather,
];

#[test]
fn folds_on_a_real_directory_and_reads_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let mut random = Dice::new(1);
    let mut model = Model::default();
    let mut done = BTreeMap::<Task, u64>::new();
    for _ in 0..3 {
        let fs = Arc::new(RealFs::open(&path).unwrap());
        let mut world = World::open(fs, options(), model).unwrap();
        for _ in 0..70 {
            world.append(&mut random).unwrap();
            world.step().unwrap();
            if random.below(8) == 0 {
                world.now += Duration::from_millis(1500);
                world.step().unwrap();
                world.journal.roll_if_requested().unwrap();
                world.sync().unwrap();
                while let Step::Worked(_) = world.step().unwrap() {}
            }
        }
        world.settle().unwrap();
        let manifest = world.shared.manifest();
        assert_eq!(manifest.checkpoints.len(), 2);
        assert!(manifest.journal.len() < 8, "{manifest:?}");
        check_figures(&world, &path);
        for (task, times) in &world.done {
            *done.entry(*task).or_default() += times;
        }
        model = world.model.clone();
        world.journal.close().unwrap();
    }
    for task in TASKS {
        assert!(done.contains_key(&task), "{task:?} in {done:?}");
    }
}

/// What the space budget and a description from outside say fits what was stored.
fn check_figures(world: &World, path: &Path) {
    let space = world.checkpointer.progress().space(&world.shared).unwrap();
    assert_eq!((space.unfolded_bytes, space.index_bytes), (0, 0), "{space:?}");
    assert!(space.checkpoint_bytes > 0 && space.ready_bytes > 0, "{space:?}");
    let described = inspect(&RealFs::look(path).unwrap()).unwrap();
    assert!(described.damage().is_empty(), "{:?}", described.damage());
    for (id, held) in world.state.partitions.iter().filter(|(_, held)| !held.needed.is_empty()) {
        let found = described.partitions.get(id).unwrap();
        assert!(found.messages >= held.needed.len() as u64, "{found:?}");
        assert!(found.first <= *held.needed.first().unwrap(), "{found:?}");
        assert_eq!(found.end, held.next);
    }
}
