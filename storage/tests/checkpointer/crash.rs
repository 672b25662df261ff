//! Power losses at every operation and between all steps.

use crate::toy::Toy;
use crate::world::{Model, Stopped, World, options};
use posthouse_storage::checkpointer::{Step, Task};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::manifest::Manifest;
use posthouse_storage::names::{FileKind, FileName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ACTIONS: u64 = 100;

/// Where a play is to end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// When everything is done.
    Never,
    /// At this operation of the disk.
    Operation(u64),
    /// After this many steps of the checkpointer.
    Step(u64),
}

/// How a play went.
#[derive(Debug)]
struct Played {
    disk: FaultFs,
    model: Model,
    steps: u64,
    /// What the checkpointer was doing when the power went, if it was at work.
    stopped_in: Option<Task>,
    done: BTreeMap<Task, u64>,
    /// The manifest when the power went.
    manifest: Manifest,
}

/// Plays the same story for the same seed, up to `end`.
fn play(seed: u64, end: End) -> Played {
    let disk = FaultFs::new(SimFs::new());
    if let End::Operation(operation) = end {
        disk.plan(operation, Fault::PowerLoss);
    }
    let mut played = Played {
        disk: disk.clone(),
        model: Model::default(),
        steps: 0,
        stopped_in: None,
        done: BTreeMap::new(),
        manifest: Manifest::default(),
    };
    let Ok(mut world) = World::open(Arc::new(disk), options(), Model::default()) else {
        return played;
    };
    let limit = if let End::Step(steps) = end { steps } else { u64::MAX };
    let mut random = Dice::new(seed);
    for _ in 0..ACTIONS {
        if act(&mut world, &mut random, &mut played, limit).is_err() || played.steps >= limit {
            break;
        }
    }
    played.model = world.model;
    played.done = world.done;
    played.manifest = world.shared.manifest();
    played
}

fn act(
    world: &mut World,
    random: &mut Dice,
    played: &mut Played,
    limit: u64,
) -> Result<(), Stopped> {
    match random.below(25) {
        24 => world.append_stream(random),
        0..5 => {
            world.sync()?;
            world.now += Duration::from_millis(1500);
            step(world, played, limit, 2)?;
            world.journal.roll_if_requested().map_err(|error| Stopped(error.to_string()))?;
            step(world, played, limit, 40)
        }
        5..10 => step(world, played, limit, 1 + random.below(10)),
        _ => world.append(random),
    }
}

fn step(world: &mut World, played: &mut Played, limit: u64, count: u64) -> Result<(), Stopped> {
    for _ in 0..count {
        if played.steps >= limit {
            return Ok(());
        }
        played.steps += 1;
        played.stopped_in = Some(world.task());
        let stepped = world.step();
        played.stopped_in = Some(world.task());
        if !matches!(stepped?, Step::Worked(_)) {
            break;
        }
    }
    // At a limit the power goes right after the step.
    if played.steps < limit {
        played.stopped_in = None;
    }
    Ok(())
}

/// What recovery and the rest of a life make of a disk: everything durable is there, a second
/// recovery finds the same, and the checkpointer goes on.
fn check(disk: SimFs, model: Model, seed: u64) {
    let first = World::open(Arc::new(disk), options(), model).unwrap();
    let (state, model) = (first.state.clone(), first.model.clone());
    let disk = first.shared.fs.clone();
    drop(first);
    let mut second = World::open(disk, options(), model).unwrap();
    assert_eq!(second.state, state, "a second recovery finds what the first one found");
    let mut random = Dice::new(seed ^ 0x55);
    for _ in 0..4 {
        second.append(&mut random).unwrap();
    }
    second.settle().unwrap();
    let manifest = second.shared.manifest();
    assert!(manifest.retired.is_empty(), "{manifest:?}");
    let known = |name: &String| {
        let name = FileName::parse(name);
        name.is_none_or(|name| manifest.names(name))
    };
    let names = second.shared.fs.list().unwrap();
    assert!(names.iter().all(known), "leftovers in {names:?} of {manifest:?}");
    let (disk, model) = (second.shared.fs.clone(), second.model.clone());
    let state: Toy = second.state.clone();
    second.journal.close().unwrap();
    let third = World::open(disk, options(), model).unwrap();
    assert_eq!(third.state, state);
}

/// How often the power went while there were adopted segments.
#[derive(Clone, Copy, Debug, Default)]
struct Adoptions {
    /// That were in the journal still.
    in_journal: u64,
    /// That had left it.
    outlived: u64,
    /// That were retired, and not gone yet.
    retired: u64,
}

impl Adoptions {
    fn count(&mut self, manifest: &Manifest) {
        for id in manifest.runs.iter().filter_map(|run| run.adopted) {
            let in_journal = manifest.journal.iter().any(|entry| entry.id == id);
            *if in_journal { &mut self.in_journal } else { &mut self.outlived } += 1;
        }
        let is_segment = |name: &&FileName| name.kind == FileKind::Segment;
        self.retired += manifest.retired.iter().filter(is_segment).count() as u64;
    }

    fn assert_hit(&self) {
        let Self { in_journal, outlived, retired } = *self;
        assert!(in_journal > 50 && outlived > 50 && retired > 50, "{self:?}");
    }
}

#[test]
fn power_may_go_at_every_operation() {
    let mut adoptions = Adoptions::default();
    let mut hits = BTreeMap::<Option<Task>, u64>::new();
    let mut plays = 0;
    for seed in 0..6 {
        let whole = play(seed, End::Never);
        let operations = whole.disk.operations();
        let stride = if seed == 0 { 1 } else { 5 };
        for operation in (seed % 5..operations).step_by(stride) {
            let played = play(seed, End::Operation(operation));
            *hits.entry(played.stopped_in).or_default() += 1;
            adoptions.count(&played.manifest);
            plays += 1;
            let mut dice = Dice::new(seed << 32 | operation);
            check(played.disk.disk().crash(&mut dice), played.model, operation);
        }
    }
    println!("plays={plays} hits={hits:?} {adoptions:?}");
    adoptions.assert_hit();
    // Fold, Choose, Swap and Survey touch no file: see the test between steps.
    for task in [
        Task::Save,
        Task::Copy,
        Task::Seal,
        Task::Name,
        Task::Commit,
        Task::Retire,
        Task::Recycle,
        Task::Ready,
    ] {
        assert!(hits.contains_key(&Some(task)), "no power loss in {task:?}: {hits:?}");
    }
}

#[test]
fn power_may_go_between_any_two_steps() {
    let mut adoptions = Adoptions::default();
    let mut hits = BTreeMap::<Task, u64>::new();
    let mut plays = 0;
    for seed in 0..6 {
        let whole = play(seed, End::Never);
        for steps in 0..whole.steps {
            let played = play(seed, End::Step(steps));
            if let Some(task) = played.stopped_in {
                *hits.entry(task).or_default() += 1;
            }
            adoptions.count(&played.manifest);
            plays += 1;
            let mut dice = Dice::new(seed << 32 | steps);
            let killed = steps % 3 == 0;
            let disk = played.disk.disk();
            let disk = if killed { disk.kill() } else { disk.crash(&mut dice) };
            check(disk, played.model, steps);
        }
    }
    println!("plays={plays} hits={hits:?} {adoptions:?}");
    adoptions.assert_hit();
    for task in crate::TASKS {
        assert!(hits.contains_key(&task), "no power loss after {task:?}: {hits:?}");
    }
}
