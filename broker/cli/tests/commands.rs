//! What commands print and how they end: the contract that scripts rely on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use support::broker::{Broker, Site};
use support::command::{object, ok, run, run_with_input, stderr, text};

#[test]
fn exit_codes_say_what_became_of_a_command() {
    let (mut site, nowhere) = (Site::new(&[]), Site::new(&[]));
    let broker = site.start();
    let server = broker.address();
    let missing = nowhere.path("no-such-socket");
    let missing = format!("unix:{}", text(&missing));
    ok(server, &["topic", "create", "t", "--message-bytes-max", "10"]);
    ok(server, &["subscription", "create", "t", "s", "--mode", "stream"]);

    for (server, arguments, code) in [
        (server, &["publish", "t", "hello"][..], 0),
        (server, &["topic", "create", "t", "--durability", "written"], 1),
        (server, &["publish", "t", "longer than ten bytes"], 1),
        (server, &["consume", "t", "s", "--count", "1"], 1),
        (server, &["publish", "t", "x", "--delay", "30s"], 0),
        (server, &["publish", "t", "x", "--delay", "soon"], 2),
        (server, &["publish", "bad name", "x"], 2),
        (server, &["publish", "t", "x", "--lines", "-"], 2),
        (server, &["read", "t", "--from", "somewhere"], 2),
        (server, &["no-such-command"], 2),
        (server, &["publish", "none", "x"], 4),
        (server, &["read", "none"], 4),
        (server, &["consume", "t", "none"], 4),
        (server, &["consume", "none", "none"], 4),
        (server, &["topic", "describe", "none"], 4),
        (server, &["topic", "delete", "none"], 4),
        (server, &["subscription", "delete", "t", "none"], 4),
        (server, &["dead", "list", "t", "none"], 4),
        (server, &["publish", "t", "--lines", "/no/such/file"], 4),
        (server, &["inspect", "/no/such/directory"], 4),
        (server, &["producer", "retire", "none"], 4),
        (server, &["producer", "retire", "bad name"], 2),
        (&missing, &["topic", "list"], 69),
        ("127.0.0.1:1", &["publish", "t", "x"], 69),
        ("nonsense", &["topic", "list"], 2),
    ] {
        let output = run(server, arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} at {server}: {said}");
        assert_eq!(code == 0, said.is_empty(), "{arguments:?}: {said}");
        assert!(code == 0 || output.stdout.is_empty());
    }
}

#[test]
fn unknown_name_is_answered_with_the_command_that_creates_it() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    assert!(
        stderr(&run(server, &["publish", "orders", "x"])).contains("posthouse topic create orders")
    );
    ok(server, &["topic", "create", "orders"]);
    assert!(
        stderr(&run(server, &["consume", "orders", "billing"]))
            .contains("posthouse subscription create orders billing")
    );
}

#[test]
fn named_producers_are_listed_and_retired() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    assert_eq!(ok(server, &["producer", "list"]), "");
    ok(server, &["topic", "create", "t"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = posthouse_client::Client::builder().server(server).connect().await.unwrap();
        let importer = client.producer("importer").await.unwrap();
        importer.commit_as(7).publish("t", "x").await.unwrap();
        client.producer("empty").await.unwrap();
    });

    let table = ok(server, &["producer", "list"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["producer", "epoch", "last", "age"]);
    assert_eq!(lines[1][..3], ["empty", "1", "0"]);
    assert_eq!(lines[2][..3], ["importer", "1", "7"]);
    let objects = ok(server, &["producer", "list", "--json"]);
    let importer: serde_json::Value =
        serde_json::from_str(objects.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&importer["producer"], &importer["last"]), (&"importer".into(), &7.into()));
    assert!(importer["last_at"].is_string(), "{importer}");

    let retired = object(server, &["producer", "retire", "importer"]);
    assert_eq!(retired, serde_json::json!({ "producer": "importer", "retired": true }));
    assert_eq!(ok(server, &["producer", "list"]).lines().count(), 2);
}

