//! `hot-paths`: how many instructions the paths take that every message goes through, counted under
//! valgrind, which does not depend on how busy the machine is, and compared with stored figures.
//!
//! `hot-paths check` fails if a path takes more than its figure and the tolerance, or so much less
//! that the figure guards nothing; `hot-paths rewrite` stores what is counted now. Counted on one
//! machine and toolchain, a figure is exact; between processors it may differ as far as checksums use
//! other instructions, which the tolerance has to cover.

#![expect(clippy::print_stdout, reason = "this is a command; its output is its purpose")]

mod paths;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// How far a count may be from its stored figure, in percent of it.
const TOLERANCE: u64 = 5;
/// Rounds of the two runs whose difference is counted, so that set-up and warming do not count.
const ROUNDS: [u64; 2] = [200, 400];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["check"] => check(),
        ["rewrite"] => rewrite(),
        ["run", path, rounds] => run(path, rounds),
        _ => Err("usage: hot-paths check | rewrite | run PATH ROUNDS".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("hot-paths: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str, rounds: &str) -> Result<(), String> {
    let rounds = rounds.parse().map_err(|_| format!("{rounds} is no number of rounds"))?;
    let path = paths::ALL.iter().find(|known| known.name == path);
    let path = path.ok_or("no such path")?;
    (path.run)(rounds);
    Ok(())
}

fn check() -> Result<(), String> {
    if cfg!(debug_assertions) {
        return Err("the figures are those of a release build: cargo run --release".to_owned());
    }
    let stored = stored()?;
    let mut wrong = Vec::new();
    println!("{:<28} {:>8} {:>8}  instructions a message", "path", "stored", "counted");
    for path in paths::ALL {
        let counted = count(path)?;
        let figure = stored.get(path.name).copied();
        let shown = figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string());
        println!("{:<28} {shown:>8} {counted:>8}", path.name);
        if figure.is_none_or(|figure| counted.abs_diff(figure) * 100 > figure * TOLERANCE) {
            wrong.push(path.name);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let file = file().display().to_string();
    Err(format!(
        "more than {TOLERANCE} % off: {}. If it is meant, store it: cargo run --release -p \
         posthouse-sim --bin hot-paths -- rewrite (writes {file})",
        wrong.join(", ")
    ))
}

fn rewrite() -> Result<(), String> {
    let mut text = String::from("# Instructions a message; see `hot-paths`.\n");
    for path in paths::ALL {
        let counted = count(path)?;
        println!("{:<28} {counted:>8}", path.name);
        writeln!(text, "{} {counted}", path.name).map_err(|error| error.to_string())?;
    }
    std::fs::write(file(), text).map_err(|error| error.to_string())
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/bin/hot-paths/instructions.txt")
}

fn stored() -> Result<BTreeMap<String, u64>, String> {
    let text = std::fs::read_to_string(file()).map_err(|error| error.to_string())?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let figures = lines.map(|line| {
        let (name, figure) = line.split_once(' ').ok_or("a line without a figure")?;
        Ok((name.to_owned(), figure.parse().map_err(|_| "a figure that is no number")?))
    });
    figures.collect::<Result<_, &str>>().map_err(str::to_owned)
}

/// Instructions for each message of `path`.
fn count(path: &paths::Path) -> Result<u64, String> {
    let [few, many] = ROUNDS;
    let total = instructions(path, many)?.saturating_sub(instructions(path, few)?);
    Ok(total / ((many - few) * path.messages))
}

/// Instructions of a whole run.
fn instructions(path: &paths::Path, rounds: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["run", path.name, &rounds.to_string()])
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&counted.stderr);
    let total = said.lines().find_map(|line| line.split_once("Collected : "));
    let total = total.and_then(|(_, total)| total.trim().parse().ok());
    total.filter(|_| counted.status.success()).ok_or_else(|| format!("no count in: {said}"))
}
