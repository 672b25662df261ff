//! `posthouse outbox` and `posthouse relay` with a real broker and a real SQLite file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use posthouse_databases::{MariaDb, Postgres, Stop};
use rusqlite::Connection;
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::path::Path;
use support::PATIENCE;
use support::broker::Site;
use support::command::{command, object, ok, run, send, stderr, text, wait};

/// A relay process that has said that it started.
struct Relay {
    child: std::process::Child,
    log: BufReader<std::process::ChildStderr>,
    first: String,
    said: String,
}

impl Relay {
    fn start(server: &str, database: &str) -> Self {
        let relay = Self::spawn(server, database);
        assert_eq!(relay.first, format!("posthouse relay started for {database}\n"));
        relay
    }

    fn spawn(server: &str, database: &str) -> Self {
        let mut child = command(server, &["relay", "--database", database]).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, first, said: String::new() }
    }

    /// Reads its log until a line has this in it.
    fn until(&mut self, expected: &str) {
        loop {
            let before = self.said.len();
            assert!(self.log.read_line(&mut self.said).unwrap() > 0, "it ended:\n{}", self.said);
            if self.said.get(before..).is_some_and(|line| line.contains(expected)) {
                return;
            }
        }
    }

    fn stop(mut self) -> Option<i32> {
        send(&self.child, Signal::TERM);
        wait(&mut self.child, "posthouse relay").code()
    }
}

#[test]
fn message_inserted_by_sql_is_handed_over_by_the_relay_that_works() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    ok(server, &["topic", "create", "orders"]);
    let installed = ok("nowhere:1", &["outbox", "install", "--database", &database]);
    assert!(installed.contains("the tables are there"), "{installed}");
    ok("nowhere:1", &["outbox", "install", "--database", &database]);

    let mut first = Relay::start(server, &database);
    first.until("active");
    let mut second = Relay::start(server, &database);
    second.until("standing by");
    insert(&file, "orders", "a lamp");
    let wanted = &["consume", "orders", "s", "--create", "--count", "1"];
    assert_eq!(ok(server, wanted), "a lamp\n");

    assert_eq!(first.stop(), Some(0));
    second.until("active");
    insert(&file, "orders", "a chair");
    assert_eq!(ok(server, wanted), "a chair\n");
    assert_eq!(second.stop(), Some(0));
    let status = object("nowhere:1", &["outbox", "status", "--database", &database]);
    assert_eq!(status["waiting"], 0, "{status}");
    assert_eq!(status["relay"], serde_json::Value::Null, "the lease was given back");
    assert_eq!(ok(server, &["read", "orders"]), "", "each was handed over once");
}

#[test]
fn refused_message_is_parked_listed_and_comes_back() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let file = site.path("shop.db");
    let database = format!("sqlite://{}", text(&file));
    let parked = |arguments: &[&str]| {
        let mut all = vec!["outbox", "parked"];
        all.extend(arguments);
        all.extend(["--database", &database]);
        run("nowhere:1", &all)
    };
    ok("nowhere:1", &["outbox", "install", "--database", &database]);
    insert(&file, "nowhere", "1");
    insert(&file, "nowhere", "2");
    let mut relay = Relay::start(server, &database);
    relay.until("set aside");
    let status = || object("nowhere:1", &["outbox", "status", "--database", &database]);
    while status()["parked"] != 2 {}

    let listed = parked(&["list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("NOT_FOUND"), "{listed}");
    assert!(listed.contains("\t1 B\t"), "the size, not the body: {listed}");
    assert_eq!(parked(&["discard", "1"]).status.code(), Some(0));
    assert_eq!(parked(&["redrive", "77"]).status.code(), Some(4), "there is no such number");
    assert_eq!(parked(&["redrive"]).status.code(), Some(2), "which?");
    ok(server, &["topic", "create", "nowhere"]);
    ok(server, &["subscription", "create", "nowhere", "s"]);
    assert_eq!(parked(&["redrive", "--all"]).status.code(), Some(0));
    assert_eq!(ok(server, &["consume", "nowhere", "s", "--count", "1"]), "2\n");
    assert_eq!(relay.stop(), Some(0));
}

#[test]
fn what_an_operator_has_to_do_is_said() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    let said = |server: &str, arguments: &[&str], code: i32, expected: &str| {
        let output = run(server, arguments);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?} said {error}");
    };
    let relay = ["relay", "--database", &database];
    said(server, &relay, 1, "shop.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    said(server, &relay, 4, "posthouse outbox install");
    said(server, &["outbox", "status", "--database", &database], 4, "posthouse outbox install");
    said(server, &["relay", "--database", "shop.db"], 2, "sqlite:PATH");
    ok("nowhere:1", &["outbox", "install", "--database", &database]);

    let copy = site.path("copy.db");
    let into = format!("VACUUM INTO '{}'", text(&copy));
    Connection::open(&file).unwrap().execute_batch(&into).unwrap();
    let copied = format!("sqlite:{}", text(&copy));
    said(server, &["relay", "--database", &copied], 1, "--adopt");
    let status = ok("nowhere:1", &["outbox", "status", "--database", &copied]);
    assert!(status.contains("--adopt"), "{status}");
}

