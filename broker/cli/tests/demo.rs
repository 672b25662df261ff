//! The demo as a newcomer runs it: `posthouse demo`.

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use support::command::ok;

#[test]
fn demo_kills_everything_and_finds_one_effect_for_each_committed_sale() {
    let said = ok("nowhere:1", &["demo", "--messages", "1000"]);

    for expected in [
        "kill -9 the shop",
        "kill -9 the broker",
        "kill -9 the office",
        "900 sales committed; 900 messages handed over; 900 bookings made",
        "Exactly one effect for each committed sale, none for a rolled-back one",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    assert!(said.lines().all(|line| line.len() <= 110), "short lines:\n{said}");
}
