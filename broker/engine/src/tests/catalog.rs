//! The catalog: creating, altering, deleting, listing, describing.

use super::shell::*;
use crate::Gate;
use posthouse_protocol::message::{
    self, SubscriptionCreate, SubscriptionDelete, SubscriptionList, TopicAlter, TopicCreate,
    TopicDelete, TopicDescribe, TopicList, TopicPurge,
};
use posthouse_protocol::settings::{
    Durability, Order, Position, Retention, SubscriptionSettings, TopicSettings,
};
use posthouse_protocol::{ErrorCode, Offset, PartitionId, Reply, SubscriptionId, TopicId};

#[test]
fn same_topic_again_is_no_event_and_other_settings_are_refused() {
    let mut shell = Shell::new();
    let first = shell.create_topic("orders", TopicSettings::default());
    let frames = shell.frames.len();

    let again = shell.create_topic("orders", TopicSettings::default());
    let settings = TopicSettings { age_ms_max: 5, ..TopicSettings::default() };
    let other = shell.refused(TopicCreate { topic: name("orders"), settings });

    assert_eq!(again, first);
    assert_eq!(shell.frames.len(), frames);
    assert_eq!(other.0, ErrorCode::AlreadyExists);
}

#[test]
fn missing_names_are_answered_with_the_command_that_creates_them() {
    let mut shell = Shell::new();
    let (code, text) = shell.refused(TopicDescribe { topic: name("orders") });
    assert_eq!(code, ErrorCode::NotFound);
    assert_eq!(text, "no topic \"orders\": create it with: posthouse topic create orders");

    shell.create_topic("orders", TopicSettings::default());
    let (topic, subscription) = (name("orders"), name("billing"));
    let (code, text) = shell.refused(SubscriptionDelete { topic, subscription });
    assert_eq!(code, ErrorCode::NotFound);
    assert_eq!(
        text,
        "no subscription \"billing\" of topic \"orders\": \
         create it with: posthouse subscription create orders billing"
    );
}

#[test]
fn catalog_change_of_a_written_topic_waits_for_its_commit() {
    let mut shell = Shell::new();
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    shell.create_topic("orders", settings);

    assert_eq!(shell.answers.last().unwrap().gate, Gate::Committed(shell.last()));
}

#[test]
fn ids_and_offsets_of_a_deleted_topic_are_never_given_again() {
    let mut shell = Shell::new();
    let first = shell.create_topic("orders", TopicSettings::default());
    let subscription =
        shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    shell.request(TopicDelete { topic: name("orders") });
    shell.restart(true);

    let second = shell.create_topic("orders", TopicSettings::default());
    let again = shell.create_subscription("orders", "billing", SubscriptionSettings::default());

    assert_eq!((first.id, second.id), (TopicId(1), TopicId(2)));
    assert_eq!((first.partition, second.partition), (PartitionId(1), PartitionId(2)));
    assert_eq!((subscription.id, again.id), (SubscriptionId(1), SubscriptionId(2)));
    assert!(shell.engine.state().needed(first.partition).is_empty());
    shell.check_replay();
}

#[test]
fn topics_are_listed_by_name_in_pages() {
    let mut shell = Shell::new();
    for topic in ["c", "a", "b", "d"] {
        shell.create_topic(topic, TopicSettings::default());
    }
    let Reply::TopicNames(first) = shell.request(TopicList { after: None, limit: 2 }) else {
        panic!()
    };
    let after = first.topics.last().cloned();
    let Reply::TopicNames(second) = shell.request(TopicList { after, limit: 9 }) else { panic!() };

    assert_eq!(first.topics, [name("a"), name("b")]);
    assert_eq!(second.topics, [name("c"), name("d")]);
}

#[test]
fn page_of_long_names_fits_in_the_head_of_a_frame() {
    let mut shell = Shell::new();
    for topic in 0..3_000 {
        shell.create_topic(&format!("{topic:0200}"), TopicSettings::default());
    }
    let Reply::TopicNames(page) = shell.request(TopicList { after: None, limit: 10_000 }) else {
        panic!()
    };
    let mut head = Vec::new();
    Reply::TopicNames(page.clone()).encode(&mut head);

    assert!(head.len() <= posthouse_protocol::limits::HEAD_BYTES_MAX as usize / 2);
    assert!(page.topics.len() > 2_000);
}

#[test]
fn subscriptions_are_listed_by_name() {
    let mut shell = Shell::new();
    shell.create_topic("orders", TopicSettings::default());
    for subscription in ["b", "a"] {
        shell.create_subscription("orders", subscription, SubscriptionSettings::default());
    }
    let list = SubscriptionList { topic: name("orders"), after: None, limit: 9 };
    let Reply::SubscriptionNames(names) = shell.request(list) else { panic!() };

    assert_eq!(names.subscriptions, [name("a"), name("b")]);
}

