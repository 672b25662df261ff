//! The suites, in the order in which they run: cheap gates first.

use crate::{Suite, suite};

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
    suite("tests", "every test, at its everyday count", &["test", "--workspace", "--locked"], &[]),
];
