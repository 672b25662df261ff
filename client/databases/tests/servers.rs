//! The servers do what the tests of the drivers need of them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use posthouse_databases::{MariaDb, PgBouncer, Postgres, Stop};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn postgres_keeps_what_was_committed_through_every_end() {
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let other = postgres.create_database().unwrap();
    assert_ne!(database.url(), other.url());
    let sql = |text: &str| postgres.sql(database.name(), text).unwrap().trim().to_owned();
    assert_eq!(sql("SHOW fsync"), "on");
    assert_eq!(sql("SHOW synchronous_commit"), "on");
    sql("CREATE TABLE seen (n int)");
    postgres.stop(Stop::Fast).unwrap();
    let backup = postgres.backup().unwrap();
    postgres.restart().unwrap();
    assert!(postgres.backup().is_err(), "a running server's files are in motion");
    sql("INSERT INTO seen VALUES (1)");
    postgres.stop(Stop::Immediate).unwrap();
    assert!(postgres.sql(database.name(), "SELECT 1").is_err());
    postgres.restart().unwrap();
    sql("INSERT INTO seen VALUES (2)");
    postgres.kill().unwrap();
    postgres.restart().unwrap();
    assert_eq!(sql("SELECT sum(n) FROM seen"), "3");
    let beside = postgres.copy_database(&database).unwrap();
    assert_eq!(postgres.sql(beside.name(), "SELECT sum(n) FROM seen").unwrap().trim(), "3");

    let copy = Postgres::start_from(&backup).unwrap();
    assert_eq!(copy.sql(database.name(), "SELECT count(*) FROM seen").unwrap().trim(), "0");
    postgres.stop(Stop::Fast).unwrap();
    postgres.restore(&backup).unwrap();
    postgres.restart().unwrap();
    assert_eq!(sql("SELECT count(*) FROM seen"), "0");
}

#[test]
fn mariadb_keeps_what_was_committed_through_every_end() {
    let mariadb = MariaDb::start().unwrap();
    let database = mariadb.create_database().unwrap();
    let sql = |text: &str| mariadb.sql(database.name(), text).unwrap().trim().to_owned();
    assert_eq!(sql("SELECT @@innodb_flush_log_at_trx_commit"), "1");
    sql("CREATE TABLE seen (n int)");
    mariadb.stop(Stop::Fast).unwrap();
    let backup = mariadb.backup().unwrap();
    mariadb.restart().unwrap();
    assert!(mariadb.backup().is_err(), "a running server's files are in motion");
    sql("INSERT INTO seen VALUES (1)");
    mariadb.stop(Stop::Immediate).unwrap();
    mariadb.restart().unwrap();
    sql("INSERT INTO seen VALUES (2)");
    mariadb.kill().unwrap();
    mariadb.restart().unwrap();
    assert_eq!(sql("SELECT sum(n) FROM seen"), "3");
    let beside = mariadb.copy_database(&database).unwrap();
    assert_eq!(mariadb.sql(beside.name(), "SELECT sum(n) FROM seen").unwrap().trim(), "3");
    mariadb.stop(Stop::Fast).unwrap();
    mariadb.restore(&backup).unwrap();
    mariadb.restart().unwrap();
    assert_eq!(sql("SELECT count(*) FROM seen"), "0");
}

#[test]
fn pgbouncer_stands_before_every_database() {
    let postgres = Postgres::shared();
    let database = postgres.create_database().unwrap();
    postgres.sql(database.name(), "CREATE TABLE seen (n int)").unwrap();
    let proxy = PgBouncer::start(postgres).unwrap();
    let psql = |sql: &str| {
        let mut run = Command::new("psql");
        let output = run.args(["-qAt", "-c", sql, &proxy.url(&database)]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(psql("INSERT INTO seen VALUES (1); SELECT count(*) FROM seen"), "1");
    proxy.kill().unwrap();
    assert_eq!(psql("SELECT 1"), "");
    proxy.restart().unwrap();
    assert_eq!(psql("SELECT count(*) FROM seen"), "1");
}

/// Says to the other half of the next test what it is.
const VICTIM: &str = "POSTHOUSE_DATABASES_VICTIM";

#[test]
fn nothing_survives_a_killed_test() {
    if std::env::var_os(VICTIM).is_some() {
        return be_the_victim();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "nothing_survives_a_killed_test", "--nocapture"]);
    command.env(VICTIM, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut victim = command.spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let folders: Vec<PathBuf> = lines
        .by_ref()
        .filter_map(|line| Some(PathBuf::from(line.split_once("socket folder: ")?.1)))
        .take(2)
        .collect();
    let pids: Vec<String> = folders
        .iter()
        .map(|run| std::fs::read_to_string(run.join("../server.pid")).unwrap().trim().to_owned())
        .collect();
    let alive = |pid: &String| Path::new("/proc").join(pid).join("exe").exists();
    assert!(pids.len() == 2 && pids.iter().all(alive), "both servers run: {pids:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Standard output stays open as long as anything of it lives.
    assert_eq!(lines.count(), 0);
    let gone = || !pids.iter().any(alive) && !folders.iter().any(|folder| folder.exists());
    let mut looks = 0;
    while !gone() {
        looks += 1;
        assert!(looks < 2_000, "after a test was killed there are still {pids:?} and {folders:?}");
        Command::new("sleep").arg("0.02").status().unwrap();
    }
}

fn be_the_victim() {
    let (postgres, mariadb) = (Postgres::start().unwrap(), MariaDb::start().unwrap());
    for url in [postgres.url(), mariadb.url()] {
        let socket = url.split_once('=').unwrap().1;
        println!("socket folder: {}", socket.trim_end_matches("/mariadb.sock"));
    }
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