#[test]
fn new_subscription_starts_where_asked() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default()).id;
    let mut sender = shell.open_producer(None);
    for body in ["a", "b", "c"] {
        shell.publish(&mut sender, topic, &[body]);
        shell.advance(1000);
    }
    let third = shell.now.wall.0 - 1000;
    let places = [
        ("earliest", Position::Earliest, 0),
        ("latest", Position::Latest, 3),
        ("offset", Position::Offset(Offset(1)), 1),
        ("beyond", Position::Offset(Offset(99)), 3),
        ("time", Position::Time(posthouse_protocol::Timestamp(third)), 2),
    ];
    for (text, start, expected) in places {
        let (topic, subscription) = (name("orders"), name(text));
        let settings = SubscriptionSettings::default();
        let create = SubscriptionCreate { topic, subscription, settings, start };
        let Reply::SubscriptionInfo(info) = shell.request(create) else { panic!() };
        assert_eq!(info.ack_floor, Offset(expected), "{text}");
        assert_eq!(info.backlog, 3 - expected, "{text}");
    }
    shell.check_replay();
}

#[test]
fn order_by_key_is_refused_until_built_and_nonsense_is_invalid() {
    let mut shell = Shell::new();
    shell.create_topic("orders", TopicSettings::default());
    let sound = SubscriptionSettings::default;
    let cases = [
        (SubscriptionSettings { order: Order::Key, ..sound() }, ErrorCode::Unsupported),
        (SubscriptionSettings { lease_ms: 0, ..sound() }, ErrorCode::Invalid),
        (SubscriptionSettings { lease_ms_max: 1, ..sound() }, ErrorCode::Invalid),
        (SubscriptionSettings { attempts_max: 0, ..sound() }, ErrorCode::Invalid),
        (SubscriptionSettings { backoff_ms_max: 0, ..sound() }, ErrorCode::Invalid),
    ];
    for (settings, expected) in cases {
        let (topic, subscription) = (name("orders"), name("billing"));
        let start = Position::Earliest;
        let create = SubscriptionCreate { topic, subscription, settings, start };
        assert_eq!(shell.refused(create).0, expected);
    }
}

#[test]
fn purge_forgets_everything_and_settles_it_for_everybody() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default());
    shell.create_subscription("orders", "billing", SubscriptionSettings::default());
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic.id, &["a", "b"]);

    shell.request(TopicPurge { topic: name("orders") });

    let info = shell.topic("orders");
    assert_eq!((info.start, info.end, info.messages), (Offset(2), Offset(2), 0));
    assert_eq!(shell.subscription("orders", "billing").backlog, 0);
    assert!(shell.engine.state().needed(topic.partition).is_empty());
    shell.publish(&mut sender, topic.id, &["c"]);
    assert_eq!(shell.subscription("orders", "billing").backlog, 1);
    shell.check_replay();
}

#[test]
fn description_counts_what_is_kept() {
    let mut shell = Shell::new();
    let settings = TopicSettings { retention: Retention::Limits, ..TopicSettings::default() };
    let topic = shell.create_topic("orders", settings).id;
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic, &["a", "b"]);
    let arrived = shell.now.wall;
    shell.advance(5_000);
    shell.publish(&mut sender, topic, &["c"]);

    let info = shell.topic("orders");

    let stored: usize = shell.frames.iter().flat_map(|f| &f.batches).map(|b| b.bytes.len()).sum();
    assert_eq!((info.messages, info.bytes), (3, stored as u64));
    assert_eq!(info.oldest_at, arrived);
}

#[test]
fn alter_to_the_same_settings_is_no_event() {
    let mut shell = Shell::new();
    shell.create_topic("orders", TopicSettings::default());
    let frames = shell.frames.len();
    let settings = TopicSettings::default();
    shell.request(TopicAlter { topic: name("orders"), settings });

    assert_eq!(shell.frames.len(), frames);
}

#[test]
fn message_limit_of_a_topic_is_from_one_byte_to_the_protocols() {
    let mut shell = Shell::new();
    for message_bytes_max in [0, 17 << 20] {
        let settings = TopicSettings { message_bytes_max, ..TopicSettings::default() };
        let create = TopicCreate { topic: name("orders"), settings };
        assert_eq!(shell.refused(create).0, ErrorCode::Invalid);
    }
}

#[test]
fn deleted_subscription_releases_what_only_it_kept() {
    let mut shell = Shell::new();
    let topic = shell.create_topic("orders", TopicSettings::default());
    for subscription in ["fast", "slow"] {
        let mode = posthouse_protocol::settings::Mode::Stream;
        let settings = SubscriptionSettings { mode, ..SubscriptionSettings::default() };
        shell.create_subscription("orders", subscription, settings);
    }
    let mut sender = shell.open_producer(None);
    shell.publish(&mut sender, topic.id, &["a", "b", "c"]);
    let fast = shell.subscription("orders", "fast").id;
    shell.request(message::CursorSave { subscription: fast, offset: Offset(2) });
    assert_eq!(shell.engine.state().needed(topic.partition), [Offset(0)..Offset(3)]);

    let (topic_name, slow) = (name("orders"), name("slow"));
    shell.request(SubscriptionDelete { topic: topic_name.clone(), subscription: slow });
    assert_eq!(shell.engine.state().needed(topic.partition), [Offset(2)..Offset(3)]);
    let subscription = name("fast");
    shell.request(SubscriptionDelete { topic: topic_name, subscription });

    // Without subscriptions the rest is kept, but what was released never comes back.
    assert_eq!(shell.engine.state().needed(topic.partition), [Offset(2)..Offset(3)]);
    let late = shell.create_subscription("orders", "late", SubscriptionSettings::default());
    assert_eq!((late.ack_floor, late.backlog), (Offset(2), 1));
    shell.check_replay();
}
