//! The paths that are counted. Each is deterministic and does the same work in every round.

use bytes::{Bytes, BytesMut};
use posthouse_engine::input::ConnectionId;
use posthouse_engine::{Effect, Effects, Engine, Input, Now, State, Time};
use posthouse_protocol::batch::{BatchBuilder, BatchView, Entries, Message};
use posthouse_protocol::message::{
    Credit, DeliveryRun, ProducerOpen, Publish, Receipt, Settle, Subscribe, SubscriptionCreate,
    TopicCreate, Verdict,
};
use posthouse_protocol::settings::{Durability, Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    ConsumerId, CorrelationId, Fence, LogIndex, MessageId, Name, Offset, ProducerEpoch, ProducerId,
    Reply, Request, Sequence, StartEpoch, SubscriptionId, Timestamp, TopicId, frame, limits,
};
use std::hint::black_box;

/// Something to count.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// Messages in each round.
    pub(crate) messages: u64,
    pub(crate) run: fn(rounds: u64),
}

pub(crate) const ALL: &[Path] = &[
    Path { name: "receive-publish-of-1", messages: 16, run: receive },
    Path { name: "engine-publish-of-1", messages: 16, run: engine_publish },
    Path { name: "engine-deliver-and-ack", messages: 16, run: engine_queue },
    Path { name: "reply-receipt", messages: 16, run: reply },
    Path { name: "batch-encode", messages: BATCH, run: encode },
    Path { name: "batch-verify", messages: BATCH, run: verify },
    Path { name: "entries-decode", messages: BATCH, run: decode },
];

/// Messages of the larger batches.
const BATCH: u64 = 256;
/// Publishes of one round.
const ROUND: u64 = 16;
const CLIENT: ConnectionId = ConnectionId(1);
const CONSUMER: ConsumerId = ConsumerId(1);

fn message(number: u64) -> Message {
    let id = MessageId(u128::from(number).to_be_bytes());
    Message { id, body: Bytes::from_static(&[b'x'; 100]), ..Message::default() }
}

fn batch(messages: u64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for number in 0..messages {
        builder.push(&message(number)).expect("a message of 100 bytes fits");
    }
    builder.finish(Timestamp(1))
}

fn publish(sequence: u64) -> Publish {
    Publish {
        topic: TopicId(1),
        producer: ProducerId(1),
        epoch: ProducerEpoch(1),
        sequence: Sequence(sequence),
        prev: Sequence(sequence - 1),
    }
}

/// What a connection does with what it has read: frames, requests, batches checked.
fn receive(rounds: u64) {
    let batch = batch(1);
    let mut sent = BytesMut::new();
    for sequence in 1..=ROUND {
        let request = Request::from(publish(sequence));
        let correlation = CorrelationId(u32::try_from(sequence).unwrap_or(u32::MAX));
        frame::encode_head(&mut sent, request.kind(), correlation, batch.len(), |out| {
            request.encode(out);
        });
        sent.extend_from_slice(&batch);
    }
    for _ in 0..rounds {
        let mut received = BytesMut::with_capacity(64 << 10);
        received.extend_from_slice(&sent);
        while let Some(frame) =
            frame::decode(&mut received, limits::FRAME_BYTES_MAX).expect("a sound frame")
        {
            let request = Request::decode(frame.kind, &frame.head).expect("a sound request");
            let view = BatchView::parse(&frame.tail).expect("a sound batch");
            view.verify_bodies().expect("sound bodies");
            black_box((request, frame.tail));
        }
    }
}

/// An engine with one topic, a subscription and a producer; every round is written and committed.
struct Bench {
    engine: Engine,
    effects: Effects,
    last: LogIndex,
    sequence: u64,
}

impl Bench {
    const NOW: Now = Now { mono: Time(1), wall: Timestamp(1) };

    fn new() -> Self {
        let engine = Engine::new(State::default(), LogIndex::ZERO);
        let mut bench = Self { engine, effects: Vec::new(), last: LogIndex::ZERO, sequence: 0 };
        bench.input(Input::Start { epoch: StartEpoch(1), clean: true, damaged: false });
        bench.ask(TopicCreate { topic: name("orders"), settings: TopicSettings::default() });
        bench.ask(SubscriptionCreate {
            topic: name("orders"),
            subscription: name("billing"),
            settings: SubscriptionSettings::default(),
            start: Position::Earliest,
        });
        bench.ask(ProducerOpen { name: None, epoch: None });
        bench.settle();
        bench
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(Self::NOW, input, &mut self.effects);
    }

