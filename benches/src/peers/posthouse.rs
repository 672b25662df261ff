//! Posthouse itself, driven with bare frames as the peers are, without the client crate.
#![expect(clippy::wildcard_enum_match_arm, reason = "every other answer is an error that names it")]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{
    Credit, Deliver, DeliveryRun, Fetch, Fetched, HELLO_MAGIC, Hello, ProducerOpen, ProducerOpened,
    Publish, Refused, Settle, Subscribe, SubscriptionCreate, TopicCreate, TopicDelete,
    TopicDescribe, VERSION, Verdict,
};
use posthouse_protocol::settings::{Durability, Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    ConsumerId, CorrelationId, ErrorCode, Fence, MessageId, Name, ProducerEpoch, ProducerId, Reply,
    Request, Sequence, SubscriptionId, Timestamp, TopicId,
};

use super::link::{Link, Seen, Speaker, Wire};
use super::{Duty, Take};

/// The frame kind of a receipt, and where kind and correlation stand in a frame.
const RECEIPT: [u8; 2] = 161_u16.to_le_bytes();
const KIND_AT: std::ops::Range<usize> = 12..14;
const CORRELATION_AT: usize = 16;
const SUBSCRIPTION: &str = "all";
/// Requests on their way while many topics are made.
const GROUP: usize = 200;
const CREDIT_MESSAGES: u64 = 4096;
const CREDIT_BYTES: u64 = 8 << 20;
const FETCH_BYTES: u32 = 1 << 20;
const FETCH_MESSAGES: u32 = 10_000;

struct Posthouse {
    frames: BytesMut,
    topics: Vec<TopicId>,
    producer: ProducerOpened,
    published: u64,
    batch: usize,
    body: Vec<u8>,
    encoded: Bytes,
    /// A publish was refused for want of room and not sent again yet.
    lacks_room: bool,
    source: Source,
}

/// How messages are taken.
enum Source {
    Nothing,
    Queue {
        topic: Name,
        subscription: SubscriptionId,
        taken: u64,
        bytes: u64,
        settling: VecDeque<u64>,
    },
    Replay {
        topic: TopicId,
        /// What has come, and is looked at once the next part has been asked for.
        arrived: Option<(Fetched, Bytes)>,
    },
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = hello(to)?;
    let mut speaker = Posthouse {
        frames: BytesMut::new(),
        topics: Vec::new(),
        producer: ProducerOpened {
            producer: ProducerId(0),
            epoch: ProducerEpoch(0),
            last: Sequence(0),
        },
        published: 0,
        batch: 1,
        body: Vec::new(),
        encoded: Bytes::new(),
        lacks_room: false,
        source: Source::Nothing,
    };
    match duty {
        Duty::Publish { batch, topics } => {
            speaker.batch = batch;
            for number in 0..topics {
                let topic = topic_id(&mut wire, &topic_name(queue, number))?;
                speaker.topics.push(topic);
            }
            let open = ProducerOpen { name: None, epoch: None };
            match ask(&mut wire, &open.into())? {
                Reply::ProducerOpened(opened) => speaker.producer = opened,
                other => return Err(refused(&other)),
            }
        }
        Duty::Consume(Take { acked: true, .. }) => {
            let (topic, subscription) = (name(queue)?, SubscriptionId(0));
            let settling = VecDeque::new();
            speaker.source = Source::Queue { topic, subscription, taken: 0, bytes: 0, settling };
        }
        Duty::Consume(_) => {
            speaker.source = Source::Replay { topic: topic_id(&mut wire, queue)?, arrived: None };
        }
    }
    Link::new(wire, Box::new(speaker))
}

/// Makes the topics of a turn, each with a subscription, so that their messages are kept.
pub(crate) fn create(
    to: SocketAddr,
    queue: &str,
    durability: Durability,
    topics: usize,
) -> io::Result<()> {
    let mut requests = Vec::new();
    for number in 0..topics {
        let topic = name(&topic_name(queue, number))?;
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        requests.push(TopicCreate { topic: topic.clone(), settings }.into());
        let (subscription, start) = (name(SUBSCRIPTION)?, Position::Earliest);
        let settings = SubscriptionSettings::default();
        requests.push(SubscriptionCreate { topic, subscription, settings, start }.into());
    }
    ask_all(&mut hello(to)?, &requests)
}

/// Deletes the topics of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str, topics: usize) -> io::Result<()> {
    let topic = |number| name(&topic_name(queue, number));
    let delete = |number| Ok(TopicDelete { topic: topic(number)? }.into());
    let requests = (0..topics).map(delete).collect::<io::Result<Vec<_>>>()?;
    ask_all(&mut hello(to)?, &requests)
}

