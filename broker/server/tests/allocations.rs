//! How often memory is taken for each message in steady state, by the broker alone and by broker and
//! client together. Bounds that stand a little above what is counted: they keep allocations from
//! coming back one by one.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use posthouse_broker::Broker;
use posthouse_client::{Client, Consumer, Message, Publisher};
use posthouse_protocol::message::{ProducerOpen, Publish, TopicCreate};
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{
    CorrelationId, ProducerEpoch, ProducerId, Reply, Request, Sequence, TopicId, frame, limits,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{batch, encode, hello, name, start};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Publishes, or messages of a client, that warm up, and then as many that are counted.
const COUNT: u32 = 4_000;

/// One test, so that nothing else takes memory meanwhile.
#[tokio::test]
async fn memory_is_taken_rarely_for_each_message() {
    let broker = start(|_| {}).await;
    let mut counted = vec![
        ("published one at a time", publishes(&broker, 1), 9.0),
        ("published a hundred at a time", publishes(&broker, 100), 0.1),
    ];
    let (submitted, acknowledged) = client(&broker).await;
    counted.push(("submitted to a client", submitted, 0.06));
    counted.push(("handed to a client and acknowledged", acknowledged, 0.4));
    let within = |(_, counted, bound): &(&str, f64, f64)| *counted <= *bound;
    assert!(counted.iter().all(within), "allocations a message and their bounds: {counted:.2?}");
}

/// Allocations and growths since `region` began, for each of `messages`.
fn taken(region: &Region<'_, System>, messages: u32) -> f64 {
    let change = region.change();
    let taken = u32::try_from(change.allocations + change.reallocations).unwrap();
    f64::from(taken) / f64::from(messages)
}

/// Those of the broker, for each message in publishes of `messages`.
fn publishes(broker: &Broker, messages: u32) -> f64 {
    let mut peer = Peer::hello(broker);
    let topic = name(&format!("bare-{messages}"));
    let settings = TopicSettings::default();
    let Reply::TopicInfo(topic) = peer.ask(TopicCreate { topic, settings }) else {
        panic!("no topic");
    };
    let Reply::ProducerOpened(producer) = peer.ask(ProducerOpen { name: None, epoch: None }) else {
        panic!("no producer");
    };
    let batch = batch(&vec![&b"a body of some length"[..]; usize::try_from(messages).unwrap()]);
    let sender = (topic.id, producer.producer, producer.epoch);
    let bytes = |sequences: std::ops::RangeInclusive<u32>| {
        sequences.flat_map(|sequence| publish(sender, sequence, &batch)).collect::<Vec<u8>>()
    };
    let (warm, counted) = (bytes(1..=COUNT), bytes(COUNT + 1..=2 * COUNT));
    peer.exchange(&warm, COUNT);
    let region = Region::new(COUNTED);
    peer.exchange(&counted, COUNT);
    taken(&region, COUNT * messages)
}

fn publish(
    (topic, producer, epoch): (TopicId, ProducerId, ProducerEpoch),
    sequence: u32,
    batch: &[u8],
) -> Vec<u8> {
    let (prev, number) = (Sequence(u64::from(sequence) - 1), Sequence(u64::from(sequence)));
    let publish = Publish { topic, producer, epoch, sequence: number, prev };
    encode(&publish.into(), CorrelationId(sequence), batch)
}

/// Those of broker and client, for each message submitted, and for each handed out and acknowledged.
async fn client(broker: &Broker) -> (f64, f64) {
    let client = Client::builder().server(&broker.addresses()[0]).connect().await.unwrap();
    client.admin().ensure_topic("whole").await.unwrap();
    client.admin().ensure_subscription("whole", "all").await.unwrap();
    let (mut submitted, mut acknowledged) = (0.0, 0.0);
    let publisher = client.publisher("whole").await.unwrap();
    for _ in ["warm", "counted"] {
        submitted = submit(&publisher).await;
    }
    let mut consumer = client.consumer("whole", "all").await.unwrap();
    for _ in ["warm", "counted"] {
        acknowledged = acknowledge(&mut consumer).await;
    }
    drop(consumer);
    client.close(Duration::from_secs(5)).await;
    (submitted, acknowledged)
}

async fn submit(publisher: &Publisher) -> f64 {
    let mut pending = VecDeque::with_capacity(usize::try_from(COUNT).unwrap());
    let region = Region::new(COUNTED);
    for _ in 0..COUNT {
        let message = Message::new(bytes::Bytes::from_static(b"a body of some length"));
        pending.push_back(publisher.submit(message).await.unwrap());
    }
    for receipt in pending {
        receipt.await.unwrap();
    }
    taken(&region, COUNT)
}

async fn acknowledge(consumer: &mut Consumer) -> f64 {
    let region = Region::new(COUNTED);
    let mut last = None;
    for _ in 0..COUNT {
        last = Some(consumer.next().await.unwrap().unwrap().ack());
    }
    last.unwrap().await.unwrap();
    taken(&region, COUNT)
}

/// A client that takes no memory while it sends and receives.
struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    filled: usize,
}

impl Peer {
    fn hello(broker: &Broker) -> Self {
        let stream = TcpStream::connect(&broker.addresses()[0]).unwrap();
        let mut peer = Self { stream, received: vec![0; 64 << 10], filled: 0 };
        let reply = peer.ask(hello());
        assert!(matches!(reply, Reply::Welcome(_)), "{reply:?}");
        peer
    }

    fn ask(&mut self, request: impl Into<Request>) -> Reply {
        self.stream.write_all(&encode(&request.into(), CorrelationId(1), &[])).unwrap();
        let mut answer = None;
        while answer.is_none() {
            self.receive(|frame| {
                let frame = frame::decode_whole(frame.to_vec().into()).unwrap();
                answer = Some(Reply::decode(frame.kind, &frame.head).unwrap());
            });
        }
        answer.unwrap()
    }

    /// Sends `bytes` and receives so many answers to them, none of which is much longer than a
    /// receipt.
    fn exchange(&mut self, bytes: &[u8], answers: u32) {
        let mut writing = self.stream.try_clone().unwrap();
        let (mut left, limit) = (answers, 128);
        std::thread::scope(|scope| {
            scope.spawn(move || writing.write_all(bytes).unwrap());
            while left > 0 {
                self.receive(|frame| {
                    assert!(frame.len() < limit, "a receipt");
                    left -= 1;
                });
            }
        });
    }

    /// Reads once, and passes on what is whole.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) {
        let read = self.stream.read(&mut self.received[self.filled..]).unwrap();
        assert!(read > 0, "the broker stays connected");
        self.filled += read;
        let mut rest = &self.received[..self.filled];
        while let Some(len) = frame::frame_len(rest, limits::FRAME_BYTES_MAX).unwrap() {
            let Some((frame, after)) = rest.split_at_checked(len) else { break };
            each(frame);
            rest = after;
        }
        let kept = self.filled - rest.len()..self.filled;
        self.filled = rest.len();
        self.received.copy_within(kept, 0);
    }
}
