//! Power losses at a great many moments of random workloads, inside recovery and every step of the
//! checkpointer too: what was acknowledged comes back, and recovering twice is recovering once.

mod suite;

use posthouse_sim::Plan;
use suite::{Suite, number};

/// What must have happened somewhere in the suite.
const WANTED: &[&str] = &[
    "kills",
    "power_losses",
    "crash_points_unsynced",
    "torn_tails",
    "kills_during_sync",
    "kills_in_recovery",
    "redeliveries",
    "failed_syncs",
    "syncs_handed_over",
    "commits",
    "repeated_commits",
    "refused_commits",
    "delayed_publishes",
    "delayed_commits",
    "starts_with_waiting",
    "crash_points_with_waiting",
    "checkpoints",
    "adoptions",
    "crash_points_with_adopted",
    "recycled",
];

#[test]
fn what_was_acknowledged_survives_every_power_loss() {
    let points = number("POSTHOUSE_CRASH_POINTS", 5_000);
    let suite = Suite::new("power_loss", Plan::power_loss);
    let faults = suite.run(u64::MAX, |faults| faults.crash_points >= points);
    println!("{faults}");
    Suite::covers(&faults, WANTED);
}