/// Sends many requests at a time, and then sees what became of them.
fn ask_all(wire: &mut Wire, requests: &[Request]) -> io::Result<()> {
    for group in requests.chunks(GROUP) {
        let mut out = BytesMut::new();
        group.iter().for_each(|request| push(&mut out, request, CorrelationId(1), 0));
        wire.send(&out)?;
        group.iter().try_for_each(|_| told(&answer(wire)?))?;
    }
    Ok(())
}

/// The first topic is the queue itself.
fn topic_name(queue: &str, number: usize) -> String {
    if number == 0 { queue.to_owned() } else { format!("{queue}-{number}") }
}

fn name(text: &str) -> io::Result<Name> {
    Name::new(text).map_err(io::Error::other)
}

fn hello(to: SocketAddr) -> io::Result<Wire> {
    let mut wire = Wire::connect(to)?;
    let hello = Hello {
        magic: HELLO_MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "compare".to_owned(),
        credentials: Vec::new(),
    };
    told(&ask(&mut wire, &hello.into())?)?;
    Ok(wire)
}

fn topic_id(wire: &mut Wire, queue: &str) -> io::Result<TopicId> {
    match ask(wire, &TopicDescribe { topic: name(queue)? }.into())? {
        Reply::TopicInfo(info) => Ok(info.id),
        other => Err(refused(&other)),
    }
}

fn ask(wire: &mut Wire, request: &Request) -> io::Result<Reply> {
    let mut out = BytesMut::new();
    push(&mut out, request, CorrelationId(1), 0);
    wire.send(&out)?;
    answer(wire)
}

fn answer(wire: &mut Wire) -> io::Result<Reply> {
    let bytes = wire.read(|input| {
        let len = frame_len(input)?;
        Some((Bytes::copy_from_slice(input.get(..len)?), len))
    })?;
    let frame = frame::decode_whole(bytes).map_err(io::Error::other)?;
    reply(&frame)
}

fn told(reply: &Reply) -> io::Result<()> {
    if matches!(reply, Reply::Refused(_) | Reply::Goodbye(_)) {
        Err(refused(reply))
    } else {
        Ok(())
    }
}

fn refused(reply: &Reply) -> io::Error {
    io::Error::other(format!("posthouse said: {reply:?}"))
}

fn reply(frame: &Frame) -> io::Result<Reply> {
    Reply::decode(frame.kind, &frame.head).map_err(io::Error::other)
}

/// Bytes of the whole frame in front, if all are here.
fn frame_len(input: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(*input.first_chunk()?)).ok()?;
    (input.len() >= length + frame::LENGTH_LEN).then_some(length + frame::LENGTH_LEN)
}

fn push(out: &mut BytesMut, request: &Request, correlation: CorrelationId, tail: usize) {
    frame::encode_head(out, request.kind(), correlation, tail, |out| request.encode(out));
}

impl Speaker for Posthouse {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        if self.body != body || self.encoded.is_empty() {
            self.encode(body);
        }
        let turn = usize::try_from(self.published).unwrap_or(0) % self.topics.len().max(1);
        let publish = Publish {
            topic: self.topics.get(turn).copied().unwrap_or(TopicId(0)),
            producer: self.producer.producer,
            epoch: self.producer.epoch,
            sequence: Sequence(self.published + 1),
            prev: Sequence(self.published),
        };
        let correlation = CorrelationId(u32::try_from(self.published + 1).unwrap_or(u32::MAX));
        push(&mut self.frames, &publish.into(), correlation, self.encoded.len());
        self.published += 1;
        out.extend_from_slice(&self.frames);
        out.extend_from_slice(&self.encoded);
        self.frames.clear();
    }

    fn rewind(&mut self, to: u64) {
        self.published = to;
        self.lacks_room = false;
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        match &self.source {
            Source::Nothing => return,
            Source::Queue { topic, .. } => {
                let subscription = Name::new(SUBSCRIPTION).expect("the name is plain");
                let subscribe =
                    Subscribe { consumer: ConsumerId(1), topic: topic.clone(), subscription };
                push(&mut self.frames, &subscribe.into(), CorrelationId(1), 0);
                self.credit();
            }
            Source::Replay { topic, .. } => self.fetch(*topic, Position::Earliest),
        }
        self.send(out);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let Some(len) = frame_len(input) else { return Ok(0) };
        if self.look_at_arrived(seen)? {
            return Ok(len);
        }
        let whole = input.get(..len).unwrap_or_default();
        if whole.get(KIND_AT) == Some(&RECEIPT) {
            let correlation = whole.get(CORRELATION_AT..).and_then(<[u8]>::first_chunk);
            let correlation = correlation.map_or(1, |bytes| u32::from_le_bytes(*bytes));
            seen.receipts.push(u64::from(correlation) - 1);
            return Ok(len);
        }
        let frame = frame::decode_whole(Bytes::copy_from_slice(whole)).map_err(io::Error::other)?;
        match reply(&frame)? {
            Reply::Heartbeat(_) => {}
            Reply::Subscribed(subscribed) => {
                if let Source::Queue { subscription, .. } = &mut self.source {
                    *subscription = subscribed.subscription;
                }
            }
            Reply::Deliver(deliver) => self.delivered(&deliver, &frame.tail, seen)?,
            Reply::Settled(settled) if settled.refused.is_empty() => {
                if let Source::Queue { settling, .. } = &mut self.source {
                    seen.settled += settling.pop_front().unwrap_or(0);
                }
            }
            Reply::Fetched(fetched) => {
                if let Source::Replay { topic, arrived } = &mut self.source {
                    let (topic, next) = (*topic, Position::Offset(fetched.next));
                    *arrived = Some((fetched, frame.tail));
                    self.fetch(topic, next);
                }
                self.send(out);
                return Ok(0);
            }
            // What follows a publish without room cannot be taken either.
            Reply::Refused(refusal) if self.may_retry(&refusal) => seen.refused += 1,
            other => return Err(refused(&other)),
        }
        self.send(out);
        Ok(len)
    }
}