#[test]
fn relay_that_starts_before_its_broker_waits_for_it() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address().to_owned();
    broker.stop();
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    ok("nowhere:1", &["outbox", "install", "--database", &database]);
    let waiting = || {
        let decided = ["relay", "--accept-changed-rows", "--database", &database];
        let mut child = command(&server, &decided).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut relay = Relay { child, log, first: String::new(), said: String::new() };
        relay.until("trying again");
        relay
    };

    assert_eq!(waiting().stop(), Some(0), "a signal ends the wait");
    let mut relay = waiting();
    let _broker = site.start();
    relay.until("active");
    assert_eq!(relay.stop(), Some(0));
}

#[test]
fn relay_that_starts_before_its_database_waits_for_it() {
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    ok("nowhere:1", &["outbox", "install", "--database", database.url()]);
    let mut site = Site::new(&[]);
    let broker = site.start();
    postgres.stop(Stop::Fast).unwrap();
    let mut child =
        command(broker.address(), &["relay", "--database", database.url()]).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut relay = Relay { child, log, first: String::new(), said: String::new() };
    relay.until("trying again");

    postgres.restart().unwrap();
    relay.until("active");
    assert_eq!(relay.stop(), Some(0));
}

#[test]
fn rows_changed_after_they_were_claimed_halt_a_relay_until_they_are_accepted() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    ok(server, &["topic", "create", "orders"]);
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    ok("nowhere:1", &["outbox", "install", "--database", &database]);
    insert(&file, "orders", "changed since");
    // A claim that was recorded for another body, and that no broker has had.
    let claimed = "INSERT INTO posthouse_outbox_claim VALUES (1, '1', 7, 0); \
                   UPDATE posthouse_outbox_state SET claimed = 1";
    Connection::open(&file).unwrap().execute_batch(claimed).unwrap();

    let halted = run(server, &["relay", "--database", &database]);
    assert_eq!(halted.status.code(), Some(1));
    assert!(stderr(&halted).contains("--accept-changed-rows"), "{}", stderr(&halted));
    let accepted = ["relay", "--accept-changed-rows", "--database", &database];
    let mut child = command(server, &accepted).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut relay = Relay { child, log, first: String::new(), said: String::new() };
    relay.until("active");
    let wanted = &["consume", "orders", "s", "--create", "--count", "1"];
    assert_eq!(ok(server, wanted), "changed since\n");
    assert_eq!(relay.stop(), Some(0));
}

