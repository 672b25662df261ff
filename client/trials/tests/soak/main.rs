//! The kill soak: operations flow from the sender's transactions to the receiver's while processes are
//! killed and stopped, connections cut, databases crashed, put back and copied, and the broker put
//! back; and still what was committed is done, once each, in the order of its key, and nothing else.
//!
//! `POSTHOUSE_SOAK_CYCLES` says how many times for each database (6 unless set), `POSTHOUSE_SOAK_SEED`
//! which choices are made. A run in which a kind of fault hit nothing fails.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it hit"
)]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod cast;
mod fault;
mod special;

use cast::Cast;
use fault::{Fault, Seen};
use posthouse_trials::{Chance, Driver};

/// From so many cycles on, each kind of fault has to hit with each driver, not only with one of them.
const CYCLES_FOR_EACH: u64 = 16;

const DRIVERS: [Driver; 4] = [Driver::Postgres, Driver::Mariadb, Driver::Sqlite, Driver::Rusqlite];

#[test]
fn what_was_committed_is_done_once_whatever_is_killed_cut_or_put_back() {
    let cycles = number("POSTHOUSE_SOAK_CYCLES", 6);
    let seed = number("POSTHOUSE_SOAK_SEED", 1);
    println!("seed {seed}: replay with POSTHOUSE_SOAK_SEED={seed} POSTHOUSE_SOAK_CYCLES={cycles}");
    let seen = std::thread::scope(|scope| {
        let runs = DRIVERS.map(|driver| (driver, scope.spawn(move || run(driver, cycles, seed))));
        let mut seen = Seen::default();
        for (driver, run) in runs {
            let run = run.join();
            let own = run.unwrap_or_else(|_| panic!("{driver:?} failed, see above; seed {seed}"));
            println!("faults on {driver:?}: {own}");
            if cycles >= CYCLES_FOR_EACH {
                own.check(|fault| fault.befalls(driver));
            }
            seen.add(&own);
        }
        seen
    });
    println!("faults: {} cycles on each of {} databases; {seen}", cycles, DRIVERS.len());
    seen.check(|_| true);
}

/// All cycles on one database.
fn run(driver: Driver, cycles: u64, seed: u64) -> Seen {
    let mut chance = Chance::new(seed).fork(driver as u64);
    let mut cast = Cast::new(driver, chance.below(1 << 32));
    // Each kind comes in its turn, and others by chance.
    let (mut plain, mut special) = (Fault::PLAIN.iter().cycle(), Fault::SPECIAL.iter().cycle());
    let mut seen = Seen::default();
    for cycle in 0..cycles {
        let faults: Vec<Fault> = if cycle % 2 == 1 {
            special.next().copied().into_iter().collect()
        } else {
            let chosen: Vec<Fault> = plain.by_ref().take(4).copied().collect();
            let any = Fault::PLAIN.len() as u64;
            let extra = usize::try_from(chance.below(any)).unwrap();
            chosen.into_iter().chain(Fault::PLAIN.get(extra).copied()).collect()
        };
        println!("{driver:?} cycle {cycle}: {faults:?}");
        cast.cycle(&faults, &mut chance, &mut seen);
        cast.judge(&format!("{driver:?}, seed {seed}, cycle {cycle}, {faults:?}"));
    }
    seen
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().expect("the variable is a number") }
}
