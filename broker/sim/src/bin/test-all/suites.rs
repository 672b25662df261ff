//! The suites, in the order in which they run: cheap gates first, then the heavy suites at full
//! count, then the planted bugs.

use crate::{Suite, planted, suite};

/// Arguments of a test binary: print what it says, faults included.
const TEST: &str = "test";

/// The power loss suite over a broker that may have a bug.
const PLANTED: &[&str] = &[
    TEST,
    "--locked",
    "-p",
    "posthouse-sim",
    "--features",
    "planted-bugs",
    "--test",
    "power_loss",
];

/// The fault matrix over a relay or an inbox that may have a bug.
const TRIALS_PLANTED: &[&str] =
    &[TEST, "--locked", "-p", "posthouse-trials", "--features", "planted-bugs", "--test", "matrix"];

pub(crate) const SUITES: &[Suite] = &[
    suite("format", "cargo fmt --check", &["fmt", "--all", "--check"], &[]),
    suite(
        "clippy",
        "clippy, warnings denied",
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
        &[],
    ),
    suite(
        "docs",
        "the documentation builds, links resolve",
        &["doc", "--workspace", "--no-deps", "--locked", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    suite(
        "tests",
        "every test, at its everyday count",
        &[TEST, "--workspace", "--locked", "--no-fail-fast"],
        &[],
    ),
    suite(
        "fuzz",
        "every decoder, 300,000 mutations each",
        &[
            TEST,
            "--locked",
            "-p",
            "posthouse-protocol",
            "--test",
            "fuzz_smoke",
            "--",
            "--nocapture",
        ],
        &[("POSTHOUSE_FUZZ_ITERATIONS", "300000")],
    ),
    suite(
        "storage power loss",
        "any subset of unsynced sectors survives",
        &[TEST, "--locked", "-p", "posthouse-storage", "--test", "power_loss", "--", "--nocapture"],
        &[("POSTHOUSE_CRASH_POINTS", "60000")],
    ),
    suite(
        "broker power loss",
        "the same under the whole broker",
        &[TEST, "--locked", "-p", "posthouse-sim", "--test", "power_loss", "--", "--nocapture"],
        &[("POSTHOUSE_CRASH_POINTS", "100000")],
    ),
    suite(
        "simulation",
        "every kind of fault, judged by the checker",
        &[TEST, "--locked", "-p", "posthouse-sim", "--test", "simulation", "--", "--nocapture"],
        &[("POSTHOUSE_SIM_SEEDS", "300")],
    ),
    suite(
        "kill suite",
        "kill -9 of the real binary, 100 cycles",
        &[TEST, "--locked", "-p", "posthouse", "--test", "kill_suite", "--", "--nocapture"],
        &[("POSTHOUSE_KILL_CYCLES", "100")],
    ),
    suite(
        "relay model",
        "every order of events in the larger bounds: 2 million states",
        &[TEST, "--locked", "-p", "posthouse-client", "--features", "outbox", "--lib", "model"],
        &[("POSTHOUSE_MODEL", "full")],
    ),
    suite(
        "fault matrix",
        "a fault at each place from transaction to transaction, 4 databases",
        &[TEST, "--locked", "-p", "posthouse-trials", "--test", "matrix", "--", "--nocapture"],
        &[],
    ),
    suite(
        "kill soak",
        "64 cycles: processes, connections, databases and the broker's past",
        &[TEST, "--locked", "-p", "posthouse-trials", "--test", "soak", "--", "--nocapture"],
        &[("POSTHOUSE_SOAK_CYCLES", "16")],
    ),
    planted(
        "planted: ack before sync",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "ack-before-sync"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: serve unsynced",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "serve-unsynced"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: skip directory sync",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "skip-directory-sync"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: forget acks",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "forget-acks"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: reuse an offset",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "reuse-offset"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: lose the prev check",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "lose-prev-check"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    planted(
        "planted: split a commit",
        PLANTED,
        &[("POSTHOUSE_PLANTED_BUG", "split-commit"), ("POSTHOUSE_CRASH_POINTS", "40000")],
    ),
    suite(
        "planted: storage",
        "skipped directory sync, cache believed, sync skipped: each is found",
        &[
            TEST,
            "--locked",
            "-p",
            "posthouse-storage",
            "--features",
            "planted-bugs",
            "--test",
            "power_loss",
        ],
        &[],
    ),
    planted(
        "planted: forget acks (kill -9)",
        &[
            TEST,
            "--locked",
            "-p",
            "posthouse",
            "--features",
            "planted-bugs",
            "--test",
            "kill_suite",
        ],
        &[("POSTHOUSE_PLANTED_BUG", "forget-acks")],
    ),
    planted(
        "planted: forget claims",
        TRIALS_PLANTED,
        &[
            ("POSTHOUSE_PLANTED_BUG", "forget-claims"),
            ("POSTHOUSE_MATRIX_POINT", "relay.after-ack"),
        ],
    ),
    planted(
        "planted: inbox forgets",
        TRIALS_PLANTED,
        &[
            ("POSTHOUSE_PLANTED_BUG", "inbox-forgets"),
            ("POSTHOUSE_MATRIX_POINT", "inbox.after-commit"),
        ],
    ),
    suite(
        "instructions",
        "the paths of every message take as many as stored, 5 % tolerated",
        &[
            "run",
            "-q",
            "--release",
            "--locked",
            "-p",
            "posthouse-sim",
            "--bin",
            "hot-paths",
            "--",
            "check",
        ],
        &[],
    ),
    suite(
        "release build",
        "the broker as it is shipped",
        &["build", "-q", "--release", "--locked", "-p", "posthouse"],
        &[],
    ),
    suite(
        "deep backlog",
        "5 GB waiting: memory, start after kill -9, consume at once",
        &["run", "-q", "--release", "--locked", "-p", "posthouse-benches", "--", "backlog"],
        &[],
    ),
    suite(
        "benches",
        "every measuring program runs",
        &["run", "-q", "--release", "--locked", "-p", "posthouse-benches", "--", "smoke"],
        &[],
    ),
];