impl Posthouse {
    fn send(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.frames);
        self.frames.clear();
    }

    /// Whether there was something.
    fn look_at_arrived(&mut self, seen: &mut Seen) -> io::Result<bool> {
        let Source::Replay { arrived, .. } = &mut self.source else { return Ok(false) };
        let Some((fetched, tail)) = arrived.take() else { return Ok(false) };
        for part in fetched.parts(&tail).map_err(io::Error::other)? {
            part.messages().for_each(|message| seen.delivered(message.body));
        }
        seen.settled = seen.deliveries;
        Ok(true)
    }

    fn encode(&mut self, body: &[u8]) {
        let mut builder = BatchBuilder::new();
        let bytes = Bytes::copy_from_slice(body);
        for number in 0..self.batch {
            let id = MessageId((number as u128).to_be_bytes());
            let message = Message { id, body: bytes.clone(), ..Message::default() };
            builder.push(&message).expect("the batches of the bench are below the limits");
        }
        self.encoded = builder.finish(Timestamp(1));
        self.body.clear();
        self.body.extend_from_slice(body);
    }

    /// Whether the broker has no room, or had none for an earlier publish.
    fn may_retry(&mut self, refusal: &Refused) -> bool {
        let code = ErrorCode::from_number(refusal.code);
        self.lacks_room |= code == Some(ErrorCode::Overloaded);
        self.lacks_room
    }

    fn credit(&mut self) {
        let Source::Queue { taken, bytes, .. } = &self.source else { return };
        let credit = Credit {
            consumer: ConsumerId(1),
            messages: taken + CREDIT_MESSAGES,
            bytes: bytes + CREDIT_BYTES,
            taken: *taken,
        };
        push(&mut self.frames, &credit.into(), CorrelationId(0), 0);
    }

    fn fetch(&mut self, topic: TopicId, from: Position) {
        let (bytes_max, messages_max) = (FETCH_BYTES, FETCH_MESSAGES);
        let fetch = Fetch { topic, from, bytes_max, messages_max, wait_ms: 1000 };
        push(&mut self.frames, &fetch.into(), CorrelationId(1), 0);
    }

    /// Counts the messages, acknowledges each, and grants as much credit again.
    fn delivered(&mut self, deliver: &Deliver, tail: &Bytes, seen: &mut Seen) -> io::Result<()> {
        let Source::Queue { subscription, taken, bytes, settling, .. } = &mut self.source else {
            return Ok(());
        };
        for part in deliver.parts(tail).map_err(io::Error::other)? {
            part.messages().for_each(|message| seen.delivered(message.body));
        }
        let epoch = deliver.fence_epoch;
        let mut count = 0;
        let run = |slice: &posthouse_protocol::message::DeliverySlice| {
            count += u64::from(slice.slice.count);
            let fence = Fence { epoch, counter: slice.fence_counter };
            DeliveryRun { first: slice.slice.first, fence, count: slice.slice.count }
        };
        let deliveries = deliver.slices.iter().map(run).collect();
        *taken += count;
        *bytes += tail.len() as u64;
        settling.push_back(count);
        let settle = Settle {
            subscription: *subscription,
            verdict: Verdict::Ack,
            delay_ms: 0,
            reason: String::new(),
            deliveries,
        };
        push(&mut self.frames, &settle.into(), CorrelationId(2), 0);
        self.credit();
        Ok(())
    }
}
