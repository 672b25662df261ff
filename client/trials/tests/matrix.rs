//! The fault matrix: a process dies, or comes back as a zombie, at each labelled place of the way from
//! the sender's transaction to the receiver's, on each database; and still what was committed is done,
//! once each, in the order of its key, and nothing else.
//!
//! A place that is not hit fails the suite.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it hit"
)]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use posthouse_trials::{Driver, NOWHERE, TOPICS};
use std::time::Duration;
use support::base::Base;
use support::process::Process;
use support::stage::{LEASE, Stage};

/// Operations before and after the fault.
const OPERATIONS: u32 = 80;
/// How long a second consumer may take what a stopped one held; that may itself be kept from it by the
/// stopped one's open transaction.
const TAKE_OVER: Duration = Duration::from_secs(1);
/// How long a second relay may take to have the work of a stopped one. On SQLite it never has it if
/// that one was stopped while it had the database locked, whatever becomes of its lease.
const REPLACED: Duration = Duration::from_secs(15);
/// How often a zombie may come back before it was replaced.
const TRIES: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    App,
    Relay,
    Broker,
    Consumer,
    /// A reader of streams.
    View,
    /// A relay that is stopped, replaced, and comes back.
    ZombieRelay,
    /// A consumer that is stopped for longer than its leases, and comes back.
    ZombieConsumer,
    /// A reader of streams that is stopped, and comes back when another one reads with its name.
    ZombieView,
    /// The server of both databases, while the process of the place is stopped.
    Databases,
}

/// Whom it befalls, the place, and the how-manieth time it is reached.
const CASES: &[(Victim, &str, u32)] = &[
    (Victim::App, "app.before-commit", 15),
    (Victim::App, "app.in-commit", 3),
    (Victim::App, "app.after-commit", 15),
    (Victim::App, "outbox.before-insert", 10),
    (Victim::App, "outbox.before-commit", 1),
    (Victim::App, "outbox.in-commit", 3),
    (Victim::App, "outbox.after-commit", 10),
    (Victim::Relay, "relay.after-scan", 3),
    (Victim::Relay, "relay.before-claim-commit", 3),
    (Victim::Relay, "relay.in-claim-commit", 3),
    (Victim::Relay, "relay.after-claim-commit", 3),
    (Victim::Relay, "relay.after-send", 3),
    (Victim::Relay, "relay.after-ack", 3),
    (Victim::Relay, "relay.before-delete-commit", 2),
    (Victim::Relay, "relay.in-delete-commit", 2),
    (Victim::Relay, "relay.after-delete-commit", 2),
    (Victim::Relay, "relay.after-fence", 1),
    (Victim::Relay, "relay.before-park", 1),
    (Victim::Relay, "relay.after-park", 1),
    (Victim::Broker, "broker.before-write", 3),
    (Victim::Broker, "broker.after-write", 3),
    (Victim::Broker, "broker.after-sync", 3),
    (Victim::Broker, "broker.after-reply", 3),
    (Victim::Consumer, "inbox.before-insert", 10),
    (Victim::Consumer, "inbox.before-commit", 10),
    (Victim::Consumer, "inbox.in-commit", 10),
    (Victim::Consumer, "inbox.after-commit", 10),
    (Victim::View, "stream.before-commit", 3),
    (Victim::View, "stream.in-commit", 3),
    (Victim::View, "stream.after-commit", 3),
    (Victim::ZombieRelay, "relay.after-scan", 2),
    (Victim::ZombieRelay, "relay.before-claim-commit", 2),
    (Victim::ZombieRelay, "relay.in-claim-commit", 2),
    (Victim::ZombieRelay, "relay.after-claim-commit", 2),
    (Victim::ZombieRelay, "relay.after-send", 2),
    (Victim::ZombieRelay, "relay.after-ack", 2),
    (Victim::ZombieRelay, "relay.before-delete-commit", 2),
    (Victim::ZombieRelay, "relay.in-delete-commit", 2),
    (Victim::ZombieRelay, "relay.after-delete-commit", 2),
    (Victim::ZombieRelay, "relay.after-fence", 1),
    (Victim::ZombieRelay, "relay.before-park", 1),
    (Victim::ZombieRelay, "relay.after-park", 1),
    (Victim::ZombieConsumer, "inbox.before-insert", 5),
    (Victim::ZombieConsumer, "inbox.before-commit", 5),
    (Victim::ZombieConsumer, "inbox.in-commit", 5),
    (Victim::ZombieConsumer, "inbox.after-commit", 5),
    (Victim::ZombieView, "stream.before-commit", 3),
    (Victim::ZombieView, "stream.in-commit", 3),
    (Victim::ZombieView, "stream.after-commit", 3),
    (Victim::Databases, "app.before-commit", 15),
    (Victim::Databases, "app.in-commit", 3),
    (Victim::Databases, "outbox.before-commit", 1),
    (Victim::Databases, "outbox.in-commit", 3),
    (Victim::Databases, "relay.before-claim-commit", 2),
    (Victim::Databases, "relay.in-claim-commit", 2),
    (Victim::Databases, "relay.after-send", 2),
    (Victim::Databases, "relay.before-delete-commit", 2),
    (Victim::Databases, "relay.in-delete-commit", 2),
    (Victim::Databases, "relay.before-park", 1),
    (Victim::Databases, "inbox.before-commit", 5),
    (Victim::Databases, "inbox.in-commit", 5),
    (Victim::Databases, "stream.before-commit", 3),
    (Victim::Databases, "stream.in-commit", 3),
];

