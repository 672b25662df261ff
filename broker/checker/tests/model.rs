//! The checker against a model of the broker: it believes the honest one and catches every lie.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a wrong index or cast fails the test, which is what a test is for"
)]

mod model {
    pub(crate) mod broker;
    pub(crate) mod random;
    pub(crate) mod run;
}

use model::broker::Bug;
use model::run::record;
use posthouse_checker::{Counts, Expectations, Rule, Verdict, check};
use std::time::Instant;

#[test]
fn honest_broker_is_believed() {
    for seed in 0..300 {
        let report = check(&record(seed, 1500, Bug::None), &Expectations::SUITE);
        assert_eq!(report.verdict(), Verdict::Valid, "seed {seed}:\n{report}");
    }
}

#[test]
fn every_lie_is_caught_and_called_by_its_name() {
    let lies = [
        (Bug::AckIsLostInRestart, Rule::Undone),
        (Bug::PublishIsLostInRestart, Rule::Lost),
        (Bug::SeenMessageIsLostInRestart, Rule::Lost),
        (Bug::LeaseIsIgnored, Rule::Exclusive),
        (Bug::ExtensionIsIgnored, Rule::Exclusive),
        (Bug::RestartCountsAsFailure, Rule::Attempt),
        (Bug::ReleaseCountsAsFailure, Rule::Attempt),
        (Bug::NackIsNotCounted, Rule::Attempt),
        (Bug::AttemptsAreForgottenInRestart, Rule::Attempt),
        (Bug::FencesStartAgain, Rule::Fence),
        (Bug::EpochStaysInRestart, Rule::Epoch),
        (Bug::StaleFenceSettles, Rule::Fence),
        (Bug::RepeatsAreStored, Rule::Duplicate),
        (Bug::HalfOfABatchIsStored, Rule::Agreement),
        (Bug::BodyIsDamaged, Rule::Agreement),
        (Bug::OffsetsAreUsedAgain, Rule::Agreement),
        (Bug::RefusedPublishIsStored, Rule::Aborted),
        (Bug::PipelinedPublishesChangePlaces, Rule::Agreement),
        (Bug::DeadLetterIsKeptTwice, Rule::DeadLetter),
        (Bug::DeadLetterIsLost, Rule::DeadLetter),
        (Bug::DeadLetterComesTooEarly, Rule::DeadLetter),
        (Bug::CursorIsLostInRestart, Rule::Cursor),
        (Bug::FetchSkipsAMessage, Rule::Vanished),
        (Bug::AnotherTopicsMessage, Rule::Unexpected),
    ];
    for (bug, rule) in lies {
        let mut caught = 0;
        for seed in 0..20 {
            let report = check(&record(seed, 1500, bug), &Expectations::SUITE);
            caught += u32::from(report.violations.iter().any(|found| found.rule == rule));
        }
        println!("{bug:?}: {rule} found in {caught} of 20 runs");
        assert!(caught >= 3, "{bug:?}: {rule} found in {caught} of 20 runs");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what is measured is the time of day")]
fn million_events_take_seconds() {
    let events = record(1, 1_150_000, Bug::None);
    let at_least = Counts {
        publishes_ok: 200_000,
        deliveries: 200_000,
        redeliveries: 10_000,
        kills: 500,
        kills_effective: 500,
        dead_letters: 500,
        ..Counts::default()
    };
    let start = Instant::now();
    let report = check(&events, &Expectations { at_least, ..Expectations::SUITE });
    let took = start.elapsed();
    println!("{} events in {took:?}\n{report}", events.len());
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    assert!(events.len() >= 1_000_000, "only {} events", events.len());
    assert!(took.as_secs() < 60, "{took:?}, even though this machine may be busy");
}
