//! Running seeds on all processors, and saying how to run a failing one again.

use posthouse_checker::lines::write_event;
use posthouse_sim::{Faults, Plan, Run, run};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The environment variable with one seed to run again.
const SEED: &str = "POSTHOUSE_SIM_SEED";

/// A suite of seeded runs.
pub(crate) struct Suite {
    name: &'static str,
    plan: fn(u64) -> Plan,
}

/// A number from the environment.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text}"))
}

impl Suite {
    pub(crate) const fn new(name: &'static str, plan: fn(u64) -> Plan) -> Self {
        Self { name, plan }
    }

    /// Runs `seeds` seeds until `enough`, or the one seed that the environment names. The first seed
    /// is 1, unless `POSTHOUSE_SIM_FIRST` asks for others.
    ///
    /// # Panics
    ///
    /// If a run fails, with the command that repeats it.
    pub(crate) fn run(&self, seeds: u64, enough: impl Fn(&Faults) -> bool + Sync) -> Faults {
        if std::env::var(SEED).is_ok() {
            let mut faults = Faults::default();
            faults.add(&self.one(number(SEED, 0)).unwrap_or_else(|text| panic!("{text}")).faults);
            return faults;
        }
        let first = number("POSTHOUSE_SIM_FIRST", 1);
        let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
        let all = Mutex::new((Faults::default(), Vec::new()));
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed - first >= seeds {
                    return;
                }
                let done = self.one(seed);
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                match done {
                    Ok(run) => all.0.add(&run.faults),
                    Err(text) => all.1.push(text),
                }
                if !all.1.is_empty() || enough(&all.0) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let (faults, failed) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        faults
    }

    /// Every fault that the suite is for has happened; one seed that is run again owes none.
    #[track_caller]
    pub(crate) fn covers(faults: &Faults, wanted: &[&'static str]) {
        if std::env::var(SEED).is_err() {
            assert_eq!(faults.missing(wanted), [""; 0], "faults that never happened");
        }
    }

    fn one(&self, seed: u64) -> Result<Run, String> {
        let again = format!(
            "again: {SEED}={seed} cargo test -p posthouse-sim --test {} -- --nocapture",
            self.name
        );
        let plan = self.plan;
        let done = catch_unwind(|| run(plan(seed)))
            .map_err(|_| format!("seed {seed}: a panic, see above\n{again}"))?;
        match &done.failure {
            None => Ok(done),
            Some(text) => Err(format!("seed {seed}: {text}\n{}\n{again}", keep(self.name, &done))),
        }
    }
}

/// Keeps the history of a failed run where it can be looked at.
fn keep(suite: &str, run: &Run) -> String {
    let path = std::env::temp_dir().join(format!("posthouse-{suite}-{:016x}.jsonl", run.trace));
    let mut lines = Vec::new();
    let written = run.history.iter().try_for_each(|event| write_event(&mut lines, event));
    match written.and_then(|()| std::fs::write(&path, lines)) {
        Ok(()) => format!("history: {}", path.display()),
        Err(error) => format!("history: cannot be kept: {error}"),
    }
}