#[test]
fn every_point_on_postgres() {
    run_all(Driver::Postgres);
}

#[test]
fn every_point_on_mariadb() {
    run_all(Driver::Mariadb);
}

#[test]
fn every_point_on_sqlite_by_sqlx() {
    run_all(Driver::Sqlite);
}

#[test]
fn every_point_on_sqlite_by_rusqlite() {
    run_all(Driver::Rusqlite);
}

fn run_all(driver: Driver) {
    let only = std::env::var("POSTHOUSE_MATRIX_POINT").unwrap_or_default();
    let mut hit = 0;
    for (number, &(victim, label, count)) in (1..).zip(CASES) {
        if !only.is_empty() && only != label {
            continue;
        }
        let case = Case { driver, victim, label, count, seed: number };
        if !case.is_possible() {
            continue;
        }
        let tries = (count..count + TRIES).map(|count| Case { count, ..case });
        let struck = { tries }.any(Case::run);
        assert!(struck, "{case:?}: the zombie was never replaced");
        hit += 1;
    }
    println!("faults: {driver:?}: {hit} points hit");
    assert!(hit > 0, "there is no point called {only}");
}

#[derive(Clone, Copy, Debug)]
struct Case {
    driver: Driver,
    victim: Victim,
    label: &'static str,
    count: u32,
    seed: u64,
}

/// The processes that are not the broker.
#[derive(Debug)]
struct Cast {
    app: Process,
    relays: Vec<Process>,
    consumers: Vec<Process>,
    views: Vec<Process>,
}

impl Case {
    /// False if the zombie came back before it was replaced: nothing is shown then.
    fn run(self) -> bool {
        let mut stage = Stage::new(self.driver, self.seed, Base::shared);
        stage.start_broker(self.arm("broker.").as_deref());
        stage.make_topics();
        let relay = stage.relay("relay-a", &[], self.arm("relay.").as_deref());
        let consumer = self.consumer(&stage);
        let view = stage.view("view-a", &TOPICS, self.arm("stream.").as_deref());
        let poison: &[&str] = if self.is_poison() { &["--poison", "25"] } else { &[] };
        let in_app = self.arm("app.").or_else(|| self.arm("outbox."));
        let app = stage.app(OPERATIONS, poison, in_app.as_deref());
        let (relays, consumers, views) = (vec![relay], vec![consumer], vec![view]);
        let mut cast = Cast { app, relays, consumers, views };
        let struck = self.strike(&mut stage, &mut cast);
        let more = || format!("{self:?}\n{}", stage.sender.sessions());
        let status = cast.app.wait_or_tell(more);
        assert!(status.success(), "{self:?}: {}", cast.app.told());
        stage.settle(&cast.all());
        if self.is_poison() {
            redrive(&mut stage, &mut cast);
        }
        stage.judge(&format!("{self:?}"));
        assert_eq!(stage.fired(), [self.label], "{self:?}: the failpoints that fired");
        struck
    }

    /// The one that is to be stopped before it writes does one thing at a time: with another
    /// transaction open it would hold up whoever takes over.
    fn consumer(self, stage: &Stage) -> Process {
        let failpoint = self.arm("inbox.");
        match self.is_late() {
            true => {
                let alone = &["--concurrency", "1"];
                stage.consumer_of(&TOPICS[..1], "consumer-a", alone, failpoint.as_deref())
            }
            false => stage.consumer("consumer-a", &[], failpoint.as_deref()),
        }
    }

    fn is_late(self) -> bool {
        self.victim == Victim::ZombieConsumer && self.label == "inbox.before-insert"
    }

    /// A database in a file has no server that could be killed, and stays locked by whoever is stopped
    /// while it commits: nobody takes over from a relay then.
    fn is_possible(self) -> bool {
        let is_server = matches!(self.driver, Driver::Postgres | Driver::Mariadb);
        let is_locked = self.victim == Victim::ZombieRelay && self.label.contains(".in-");
        is_server || (!is_locked && self.victim != Victim::Databases)
    }

    fn is_poison(self) -> bool {
        ["relay.after-fence", "relay.before-park", "relay.after-park"].contains(&self.label)
    }

    /// What a part is told whose places begin like this.
    fn arm(self, places: &str) -> Option<String> {
        let dies = matches!(
            self.victim,
            Victim::App | Victim::Relay | Victim::Broker | Victim::Consumer | Victim::View
        );
        let ending = if dies { "" } else { ":stop" };
        self.label.starts_with(places).then(|| format!("{}:{}{ending}", self.label, self.count))
    }