#[test]
fn object_on_a_line_carries_every_byte() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let publish = ["publish", "t", "--create", "--key", "k", "--header", "a=b", "--header", "a=c"];
    assert!(run_with_input(server, &publish, b"line\nline").status.success());
    assert!(run_with_input(server, &publish, b"\xff\x00").status.success());

    let read = ok(server, &["read", "t", "--json"]);
    let consumed = ok(server, &["consume", "t", "s", "--create", "--count", "2", "--json"]);

    for printed in [read, consumed] {
        let objects: Vec<serde_json::Value> =
            printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["body"], "line\nline");
        assert_eq!(objects[0]["offset"], 0);
        assert_eq!(objects[0]["topic"], "t");
        assert_eq!(objects[0]["key"], "k");
        assert_eq!(objects[0]["headers"][1]["name"], "a");
        assert_eq!(objects[0]["headers"][1]["value"], "c");
        assert_eq!(objects[1]["body_base64"], "/wA=");
        assert_eq!(objects[1].get("body"), None);
    }
}

#[test]
fn consuming_one_at_a_time_makes_no_dead_letters() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let lines: String = (0..20).map(|number| format!("message {number}\n")).collect();
    let publish = ["publish", "t", "--lines", "-", "--create"];
    assert!(run_with_input(server, &publish, lines.as_bytes()).status.success());
    ok(server, &["subscription", "create", "t", "s", "--attempts-max", "1"]);

    let taken: String =
        (0..20).map(|_| ok(server, &["consume", "t", "s", "--count", "1"])).collect();

    assert_eq!(taken, lines);
    let state = object(server, &["subscription", "describe", "t", "s"]);
    assert_eq!((&state["backlog"], &state["dead"]), (&0.into(), &0.into()), "{state}");
    assert_eq!(ok(server, &["dead", "list", "t", "s"]), "");
}

#[test]
fn reading_looks_without_consuming() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let publish = ["publish", "t", "--lines", "-", "--create"];
    assert!(run_with_input(server, &publish, b"zero\none\ntwo\nthree\n").status.success());
    ok(server, &["subscription", "create", "t", "s"]);

    assert_eq!(ok(server, &["read", "t"]), "zero\none\ntwo\nthree\n");
    assert_eq!(ok(server, &["read", "t", "--from", "2"]), "two\nthree\n");
    assert_eq!(ok(server, &["read", "t", "--from", "1", "--count", "2"]), "one\ntwo\n");
    assert_eq!(ok(server, &["read", "t", "--from", "latest"]), "");
    assert_eq!(ok(server, &["read", "t", "--from", "1h ago"]), "zero\none\ntwo\nthree\n");
    assert_eq!(ok(server, &["read", "t", "--from", "2999-01-01"]), "");
    assert_eq!(object(server, &["subscription", "describe", "t", "s"])["backlog"], 4);
}

#[test]
fn topics_and_subscriptions_are_made_altered_and_deleted() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    ok(server, &["topic", "create", "b"]);
    ok(server, &["topic", "create", "a", "--durability", "written", "--age-max", "7d"]);
    ok(server, &["topic", "create", "a", "--durability", "written", "--age-max", "7d"]);
    assert_eq!(ok(server, &["topic", "list"]), "a\nb\n");

    ok(server, &["topic", "alter", "a", "--messages-max", "5", "--overflow", "drop-oldest"]);
    let topic = object(server, &["topic", "describe", "a"]);
    assert_eq!(topic["durability"], "written");
    assert_eq!(topic["age_ms_max"], 7 * 86_400_000);
    assert_eq!(topic["messages_max"], 5);
    assert_eq!(topic["overflow"], "drop-oldest");

    ok(server, &["subscription", "create", "a", "s", "--lease", "1m", "--attempts-max", "3"]);
    assert_eq!(ok(server, &["subscription", "list", "a"]), "s\n");
    let topic = object(server, &["topic", "describe", "a"]);
    assert_eq!(topic["subscriptions"][0]["lease_ms"], 60_000);
    assert!(ok(server, &["topic", "describe", "a"]).contains("BACKLOG  IN FLIGHT  DELAYED"));

    ok(server, &["publish", "a", "x"]);
    assert_eq!(object(server, &["subscription", "describe", "a", "s"])["backlog"], 1);
    ok(server, &["topic", "purge", "a"]);
    assert_eq!(object(server, &["subscription", "describe", "a", "s"])["backlog"], 0);

    ok(server, &["subscription", "delete", "a", "s"]);
    assert_eq!(ok(server, &["subscription", "list", "a"]), "");
    ok(server, &["topic", "delete", "a"]);
    assert_eq!(ok(server, &["topic", "list"]), "b\n");
}

