//! Forgetting by limits.

use super::shell::*;
use posthouse_protocol::message::{SubscriptionCreate, TopicAlter, TopicPurge};
use posthouse_protocol::settings::{
    Overflow, Position, Retention, SubscriptionSettings, TopicSettings,
};
use posthouse_protocol::{ErrorCode, Offset, Reply, Timestamp};

#[test]
fn messages_are_forgotten_when_they_are_too_old() {
    let mut shell = Shell::new();
    let settings = TopicSettings { age_ms_max: 10_000, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    for body in ["a", "b", "c"] {
        shell.publish(&mut sender, topic, &[body]);
        shell.advance(5_000);
    }
    // "a" is 15 s old now, "b" 10 s, "c" 5 s.
    shell.advance(1_000);
    assert_eq!(shell.topic("orders").start, Offset(2));
    shell.advance(60_000);

    assert_eq!(shell.topic("orders").messages, 0);
    assert_eq!(shell.engine.next_deadline(), None, "an empty topic wakes nobody");
    shell.check_replay();
}

#[test]
fn age_counts_for_settled_retention_and_for_slow_subscriptions_too() {
    let mut shell = Shell::new();
    let settings = TopicSettings { age_ms_max: 1_000, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    shell.create_subscription("orders", "slow", SubscriptionSettings::default());
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic, &["a"]);
    shell.advance(5_000);

    let slow = shell.subscription("orders", "slow");
    assert_eq!((slow.backlog, slow.ack_floor), (0, Offset(1)));
    shell.check_replay();
}

#[test]
fn age_given_to_a_topic_with_settled_messages_forgets_none_that_are_younger() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    let mut sender = shell.open_producer(None);
    shell.advance(60_000);
    for _ in 0..4 {
        shell.publish(&mut sender, topic, &["a"]);
        shell.advance(1_000);
    }
    shell.hand_out(queue.id, 0..2);
    shell.settle_all(queue.id, 0..2, posthouse_protocol::message::Verdict::Ack);
    let settings = TopicSettings { age_ms_max: 3_600_000, ..TopicSettings::default() };
    shell.request(TopicAlter { topic: name("orders"), settings });
    shell.advance(5_000);

    let info = shell.topic("orders");
    assert_eq!((info.start, info.messages), (Offset(2), 2));
    assert_eq!(shell.subscription("orders", "billing").backlog, 2);
    let start = Position::Time(Timestamp(shell.now.wall.0 - 50_000));
    let (topic, subscription) = (name("orders"), name("late"));
    let settings = SubscriptionSettings::default();
    shell.request(SubscriptionCreate { topic, subscription, settings, start });
    assert_eq!(shell.subscription("orders", "late").backlog, 2, "from a time before them");
}

#[test]
fn age_goes_on_after_a_restart() {
    let mut shell = Shell::new();
    let settings = TopicSettings { age_ms_max: 10_000, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic, &["a"]);
    shell.advance(9_000);
    shell.restart(true);
    assert_eq!(shell.topic("orders").messages, 1);
    shell.advance(2_000);

    assert_eq!(shell.topic("orders").messages, 0);
}

#[test]
fn retention_by_limits_keeps_the_latest_messages() {
    let mut shell = Shell::new();
    let settings =
        TopicSettings { retention: Retention::Limits, messages_max: 3, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    for _ in 0..10 {
        receipt(shell.publish(&mut sender, topic, &["a"]));
    }

    let info = shell.topic("orders");
    assert_eq!((info.start, info.end, info.messages), (Offset(7), Offset(10), 3));
    shell.check_replay();
}

#[test]
fn retention_by_bytes_stays_below_the_limit() {
    let mut shell = Shell::new();
    let one = batch_of(&["a"]).len() as u64;
    let settings = TopicSettings {
        retention: Retention::Limits,
        bytes_max: 5 * one,
        ..TopicSettings::default()
    };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    for _ in 0..1_000 {
        receipt(shell.publish(&mut sender, topic, &["a"]));
        let info = shell.topic("orders");
        assert!(info.bytes <= 5 * one, "{info:?}");
    }

    assert_eq!(shell.topic("orders").messages, 5);
    shell.check_replay();
}

#[test]
fn full_topic_refuses_until_something_is_settled() {
    let mut shell = Shell::new();
    let settings = TopicSettings { messages_max: 2, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let queue = shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    let mut sender = shell.open_producer(None);
    receipt(shell.publish(&mut sender, topic, &["a", "b"]));

    let Reply::Refused(refused) = shell.publish(&mut sender, topic, &["c"]) else { panic!() };
    assert_eq!(refused.code, ErrorCode::StorageFull.number());
    assert!(refused.retry_after_ms > 0);
    // A hole counts, although the ack floor stands still.
    shell.hand_out(queue.id, 0..2);
    shell.settle_all(queue.id, 1..2, posthouse_protocol::message::Verdict::Ack);

    receipt(shell.publish(&mut sender, topic, &["c"]));
    shell.check_replay();
}

#[test]
fn topic_that_drops_the_oldest_makes_room_for_the_newest() {
    let mut shell = Shell::new();
    let overflow = Overflow::DropOldest;
    let settings = TopicSettings { messages_max: 2, overflow, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    let mut sender = shell.open_producer(None);
    for _ in 0..3 {
        receipt(shell.publish(&mut sender, topic, &["a"]));
    }

    let billing = shell.subscription("orders", "billing");
    assert_eq!((billing.ack_floor, billing.backlog), (Offset(1), 2));
    shell.check_replay();
}

#[test]
fn batch_that_never_fits_is_too_large() {
    let mut shell = Shell::new();
    let settings = TopicSettings { messages_max: 2, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);

    let reply = shell.publish(&mut sender, topic, &["a", "b", "c"]);

    assert_eq!(code_of(reply).0, ErrorCode::TooLarge);
}

#[test]
fn lower_limit_takes_effect_soon_without_a_publish() {
    let mut shell = Shell::new();
    let settings = TopicSettings { retention: Retention::Limits, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings.clone()).id;
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic, &["a", "b", "c"]);
    let settings = TopicSettings { messages_max: 1, ..settings };
    shell.request(TopicAlter { topic: name("orders"), settings });
    shell.advance(1_000);

    assert_eq!(shell.topic("orders").start, Offset(2));
}

#[test]
fn purged_topic_has_room_again() {
    let mut shell = Shell::new();
    let settings = TopicSettings { messages_max: 1, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    receipt(shell.publish(&mut sender, topic, &["a"]));
    shell.request(TopicPurge { topic: name("orders") });

    receipt(shell.publish(&mut sender, topic, &["b"]));
}
