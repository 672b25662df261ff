//! Peers that break the protocol: a clear word or a close, no panic, bounded memory, and everybody
//! else is served as before.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]
#![expect(clippy::collection_is_never_read, reason = "connections are kept open by being kept")]

mod support;

use posthouse_broker::{Broker, Exit};
use posthouse_protocol::message::{
    DeliveryRun, ProducerOpen, Publish, Settle, TopicCreate, TopicDescribe, Verdict,
};
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{
    CorrelationId, ErrorCode, Fence, Offset, ProducerEpoch, ProducerId, Reply, Request, Sequence,
    SubscriptionId, TopicId,
};
use std::time::Duration;
use support::{Wire, batch, encode, hello, name, start};

/// The broker is alive and well.
async fn check_health(broker: &Broker) {
    let mut wire = Wire::hello(broker).await;
    let topic = TopicCreate { topic: name("health"), settings: TopicSettings::default() };
    let reply = wire.ask(topic, &[]).await;
    assert!(matches!(reply, Reply::TopicInfo(_)), "{reply:?}");
}

fn goodbye(replies: &[Reply]) -> Option<ErrorCode> {
    replies.iter().find_map(|reply| {
        let Reply::Goodbye(goodbye) = reply else { return None };
        ErrorCode::from_number(goodbye.code)
    })
}

fn refused(reply: &Reply) -> Option<ErrorCode> {
    let Reply::Refused(refused) = reply else { return None };
    ErrorCode::from_number(refused.code)
}

#[tokio::test]
async fn bytes_of_other_protocols_are_answered_with_a_goodbye_and_a_close() {
    let broker = start(|_| {}).await;
    let others: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 64],
    ];
    for bytes in others {
        let mut wire = Wire::bare(&broker).await;
        wire.send_bytes(bytes).await;
        let code = goodbye(&wire.drain().await);
        assert!(matches!(code, Some(ErrorCode::TooLarge | ErrorCode::Malformed)), "{code:?}");
    }
    check_health(&broker).await;
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

#[tokio::test]
async fn frames_out_of_state_end_the_connection() {
    let broker = start(|_| {}).await;
    let mut early = Wire::bare(&broker).await;
    early.send(ProducerOpen { name: None, epoch: None }, &[]).await;
    assert_eq!(goodbye(&early.drain().await), Some(ErrorCode::OutOfState));

    let mut twice = Wire::hello(&broker).await;
    twice.send(hello(), &[]).await;
    assert_eq!(goodbye(&twice.drain().await), Some(ErrorCode::OutOfState));

    let mut future = Wire::bare(&broker).await;
    let mut newer = hello();
    (newer.version_min, newer.version_max) = (900, 901);
    future.send(newer, &[]).await;
    assert_eq!(goodbye(&future.drain().await), Some(ErrorCode::UnsupportedVersion));
    check_health(&broker).await;
}

#[tokio::test]
async fn a_hello_that_does_not_come_in_time_is_not_waited_for() {
    let broker = start(|config| config.hello_timeout = Duration::from_millis(50)).await;
    let mut silent = Wire::bare(&broker).await;
    let mut slow = Wire::bare(&broker).await;
    slow.send_bytes(&encode(&hello().into(), CorrelationId(1), &[])[..10]).await;
    assert_eq!(silent.drain().await, []);
    assert_eq!(slow.drain().await, []);
    check_health(&broker).await;
}

#[tokio::test]
async fn every_damaged_byte_of_a_head_is_noticed() {
    let broker = start(|_| {}).await;
    let request = Request::from(TopicDescribe { topic: name("orders") });
    let sound = encode(&request, CorrelationId(7), &[]);
    // The length is left alone: a longer one waits for bytes that never come.
    for position in 4..sound.len() {
        let mut damaged = sound.clone();
        damaged[position] ^= 0x40;
        let mut wire = Wire::hello(&broker).await;
        wire.send_bytes(&damaged).await;
        let code = goodbye(&wire.drain().await);
        let expected = [ErrorCode::Malformed, ErrorCode::Corrupt, ErrorCode::TooLarge];
        assert!(code.is_some_and(|code| expected.contains(&code)), "byte {position}: {code:?}");
    }
    check_health(&broker).await;
}

#[tokio::test]
async fn announced_lengths_take_no_memory_and_too_long_ones_no_time() {
    let broker = start(|_| {}).await;
    let mut bombs = Vec::new();
    let before = resident();
    for _ in 0..500 {
        let mut wire = Wire::hello(&broker).await;
        wire.send_bytes(&(4_u32 << 20).to_le_bytes()).await;
        bombs.push(wire);
    }
    check_health(&broker).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "500 announcements of 4 MiB took {grown} bytes");

    let mut long = Wire::hello(&broker).await;
    long.send_bytes(&u32::MAX.to_le_bytes()).await;
    assert_eq!(goodbye(&long.drain().await), Some(ErrorCode::TooLarge));
}

