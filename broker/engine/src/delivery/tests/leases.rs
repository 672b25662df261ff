//! Hand-outs, leases, verdicts.

use super::world::{self, Got, World, offsets};
use crate::effect::{Effect, Gate};
use posthouse_protocol::message::{self, BACKOFF, Verdict};
use posthouse_protocol::settings::{Durability, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{Attempt, ErrorCode, Offset};

const DAY_MS: u64 = 86_400_000;

fn settings() -> SubscriptionSettings {
    SubscriptionSettings::default()
}

/// One consumer with plenty of credit that was sent `count` messages.
fn consumed(count: usize) -> (World, Vec<Got>) {
    let mut world = World::with(settings());
    world.subscribe(1, 1);
    world.grant(1, 1, 100_000, 0);
    world.publish("t", &vec![10; count]);
    let got = world.take();
    assert_eq!(got.len(), count);
    world.grant(1, 1, 100_000, u64::MAX);
    (world, got)
}

#[test]
fn ended_lease_comes_again_after_its_backoff_with_one_more_attempt_and_a_higher_fence() {
    let (mut world, first) = consumed(1);
    world.advance(29_999);
    assert_eq!(world.got, []);
    world.advance(1);
    assert_eq!(world.got, [], "it waits for its backoff");
    world.advance(1_000);
    let again = world.take();
    assert_eq!((again[0].offset, again[0].attempt), (0, 1));
    assert!(again[0].fence > first[0].fence);
    assert_eq!(world.durable().failures[&Offset(0)].reason, "lease ended");
}

#[test]
fn ended_lease_of_what_no_application_has_taken_comes_again_at_once_and_is_not_counted() {
    let mut world = World::with(settings());
    world.subscribe(1, 1);
    world.grant(1, 1, 4, 0);
    world.publish("t", &[10; 4]);
    let first = world.take();
    world.grant(1, 1, 4, 1);
    world.subscribe(2, 1);
    world.grant(2, 1, 4, 0);
    world.advance(30_000);
    let again = world.take();
    assert_eq!(offsets(&again), [1, 2, 3], "the first one was taken, and waits for its backoff");
    assert!(again.iter().all(|got| got.connection == 2 && got.attempt == 0));
    assert!(again[0].fence > first[3].fence);
    world.advance(1_000);
    assert_eq!(world.take()[0].attempt, 1);
}

#[test]
fn late_ack_counts_while_no_higher_fence_is_out() {
    let (mut world, got) = consumed(1);
    world.advance(30_100);
    assert_eq!(world.settle(Verdict::Ack, &got), []);
    world.advance(DAY_MS);
    assert_eq!(world.got, []);
    assert_eq!(world.durable().ack_floor(), Offset(1));
}

#[test]
fn late_ack_counts_after_the_connection_is_gone() {
    let (mut world, got) = consumed(3);
    world.grant(1, 1, 100_000, 2);
    world.disconnect(1);
    let elsewhere: Vec<_> = got.iter().map(|got| Got { connection: 2, ..*got }).collect();
    assert_eq!(world.settle(Verdict::Ack, &elsewhere), []);
    assert_eq!(world.durable().ack_floor(), Offset(3));
}

#[test]
fn ack_under_an_older_fence_is_refused_by_name() {
    let (mut world, old) = consumed(2);
    world.advance(31_001);
    let mut new = world.take();
    new.sort_by_key(|got| got.offset);
    assert_eq!(offsets(&new), [0, 1]);
    let refused = world.settle(Verdict::Ack, &old);
    assert_eq!((refused[0].first, refused[0].count), (Offset(0), 2));
    assert_eq!(refused[0].code, ErrorCode::StaleFence.number());
    assert_eq!(world.settled(), [] as [u64; 0]);
    assert_eq!(world.settle(Verdict::Ack, &new), []);
    assert_eq!(world.settle(Verdict::Ack, &new).len(), 1, "settled is settled");
}

#[test]
fn fence_never_given_out_is_refused() {
    let (mut world, mut got) = consumed(2);
    got.iter_mut().for_each(|got| got.fence.counter += 1);
    assert_eq!(world.settle(Verdict::Ack, &got)[0].count, 2);
    got.iter_mut().for_each(|got| got.offset += 1_000);
    assert_eq!(world.settle(Verdict::Nack, &got)[0].count, 2);
}

#[test]
fn nack_waits_for_its_backoff_or_as_long_as_it_says() {
    let (mut world, got) = consumed(2);
    assert_eq!(world.settle_after(Verdict::Nack, BACKOFF, &got[..1]), []);
    assert_eq!(world.settle_after(Verdict::Nack, 5_000, &got[1..]), []);
    world.advance(799);
    assert_eq!(world.got, []);
    world.advance(201);
    assert_eq!(offsets(&world.take()), [0]);
    world.advance(3_999);
    assert_eq!(world.got, []);
    world.advance(1);
    let again = world.take();
    assert_eq!((again[0].offset, again[0].attempt), (1, 1));
}

#[test]
fn repeated_nack_counts_once() {
    let (mut world, got) = consumed(1);
    world.settle(Verdict::Nack, &got);
    assert_eq!(world.settle(Verdict::Nack, &got), []);
    assert_eq!(world.durable().failures[&Offset(0)].attempt, Attempt(1));
}

#[test]
fn nack_after_the_lease_has_ended_counts_no_second_time() {
    let (mut world, got) = consumed(1);
    world.advance(30_100);
    assert_eq!(world.settle(Verdict::Nack, &got), []);
    assert_eq!(world.durable().failures[&Offset(0)].attempt, Attempt(1));
}

#[test]
fn ack_after_a_nack_under_the_same_fence_settles() {
    let (mut world, got) = consumed(1);
    world.settle(Verdict::Nack, &got);
    assert_eq!(world.settle(Verdict::Ack, &got), []);
    world.advance(DAY_MS);
    assert_eq!(world.got, []);
}

#[test]
fn release_comes_again_at_once_and_is_not_counted() {
    let (mut world, got) = consumed(3);
    let frames = world.frames.len();
    assert_eq!(world.settle(Verdict::Release, &got[1..2]), []);
    let again = world.take();
    assert_eq!((again[0].offset, again[0].attempt), (1, 0));
    assert!(again[0].fence > got[2].fence);
    assert_eq!(world.frames.len(), frames + 1, "the hand-out is all that is written");
}

#[test]
fn lease_can_be_extended_again_and_again_but_not_for_ever() {
    let (mut world, got) = consumed(1);
    for _ in 0..40 {
        world.advance(15_000);
        assert_eq!(world.got, []);
        if world.now.mono.0 < 600_000_000 {
            assert_eq!(world.extend(30_000, &got), []);
        }
    }
    world.advance(1);
    let refused = world.extend(30_000, &got);
    assert_eq!(refused[0].code, ErrorCode::LeaseEnded.number());
    world.advance(1_000);
    assert_eq!(world.take()[0].attempt, 1);
}

#[test]
fn slow_message_does_not_stall_those_behind_it() {
    let (mut world, got) = consumed(1);
    for round in 0..50 {
        world.publish("t", &[10; 100]);
        let next = world.take();
        assert_eq!(next.len(), 100, "round {round}");
        assert_eq!(world.settle(Verdict::Ack, &next), []);
    }
    assert_eq!(world.durable().ack_floor(), Offset(0));
    assert_eq!(world.settle(Verdict::Ack, &got), []);
    assert_eq!(world.durable().ack_floor(), Offset(5_001));
}

#[test]
fn lowest_offset_comes_first_returned_ones_included() {
    let mut world = World::with(settings());
    world.publish("t", &[10; 10]);
    world.subscribe(1, 1);
    world.grant(1, 1, 4, 0);
    let got = world.take();
    world.settle(Verdict::Release, &got[1..3]);
    world.grant(1, 1, 8, 0);
    assert_eq!(offsets(&world.take()), [1, 2, 4, 5]);
}

#[test]
fn what_is_published_meanwhile_is_handed_out_in_the_same_group() {
    let mut world = World::with(settings());
    world.subscribe(1, 1);
    world.grant(1, 1, 100, 0);
    world.holds_progress = true;
    // The receipt waits for the sync, which the test holds back; so does the delivery.
    world.publish("t", &[10]);
    let last = world.last();
    assert_eq!(world.gates, [Gate::Committed(last)]);
    assert_eq!(world.loads.len(), 0, "nothing had to be loaded");
    world.progress();
    world.settle(Verdict::Release, &world.got.clone());
    assert_eq!(world.gates.last(), Some(&Gate::Written(world.last())), "no reason to sync");
}

#[test]
fn written_topic_delivers_when_the_hand_out_is_written() {
    let mut world = World::new();
    let topic = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    world.topic("t", topic);
    world.subscription("t", "s", settings());
    world.subscribe(1, 1);
    world.grant(1, 1, 100, 0);
    world.publish("t", &[10]);
    assert_eq!(world.gates, [Gate::Written(world.last())]);
}

#[test]
fn run_of_fresh_messages_is_one_run_in_journal_and_delivery() {
    let (world, got) = consumed(256);
    assert_eq!(got.len(), 256);
    let runs =
        world.frames.iter().flat_map(|frame| &frame.events).filter_map(|event| match event {
            crate::event::Event::HandedOut(handed) => Some(handed.runs.len()),
            _ => None,
        });
    assert_eq!(runs.collect::<Vec<_>>(), [1]);
    assert_eq!(world.gates.len(), 1);
}

#[test]
fn restart_gives_back_uncounted_and_raises_the_fence() {
    let (mut world, got) = consumed(3);
    world.settle_after(Verdict::Nack, 60_000, &got[..1]);
    world.restart(true);
    world.subscribe(2, 1);
    world.grant(2, 1, 100, 0);
    let again = world.take();
    assert_eq!(offsets(&again), [1, 2], "the failed one still waits");
    assert_eq!((again[0].attempt, again[1].attempt), (0, 0));
    assert!(again[0].fence > got[2].fence);
    world.advance(60_000);
    let failed: Vec<u32> =
        world.take().iter().filter(|got| got.offset == 0).map(|got| got.attempt).collect();
    assert_eq!(failed, [1]);
}

#[test]
fn ack_from_before_a_restart_counts_until_the_message_is_handed_out_again() {
    let (mut world, got) = consumed(3);
    world.restart(true);
    assert_eq!(world.settle(Verdict::Ack, &got[..1]), []);
    world.subscribe(2, 1);
    world.grant(2, 1, 1, 0);
    assert_eq!(offsets(&world.take()), [1]);
    assert_eq!(world.settle(Verdict::Ack, &got[1..]).len(), 1, "1 is out again, 2 is not");
    assert_eq!(world.settled(), [0, 2]);
    world.grant(2, 1, 10, 0);
    assert_eq!(world.got, [], "2 was in the window when it was settled");
}

#[test]
fn nack_from_before_a_restart_is_counted() {
    let (mut world, got) = consumed(2);
    world.restart(true);
    world.subscribe(2, 1);
    world.settle(Verdict::Nack, &got[1..]);
    world.grant(2, 1, 10, 0);
    assert_eq!(offsets(&world.take()), [0]);
    world.advance(1_000);
    assert_eq!(world.take()[0].attempt, 1);
}

#[test]
fn nack_storm_is_spaced_out() {
    let (mut world, got) = consumed(1_000);
    world.settle(Verdict::Nack, &got);
    let mut returned = Vec::new();
    for _ in 0..100 {
        world.advance(10);
        returned.push(world.take().len());
    }
    assert_eq!(returned.iter().sum::<usize>(), 1_000);
    assert_eq!(returned.iter().take(79).sum::<usize>(), 0);
    assert!(returned.iter().all(|count| *count < 150), "{returned:?}");
}

#[test]
fn large_settlement_takes_several_frames_and_is_answered_after_the_last() {
    let (mut world, got) = consumed(10_000);
    let frames = world.frames.len();
    let nack = message::Settle {
        subscription: got[0].subscription,
        verdict: Verdict::Nack,
        delay_ms: BACKOFF,
        reason: "y".repeat(1_000),
        deliveries: world::runs(&got[..5_000]),
    };
    world.holds_progress = true;
    world.ask(1, nack);
    assert!(world.frames.len() > frames + 10);
    assert_eq!(world.reply_gates.last(), Some(&Gate::Committed(world.last())));
    assert_eq!(world.durable().failures[&Offset(4_999)].reason.len(), 256);
    let odd: Vec<_> = got.iter().filter(|got| got.offset % 2 == 1).copied().collect();
    let frames = world.frames.len();
    assert_eq!(world.settle(Verdict::Ack, &odd), []);
    assert_eq!(world.frames.len(), frames + 2, "5,000 runs");
    assert_eq!(world.settled().len(), 5_000);
}

#[test]
fn damaged_message_is_settled_and_not_delivered() {
    let mut world = World::with(settings());
    world.publish("t", &[10; 5]);
    let partition = world.durable().partition;
    world.damaged.insert((partition, Offset(2)));
    world.subscribe(1, 1);
    world.grant(1, 1, 100, 0);
    assert_eq!(offsets(&world.take()), [0, 1, 3, 4]);
    assert_eq!(world.settled(), [2]);
}

#[test]
fn million_acks_out_of_order_survive_a_restart_and_merge_when_the_gaps_close() {
    let mut world = World::with(settings());
    world.subscribe(1, 1);
    let (batches, each) = (200_u64, 10_000_u64);
    for batch in 0..batches {
        world.publish("t", &vec![1; each as usize]);
        world.grant(1, 1, (batch + 1) * each, batch * each);
        let got = world.take();
        let odd: Vec<_> = got.iter().filter(|got| got.offset % 2 == 1).copied().collect();
        assert_eq!(world.settle(Verdict::Ack, &odd), []);
    }
    assert_eq!(world.durable().settled.range_count() as u64, batches * each / 2);
    let mut bytes = Vec::new();
    world.engine.state().encode(&mut bytes);
    assert!(bytes.len() < 24_000_000, "{}", bytes.len());
    world.restart(true);
    assert_eq!(world.durable().settled.range_count() as u64, batches * each / 2);
    world.subscribe(2, 1);
    world.grant(2, 1, u64::MAX, 0);
    let mut taken = 0;
    loop {
        let got = world.take();
        if got.is_empty() {
            break;
        }
        assert_eq!(world.settle(Verdict::Ack, &got), []);
        taken += got.len() as u64;
        world.grant(2, 1, u64::MAX, taken);
    }
    assert_eq!(taken, batches * each / 2);
    assert_eq!(world.durable().ack_floor(), Offset(batches * each));
    assert_eq!(world.durable().settled.range_count(), 0);
}

#[test]
fn deep_backlog_is_loaded_a_window_at_a_time() {
    let mut world = World::with(settings());
    for _ in 0..5 {
        world.publish("t", &vec![1; 10_000]);
    }
    world.subscribe(1, 1);
    assert_eq!(world.loads.len(), 0, "without credit nothing is loaded");
    world.grant(1, 1, 10, 0);
    assert_eq!(world.loads.len(), 1);
    world.grant(1, 1, 30_000, 0);
    assert_eq!(world.take().len(), 30_000);
    let most = |load: &Effect| matches!(load, Effect::LoadWindow { entries_max: ..=4096, .. });
    assert!(world.loads.iter().all(most));
}

#[test]
fn publishes_during_a_load_are_neither_lost_nor_doubled() {
    let mut world = World::with(settings());
    world.publish("t", &[10; 5]);
    world.holds_answers = true;
    world.subscribe(1, 1);
    world.grant(1, 1, 100, 0);
    world.publish("t", &[10; 5]);
    assert_eq!(world.got, []);
    world.answer(0);
    assert_eq!(offsets(&world.take()), (0..10).collect::<Vec<_>>());
    world.publish("t", &[10; 2]);
    assert_eq!(offsets(&world.take()), [10, 11]);
    assert_eq!(world.answers.len(), 0);
}

#[test]
fn purge_ends_what_is_in_flight_and_waits() {
    let (mut world, got) = consumed(4);
    world.settle(Verdict::Nack, &got[..1]);
    let topic = world::name("t");
    world.ask(world::ADMIN, message::TopicPurge { topic });
    assert_eq!(world.settle(Verdict::Ack, &got)[0].count, 4);
    world.advance(DAY_MS);
    assert_eq!(world.got, []);
    world.publish("t", &[10]);
    assert_eq!(offsets(&world.take()), [4]);
}