#[test]
fn status_counts_a_hundred_thousand_and_says_when_there_are_more() {
    let site = Site::new(&[]);
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    ok("nowhere:1", &["outbox", "install", "--database", &database]);
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
                INSERT INTO posthouse_outbox (topic, body) SELECT 'orders', '' FROM n";
    Connection::open(&file).unwrap().execute_batch(fill).unwrap();
    let says = |shown: &str, number: u64| {
        let status = ok("nowhere:1", &["outbox", "status", "--database", &database]);
        assert!(status.contains(shown), "{status}");
        let status = object("nowhere:1", &["outbox", "status", "--database", &database]);
        assert_eq!(status["waiting"], number, "{status}");
    };

    says(" 100,000 messages,", 100_000);
    insert(&file, "orders", "");
    says(" 100,000 messages or more", 100_001);
    insert(&file, "orders", "");
    says(" 100,000 messages or more", 100_001);
}

#[test]
fn printed_statements_make_the_tables_and_bring_them_up_to_date() {
    let site = Site::new(&[]);
    let file = site.path("shop.db");
    let database = format!("sqlite:{}", text(&file));
    let outbox = |arguments: &[&str]| {
        let mut all = vec!["outbox"];
        all.extend(arguments);
        all.extend(["--database", &database]);
        ok("nowhere:1", &all)
    };
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch(&outbox(&["ddl"])).unwrap();
    let status = outbox(&["status"]);
    let present = status.lines().find(|line| line.starts_with("tables")).unwrap().to_owned();
    assert_eq!(present, "tables      version 2");

    connection.execute_batch("UPDATE posthouse_outbox_state SET schema_version = 1").unwrap();
    let status = outbox(&["status"]);
    assert!(status.contains("version 1: posthouse outbox install brings"), "{status}");
    connection.execute_batch(&outbox(&["ddl", "--from", "1"])).unwrap();
    assert!(outbox(&["status"]).contains(&present));
    assert_eq!(outbox(&["ddl", "--from", "2"]), "-- up to date\n");
    connection.execute_batch("UPDATE posthouse_outbox_state SET schema_version = 3").unwrap();
    assert!(outbox(&["status"]).contains("version 3: newer than this program"));
}

#[test]
fn postgresql_and_mariadb_are_relayed_alike() {
    let (postgres, mariadb) = (Postgres::shared(), MariaDb::shared());
    let (one, other) = (postgres.create_database().unwrap(), mariadb.create_database().unwrap());
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    ok(server, &["topic", "create", "orders"]);
    let insert = "INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'a lamp')";
    let refused = "INSERT INTO posthouse_outbox (topic, body) VALUES ('nowhere', 'x')";
    for (url, is_postgres) in [(one.url(), true), (other.url(), false)] {
        ok("nowhere:1", &["outbox", "install", "--database", url]);
        let sql = |text: &str| match is_postgres {
            true => postgres.sql(one.name(), text).unwrap(),
            false => mariadb.sql(other.name(), text).unwrap(),
        };
        sql(insert);
        sql(refused);
        let mut relay = Relay::spawn(server, url);
        relay.until("active");
        let wanted = &["consume", "orders", "s", "--create", "--count", "1"];
        assert_eq!(ok(server, wanted), "a lamp\n");
        relay.until("set aside");
        assert_eq!(relay.stop(), Some(0));
        let status = object("nowhere:1", &["outbox", "status", "--database", url]);
        assert_eq!((&status["waiting"], &status["parked"]), (&0.into(), &1.into()), "{status}");
        assert_eq!(status["relay"], serde_json::Value::Null);
        assert_eq!(status["is_copy"], false);
        let listed = ok("nowhere:1", &["outbox", "parked", "list", "--database", url]);
        assert!(listed.contains("nowhere") && listed.contains("NOT_FOUND"), "{listed}");
    }
}

fn insert(file: &Path, topic: &str, body: &str) {
    let db = Connection::open(file).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    let insert = "INSERT INTO posthouse_outbox (topic, body) VALUES (?1, ?2)";
    db.execute(insert, [topic, body]).unwrap();
}
