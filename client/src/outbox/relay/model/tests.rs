//! What is checked with which bounds, and the mistakes that must be found.

use super::{Bounds, Flaw, Mistake, RowId};
use stateright::{Checker, HasDiscoveries, Model};

const NONE: Bounds = Bounds {
    rows: 2,
    rollbacks: 0,
    crashes: 0,
    broker_crashes: 0,
    expiries: 0,
    faults: 0,
    late: 0,
    losses: 0,
    copies: 0,
    gap_ends: 0,
    waits: 0,
    poison: None,
    relays: 1,
    depth: 2,
    rows_max: 2,
    gaps_max: 8,
    mistake: None,
    flaw: None,
    ignores_epoch: false,
};

/// Whether the larger bounds are asked for, with `POSTHOUSE_MODEL=full`: 2 million states, minutes.
fn is_full() -> bool {
    std::env::var("POSTHOUSE_MODEL").is_ok_and(|text| text == "full")
}

fn holds(name: &str, bounds: &Bounds, states_min: usize) {
    let checker = bounds.clone().checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("model {name}: {states} states, depth {depth}");
    checker.assert_properties();
    assert!(states >= states_min, "{name}: only {states} states");
}

fn fails(name: &str, bounds: &Bounds, expected: &[&str]) {
    let checker = bounds
        .clone()
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let found: Vec<_> = checker.discoveries().into_keys().collect();
    println!("model {name}: {found:?} found within {states} states");
    assert!(found.iter().any(|property| expected.contains(property)), "{name}: {found:?}");
}

#[test]
fn transactions_that_commit_late_or_roll_back() {
    let bounds = Bounds { rows: 3, rollbacks: 2, rows_max: 1, depth: 3, ..NONE };
    holds("late commits and rollbacks", &bounds, 25_000);
}

#[test]
fn relays_that_crash() {
    let rows = if is_full() { 3 } else { 2 };
    holds("crashes", &Bounds { rows, crashes: 2, ..NONE }, 10_000);
}

#[test]
fn two_relays_and_leases_that_end_under_them() {
    holds("two relays", &Bounds { relays: 2, expiries: 1, ..NONE }, 60_000);
    holds("two relays, two leases", &Bounds { relays: 2, expiries: 2, rows: 1, ..NONE }, 4_000);
}

#[test]
fn two_relays_and_a_crash() {
    let rows = if is_full() { 2 } else { 1 };
    let bounds = Bounds { relays: 2, crashes: 1, expiries: 1, rows, ..NONE };
    holds("two relays, crash", &bounds, 12_000);
}

#[test]
fn network_that_reorders_loses_and_repeats() {
    let bounds = Bounds { losses: 1, copies: 1, broker_crashes: 1, rows_max: 1, ..NONE };
    holds("network", &bounds, 6_000);
    holds("pipeline", &Bounds { rows: 3, copies: 1, rows_max: 1, depth: 3, ..NONE }, 150_000);
}

/// Everything at once that can go wrong between them.
#[test]
fn two_relays_and_a_network_that_fails_while_processes_crash() {
    let network = Bounds { relays: 2, rows: 1, expiries: 1, losses: 1, ..NONE };
    holds("two relays, network", &Bounds { copies: 1, ..network }, 18_000);
    if is_full() {
        let rows = Bounds { rows: 2, rows_max: 1, ..network };
        holds("two relays, network, two rows", &rows, 1_000_000);
    }
    let crashes = Bounds { crashes: 1, broker_crashes: 1, losses: 0, copies: 1, ..network };
    holds("two relays, network, crashes", &crashes, 200_000);
}

#[test]
fn gaps_that_end_before_their_rows_come() {
    let bounds = Bounds { rows: 3, rows_max: 1, gap_ends: 1, ..NONE };
    holds("gaps that end", &bounds, 150_000);
    let bounds = Bounds { rows_max: 1, gap_ends: 1, waits: 1, crashes: 1, ..NONE };
    holds("gaps that end, crash", &bounds, 25_000);
    let bounds = Bounds { rows: 1, gap_ends: 1, relays: 2, expiries: 1, ..NONE };
    holds("gaps that end, two relays", &bounds, 3_000);
}