    /// Waits until it has struck, and repairs what it left.
    fn strike(self, stage: &mut Stage, cast: &mut Cast) -> bool {
        match self.victim {
            Victim::App => {
                let app = stage.app(OPERATIONS, &[], None);
                std::mem::replace(&mut cast.app, app).abort();
            }
            Victim::Relay => {
                cast.relays.remove(0).abort();
                cast.relays.push(stage.relay("relay-a", &[], None));
            }
            Victim::Broker => {
                stage.broker.take().expect("it was started").abort();
                stage.start_broker(None);
            }
            Victim::Consumer => {
                cast.consumers.remove(0).abort();
                cast.consumers.push(stage.consumer("consumer-a", &[], None));
            }
            Victim::View => {
                cast.views.remove(0).abort();
                cast.views.push(stage.view("view-a", &TOPICS, None));
            }
            Victim::ZombieRelay => return zombie_relay(stage, cast),
            Victim::ZombieConsumer if self.is_late() => late_consumer(stage, cast),
            Victim::ZombieConsumer => zombie_consumer(stage, cast),
            Victim::ZombieView => zombie_view(stage, cast),
            Victim::Databases => crash(stage, cast),
        }
        true
    }
}

/// Whether it was replaced before it came back.
fn zombie_relay(stage: &Stage, cast: &mut Cast) -> bool {
    stage.until("the relay is stopped", || cast.relays[0].is_stopped());
    let second = stage.relay("relay-b", &[], None);
    // It does the work of the first one then.
    let replaced = second.hear_within("handed over", REPLACED).is_some();
    cast.relays[0].resume();
    if replaced {
        let first = &cast.relays[0];
        stage.until("the zombie knows that it was replaced", || !first.is_active());
    }
    cast.relays.push(second);
    replaced
}

fn zombie_consumer(stage: &Stage, cast: &mut Cast) {
    stage.until("the consumer is stopped", || cast.consumers[0].is_stopped());
    // Not to be seen from outside: what it had not begun to handle goes out again, to it, at once.
    stage.rest(2 * LEASE);
    let second = stage.consumer("consumer-b", &[], None);
    second.hear_within("holding", TAKE_OVER);
    cast.consumers[0].resume();
    cast.consumers.push(second);
}

/// One that has written nothing when it is stopped: another one does all its work, and what it writes
/// when it comes back is refused by the database.
fn late_consumer(stage: &Stage, cast: &mut Cast) {
    stage.until("the consumer is stopped", || cast.consumers[0].is_stopped());
    cast.consumers.push(stage.consumer("consumer-b", &[], None));
    assert!(cast.app.wait().success(), "{}", cast.app.told());
    stage.settle(&cast.all());
    cast.consumers[0].resume();
    let late = &cast.consumers[0];
    stage.until("its late write is refused", || late.has_logged("stale delivery refused"));
}

fn zombie_view(stage: &mut Stage, cast: &mut Cast) {
    stage.until("the view is stopped", || cast.views[0].is_stopped());
    let second = stage.view("view-b", &TOPICS, None);
    // It cannot have the batch that the first one has in an open transaction.
    second.hear_within("holding", TAKE_OVER);
    cast.views[0].resume();
    cast.views.push(second);
    // Both read on; where one moves the cursor, the other one stops.
    let app = stage.app(OPERATIONS, &[], None);
    let mut first = std::mem::replace(&mut cast.app, app);
    assert!(first.wait().success(), "{}", first.told());
    let was_overtaken = |view: &Process| view.count("overtaken") > 0;
    stage.until("one of the two was overtaken", || cast.views.iter().any(was_overtaken));
}

/// Ends the server under a process that is stopped, starts it again, and lets the process go on.
fn crash(stage: &Stage, cast: &Cast) {
    stage.until("a process is stopped", || cast.all().into_iter().any(Process::is_stopped));
    // The databases of this driver's cases are on one server that nobody else uses.
    assert!(stage.sender.crash(), "there is no server");
    cast.all().into_iter().for_each(Process::resume);
}

impl Cast {
    fn all(&self) -> Vec<&Process> {
        let views = self.views.iter().chain([&self.app]);
        self.relays.iter().chain(&self.consumers).chain(views).collect()
    }
}

/// What no broker took was set aside; now there is a topic for it.
fn redrive(stage: &mut Stage, cast: &mut Cast) {
    let poisoned = stage.committed().iter().filter(|op| op.topic() == NOWHERE).count() as u64;
    assert!(poisoned > 0, "the application wrote nothing that is refused");
    assert_eq!(stage.waiting(), (0, poisoned), "rows waiting, and rows parked");
    stage.make_topic(NOWHERE);
    cast.consumers.push(stage.consumer("consumer-b", &[], None));
    cast.views.push(stage.view("view-b", &[NOWHERE], None));
    assert_eq!(stage.redrive(), poisoned);
    stage.settle(&cast.all());
}
