//! A history without a violation is worth nothing if nothing happened in it.

use posthouse_checker::history::{
    Broker, BrokerChange, Event, Final, MessageId, Mode, Publish, PublishOutcome, Subscription,
    Time,
};
use posthouse_checker::{Counts, Expectations, Report, Shortfall, Verdict, check, lines};

#[test]
fn empty_history_is_unknown_to_a_suite_that_expects_something() {
    let at_least = Counts { publishes_ok: 1, ..Counts::default() };

    let report = check(&[], &Expectations { at_least, ..Expectations::SUITE });

    assert_eq!(report.verdict(), Verdict::Unknown);
    assert!(!report.is_valid());
    let missing = Shortfall::TooFew { what: "publishes_ok", found: 0, at_least: 1 };
    assert_eq!(report.shortfalls, [missing]);
}

#[test]
fn every_count_is_required_if_asked_for() {
    for (what, _) in Counts::default().entries() {
        let mut at_least = Counts::default();
        set_one(&mut at_least, what);

        let report = check(&[], &Expectations { at_least, ..Expectations::NONE });

        let missing = Shortfall::TooFew { what, found: 0, at_least: 1 };
        assert_eq!(report.shortfalls, [missing]);
    }
}

#[test]
fn acknowledged_publish_needs_a_final_look() {
    let publish = publish(1, ok(0));

    let without = check(std::slice::from_ref(&publish), &Expectations::SUITE);
    let with = check(&[publish, look(None), fetch()], &Expectations::SUITE);

    let missing = Shortfall::NoFinalLook { topic: "q".to_owned(), subscription: None };
    assert_eq!(without.shortfalls, [missing]);
    assert_eq!(with.verdict(), Verdict::Valid, "{with}");
}

#[test]
fn look_at_the_topic_is_not_enough_if_it_has_a_queue() {
    let queue = Event::Subscription(Subscription {
        topic: "q".to_owned(),
        subscription: "s".to_owned(),
        mode: Mode::Queue,
        start: 0,
        attempts_max: 0,
        untaken_may_expire: false,
        lease_ms_max: 0,
        dead_topic: None,
    });

    let report = check(&[queue, publish(1, ok(0)), look(None), fetch()], &Expectations::SUITE);

    let subscription = Some("s".to_owned());
    let missing = Shortfall::NoFinalLook { topic: "q".to_owned(), subscription };
    assert_eq!(report.shortfalls, [missing]);
}

#[test]
fn too_many_unknown_outcomes_say_nothing() {
    let mut events = vec![look(None), fetch(), publish(1, ok(0))];
    events.push(publish(2, PublishOutcome::Unknown));

    let report = check(&events, &Expectations::SUITE);

    let missing = Shortfall::TooManyUnknown { unknown: 1, of: 2, percent_max: 5 };
    assert_eq!(report.shortfalls, [missing]);
}

#[test]
fn kill_is_effective_only_if_something_was_under_way() {
    let during = [publish(1, PublishOutcome::Unknown), kill(15)];
    let between = [publish(1, PublishOutcome::Unknown), kill(25)];

    assert_eq!(counts(&during).kills_effective, 1);
    assert_eq!((counts(&between).kills, counts(&between).kills_effective), (1, 0));
}

#[test]
fn violation_outweighs_a_shortfall_and_is_shown() {
    let publish = publish(1, PublishOutcome::Failed("STORAGE_FULL".to_owned()));

    let report = check(&[publish, look(None), fetch()], &Expectations::SUITE);

    assert_eq!(report.verdict(), Verdict::Invalid);
    let id = MessageId(1);
    let shown = report.to_string();
    let line = format!("violation aborted: topic=q offset=0 id={id}: was refused");
    assert!(shown.starts_with(&line), "{shown}");
    assert!(shown.ends_with("verdict invalid"), "{shown}");
}

