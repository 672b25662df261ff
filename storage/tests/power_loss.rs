//! Power loss at any moment, keeping any subset of what was not synced.
//!
//! Each run is a random workload on a simulated disk. Somewhere, perhaps inside a
//! recovery, the power fails, or a sync does and the process ends. The next start
//! must find a prefix of what was appended, with everything in it that a sync had
//! covered, byte for byte; the start after that must find the same. Then the
//! workload goes on, on the disk as it is.
//!
//! `POSTHOUSE_CRASH_POINTS` says how many losses to go through, and
//! `POSTHOUSE_SEED` replays one run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod power_loss {
    pub(crate) mod tally;
    pub(crate) mod world;
}
mod support;

use power_loss::tally::Tally;
use power_loss::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

const CRASH_POINTS_DEFAULT: u64 = 4_000;
const LOSSES_PER_RUN: u64 = 8;

#[test]
fn prefix_with_everything_acknowledged_survives_any_power_loss() {
    let mut tally = Tally::default();
    if let Some(seed) = number("POSTHOUSE_SEED") {
        run(seed, &mut tally);
        return;
    }
    let wanted = number("POSTHOUSE_CRASH_POINTS").unwrap_or(CRASH_POINTS_DEFAULT);
    let mut seed = 0;
    while tally.losses < wanted {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, &mut tally)));
        assert!(
            outcome.is_ok(),
            "replay with: POSTHOUSE_SEED={seed} cargo test -p posthouse-storage --test power_loss"
        );
        seed += 1;
    }
    println!("faults: {tally:?}");
    tally.assert_everything_was_hit();
}

fn run(seed: u64, tally: &mut Tally) {
    let mut world = World::new(seed);
    for _ in 0..LOSSES_PER_RUN {
        world.live_until_a_fault(tally);
        world.come_back(tally);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("the variable is a number"))
}

/// The tests above are worth something only if they notice a broken store.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_noticed() {
    for bug in ["skip-directory-sync", "recover-through-cache", "skip-journal-sync"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "prefix_with_everything_acknowledged_survives_any_power_loss"])
            .env("POSTHOUSE_PLANTED_BUG", bug)
            .env_remove("POSTHOUSE_SEED")
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "bug={bug} was not noticed");
        assert!(report.contains("POSTHOUSE_SEED="), "bug={bug} failed in another way: {report}");
    }
}
