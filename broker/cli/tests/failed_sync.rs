//! A disk that fails a sync: the broker ends with 74, says nothing good after it, and has lost
//! nothing that it acknowledged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::broker::Site;
use support::command::{ok, run};

/// Replaces `fdatasync` by one that fails with EIO while a file is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) {
    const char *trigger = getenv("POSTHOUSE_TEST_FAIL_SYNC");
    if (trigger && access(trigger, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}
"#;

fn build_shim(source: &Path, library: &Path) {
    fs::write(source, SHIM).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()), "the tests need a C compiler, `cc`");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[test]
fn failed_sync_ends_the_broker_with_74_and_loses_nothing_acknowledged() {
    let mut site = Site::new(&["--set", "segment_bytes=1MiB", "--set", "message_bytes_max=16KiB"]);
    let (source, library) = (site.path("shim.c"), site.path("shim.so"));
    let trigger = site.path("trigger");
    build_shim(&source, &library);
    site.set_variable("LD_PRELOAD", text(&library));
    site.set_variable("POSTHOUSE_TEST_FAIL_SYNC", text(&trigger));
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let broker = site.start();
        let server = broker.address().to_owned();
        for number in 0..10 {
            let body = format!("{round}-{number}");
            ok(&server, &["publish", "orders", &body, "--create"]);
            acknowledged.push(body);
        }
        fs::write(&trigger, "").unwrap();
        let late = run(&server, &["publish", "orders", "too late", "--timeout", "1s"]);
        assert_ne!(late.status.code(), Some(0), "an acknowledgement after a failed sync");
        assert_eq!(broker.ended(), Some(74));
        fs::remove_file(&trigger).unwrap();
    }
    let broker = site.start();
    let found = ok(broker.address(), &["read", "orders"]);
    let found: Vec<&str> = found.lines().filter(|line| *line != "too late").collect();
    assert_eq!(found, acknowledged);
    println!("faults: failed syncs=5");
}