#[test]
fn rows_that_wait_too_long_to_be_claimed() {
    let bounds = Bounds { rows: 3, rows_max: 1, depth: 1, waits: 2, ..NONE };
    holds("rows that wait", &bounds, 10_000);
    let bounds = Bounds { gap_ends: 1, ..bounds };
    holds("rows that wait, and gaps that end", &bounds, 40_000);
    let bounds = Bounds { rows_max: 2, gaps_max: 2, waits: 1, ..bounds };
    holds("rows that wait, few gaps", &bounds, 60_000);
}

#[test]
fn transactions_whose_outcome_is_unknown() {
    holds("faults", &Bounds { faults: 2, rows_max: 1, ..NONE }, 18_000);
    holds("late copies", &Bounds { late: 1, rows_max: 1, ..NONE }, 12_000);
    let bounds = Bounds { relays: 2, late: 1, expiries: 1, rows: 1, ..NONE };
    holds("late copies, two relays", &bounds, 35_000);
}

#[test]
fn rows_that_the_broker_does_not_take() {
    let poison = Some((RowId(1), true));
    holds("poison", &Bounds { poison, copies: 1, losses: 1, ..NONE }, 10_000);
    holds("poison for ever", &Bounds { rows: 3, poison: Some((RowId(2), false)), ..NONE }, 15_000);
    let rows = if is_full() { 2 } else { 1 };
    let bounds = Bounds { poison, relays: 2, expiries: 1, copies: 1, rows, ..NONE };
    holds("poison, two relays", &bounds, 18_000);
    holds("poison, crash", &Bounds { poison, crashes: 1, copies: 1, ..NONE }, 50_000);
}

#[test]
fn broker_without_the_prev_check_is_found() {
    let bounds = Bounds { rows_max: 1, flaw: Some(Flaw::NoPrevCheck), ..NONE };
    fails("no prev check", &bounds, &["no row is lost"]);
}

#[test]
fn broker_with_its_mark_in_a_record_of_its_own_is_found() {
    let bounds = Bounds { broker_crashes: 1, flaw: Some(Flaw::SeparateMark), ..NONE };
    fails("separate mark", &bounds, &["no row is handed over twice"]);
}

#[test]
fn database_that_does_not_fence_is_found() {
    let bounds = Bounds { relays: 2, expiries: 1, ignores_epoch: true, ..NONE };
    fails("no fence", &bounds, &["no row is lost", "no row is handed over twice"]);
}

#[test]
fn row_id_as_sequence_is_found() {
    let bounds = Bounds { mistake: Some(Mistake::RowIdAsSequence), ..NONE };
    let expected = ["no row is lost", "at rest all is handed over", "no relay halts"];
    fails("row id as sequence", &bounds, &expected);
}

#[test]
fn cursor_without_gaps_is_found() {
    let bounds = Bounds { mistake: Some(Mistake::CursorWithoutGaps), ..NONE };
    fails("cursor without gaps", &bounds, &["at rest all is handed over"]);
}

#[test]
fn claims_that_are_not_resumed_are_found() {
    let bounds = Bounds { crashes: 1, mistake: Some(Mistake::ClaimsNotResumed), ..NONE };
    fails("claims not resumed", &bounds, &["no row is handed over twice"]);
}

#[test]
fn claim_changed_without_a_fence_is_found() {
    let mistake = Some(Mistake::ParkWithoutFence);
    let bounds = Bounds { poison: Some((RowId(1), true)), copies: 1, mistake, ..NONE };
    let expected = ["no row is handed over twice", "no row is lost", "no relay halts"];
    fails("park without fence", &bounds, &expected);
}

#[test]
fn look_used_under_another_lease_is_found() {
    let mistake = Some(Mistake::StaleLookUsed);
    let bounds = Bounds { relays: 2, expiries: 2, rows: 1, mistake, ..NONE };
    let expected = ["no row is handed over twice", "no row is lost", "no relay halts"];
    fails("stale look", &bounds, &expected);
}

#[test]
fn row_forgotten_while_a_look_may_find_it_is_found() {
    let mistake = Some(Mistake::RowsLetGoEarly);
    let bounds = Bounds { rows: 2, rows_max: 1, crashes: 1, mistake, ..NONE };
    fails("rows let go early", &bounds, &["no row is handed over twice"]);
}
