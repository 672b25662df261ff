//! `cargo bench -p posthouse-benches`: about a minute of throughput, one scenario after another.

use std::process::{Command, ExitCode};

/// What is run, each about a third of a minute.
const RUNS: [&[&str]; 3] = [
    &["publish", "--rounds", "3"],
    &["publish", "--written", "--rounds", "3", "--cases", "1x1,16x1,1x512"],
    &["client", "--rounds", "3"],
];

fn main() -> ExitCode {
    let runs = RUNS.iter().all(|arguments| {
        let status =
            Command::new(env!("CARGO_BIN_EXE_posthouse-benches")).args(*arguments).status();
        status.is_ok_and(|status| status.success())
    });
    if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
