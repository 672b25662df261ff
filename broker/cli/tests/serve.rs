//! How `posthouse serve` starts, refuses to start, and stops.

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use rustix::process::Signal;
use std::process::Stdio;
use support::broker::Site;
use support::command::{command, object, ok, run, start, stderr, text};

#[test]
fn second_broker_on_a_data_directory_is_refused() {
    let mut site = Site::new(&[]);
    let broker = site.start();

    let data_dir = site.data_dir();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data_dir)];
    let second = run("nowhere:1", &serve);

    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    assert!(said.contains("in use") && said.contains(text(&data_dir)), "{said}");
    assert!(second.stdout.is_empty(), "it never was ready");
    ok(broker.address(), &["publish", "t", "still here", "--create"]);
    assert_eq!(broker.stop(), Some(0));
    assert_eq!(site.start().stop(), Some(0));
}

#[test]
fn address_in_use_is_refused_and_named() {
    let (mut site, other) = (Site::new(&[]), Site::new(&[]));
    let broker = site.start();
    let data_dir = other.data_dir();
    let serve = ["serve", "--data-dir", text(&data_dir), "--listen", broker.address()];
    let second = run("nowhere:1", &serve);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(broker.address()), "{}", stderr(&second));
}

#[test]
fn listening_for_other_machines_is_refused_unless_insecure() {
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let site = Site::new(&[]);
        let data_dir = site.data_dir();
        let serve = ["serve", "--data-dir", text(&data_dir), "--listen", address];
        let refused = run("nowhere:1", &serve);
        assert_eq!(refused.status.code(), Some(1));
        let said = stderr(&refused);
        assert!(said.contains(&format!("refusing to listen on {address}")), "{said}");
        assert!(said.contains("--insecure"), "{said}");
        assert!(!data_dir.exists(), "nothing was written");
    }
    let site = Site::new(&["--insecure"]);
    let mut serve = site.serve();
    serve.args(["--listen", "0.0.0.0:0"]);
    let broker = start(serve);
    broker.signal(Signal::KILL);
    broker.output();
}

#[test]
fn every_listener_is_served_and_printed() {
    let socket_home = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", text(&socket_home.path().join("broker.sock")));
    let mut site = Site::new(&["--listen", &socket]);
    for _ in 0..2 {
        let broker = site.start();
        let (tcp, unix) = broker.address().split_once(", ").expect("two addresses");
        assert_eq!(unix, socket);
        ok(unix, &["publish", "t", "over the socket", "--create"]);
        assert!(ok(tcp, &["read", "t"]).ends_with("over the socket\n"));
        // A socket that a killed broker left is no obstacle.
        broker.kill();
        site.forget_address();
    }
}

#[test]
fn delayed_messages_outlive_brokers_that_are_killed() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    ok(broker.address(), &["topic", "create", "t"]);
    ok(broker.address(), &["subscription", "create", "t", "s"]);
    ok(broker.address(), &["publish", "t", "soon", "--delay", "300ms"]);
    ok(broker.address(), &["publish", "t", "much later", "--delay", "1h"]);
    broker.kill();

    let broker = site.start();
    assert_eq!(ok(broker.address(), &["consume", "t", "s", "--count", "1"]), "soon\n");
    broker.kill();

    let broker = site.start();
    let topic = object(broker.address(), &["topic", "describe", "t"]);
    assert_eq!((&topic["end"], &topic["waiting"]), (&1.into(), &1.into()), "each once");
}

#[test]
fn signal_under_load_drains_and_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::new(&[]);
        let broker = site.start();
        let server = broker.address().to_owned();
        let mut publish = command(&server, &["publish", "t", "--lines", "-", "--create", "--json"]);
        publish.stdin(Stdio::piped());
        let mut publishing = start(publish);
        let mut stdin = publishing.stdin();
        let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
        let load = std::thread::spawn(move || {
            let lines = "a line of the load\n".repeat(100);
            let mut count = 0_u64;
            while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                std::io::Write::write_all(&mut stdin, lines.as_bytes()).unwrap();
                count += 100;
            }
            count
        });
        while !topic_has_messages(&server) {}

        assert_eq!(broker.end(signal), Some(0), "{signal:?}");

        let _again = site.start();
        drop(stop);
        let sent = load.join().unwrap();
        let published = publishing.output();
        assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
        assert_eq!(object(&server, &["topic", "describe", "t"])["end"], sent);
    }
}

#[test]
fn options_come_from_file_environment_and_flags() {
    let site = Site::new(&[]);
    let file = site.path("posthouse.toml");
    std::fs::write(&file, "fold_bytes = \"8 MiB\"\nconnections_max = 5\ninsecure = true\n")
        .unwrap();
    let print = ["serve", "--print-config", "--config", text(&file)];
    let mut serve = command("nowhere:1", &print);
    serve.args(["--set", "fold_bytes=16MiB", "--listen", "127.0.0.1:1", "--listen", "[::1]:2"]);
    serve.env("POSTHOUSE_CONNECTIONS_MAX", "6").env("POSTHOUSE_FOLD_BYTES", "4MiB");

    let printed = start(serve).output();

    let text = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "fold_bytes = \"16 MiB\"",
        "connections_max = 6",
        "insecure = true",
        "listen = [\"127.0.0.1:1\", \"[::1]:2\"]",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
    }
}

#[test]
fn unknown_option_is_refused_with_its_line() {
    let site = Site::new(&[]);
    let file = site.path("posthouse.toml");
    std::fs::write(&file, "insecure = false\nlistn = \"127.0.0.1:0\"\n").unwrap();
    let refused = run("nowhere:1", &["serve", "--config", text(&file)]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("posthouse.toml:2:") && said.contains("mean \"listen\""), "{said}");
}

fn topic_has_messages(server: &str) -> bool {
    let output = start(command(server, &["topic", "describe", "t", "--json"])).output();
    let topic: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    topic.get("end").and_then(serde_json::Value::as_u64).unwrap_or(0) > 0
}
