//! The examples run as they are, against the real broker.

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use std::process::Command;
use support::broker::Site;

#[test]
fn examples_run_against_a_broker() {
    let mut site = Site::new(&[]);
    let broker = site.start();
    for (package, example, said) in [
        ("posthouse-client", "hello", "received hello, world"),
        ("posthouse-client", "work_queue", "100 jobs done"),
        ("posthouse-client", "stream", "70 bytes"),
        ("posthouse-client", "commit", "committed 2 messages"),
        ("posthouse-outbox-rusqlite", "outbox_sqlite", "to be billed: a lamp for Ben"),
    ] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["run", "--quiet", "--locked", "-p", package, "--example", example])
            .env("POSTHOUSE_SERVER", broker.address())
            .output()
            .expect("cargo is there: it runs this test");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{example}: {stdout}{stderr}");
        assert!(stdout.contains(said), "{example} said {stdout}");
    }
    assert_eq!(broker.stop(), Some(0));
}