#[tokio::test]
async fn half_frames_of_a_crowd_stay_within_the_memory_for_connections() {
    let mib = 1 << 20;
    let broker = start(|config| {
        config.connection_bytes_max = 4 * mib;
        config.buffers_bytes_max = 8 * mib;
    })
    .await;
    let half = vec![0; 2 << 20];
    let mut crowd = Vec::new();
    let before = resident();
    for _ in 0..60 {
        let mut wire = Wire::hello(&broker).await;
        wire.send_bytes(&(4_u32 << 20).to_le_bytes()).await;
        // What the broker does not read stays in the sockets; the sender is not waited for.
        wire.send_what_fits(&half).await;
        crowd.push(wire);
    }
    check_health(&broker).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * mib, "60 half frames took {grown} bytes");
}

/// Bytes of this process (broker and test) in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn damaged_or_oversized_batches_are_refused_and_the_connection_lives_on() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let topic = TopicCreate { topic: name("t"), settings: TopicSettings::default() };
    let Reply::TopicInfo(info) = wire.ask(topic, &[]).await else { panic!("no topic") };
    let Reply::ProducerOpened(producer) =
        wire.ask(ProducerOpen { name: None, epoch: None }, &[]).await
    else {
        panic!("no producer")
    };
    let publish = |topic| Publish {
        topic,
        producer: producer.producer,
        epoch: producer.epoch,
        sequence: Sequence(1),
        prev: Sequence(0),
    };
    let sound = batch(&[b"hello", b"world"]);
    for position in 0..sound.len() {
        let mut damaged = sound.to_vec();
        damaged[position] ^= 1;
        let reply = wire.ask(publish(info.id), &damaged).await;
        let code = refused(&reply);
        let expected = [ErrorCode::Malformed, ErrorCode::Corrupt, ErrorCode::TooLarge];
        assert!(code.is_some_and(|code| expected.contains(&code)), "byte {position}: {reply:?}");
    }
    let reply = wire.ask(publish(TopicId(999)), &sound).await;
    assert_eq!(refused(&reply), Some(ErrorCode::NotFound));
    let large = batch(&[&vec![0; 2 << 20]]);
    let reply = wire.ask(publish(info.id), &large).await;
    assert_eq!(refused(&reply), Some(ErrorCode::TooLarge));
    let stranger =
        Publish { producer: ProducerId(77), epoch: ProducerEpoch(1), ..publish(info.id) };
    let reply = wire.ask(stranger, &sound).await;
    assert_eq!(refused(&reply), Some(ErrorCode::UnknownProducer));
    // Nothing of all this was taken, so the first sequence is still free.
    let reply = wire.ask(publish(info.id), &sound).await;
    assert!(
        matches!(&reply, Reply::Receipt(receipt) if receipt.base == Some(Offset(0))),
        "{reply:?}"
    );
}

#[tokio::test]
async fn settlements_of_what_was_never_handed_out_are_refused() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let settle = |subscription, count| Settle {
        subscription,
        verdict: Verdict::Ack,
        delay_ms: 0,
        reason: String::new(),
        deliveries: vec![DeliveryRun { first: Offset(0), fence: Fence::default(), count }],
    };
    let reply = wire.ask(settle(SubscriptionId(5), 1), &[]).await;
    assert_eq!(refused(&reply), Some(ErrorCode::NotFound));
    let topic = TopicCreate { topic: name("t"), settings: TopicSettings::default() };
    wire.ask(topic, &[]).await;
    let subscription = posthouse_protocol::message::SubscriptionCreate {
        topic: name("t"),
        subscription: name("s"),
        settings: Default::default(),
        start: posthouse_protocol::settings::Position::Earliest,
    };
    let Reply::SubscriptionInfo(info) = wire.ask(subscription, &[]).await else { panic!("none") };
    let reply = wire.ask(settle(info.id, 1), &[]).await;
    assert!(matches!(&reply, Reply::Settled(settled) if settled.refused.len() == 1), "{reply:?}");
    for count in [0, u32::MAX] {
        let mut wire = Wire::hello(&broker).await;
        wire.send(settle(info.id, count), &[]).await;
        let code = goodbye(&wire.drain().await);
        let expected = [ErrorCode::Malformed, ErrorCode::TooLarge];
        assert!(code.is_some_and(|code| expected.contains(&code)), "count {count}: {code:?}");
    }
    check_health(&broker).await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_at_once() {
    let broker = start(|config| config.connections_max = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Wire::hello(&broker).await);
    }
    let mut fourth = Wire::bare(&broker).await;
    assert_eq!(fourth.drain().await, []);
    held.pop();
    // The place is free again once the broker has seen the end of the third.
    for _ in 0..1000 {
        let mut wire = Wire::bare(&broker).await;
        wire.send(hello(), &[]).await;
        if wire.receive().await.is_some() {
            return;
        }
    }
    panic!("the place of a closed connection is never free again");
}