#[test]
fn delayed_message_waits_and_is_counted_until_it_is_due() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let said = ok(server, &["publish", "t", "later", "--create", "--delay", "1h"]);
    assert!(said.contains(" to be published in 1h, synced"), "{said}");
    let receipt = object(server, &["publish", "t", "much later", "--delay", "2h"]);
    assert_eq!(receipt.get("offset"), None);
    let topic = object(server, &["topic", "describe", "t"]);
    assert_eq!((&topic["waiting"], &topic["messages"]), (&2.into(), &0.into()));
    assert!(topic["next_due_at"].is_string(), "{topic}");
    let said = ok(server, &["topic", "describe", "t"]);
    assert!(said.contains("waiting     2 until they are due, the first at "), "{said}");

    ok(server, &["topic", "purge", "t"]);
    let topic = object(server, &["topic", "describe", "t"]);
    assert_eq!((&topic["waiting"], topic.get("next_due_at")), (&0.into(), None));

    ok(server, &["subscription", "create", "t", "s"]);
    ok(server, &["publish", "t", "soon", "--delay", "200ms"]);
    assert_eq!(ok(server, &["consume", "t", "s", "--count", "1"]), "soon\n");
}

#[test]
fn reader_that_goes_away_ends_a_command_quietly() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let lines = "a line of some length that fills the pipe sooner or later\n".repeat(20_000);
    let publish = ["publish", "t", "--lines", "-", "--create"];
    assert!(run_with_input(server, &publish, lines.as_bytes()).status.success());
    ok(server, &["subscription", "create", "t", "s", "--attempts-max", "1"]);

    for arguments in [&["read", "t"][..], &["consume", "t", "s"]] {
        let mut child = support::command::command(server, arguments).spawn().unwrap();
        let mut first = [0; 10];
        let mut stdout = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
        drop(stdout);
        let status = support::command::wait(&mut child, "posthouse");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
    let state = object(server, &["subscription", "describe", "t", "s"]);
    assert_eq!(state["dead"], 0, "what could not be written was given back: {state}");
}

#[test]
fn dead_letters_are_shown_and_given_back() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    ok(server, &["publish", "t", "poison", "--create"]);
    ok(server, &["subscription", "create", "t", "s", "--attempts-max", "1", "--lease", "1s"]);
    fail_once(&broker);

    let dead = object(server, &["dead", "list", "t", "s"]);
    assert_eq!(dead["offset"], 0);
    assert_eq!(dead["attempts"], 1, "{dead}");
    assert!(ok(server, &["dead", "show", "t", "s", "0"]).contains("poison"));
    for offset in ["1", "99"] {
        let output = run(server, &["dead", "show", "t", "s", offset]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("posthouse dead list t s"), "{said}");
    }
    assert_eq!(object(server, &["dead", "redrive", "t", "s"])["redriven"], 1);
    assert_eq!(ok(server, &["dead", "list", "t", "s"]), "");
    assert_eq!(ok(server, &["consume", "t", "s", "--count", "1"]), "poison\n");
}

#[test]
fn help_teaches_by_example() {
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["topic", "--help"],
        &["topic", "create", "--help"],
        &["subscription", "--help"],
        &["publish", "--help"],
        &["consume", "--help"],
        &["read", "--help"],
        &["dead", "--help"],
        &["dead", "redrive", "--help"],
        &["inspect", "--help"],
        &["demo", "--help"],
        &["relay", "--help"],
        &["outbox", "--help"],
        &["outbox", "install", "--help"],
        &["outbox", "parked", "--help"],
    ] {
        let help = ok("nowhere:1", command);
        let examples = help.split("posthouse ").count();
        assert!(examples > 2, "{command:?} shows no example:\n{help}");
    }
}

/// Takes the one message of `t` and lets it fail, which a command line cannot do on purpose: the
/// connection is cut while a delivery is held.
fn fail_once(broker: &Broker) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = posthouse_client::Client::builder().server(broker.address());
        let client = client.connect().await.unwrap();
        let mut consumer = client.consumer("t", "s").await.unwrap();
        let delivery = consumer.next().await.unwrap().unwrap();
        delivery.nack(posthouse_client::Retry::Backoff).await.unwrap();
        client.close(support::PATIENCE).await;
    });
}
