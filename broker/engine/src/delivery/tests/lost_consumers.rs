//! Consumers that leave, one way or the other.

use super::world::{World, name, offsets};
use crate::input::Input;
use posthouse_protocol::message::{self, Verdict};
use posthouse_protocol::settings::SubscriptionSettings;
use posthouse_protocol::{ErrorCode, Offset, Reply};

fn world(messages: usize) -> World {
    let mut world = World::with(SubscriptionSettings::default());
    world.publish("t", &vec![10; messages]);
    world
}

#[test]
fn lost_connection_counts_what_was_taken_and_nothing_else() {
    let mut world = world(5);
    world.subscribe(1, 1);
    world.grant(1, 1, 5, 0);
    world.grant(1, 1, 5, 2);
    world.subscribe(2, 1);
    world.grant(2, 1, 100, 0);
    world.take();
    world.disconnect(1);
    let untaken = world.take();
    assert_eq!(offsets(&untaken), [2, 3, 4], "at once");
    assert!(untaken.iter().all(|got| got.attempt == 0 && got.connection == 2));
    world.advance(1_000);
    let mut taken = world.take();
    taken.sort_by_key(|got| got.offset);
    assert_eq!(offsets(&taken), [0, 1]);
    assert!(taken.iter().all(|got| got.attempt == 1));
    assert_eq!(world.durable().failures[&Offset(0)].reason, "connection lost");
}

#[test]
fn what_is_taken_is_counted_in_the_order_of_sending() {
    let mut world = world(4);
    world.subscribe(1, 1);
    world.grant(1, 1, 2, 0);
    let got = world.take();
    world.settle(Verdict::Release, &got[..1]);
    // Sent: 0, 1, then 0 again, 2.
    world.grant(1, 1, 4, 3);
    assert_eq!(offsets(&world.take()), [0, 2]);
    world.disconnect(1);
    let failed: Vec<_> = world.durable().failures.keys().map(|offset| offset.0).collect();
    assert_eq!(failed, [1], "what was sent third cannot be taken before it was sent");
}

#[test]
fn unsubscribe_counts_nothing_even_if_taken() {
    let mut world = world(3);
    world.subscribe(1, 1);
    world.grant(1, 1, 3, 0);
    world.grant(1, 1, 3, 3);
    world.take();
    world.unsubscribe(1, 1);
    world.subscribe(2, 1);
    world.grant(2, 1, 3, 0);
    let again = world.take();
    assert_eq!(offsets(&again), [0, 1, 2]);
    assert!(again.iter().all(|got| got.attempt == 0));
}

#[test]
fn consume_one_and_close_twenty_times_makes_no_dead_letter() {
    let mut world = world(20);
    for round in 0..20 {
        let connection = 10 + round;
        world.subscribe(connection, 1);
        world.grant(connection, 1, 256, 0);
        world.grant(connection, 1, 256, 1);
        let got = world.take();
        assert_eq!((got.len() as u64, got[0].offset), (20 - round, round));
        world.settle(Verdict::Ack, &got[..1]);
        if round % 2 == 0 { world.unsubscribe(connection, 1) } else { world.disconnect(connection) }
    }
    assert_eq!(world.durable().ack_floor(), Offset(20));
    assert!(world.engine.state().topic_named(&name("t.s.dead")).is_none());
    assert!(world.loads.iter().all(|load| !matches!(load, crate::Effect::LoadMessage { .. })));
}

#[test]
fn volatile_part_goes_with_the_last_consumer() {
    let mut world = world(100);
    world.subscribe(1, 1);
    world.subscribe(1, 2);
    world.grant(1, 1, 50, 0);
    world.disconnect(1);
    assert_eq!(world.engine.next_deadline(), None);
    world.advance(100_000);
    world.subscribe(2, 1);
    world.grant(2, 1, 100, 0);
    assert_eq!(world.take().len(), 50 + 100);
}

#[test]
fn deleted_subscription_ends_its_consumers() {
    let mut world = world(2);
    world.subscribe(1, 7);
    world.grant(1, 7, 1, 0);
    let (topic, subscription) = (name("t"), name("s"));
    world.ask(super::world::ADMIN, message::SubscriptionDelete { topic, subscription });
    let ended = world.replies.iter().find_map(|(connection, _, reply)| match reply {
        Reply::ConsumerEnded(ended) => Some((*connection, ended.consumer.0, ended.code)),
        _ => None,
    });
    assert_eq!(ended, Some((1, 7, ErrorCode::NotFound.number())));
    world.advance(100_000);
    world.publish("t", &[1]);
    assert_eq!(world.take().len(), 1, "only what came before");
}

#[test]
fn consumer_number_is_used_once_and_unknown_names_say_what_helps() {
    let mut world = world(1);
    world.subscribe(1, 1);
    let again = message::Subscribe {
        consumer: posthouse_protocol::ConsumerId(1),
        topic: name("t"),
        subscription: name("s"),
    };
    assert_eq!(code(&world.ask(1, again.clone())), ErrorCode::OutOfState);
    let unknown = message::Subscribe { subscription: name("other"), ..again };
    let reply = world.ask(2, unknown);
    assert_eq!(code(&reply), ErrorCode::NotFound);
    assert!(format!("{reply:?}").contains("posthouse subscription create t other"), "{reply:?}");
}

#[test]
fn draining_hands_out_nothing_and_takes_settlements() {
    let mut world = world(2);
    world.subscribe(1, 1);
    world.grant(1, 1, 1, 0);
    let got = world.take();
    world.input(Input::Drain);
    world.grant(1, 1, 2, 1);
    assert_eq!(world.got, []);
    assert_eq!(world.settle(Verdict::Ack, &got), []);
    let subscribe = message::Subscribe {
        consumer: posthouse_protocol::ConsumerId(2),
        topic: name("t"),
        subscription: name("s"),
    };
    assert_eq!(code(&world.ask(1, subscribe)), ErrorCode::ShuttingDown);
}

fn code(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Refused(refused) => ErrorCode::from_number(refused.code).unwrap(),
        other => panic!("{other:?}"),
    }
}