#[test]
fn report_of_a_catastrophe_is_short() {
    let events: Vec<Event> = (0..1000).map(|id| publish(id, ok(5))).collect();

    let report: Report = check(&events, &Expectations::NONE);

    assert!(report.violations.len() <= 200, "{}", report.violations.len());
    let lost: Vec<Event> = (0..1000).map(|id| publish(id, ok(id))).chain([look(None)]).collect();
    let report = check(&lost, &Expectations::NONE);
    assert_eq!((report.violations.len(), report.violations_found), (100, 1000));
}

#[test]
fn line_that_was_cut_off_is_dropped_and_a_wrong_one_is_named() {
    let mut text = Vec::new();
    lines::write_event(&mut text, &publish(1, ok(0))).unwrap();
    let whole = lines::read_events(text.as_slice()).unwrap();
    let len = text.len();

    let cut = lines::read_events([text.as_slice(), &text[..len / 2]].concat().as_slice()).unwrap();
    let wrong = lines::read_events([text.as_slice(), b"{}\n"].concat().as_slice());

    assert_eq!(cut, whole);
    assert_eq!(wrong.unwrap_err().to_string(), "not an event line=2");
}

fn set_one(counts: &mut Counts, what: &str) {
    let text = format!("{counts:?}");
    assert!(text.contains(what), "{text}");
    match what {
        "publishes_ok" => counts.publishes_ok = 1,
        "publishes_failed" => counts.publishes_failed = 1,
        "publishes_unknown" => counts.publishes_unknown = 1,
        "publishes_duplicate" => counts.publishes_duplicate = 1,
        "publishes_delayed" => counts.publishes_delayed = 1,
        "deliveries" => counts.deliveries = 1,
        "redeliveries" => counts.redeliveries = 1,
        "settles_ok" => counts.settles_ok = 1,
        "settles_refused" => counts.settles_refused = 1,
        "settles_unknown" => counts.settles_unknown = 1,
        "extends_ok" => counts.extends_ok = 1,
        "fetched" => counts.fetched = 1,
        "cursors_saved" => counts.cursors_saved = 1,
        "consumers_opened" => counts.consumers_opened = 1,
        "consumers_lost" => counts.consumers_lost = 1,
        "starts" => counts.starts = 1,
        "kills" => counts.kills = 1,
        "kills_effective" => counts.kills_effective = 1,
        "power_losses" => counts.power_losses = 1,
        "dead_letters" => counts.dead_letters = 1,
        "redrives" => counts.redrives = 1,
        "finals" => counts.finals = 1,
        other => panic!("no count called {other}"),
    }
}

fn counts(events: &[Event]) -> Counts {
    check(events, &Expectations::NONE).counts
}

fn publish(id: u64, outcome: PublishOutcome) -> Event {
    Event::Publish(Publish {
        t0: Time(10),
        t1: Time(20),
        topic: "q".to_owned(),
        id: MessageId(u128::from(id)),
        crc: 7,
        sender: None,
        due_ms: None,
        outcome,
    })
}

fn ok(offset: u64) -> PublishOutcome {
    let durability = posthouse_checker::history::Durability::Synced;
    PublishOutcome::Ok { offset: Some(offset), durability, duplicate: false }
}

fn look(subscription: Option<&str>) -> Event {
    let subscription = subscription.map(str::to_owned);
    Event::Final(Final { t: Time(30), topic: "q".to_owned(), subscription })
}

fn fetch() -> Event {
    let line =
        br#"{"fetch":{"t0":31,"t1":32,"topic":"q","from":0,"next":1,"messages":[[0,"1",7]]}}"#;
    let line = [line.as_slice(), b"\n"].concat();
    lines::read_events(line.as_slice()).expect("the line is sound").remove(0)
}

fn kill(at: u64) -> Event {
    Event::Broker(Broker { t0: Time(at), t1: Time(at + 1), change: BrokerChange::Killed })
}
