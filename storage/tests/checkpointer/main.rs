//! The checkpointer as a whole, against a model, on real and simulated disks.

mod crash;
mod damage;
mod guard;
mod random;
mod toy;
mod world;

use posthouse_storage::checkpointer::{Step, Task};
use posthouse_storage::fs::real::RealFs;
use random::Random;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use world::{Model, World, options};

/// Steps 4 to 11 of the design, section 5b, and what belongs to them.
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
    let mut random = Random::new(1);
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
