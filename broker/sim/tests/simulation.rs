//! The simulation of everything: engine, shell and storage on a simulated disk, simulated clients,
//! every kind of fault; each run is judged by the history checker.

mod suite;

use posthouse_sim::{Plan, run};
use suite::{Suite, number};

/// What must have happened somewhere in the suite.
const WANTED: &[&str] = &[
    "kills",
    "power_losses",
    "torn_tails",
    "kills_during_sync",
    "kills_in_recovery",
    "redeliveries",
    "failed_syncs",
    "full_disks",
    "syncs_handed_over",
    "lost_connections",
    "clean_stops",
    "time_jumps",
    "commits",
    "repeated_commits",
    "refused_commits",
    "delayed_publishes",
    "delayed_commits",
    "starts_with_waiting",
    "checkpoints",
    "adoptions",
    "recycled",
    "refused_publishes",
];

#[test]
fn whatever_happens_the_promises_hold() {
    let seeds = number("POSTHOUSE_SIM_SEEDS", 20);
    let suite = Suite::new("simulation", Plan::simulation);
    let faults = suite.run(seeds, |_| false);
    println!("{faults}");
    Suite::covers(&faults, WANTED);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        let (first, second) = (run(Plan::simulation(seed)), run(Plan::simulation(seed)));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.faults, second.faults, "seed {seed}");
        assert_eq!(first.history, second.history, "seed {seed}");
    }
    assert_ne!(run(Plan::simulation(3)).trace, run(Plan::simulation(4)).trace);
}
