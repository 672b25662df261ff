//! The judge of test runs: rules over what clients saw, as pure functions of a recorded history.
//!
//! A suite records [`history::Event`]s while it does its worst to a broker, and hands them to
//! [`check`]. A history is *invalid* if a rule is broken. It is *unknown*, which is a failure too,
//! if nothing is wrong but too little happened to say anything: see [`Expectations`].
//!
//! Wherever an outcome is unknown, the rules let the operation take effect at any moment from its
//! start on, or never. They report only what no such choice explains.

#![forbid(unsafe_code)]

pub mod history;
pub mod lines;

mod counting;
mod expect;
mod handouts;
mod report;
mod rules;
mod settled;
mod sightings;
mod timeline;

pub use expect::{Counts, Expectations, Shortfall};
pub use report::{Report, Rule, Subject, VIOLATIONS_PER_RULE_MAX, Verdict, Violation};

/// Checks every rule over a history, whose events may stand in any order.
#[must_use]
pub fn check(events: &[history::Event], expectations: &Expectations) -> Report {
    let timeline = timeline::Timeline::new(events);
    let (violations, violations_found) = rules::check(&timeline).into_sorted();
    let counts = counting::counts(events, &timeline);
    let shortfalls = counting::shortfalls(&counts, expectations, &timeline);
    Report { violations, violations_found, counts, shortfalls }
}
