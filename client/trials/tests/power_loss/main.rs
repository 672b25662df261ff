//! An application on SQLite that does not wait for the disk (WAL and `synchronous = NORMAL`), and the
//! power fails: whatever was handed over to the broker is in the database all the same.
//!
//! Application and relay run under `strace`. From what they wrote and synced the database is put
//! together as the disk had it each time a message left, and opened.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it hit"
)]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod disk;
mod trace;

use disk::Disk;
use posthouse_trials::{Chance, Driver};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::base::Base;
use support::process::TRIAL;
use support::stage::Stage;
use trace::Event;

/// What the application does.
const OPERATIONS: u32 = 120;
/// The database that is traced.
const TRACED: &str = "traced.db";

#[test]
fn nothing_is_handed_over_that_a_power_failure_takes_back_by_sqlx() {
    run(Driver::Sqlite);
}

#[test]
fn nothing_is_handed_over_that_a_power_failure_takes_back_by_rusqlite() {
    run(Driver::Rusqlite);
}

fn run(driver: Driver) {
    let mut stage = Stage::new(driver, 1, Base::shared);
    stage.start_broker(None);
    stage.make_topics();
    // One file, and nobody else has it open.
    let database = stage.path(TRACED);
    let original = Connection::open(&stage.sender.url).unwrap();
    original.execute("VACUUM INTO ?1", [database.to_str().unwrap()]).unwrap();
    let disk = Disk::with(&database);

    let trace = traced(&mut stage, &database);
    let (moments, ops) = check(disk, &trace, &database, &stage.path("images"));
    println!("faults: {driver:?}: power failed {moments} times while {ops} operations were sent");
    assert!(moments >= 10, "{moments} moments at which messages left");
}

/// Lets application and relay work until everything is handed over; what they did.
fn traced(stage: &mut Stage, database: &Path) -> String {
    let (output, relay) = (stage.path("trace"), stage.path("relay.pid"));
    let url = database.to_str().unwrap();
    let mut relaying = stage.relay_arguments(url, "relay");
    relaying.push("--adopt".to_owned());
    // Whatever is left when the shell ends is killed by `strace`.
    let mut operating = stage.app_arguments(url, OPERATIONS);
    operating.extend(["--pace", "20"].map(str::to_owned));
    let script = format!(
        "{TRIAL} {} & echo $! > {}; POSTHOUSE_TRIAL_HASTY=1 {TRIAL} {} && touch {}; wait",
        relaying.join(" "),
        relay.display(),
        operating.join(" "),
        stage.path("done").display(),
    );
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-xx", "-s", "2000000", "--trace", trace::CALLS, "-o"]);
    command.arg(&output).args(["sh", "-c", &script]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = Tree(child.expect("strace is needed: apt-get install strace"), relay);

    stage.until("the application is done", || stage.path("done").exists());
    let waiting = "SELECT (SELECT count(*) FROM posthouse_outbox)";
    let looking = Connection::open(database).unwrap();
    let rows = || looking.query_row(waiting, [], |row| row.get::<_, i64>(0)).unwrap_or(-1);
    stage.until("everything is handed over", || rows() == 0);
    child.end();
    std::fs::read_to_string(output).unwrap()
}

/// What is traced, and the file with the number of the process that does not end by itself.
#[derive(Debug)]
struct Tree(Child, std::path::PathBuf);

impl Tree {
    fn end(&mut self) {
        let relay = std::fs::read_to_string(&self.1).unwrap_or_default();
        let _ended = Command::new("kill").arg("-9").arg(relay.trim()).status();
        let _ended = self.0.wait();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets the power fail each time a message leaves; how often that was, and of how many operations.
fn check(mut disk: Disk, trace: &str, database: &Path, images: &Path) -> (u32, usize) {
    let mut chance = Chance::new(1);
    let (mut sent, mut moments) = (BTreeSet::new(), 0);
    // Commits that nobody had synced when the relay did.
    let (mut changed_by, mut others) = (BTreeSet::new(), 0);
    for event in trace::events(trace) {
        match event {
            Event::Written { process, path, at, bytes } if is_of(&path, database) => {
                changed_by.insert(process);
                disk.write(&path, at, bytes);
            }
            Event::Cut { path, len } if is_of(&path, database) => disk.cut(&path, len),
            Event::Syncing { process, path } => disk.begin_sync(process, &path),
            Event::Synced { process } => {
                disk.end_sync(process);
                changed_by.remove(&process);
                others += u32::from(!changed_by.is_empty());
                changed_by.clear();
            }
            // The last one that closes the database removes the log; an empty one is none.
            Event::Removed { path } if is_of(&path, database) => disk.cut(&path, 0),
            Event::Leaving { bytes } => {
                let leaving = ops(&bytes);
                if leaving.is_empty() {
                    continue;
                }
                moments += 1;
                sent.extend(leaving);
                for kept in [0, 50] {
                    let _old = std::fs::remove_dir_all(images);
                    std::fs::create_dir(images).unwrap();
                    disk.after_power_loss(images, kept, &mut chance);
                    let there = committed(&images.join(TRACED));
                    let lost: Vec<_> = sent.difference(&there).collect();
                    assert!(lost.is_empty(), "sent, and lost with the power: {lost:?}");
                }
            }
            Event::Written { .. } | Event::Cut { .. } | Event::Removed { .. } => {}
        }
    }
    assert!(others >= 5, "only {others} syncs covered what somebody else had not synced");
    (moments, sent.len())
}

/// Whether this is the database, or its log. The index of the log is made anew at a start.
fn is_of(path: &str, database: &Path) -> bool {
    let database = database.to_str().unwrap();
    path == database || path.strip_prefix(database) == Some("-wal")
}

/// The operations whose messages are in there.
fn ops(bytes: &[u8]) -> Vec<i64> {
    let text = String::from_utf8_lossy(bytes);
    let numbers = text.split("op ").skip(1).filter_map(|rest| rest.split_once(" key "));
    numbers.filter_map(|(number, _)| number.parse().ok()).collect()
}

fn committed(image: &Path) -> BTreeSet<i64> {
    let database = Connection::open(image).unwrap();
    let mut all = database.prepare("SELECT op_id FROM trial_op").unwrap();
    let found = all.query_map([], |row| row.get(0)).unwrap();
    found.collect::<Result<_, _>>().unwrap()
}
