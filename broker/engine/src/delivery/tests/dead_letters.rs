//! Messages that fail too often, and their way back.

use super::world::{ADMIN, World, name, offsets};
use crate::effect::Effect;
use crate::event::Event;
use crate::input::LoadPurpose;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::message::{self, Verdict};
use posthouse_protocol::settings::SubscriptionSettings;
use posthouse_protocol::{ErrorCode, Offset, Reply};

fn settings(attempts_max: u32) -> SubscriptionSettings {
    SubscriptionSettings { attempts_max, ..SubscriptionSettings::default() }
}

fn consumed(settings: SubscriptionSettings, messages: usize) -> World {
    let mut world = World::with(settings);
    world.publish("t", &vec![10; messages]);
    world.subscribe(1, 1);
    world.grant(1, 1, 100_000, 0);
    world
}

fn dead_end(world: &World) -> Option<u64> {
    let state = world.engine.state();
    let dead = state.topic_named(&name("t.s.dead"))?;
    Some(state.partitions[&dead.partition].next.0)
}

fn letters_asked(world: &World) -> usize {
    let is_letter = |load: &&Effect| {
        matches!(load, Effect::LoadMessage { purpose: LoadPurpose::DeadLetter { .. }, .. })
    };
    world.loads.iter().filter(is_letter).count()
}

#[test]
fn message_out_of_attempts_becomes_one_dead_letter() {
    let mut world = consumed(settings(3), 2);
    let mut attempts = Vec::new();
    for _ in 0..10 {
        world.advance(10_000);
        for got in world.take() {
            if got.offset == 0 {
                attempts.push(got.attempt);
                world.settle(Verdict::Nack, &[got]);
            } else {
                world.settle(Verdict::Ack, &[got]);
            }
        }
    }
    assert_eq!(attempts, [0, 1, 2]);
    assert_eq!((dead_end(&world), letters_asked(&world)), (Some(1), 1));
    assert_eq!(world.durable().ack_floor(), Offset(2));
    world.restart(true);
    assert_eq!((dead_end(&world), letters_asked(&world)), (Some(1), 1));
}

#[test]
fn ended_leases_use_up_attempts_too() {
    let mut world = consumed(settings(3), 1);
    for attempt in 0..3 {
        assert_eq!(world.take()[0].attempt, attempt);
        world.grant(1, 1, 100_000, u64::MAX);
        world.advance(60_000);
    }
    assert_eq!(world.take(), []);
    assert_eq!(dead_end(&world), Some(1));
}

