//! The main job with the real binary: what goes in through `publish --lines` comes out through
//! `consume --output`, byte for byte, whatever happens to the broker meanwhile.

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use rustix::process::Signal;
use std::io::Write;
use std::process::{ChildStdin, Stdio};
use support::broker::Site;
use support::command::{command, object, ok, run_with_input, start, stderr, text};
use support::corpus;

const LINES: usize = 100_000;
const KILLS: usize = 12;

#[test]
fn text_comes_out_as_it_went_in() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    let (input, output) = (site.path("input.txt"), site.path("output.txt"));
    let original = corpus::text(LINES);
    std::fs::write(&input, &original).unwrap();

    let told = ok(server, &["publish", "text", "--lines", text(&input), "--create"]);
    let consume = ["consume", "text", "copy", "--create", "--until-empty", "--output"];
    ok(server, &[&consume[..], &[text(&output)]].concat());

    let lines = original.split(|byte| *byte == b'\n').count();
    assert!(lines >= LINES);
    assert_eq!(object(server, &["topic", "describe", "text"])["end"], lines);
    assert!(told.ends_with("messages, all synced to text\n"), "{told}");
    assert_same(&original, &std::fs::read(&output).unwrap());
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn text_comes_out_as_it_went_in_although_the_broker_is_killed_a_dozen_times() {
    let mut site = Site::new(&[]);
    let mut broker = site.start();
    let server = broker.address().to_owned();
    let original = corpus::text(LINES);
    let portion = original.len() / (KILLS + 1);
    let mut publish = command(&server, &["publish", "text", "--lines", "-", "--create"]);
    publish.stdin(Stdio::piped());
    let mut publishing = start(publish);
    let mut stdin = publishing.stdin();

    let (mut hits, mut fed) = (0, 0);
    let mut rest = original.as_slice();
    for _ in 0..KILLS {
        let (now, later) = rest.split_at(portion);
        rest = later;
        fed += now.iter().filter(|byte| **byte == b'\n').count() as u64;
        let (first, second) = now.split_at(portion / 2);
        stdin.write_all(first).unwrap();
        let feed = feed(stdin, second.to_vec());
        broker.kill();
        // Still, so that the next broker can tell what had arrived when the last one died.
        publishing.signal(Signal::STOP);
        broker = site.start();
        hits += usize::from(end_offset(&server) < fed);
        publishing.signal(Signal::CONT);
        stdin = feed.join().unwrap();
    }
    feed(stdin, rest.to_vec()).join().map(drop).unwrap();
    let published = publishing.output();

    assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
    let output = site.path("output.txt");
    let consume = ["consume", "text", "copy", "--create", "--until-empty", "--output"];
    ok(&server, &[&consume[..], &[text(&output)]].concat());
    assert_same(&original, &std::fs::read(&output).unwrap());
    assert!(hits >= KILLS / 2, "only {hits} of {KILLS} kills hit the publish");
}

#[test]
fn every_way_to_end_a_text_comes_back() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    let server = broker.address();
    for (topic, input) in [
        ("empty", &b""[..]),
        ("lf", b"\n"),
        ("crlf", b"\r\n"),
        ("open", b"one\ntwo"),
        ("closed", b"one\ntwo\n"),
        ("blank", b"\n\n\none\n\n"),
        ("cr", b"one\rtwo\r"),
        ("bytes", b"\xff\xfe\n\x80"),
    ] {
        let publish = ["publish", topic, "--lines", "-", "--create"];
        let published = run_with_input(server, &publish, input);
        assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
        let consume = ["consume", topic, "copy", "--create", "--until-empty"];
        let consumed = start(command(server, &consume)).output();
        assert_eq!(consumed.status.code(), Some(0), "{}", stderr(&consumed));
        assert_eq!(consumed.stdout, input, "{topic}");
    }
}

/// Writes to a pipe in the background, for as long as it takes.
fn feed(mut stdin: ChildStdin, bytes: Vec<u8>) -> std::thread::JoinHandle<ChildStdin> {
    std::thread::spawn(move || {
        stdin.write_all(&bytes).expect("the publisher reads to the end");
        stdin
    })
}

fn end_offset(server: &str) -> u64 {
    let output = start(command(server, &["topic", "describe", "text", "--json"])).output();
    let topic: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    // Before the topic is there.
    topic.get("end").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

#[track_caller]
fn assert_same(original: &[u8], copy: &[u8]) {
    let same = original.iter().zip(copy).take_while(|(left, right)| left == right).count();
    assert!(
        original == copy,
        "{} bytes became {}; they differ from byte {same} on",
        original.len(),
        copy.len(),
    );
}