    fn ask(&mut self, request: impl Into<Request>) {
        self.ask_with(request, Bytes::new());
    }

    fn ask_with(&mut self, request: impl Into<Request>, batch: Bytes) {
        let (request, correlation) = (request.into(), CorrelationId(1));
        self.input(Input::Request { connection: CLIENT, correlation, request, batch });
    }

    fn publish(&mut self, batch: &Bytes) {
        for _ in 0..ROUND {
            self.sequence += 1;
            self.ask_with(publish(self.sequence), batch.clone());
        }
    }

    /// Ends the round as the shell does, and gives what was handed out.
    fn settle(&mut self) -> Vec<DeliveryRun> {
        let mut runs = Vec::new();
        loop {
            self.engine.flush(Self::NOW, &mut self.effects);
            if self.effects.is_empty() {
                return runs;
            }
            for effect in self.effects.drain(..) {
                match effect {
                    Effect::Append(append) => self.last = append.index,
                    Effect::Deliver(deliver) => {
                        let epoch = deliver.fence_epoch;
                        runs.extend(deliver.runs.iter().map(|run| DeliveryRun {
                            first: run.first,
                            fence: Fence { epoch, counter: run.fence_counter },
                            count: run.count,
                        }));
                    }
                    Effect::Reply { reply, .. } => {
                        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
                    }
                    Effect::Fetch(_)
                    | Effect::LoadWindow { .. }
                    | Effect::LoadMessage { .. }
                    | Effect::LoadDue { .. } => {}
                }
            }
            let (written, committed) = (self.last, self.last);
            self.input(Input::Progress { written, committed });
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn engine_publish(rounds: u64) {
    let (mut bench, batch) = (Bench::new(), batch(1));
    for _ in 0..rounds {
        bench.publish(&batch);
        bench.settle();
    }
}

/// Each message is handed out and acknowledged by itself.
fn engine_queue(rounds: u64) {
    let (mut bench, batch) = (Bench::new(), batch(1));
    bench.ask(Subscribe {
        consumer: CONSUMER,
        topic: name("orders"),
        subscription: name("billing"),
    });
    bench.ask(Credit { consumer: CONSUMER, messages: u64::MAX, bytes: u64::MAX, taken: 0 });
    bench.settle();
    for _ in 0..rounds {
        bench.publish(&batch);
        let mut handed = 0;
        for run in bench.settle() {
            for place in 0..run.count {
                let counter = run.fence.counter + u64::from(place);
                let fence = Fence { epoch: run.fence.epoch, counter };
                let first = run.first.plus(u64::from(place));
                bench.ask(Settle {
                    subscription: SubscriptionId(1),
                    verdict: Verdict::Ack,
                    delay_ms: 0,
                    reason: String::new(),
                    deliveries: vec![DeliveryRun { first, fence, count: 1 }],
                });
                handed += 1;
            }
        }
        assert_eq!(handed, ROUND, "everything that is published is handed out");
        bench.settle();
    }
}

fn reply(rounds: u64) {
    let receipt = Receipt {
        base: Some(Offset(1)),
        count: 1,
        durability: Durability::Synced,
        duplicate: false,
    };
    let reply = Reply::from(receipt);
    let mut out = BytesMut::with_capacity(16 << 10);
    for _ in 0..rounds {
        out.clear();
        for number in 0..16 {
            let correlation = CorrelationId(number);
            frame::encode_head(&mut out, reply.kind(), correlation, 0, |out| reply.encode(out));
        }
        black_box(&out);
    }
}

fn encode(rounds: u64) {
    for _ in 0..rounds {
        black_box(batch(BATCH));
    }
}

fn verify(rounds: u64) {
    let batch = batch(BATCH);
    for _ in 0..rounds {
        let view = BatchView::parse(black_box(&batch)).expect("a sound batch");
        view.verify_bodies().expect("sound bodies");
    }
}

fn decode(rounds: u64) {
    let batch = batch(BATCH);
    let view = BatchView::parse(&batch).expect("a sound batch");
    for _ in 0..rounds {
        let mut entries = Entries::new(black_box(view.index()));
        for _ in 0..BATCH {
            black_box(entries.read().expect("a sound entry"));
        }
    }
}