#[test]
fn dead_letter_says_where_it_came_from_and_why() {
    let mut world = consumed(settings(3), 1);
    let got = world.take();
    world.settle(Verdict::Reject, &got);
    let frame = world.frames.iter().rfind(|frame| !frame.batches.is_empty()).unwrap();
    let kinds = frame.events.iter().map(|event| match event {
        Event::TopicCreated(made) => made.topic.as_str().to_owned(),
        Event::SubscriptionCreated(made) => made.subscription.as_str().to_owned(),
        Event::Published(_) => "published".to_owned(),
        Event::DeadLettered(dead) => format!("dead {}", dead.offset),
        other => format!("{other:?}"),
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["t.s.dead", "redrive", "published", "dead 0"]);
    let view = BatchView::parse(&frame.batches[0].bytes).unwrap();
    let message = view.messages().next().unwrap();
    let headers: Vec<_> = message.entry.headers().unwrap().map(Result::unwrap).collect();
    let text = |name: &str| {
        let found =
            headers.iter().find(|(key, _)| *key == format!("posthouse-dead-{name}").as_bytes());
        String::from_utf8(found.unwrap().1.to_vec()).unwrap()
    };
    assert_eq!([text("topic"), text("subscription"), text("offset")], ["t", "s", "0"]);
    assert_eq!([text("attempts"), text("reason"), text("at")], ["1", "because", "1000000"]);
}

#[test]
fn without_dead_letters_the_message_is_settled_at_once() {
    let mut world = consumed(SubscriptionSettings { dead_letter: false, ..settings(1) }, 2);
    let got = world.take();
    world.settle(Verdict::Nack, &got[..1]);
    world.settle(Verdict::Reject, &got[1..]);
    assert_eq!(world.durable().ack_floor(), Offset(2));
    assert_eq!((dead_end(&world), letters_asked(&world)), (None, 0));
}

#[test]
fn damaged_message_is_settled_without_a_dead_letter() {
    let mut world = consumed(settings(3), 1);
    let got = world.take();
    world.damaged.insert((world.durable().partition, Offset(0)));
    world.settle(Verdict::Reject, &got);
    assert_eq!(world.durable().ack_floor(), Offset(1));
    assert_eq!(dead_end(&world), None);
}

#[test]
fn rejected_message_is_gone_for_consumers_even_before_it_is_a_dead_letter() {
    let mut world = consumed(settings(3), 2);
    let got = world.take();
    world.holds_answers = true;
    world.settle(Verdict::Reject, &got[..1]);
    assert_eq!(world.settle(Verdict::Ack, &got[..1]).len(), 1);
    assert_eq!(world.settle(Verdict::Reject, &got[..1]).len(), 1);
    world.restart(true);
    assert_eq!(letters_asked(&world), 2, "asked for again after a restart");
    world.subscribe(2, 1);
    world.grant(2, 1, 10, 0);
    world.answer(1);
    assert_eq!(offsets(&world.take()), [1], "the window came before the dead letter");
    world.answer(0);
    assert_eq!((dead_end(&world), world.answers.len()), (Some(1), 0));
}

#[test]
fn only_a_few_dead_letters_are_loaded_at_a_time() {
    let mut world = consumed(settings(1), 1_000);
    let got = world.take();
    world.holds_answers = true;
    world.settle(Verdict::Reject, &got);
    assert_eq!(world.answers.len(), 16);
    world.answer(7);
    assert_eq!(world.answers.len(), 16);
    while !world.answers.is_empty() {
        world.answer(0);
    }
    assert_eq!(dead_end(&world), Some(1_000));
    assert_eq!(letters_asked(&world), 1_000);
}

#[test]
fn dead_letter_topic_with_too_long_a_name_has_another() {
    let mut world = World::new();
    let (topic, subscription) = ("t".repeat(120), "s".repeat(120));
    world.topic(&topic, posthouse_protocol::settings::TopicSettings::default());
    world.subscription(&topic, &subscription, settings(1));
    world.publish(&topic, &[10]);
    world.subscribe_to(1, 1, (&topic, &subscription));
    world.grant(1, 1, 10, 0);
    let got = world.take();
    world.settle(Verdict::Reject, &got);
    let id = world.durable_of(&topic, &subscription).id;
    assert!(world.engine.state().topic_named(&name(&format!("dead.{id}"))).is_some());
}

#[test]
fn topic_of_somebody_else_gets_no_dead_letters() {
    let mut world = World::with(settings(1));
    world.topic("t.s.dead", posthouse_protocol::settings::TopicSettings::default());
    world.publish("t", &[10]);
    world.subscribe(1, 1);
    world.grant(1, 1, 10, 0);
    let got = world.take();
    world.settle(Verdict::Reject, &got);
    assert_eq!(dead_end(&world), Some(0));
    let fallback = format!("dead.{}", world.durable().id);
    assert!(world.engine.state().topic_named(&name(&fallback)).is_some());
}

#[test]
fn redrive_returns_to_that_subscription_only() {
    let mut world = consumed(settings(1), 50);
    world.subscription("t", "other", settings(1));
    world.subscribe_to(3, 1, ("t", "other"));
    world.grant(3, 1, 1_000, 0);
    let got = world.take();
    let own: Vec<_> = got.iter().filter(|got| got.connection == 1).copied().collect();
    world.settle(Verdict::Reject, &own);
    assert_eq!(dead_end(&world), Some(50));
    assert_eq!(world.redrive(20), Reply::Redriven(message::Redriven { count: 20 }));
    let back = world.take();
    assert_eq!(offsets(&back), (50..70).collect::<Vec<_>>());
    assert!(back.iter().all(|got| got.connection == 1 && got.attempt == 0));
    assert!(world.durable_of("t", "other").is_settled(Offset(69)));
    assert_eq!(world.durable_of("t.s.dead", "redrive").ack_floor(), Offset(20));
    assert_eq!(world.redrive(100), Reply::Redriven(message::Redriven { count: 30 }));
    assert_eq!(world.redrive(100), Reply::Redriven(message::Redriven { count: 0 }));
    world.restart(true);
}

#[test]
fn redrive_leaves_what_a_consumer_of_the_dead_letters_holds() {
    let mut world = consumed(settings(1), 3);
    let got = world.take();
    world.settle(Verdict::Reject, &got);
    world.subscribe_to(5, 1, ("t.s.dead", "redrive"));
    world.grant(5, 1, 1, 0);
    assert_eq!(world.take().len(), 1);
    assert_eq!(world.redrive(100), Reply::Redriven(message::Redriven { count: 2 }));
    assert_eq!(offsets(&world.take()), [3, 4]);
}

#[test]
fn redrive_of_a_deleted_topic_comes_to_an_end() {
    let mut world = consumed(settings(1), 3);
    let got = world.take();
    world.settle(Verdict::Reject, &got);
    world.holds_answers = true;
    let redrive = message::DeadRedrive { topic: name("t"), subscription: name("s"), limit: 9 };
    let correlation = world.tell(ADMIN, redrive.clone(), bytes::Bytes::new());
    let busy = world.ask(ADMIN, redrive);
    assert!(
        matches!(busy, Reply::Refused(refused) if refused.code == ErrorCode::Overloaded.number())
    );
    world.answer(1);
    world.ask(ADMIN, message::TopicDelete { topic: name("t") });
    while !world.answers.is_empty() {
        world.answer(0);
    }
    let reply = world.replies.iter().find(|(_, number, _)| *number == correlation).unwrap();
    assert_eq!(reply.2, Reply::Redriven(message::Redriven { count: 1 }));
    assert_eq!(dead_end(&world), Some(3));
}
