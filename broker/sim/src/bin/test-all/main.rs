//! `cargo test-all`: installs what the heavier suites need on Debian, runs every gate and every
//! suite, and names each, the faults that it hit and its seconds.

#![expect(clippy::print_stdout, reason = "this is a command; its output is its purpose")]

mod suites;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use suites::SUITES;

/// One thing to run.
struct Suite {
    name: &'static str,
    /// What it shows, in a few words.
    shows: &'static str,
    /// Arguments of `cargo`.
    cargo: &'static [&'static str],
    /// Environment of the command.
    env: &'static [(&'static str, &'static str)],
    /// A bug is planted: the suite must end with a failed test.
    must_fail: bool,
}

/// Programs that suites need, and the Debian packages that have them.
const TOOLS: &[(&str, &str)] = &[("strace", "strace"), ("cc", "gcc"), ("valgrind", "valgrind")];

/// What a whole run on a clean checkout takes on disk: 5 are what the compiler leaves, and most of the
/// rest a backlog.
const ROOM_GIB: u64 = 12;

const fn suite(
    name: &'static str,
    shows: &'static str,
    cargo: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
) -> Suite {
    Suite { name, shows, cargo, env, must_fail: false }
}

const fn planted(
    name: &'static str,
    cargo: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
) -> Suite {
    Suite { name, shows: "a planted bug is found", cargo, env, must_fail: true }
}

struct Outcome {
    name: &'static str,
    shows: &'static str,
    passed: bool,
    took: Duration,
    faults: Vec<String>,
}

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if only.iter().any(|argument| argument.starts_with('-')) {
        return usage();
    }
    let has_room = if only.is_empty() { check_room() } else { Ok(()) };
    if let Err(text) = has_room.and_then(|()| install()) {
        println!("test-all: {text}");
        return ExitCode::FAILURE;
    }
    let chosen = |suite: &&Suite| only.is_empty() || only.iter().any(|name| name == suite.name);
    let outcomes: Vec<Outcome> = SUITES.iter().filter(chosen).map(run).collect();
    report(&outcomes)
}

fn usage() -> ExitCode {
    println!("cargo test-all [SUITE]...   runs every suite, or those named:");
    SUITES.iter().for_each(|suite| println!("  {:<28} {}", suite.name, suite.shows));
    ExitCode::SUCCESS
}

/// Whether the disk has room for a whole run: without, one suite after the other fails over
/// something else.
fn check_room() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    for place in [program.parent().unwrap_or(&program), &std::env::temp_dir()] {
        let shown = place.display();
        let found = rustix::fs::statvfs(place).map_err(|error| format!("{shown}: {error}"))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize) >> 30;
        if free < ROOM_GIB {
            return Err(format!(
                "the disk of {shown} has {free} GiB left, and a whole run needs {ROOM_GIB}: make \
                 room, or name the suites to run"
            ));
        }
    }
    Ok(())
}

/// Installs what is missing; a suite that cannot get its tool fails, it is never skipped.
fn install() -> Result<(), String> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    // The trials' database servers; the packages know how to stay quiet.
    posthouse_databases::ensure_installed().map_err(|error| error.to_string())?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("test-all: installing {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let done = Command::new("apt-get").args(arguments).status();
        done.is_ok_and(|status| status.success())
    };
    let install: Vec<&str> = ["install", "-y", "-q"].into_iter().chain(missing.clone()).collect();
    if apt(&["update", "-q"]) && apt(&install) {
        return Ok(());
    }
    Err(format!("cannot install {}: do it by hand, as root", missing.join(" ")))
}

fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

#[expect(clippy::disallowed_methods, reason = "a command that says how long its suites took")]
fn run(suite: &Suite) -> Outcome {
    println!("\n=== {}: {}", suite.name, suite.shows);
    let began = Instant::now();
    let (ended_well, lines) = execute(suite);
    let took = began.elapsed();
    let failed_test = lines.iter().any(|line| line.starts_with("test result: FAILED"));
    let passed = if suite.must_fail { !ended_well && failed_test } else { ended_well };
    let faults = lines.iter().filter_map(|line| line.split_once("faults: "));
    let faults = faults.map(|(_, faults)| faults.to_owned()).collect();
    println!("=== {}: {} in {:.1} s", suite.name, verdict(passed), took.as_secs_f64());
    Outcome { name: suite.name, shows: suite.shows, passed, took, faults }
}

/// Runs the command, passing its lines on; whether it ended well, and what it printed.
fn execute(suite: &Suite) -> (bool, Vec<String>) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(suite.cargo).envs(suite.env.iter().copied()).stdin(Stdio::null());
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("test-all: cannot start cargo: {error}");
            return (false, Vec::new());
        }
    };
    let mut lines = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // The closing line of a run that must fail would read as a failure of the whole.
            if suite.must_fail && line.starts_with("test result: ") {
                println!("(expected) {line}");
            } else {
                println!("{line}");
            }
            lines.push(line);
        }
    }
    (child.wait().is_ok_and(|status| status.success()), lines)
}

const fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

fn report(outcomes: &[Outcome]) -> ExitCode {
    println!("\nsuite                          verdict  seconds  faults hit");
    for outcome in outcomes {
        let faults = if outcome.faults.is_empty() {
            format!("({})", outcome.shows)
        } else {
            outcome.faults.join("; ")
        };
        println!(
            "{:<30} {:<8} {:>7.1}  {faults}",
            outcome.name,
            verdict(outcome.passed),
            outcome.took.as_secs_f64()
        );
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    println!("\n{} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 && !outcomes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
