//! What a start does.

use super::shell::*;
use posthouse_protocol::settings::{Durability, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{Offset, StartEpoch};

#[test]
fn written_partition_skips_after_an_unclean_stop_and_nobody_waits_for_the_gap() {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings);
    shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    let mut sender = shell.open_producer(Some("p"));
    shell.publish(&mut sender, topic.id, &["a", "b"]);

    shell.restart(false);
    shell.publish(&mut sender, topic.id, &["c"]);

    let skipped = Offset(2 + (1 << 32));
    let info = shell.topic("orders");
    assert_eq!((info.end, info.messages), (skipped.next(), 3));
    assert_eq!(shell.subscription("orders", "billing").backlog, 3);
    let late = shell.create_subscription("orders", "late", SubscriptionSettings::default());
    assert_eq!(late.backlog, 3);
    let needed = shell.engine.state().needed(topic.partition);
    assert_eq!(needed, [Offset(0)..Offset(2), skipped..skipped.next()]);
    shell.check_replay();
}

#[test]
fn offset_of_a_lost_written_message_is_never_given_again() {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(Some("p"));
    let kept = shell.last();
    // The very first one: nothing else tells the state that there ever was a written message.
    let lost = receipt(shell.publish(&mut sender, topic, &["a"])).base;

    shell.restart_from(kept, false);
    let mut sender = shell.open_producer(Some("p"));
    let again = receipt(shell.publish(&mut sender, topic, &["c"])).base;

    assert!(again > lost);
}

#[test]
fn synced_partition_and_clean_stop_skip_nothing() {
    let mut shell = Shell::new();
    let synced = shell.create_topic("synced", TopicSettings::default()).id;
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    let written = shell.create_topic("written", settings).id;
    let mut sender = shell.open_producer(Some("p"));
    shell.publish(&mut sender, synced, &["a"]);
    shell.publish(&mut sender, written, &["a"]);

    shell.restart(true);
    assert_eq!(shell.topic("written").end, Offset(1));
    shell.restart(false);
    assert_eq!(shell.topic("synced").end, Offset(1));
    assert_eq!(shell.engine.state().start_epoch(), StartEpoch(3));
}
