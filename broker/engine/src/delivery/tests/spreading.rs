//! Credit, and several consumers of one subscription.

use super::world::{World, offsets};
use posthouse_protocol::message::Verdict;
use posthouse_protocol::settings::SubscriptionSettings;

fn world(bodies: &[usize]) -> World {
    let mut world = World::with(SubscriptionSettings::default());
    world.publish("t", bodies);
    world
}

#[test]
fn nothing_is_sent_without_credit_and_nothing_beyond_it() {
    let mut world = world(&[10; 100]);
    world.subscribe(1, 1);
    world.advance(1_000);
    assert_eq!(world.got, []);
    world.grant(1, 1, 7, 0);
    assert_eq!(world.take().len(), 7);
    world.grant(1, 1, 7, 7);
    world.grant(1, 1, 3, 7);
    assert_eq!(world.take().len(), 0, "totals, not increments");
    world.grant(1, 1, 9, 7);
    assert_eq!(world.take().len(), 2);
}

#[test]
fn bytes_are_limited_like_messages() {
    let mut world = world(&[60, 60, 60, 160]);
    world.subscribe(1, 1);
    world.grant_bytes(1, 1, (100, 250), 0);
    assert_eq!(offsets(&world.take()), [0, 1], "entry and body are 100 bytes each");
    world.grant_bytes(1, 1, (100, 499), 2);
    assert_eq!(offsets(&world.take()), [2]);
    world.grant_bytes(1, 1, (100, 500), 2);
    assert_eq!(offsets(&world.take()), [3]);
}

#[test]
fn message_larger_than_the_credit_goes_alone_to_a_consumer_that_holds_nothing() {
    let mut world = world(&[10, 5_000, 10]);
    world.subscribe(1, 1);
    world.grant_bytes(1, 1, (100, 1_000), 0);
    let small = world.take();
    assert_eq!(offsets(&small), [0]);
    world.settle(Verdict::Ack, &small);
    world.grant_bytes(1, 1, (100, 1_050), 1);
    let large = world.take();
    assert_eq!(offsets(&large), [1]);
    world.grant_bytes(1, 1, (100, 6_090), 2);
    assert_eq!(offsets(&world.take()), [2]);
}

#[test]
fn large_message_goes_to_whoever_has_room_for_it() {
    let mut world = world(&[10, 5_000, 10, 10]);
    world.subscribe(1, 1);
    world.subscribe(2, 1);
    world.grant_bytes(1, 1, (100, 150), 0);
    assert_eq!(offsets(&world.take()), [0]);
    world.grant_bytes(2, 1, (100, 1_000_000), 0);
    let got = world.take();
    assert_eq!((offsets(&got), got[0].connection), (vec![1, 2, 3], 2));
}

#[test]
fn several_consumers_share_the_work() {
    let mut world = world(&[10; 400]);
    for connection in 1..=4 {
        world.subscribe(connection, 1);
    }
    for connection in 1..=4 {
        world.grant(connection, 1, 0, 0);
    }
    // Credit of all four is there before anything is handed out.
    world.holds_answers = true;
    for connection in 1..=4 {
        world.grant(connection, 1, 100, 0);
    }
    world.answer(0);
    let got = world.take();
    assert_eq!(offsets(&got).len(), 400);
    for connection in 1..=4 {
        let own: Vec<_> = got.iter().filter(|got| got.connection == connection).collect();
        assert_eq!(own.len(), 100);
        let spread = own.iter().map(|got| got.offset).max().unwrap();
        assert!(spread > 300, "connection {connection} has part of every stretch");
    }
}

#[test]
fn consumer_without_credit_is_passed_over() {
    let mut world = world(&[10; 50]);
    world.subscribe(1, 1);
    world.subscribe(2, 1);
    world.grant(1, 1, 3, 0);
    world.grant(2, 1, 1_000, 0);
    let got = world.take();
    assert_eq!(got.len(), 50);
    assert_eq!(got.iter().filter(|got| got.connection == 1).count(), 3);
}

#[test]
fn each_subscription_gets_every_message() {
    let mut world = World::with(SubscriptionSettings::default());
    world.subscription("t", "other", SubscriptionSettings::default());
    world.subscribe(1, 1);
    world.subscribe_to(1, 2, ("t", "other"));
    world.grant(1, 1, 100, 0);
    world.grant(1, 2, 5, 0);
    for _ in 0..4 {
        world.publish("t", &[10, 20, 30]);
    }
    let got = world.take();
    let of = |consumer: u32| got.iter().filter(|got| got.consumer == consumer).count();
    assert_eq!((of(1), of(2)), (12, 5));
    world.grant(1, 2, 100, 0);
    assert_eq!(offsets(&world.take()), (5..12).collect::<Vec<_>>());
    assert_eq!(world.loads.len(), 0, "all of it came from the tail");
}
