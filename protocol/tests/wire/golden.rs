//! Golden files: every message kind and every feature of a batch, value to bytes and back.
//!
//! `POSTHOUSE_REWRITE_GOLDEN=1` writes the files anew and then fails. The bytes are the protocol:
//! a change of them is a change of `VERSION` and of `docs/WIRE_PROTOCOL.md`.

use crate::{corpus, schema};
use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message, MessageRef, Priority, peek_len};
use posthouse_protocol::frame::{self, FRAME_HEADER_LEN, Frame};
use posthouse_protocol::message::*;
use posthouse_protocol::settings::*;
use posthouse_protocol::*;
use std::collections::BTreeSet;
use std::fmt::Write;

#[test]
fn golden_files_hold_the_bytes_of_their_values() {
    let samples = samples();
    if std::env::var_os("POSTHOUSE_REWRITE_GOLDEN").is_some() {
        rewrite(&samples);
        panic!("golden files are written anew: look at the difference and run again without");
    }
    let files = corpus::load();
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let wanted: BTreeSet<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(names, wanted, "one file for each sample and no other");
    for sample in &samples {
        let (_, bytes) = files.iter().find(|(name, _)| *name == sample.name).expect("checked");
        assert_eq!(*bytes, sample.bytes(), "{}: the encoding changed", sample.name);
        sample.decodes_from(bytes);
    }
}

#[test]
fn every_kind_has_a_golden_file() {
    let samples = samples();
    for (kind, name) in Request::KINDS.iter().chain(Reply::KINDS) {
        let found = samples.iter().any(|sample| sample.kind() == Some(*kind));
        assert!(found, "kind {kind} ({name}) has none");
    }
}

#[test]
fn kinds_are_unique_and_tell_the_direction() {
    let kinds: Vec<u16> = Request::KINDS.iter().chain(Reply::KINDS).map(|kind| kind.0).collect();
    let unique: BTreeSet<u16> = kinds.iter().copied().collect();

    assert_eq!(unique.len(), kinds.len());
    assert!(Request::KINDS.iter().all(|(kind, _)| *kind < 128));
    assert!(Reply::KINDS.iter().all(|(kind, _)| *kind > 128));
}

#[test]
fn error_codes_are_unique_and_come_back_from_their_numbers() {
    let numbers: BTreeSet<u16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    let names: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();

    assert_eq!((numbers.len(), names.len()), (ErrorCode::ALL.len(), ErrorCode::ALL.len()));
    for number in 0..=u16::MAX {
        let code = ErrorCode::from_number(number);
        assert_eq!(code.map(ErrorCode::number), numbers.contains(&number).then_some(number));
    }
    let vague = |code: &&ErrorCode| code.outcome() == Outcome::Unknown;
    assert!(ErrorCode::ALL.iter().filter(vague).all(|code| !code.covers_earlier_tries()));
}

struct Sample {
    name: String,
    value: Value,
}

enum Value {
    Request(Request, Bytes),
    Reply(Reply, Bytes),
    Batch(Vec<Message>, Timestamp),
}

const CORRELATION: CorrelationId = CorrelationId(0x0403_0201);

impl Sample {
    fn kind(&self) -> Option<u16> {
        match &self.value {
            Value::Request(request, _) => Some(request.kind()),
            Value::Reply(reply, _) => Some(reply.kind()),
            Value::Batch(..) => None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        match &self.value {
            Value::Request(request, tail) => {
                let kind = request.kind();
                frame::encode_head(&mut out, kind, CORRELATION, tail.len(), |out| {
                    request.encode(out);
                });
                out.extend_from_slice(tail);
            }
            Value::Reply(reply, tail) => {
                let kind = reply.kind();
                frame::encode_head(&mut out, kind, CORRELATION, tail.len(), |out| {
                    reply.encode(out);
                });
                out.extend_from_slice(tail);
            }
            Value::Batch(messages, at) => return batch(messages, *at).to_vec(),
        }
        out.to_vec()
    }

    fn decodes_from(&self, bytes: &[u8]) {
        let name = &self.name;
        match &self.value {
            Value::Request(request, tail) => {
                let frame = frame(bytes);
                assert_eq!(Request::decode_frame(&frame).as_ref(), Ok(request), "{name}");
                assert_eq!((frame.correlation, &frame.tail), (CORRELATION, tail), "{name}");
            }
            Value::Reply(reply, tail) => {
                let frame = frame(bytes);
                assert_eq!(Reply::decode_frame(&frame).as_ref(), Ok(reply), "{name}");
                assert_eq!((frame.correlation, &frame.tail), (CORRELATION, tail), "{name}");
                if let Reply::Deliver(deliver) = reply {
                    let parts = deliver.parts(tail).expect("the tail is sound");
                    let seen = parts.iter().flat_map(|part| part.messages()).map(|at| own(&at));
                    assert_eq!(seen.collect::<Vec<_>>(), everything(), "{name}");
                }
                if let Reply::Fetched(fetched) = reply {
                    let parts = fetched.parts(tail).map(|parts| parts.len());
                    assert_eq!(parts, Ok(fetched.slices.len()), "{name}");
                }
            }
            Value::Batch(messages, at) => {
                let view = BatchView::parse(bytes).expect("the batch is sound");
                assert_eq!(view.verify_bodies(), Ok(()), "{name}");
                let seen: Vec<Message> = view.messages().map(|message| own(&message)).collect();
                assert_eq!((seen, view.created_at()), (messages.clone(), *at), "{name}");
            }
        }
    }
}

pub(crate) fn frame(bytes: &[u8]) -> Frame {
    frame::decode_whole(Bytes::copy_from_slice(bytes)).expect("the frame is sound")
}

pub(crate) fn own(message: &MessageRef<'_>) -> Message {
    let copy = |(name, value): (&[u8], &[u8])| {
        (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))
    };
    let headers = message.entry.headers().expect("checked");
    Message {
        id: message.entry.id,
        created_at: message.entry.created_at,
        key: message.entry.key.map(Bytes::copy_from_slice),
        headers: headers.map(|header| copy(header.expect("checked"))).collect(),
        priority: message.entry.priority,
        due_at: message.entry.due_at,
        expires_at: message.entry.expires_at,
        body: Bytes::copy_from_slice(message.body),
    }
}

fn batch(messages: &[Message], at: Timestamp) -> Bytes {
    let mut builder = BatchBuilder::new();
    messages.iter().for_each(|message| builder.push(message).expect("within the limits"));
    builder.finish(at)
}

fn plain(id: u8, body: &'static str) -> Message {
    let body = Bytes::from_static(body.as_bytes());
    Message { id: MessageId([id; 16]), created_at: Timestamp(1000), body, ..Message::default() }
}

/// One message with every feature, one with none, and the edges between.
fn everything() -> Vec<Message> {
    let text = Bytes::from_static;
    vec![
        Message {
            id: MessageId(*b"0123456789abcdef"),
            created_at: Timestamp(0x1122_3344_5566_7788),
            key: Some(text(b"customer-7")),
            headers: vec![
                (text(b"trace"), text(b"abc")),
                (text(b"trace"), text(b"")),
                (text(b""), text(&[0, 0xff])),
            ],
            priority: Priority::MAX,
            due_at: Timestamp(2000),
            expires_at: Timestamp(3000),
            body: text(b"hello"),
        },
        plain(2, ""),
        Message { key: Some(Bytes::new()), priority: Priority(0), ..plain(3, "empty key") },
        Message { due_at: Timestamp(u64::MAX), ..plain(4, "due") },
        Message { expires_at: Timestamp(1), ..plain(5, "expires") },
    ]
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn topic_settings() -> TopicSettings {
    TopicSettings {
        durability: Durability::Written,
        retention: Retention::Limits,
        overflow: Overflow::DropOldest,
        age_ms_max: 0x0102_0304_0506_0708,
        bytes_max: 0x1112_1314_1516_1718,
        messages_max: 0x2122_2324_2526_2728,
        message_bytes_max: 0x3132_3334,
    }
}

fn subscription_settings() -> SubscriptionSettings {
    SubscriptionSettings {
        mode: Mode::Stream,
        order: Order::Key,
        lease_ms: 30_000,
        lease_ms_max: 600_000,
        attempts_max: 10,
        backoff_ms_first: 1000,
        backoff_ms_max: 300_000,
        dead_letter: true,
    }
}

fn runs() -> Vec<DeliveryRun> {
    let fence = |counter| Fence { epoch: StartEpoch(7), counter };
    vec![
        DeliveryRun { first: Offset(100), fence: fence(9001), count: 3 },
        DeliveryRun { first: Offset(200), fence: fence(9100), count: 1 },
    ]
}

fn samples() -> Vec<Sample> {
    let mut samples = requests();
    samples.extend(replies());
    let batches =
        [("batch-one-empty-message", vec![plain(1, "")]), ("batch-every-feature", everything())];
    samples.extend(batches.map(|(name, messages)| Sample {
        name: name.to_owned(),
        value: Value::Batch(messages, Timestamp(0x0000_0198_7654_3210)),
    }));
    samples
}

fn request(name: &str, request: impl Into<Request>, tail: Bytes) -> Sample {
    Sample { name: format!("request-{name}"), value: Value::Request(request.into(), tail) }
}

#[expect(clippy::too_many_lines, reason = "a list, one entry a message")]
fn requests() -> Vec<Sample> {
    let topic = || name("orders");
    let subscription = || name("billing");
    let settings = topic_settings;
    let list = vec![
        request(
            "hello",
            Hello {
                magic: HELLO_MAGIC,
                version_min: 1,
                version_max: VERSION,
                features: 0,
                client: "golden 1.0".to_owned(),
                credentials: vec![],
            },
            Bytes::new(),
        ),
        request("heartbeat", Heartbeat {}, Bytes::new()),
        request("topic-create", TopicCreate { topic: topic(), settings: settings() }, Bytes::new()),
        request("topic-alter", TopicAlter { topic: topic(), settings: settings() }, Bytes::new()),
        request("topic-purge", TopicPurge { topic: topic() }, Bytes::new()),
        request("topic-delete", TopicDelete { topic: topic() }, Bytes::new()),
        request("topic-describe", TopicDescribe { topic: topic() }, Bytes::new()),
        request("topic-list", TopicList { after: None, limit: 100 }, Bytes::new()),
        request("topic-list-after", TopicList { after: Some(topic()), limit: 7 }, Bytes::new()),
        request(
            "subscription-create",
            SubscriptionCreate {
                topic: topic(),
                subscription: subscription(),
                settings: subscription_settings(),
                start: Position::Offset(Offset(77)),
            },
            Bytes::new(),
        ),
        request(
            "subscription-delete",
            SubscriptionDelete { topic: topic(), subscription: subscription() },
            Bytes::new(),
        ),
        request(
            "subscription-describe",
            SubscriptionDescribe { topic: topic(), subscription: subscription() },
            Bytes::new(),
        ),
        request(
            "subscription-list",
            SubscriptionList { topic: topic(), after: Some(subscription()), limit: 8 },
            Bytes::new(),
        ),
        request(
            "dead-redrive",
            DeadRedrive { topic: topic(), subscription: subscription(), limit: 9 },
            Bytes::new(),
        ),
        request("producer-open", open(Some("shop-1"), None), Bytes::new()),
        request("producer-open-epoch", open(Some("shop-1"), Some(9)), Bytes::new()),
        request("producer-open-unnamed", open(None, None), Bytes::new()),
        request("producer-describe", ProducerDescribe { name: name("shop-1") }, Bytes::new()),
        request("producer-list", ProducerList { after: None, limit: 100 }, Bytes::new()),
        request(
            "producer-list-after",
            ProducerList { after: Some(name("shop-1")), limit: 7 },
            Bytes::new(),
        ),
        request("producer-retire", ProducerRetire { name: name("shop-1") }, Bytes::new()),
        commit(),
        request(
            "publish",
            Publish {
                topic: TopicId(3),
                producer: ProducerId(0x0102_0304_0506_0708),
                epoch: ProducerEpoch(2),
                sequence: Sequence(42),
                prev: Sequence(41),
            },
            batch(&[plain(1, "hello")], Timestamp(1001)),
        ),
        request(
            "subscribe",
            Subscribe { consumer: ConsumerId(5), topic: topic(), subscription: subscription() },
            Bytes::new(),
        ),
        request(
            "credit",
            Credit { consumer: ConsumerId(5), messages: 256, bytes: 8 << 20, taken: 17 },
            Bytes::new(),
        ),
        request("unsubscribe", Unsubscribe { consumer: ConsumerId(5) }, Bytes::new()),
        request(
            "settle-ack",
            Settle {
                subscription: SubscriptionId(4),
                verdict: Verdict::Ack,
                delay_ms: 0,
                reason: String::new(),
                deliveries: runs(),
            },
            Bytes::new(),
        ),
        request(
            "settle-nack",
            Settle {
                subscription: SubscriptionId(4),
                verdict: Verdict::Nack,
                delay_ms: BACKOFF,
                reason: "no answer from the bank".to_owned(),
                deliveries: runs(),
            },
            Bytes::new(),
        ),
        request(
            "extend",
            Extend { subscription: SubscriptionId(4), lease_ms: 30_000, deliveries: runs() },
            Bytes::new(),
        ),
        request("fetch", fetch(Position::Time(Timestamp(1234))), Bytes::new()),
        request("fetch-earliest", fetch(Position::Earliest), Bytes::new()),
        request("fetch-latest", fetch(Position::Latest), Bytes::new()),
        request(
            "cursor-save",
            CursorSave { subscription: SubscriptionId(4), offset: Offset(1000) },
            Bytes::new(),
        ),
    ];
    list
}

fn open(producer: Option<&str>, epoch: Option<u32>) -> ProducerOpen {
    ProducerOpen { name: producer.map(name), epoch: epoch.map(ProducerEpoch) }
}

/// A commit with every kind of operation and two batches.
fn commit() -> Sample {
    let batches = [
        batch(&[plain(1, "hello"), plain(2, "world")], Timestamp(1001)),
        batch(&[plain(3, "")], Timestamp(1002)),
    ];
    let publish = |topic: &str, batch: &Bytes| {
        Operation::Publish(CommitPublish { topic: name(topic), bytes: batch.len() as u32 })
    };
    let settle = |verdict, reason: &str| {
        Operation::Settle(Settle {
            subscription: SubscriptionId(4),
            verdict,
            delay_ms: BACKOFF,
            reason: reason.to_owned(),
            deliveries: runs(),
        })
    };
    let save = CursorSave { subscription: SubscriptionId(6), offset: Offset(1000) };
    let commit = Commit {
        producer: ProducerId(0x0102_0304_0506_0708),
        epoch: ProducerEpoch(2),
        sequence: Sequence(43),
        prev: Sequence(42),
        operations: vec![
            publish("invoices", &batches[0]),
            settle(Verdict::Ack, ""),
            settle(Verdict::Reject, "no such customer"),
            publish("audit", &batches[1]),
            Operation::CursorSave(save),
        ],
    };
    request("commit", commit, Bytes::from(batches.concat()))
}

fn fetch(from: Position) -> Fetch {
    Fetch { topic: TopicId(3), from, bytes_max: 1 << 20, messages_max: 500, wait_ms: 1000 }
}

fn reply(name: &str, reply: impl Into<Reply>, tail: Bytes) -> Sample {
    Sample { name: format!("reply-{name}"), value: Value::Reply(reply.into(), tail) }
}

#[expect(clippy::too_many_lines, reason = "a list, one entry a message")]
fn replies() -> Vec<Sample> {
    let whole = batch(&everything(), Timestamp(1));
    let view = BatchView::parse(&whole).expect("sound");
    let tail = Bytes::from([view.index(), view.bodies()].concat());
    let slice = Slice {
        first: Offset(100),
        count: view.count(),
        index_len: view.index().len() as u32,
        bodies_len: view.bodies().len() as u32,
    };
    let refused = |code: ErrorCode, text: &str, leader: &str| Refused {
        code: code.number(),
        retry_after_ms: 250,
        text: text.to_owned(),
        leader: leader.to_owned(),
        leader_epoch: 0,
        at: None,
    };
    let refused_at = |operation, message| Refused {
        at: Some(RefusedAt { operation, message }),
        ..refused(ErrorCode::NotFound, "no topic \"audit\"", "")
    };
    vec![
        reply(
            "welcome",
            Welcome {
                version: VERSION,
                features: 0,
                broker: "posthouse 0.1.0".to_owned(),
                start_epoch: StartEpoch(7),
                message_bytes_max: 1 << 20,
                batch_bytes_max: 7 << 20,
                addresses: vec!["127.0.0.1:7440".to_owned()],
            },
            Bytes::new(),
        ),
        reply("heartbeat", Heartbeat {}, Bytes::new()),
        reply("refused", refused(ErrorCode::StorageFull, "no room", ""), Bytes::new()),
        reply(
            "refused-not-leader",
            refused(ErrorCode::NotLeader, "", "10.0.0.2:7440"),
            Bytes::new(),
        ),
        reply("refused-operation", refused_at(3, RefusedAt::NO_MESSAGE), Bytes::new()),
        reply("refused-message", refused_at(0, 2), Bytes::new()),
        reply("done", Done {}, Bytes::new()),
        reply(
            "goodbye",
            Goodbye { code: ErrorCode::ShuttingDown.number(), text: "stopping".to_owned() },
            Bytes::new(),
        ),
        reply(
            "topic-info",
            TopicInfo {
                id: TopicId(3),
                topic: name("orders"),
                partition: PartitionId(11),
                settings: topic_settings(),
                start: Offset(100),
                end: Offset(1 << 40),
                messages: 12,
                bytes: 13,
                oldest_at: Timestamp(14),
                subscriptions: 15,
                waiting: 16,
                next_due_at: Timestamp(17),
            },
            Bytes::new(),
        ),
        reply(
            "topic-names",
            TopicNames { topics: vec![name("orders"), name("orders.billing.dead")] },
            Bytes::new(),
        ),
        reply(
            "subscription-info",
            SubscriptionInfo {
                id: SubscriptionId(4),
                topic: TopicId(3),
                subscription: name("billing"),
                settings: subscription_settings(),
                ack_floor: Offset(21),
                backlog: 22,
                in_flight: 23,
                delayed: 24,
                dead: 25,
                consumers: 26,
                oldest_at: Timestamp(27),
            },
            Bytes::new(),
        ),
        reply(
            "subscription-names",
            SubscriptionNames { subscriptions: vec![name("billing")] },
            Bytes::new(),
        ),
        reply("redriven", Redriven { count: 31 }, Bytes::new()),
        reply(
            "producer-opened",
            ProducerOpened {
                producer: ProducerId(0x0102_0304_0506_0708),
                epoch: ProducerEpoch(2),
                last: Sequence(41),
            },
            Bytes::new(),
        ),
        reply("receipt", receipt(Some(Offset(100)), false), Bytes::new()),
        reply("receipt-of-an-old-repeat", receipt(None, true), Bytes::new()),
        reply("committed", committed(Some(Offset(100)), false), Bytes::new()),
        reply("committed-old-repeat", committed(None, true), Bytes::new()),
        reply("producer-info", producer_info("shop-1"), Bytes::new()),
        reply(
            "producer-infos",
            ProducerInfos { producers: vec![producer_info("shop-1"), producer_info("shop-2")] },
            Bytes::new(),
        ),
        reply(
            "subscribed",
            Subscribed {
                subscription: SubscriptionId(4),
                topic: TopicId(3),
                lease_ms: 30_000,
                lease_ms_max: 600_000,
            },
            Bytes::new(),
        ),
        reply(
            "deliver",
            Deliver {
                consumer: ConsumerId(5),
                ack_floor: Offset(99),
                fence_epoch: StartEpoch(7),
                slices: vec![DeliverySlice {
                    slice: slice.clone(),
                    fence_counter: 9001,
                    attempt: Attempt(2),
                }],
            },
            tail.clone(),
        ),
        reply(
            "consumer-ended",
            ConsumerEnded {
                consumer: ConsumerId(5),
                code: ErrorCode::NotFound.number(),
                text: "the subscription was deleted".to_owned(),
            },
            Bytes::new(),
        ),
        reply("settled", Settled { refused: vec![] }, Bytes::new()),
        reply(
            "settled-but-for-one",
            Settled {
                refused: vec![RefusedRun {
                    first: Offset(101),
                    count: 1,
                    code: ErrorCode::StaleFence.number(),
                }],
            },
            Bytes::new(),
        ),
        reply(
            "fetched",
            Fetched {
                next: Offset(105),
                end: Offset(1000),
                damaged_from: None,
                slices: vec![slice],
            },
            tail,
        ),
        reply(
            "fetched-nothing-but-damage",
            Fetched {
                next: Offset(105),
                end: Offset(1000),
                damaged_from: Some(Offset(100)),
                slices: Vec::new(),
            },
            Bytes::new(),
        ),
    ]
}

fn receipt(base: Option<Offset>, duplicate: bool) -> Receipt {
    Receipt { base, count: 1, durability: Durability::Synced, duplicate }
}

fn committed(base: Option<Offset>, duplicate: bool) -> Committed {
    let published = vec![CommittedPublish { base, count: 2 }, CommittedPublish { base, count: 1 }];
    Committed { published, durability: Durability::Synced, duplicate }
}

fn producer_info(producer: &str) -> ProducerInfo {
    ProducerInfo {
        producer: ProducerId(0x0102_0304_0506_0708),
        name: Some(name(producer)),
        epoch: ProducerEpoch(2),
        last: Sequence(41),
        last_at: Timestamp(0x0000_0198_7654_3210),
    }
}

fn rewrite(samples: &[Sample]) {
    let directory = corpus::directory();
    std::fs::remove_dir_all(&directory).expect("the old files can go");
    std::fs::create_dir(&directory).expect("the directory can be made");
    let schema = schema::read();
    for sample in samples {
        let bytes = sample.bytes();
        let mut parts = Vec::new();
        if let Some(kind) = sample.kind() {
            let known = Request::KINDS.iter().chain(Reply::KINDS).find(|known| known.0 == kind);
            let name = known.expect("samples are of known kinds").1;
            let tail = frame(&bytes).tail.len();
            let (head, tail) = bytes.split_at(bytes.len() - tail);
            let fields = [4, 4, 4, 2, 2, 4].into_iter();
            let labels = ["length", "crc", "head_len", "kind", "flags", "correlation"];
            let labels = labels.map(|label| format!("frame.{label}"));
            let labels =
                labels.map(|at| if at == "frame.kind" { format!("{at}: {name}") } else { at });
            parts.extend(split(&head[..FRAME_HEADER_LEN], fields.zip(labels)));
            parts.extend(schema.annotate(name, &head[FRAME_HEADER_LEN..]));
            if matches!(sample.value, Value::Request(..)) && !tail.is_empty() {
                let mut rest = tail;
                while !rest.is_empty() {
                    let len = peek_len(rest).expect("samples are sound");
                    let (one, after) = rest.split_at(len as usize);
                    parts.extend(batch_parts(one));
                    rest = after;
                }
            } else if !tail.is_empty() {
                parts.push((tail.to_vec(), "tail: index entries, then bodies".to_owned()));
            }
        } else {
            parts.extend(batch_parts(&bytes));
        }
        let mut text = String::new();
        parts.iter().for_each(|(bytes, label)| lines(&mut text, bytes, label));
        let path = directory.join(format!("{}.hex", sample.name));
        std::fs::write(path, text).expect("the file can be written");
    }
}

fn lines(text: &mut String, bytes: &[u8], label: &str) {
    for (place, chunk) in bytes.chunks(16).enumerate() {
        let hex: String = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let label = if place == 0 { format!(" # {label}") } else { String::new() };
        writeln!(text, "{}", format!("{hex:<32}{label}").trim_end()).expect("memory suffices");
    }
}

fn split(bytes: &[u8], fields: impl Iterator<Item = (usize, String)>) -> Vec<(Vec<u8>, String)> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    for (len, label) in fields {
        let (taken, after) = rest.split_at(len);
        parts.push((taken.to_vec(), label));
        rest = after;
    }
    assert!(rest.is_empty(), "every byte has a name");
    parts
}

fn batch_parts(bytes: &[u8]) -> Vec<(Vec<u8>, String)> {
    let view = BatchView::parse(bytes).expect("samples are sound");
    let header = [
        (4, "magic"),
        (1, "version"),
        (1, "body_format"),
        (2, "flags"),
        (4, "batch_len"),
        (4, "count"),
        (4, "index_len"),
        (4, "header_crc"),
        (8, "created_at"),
        (32, "reserved"),
    ];
    let label = |(len, field): (usize, &str)| (len, format!("batch.{field}"));
    let mut parts = split(&bytes[..64], header.into_iter().map(label));
    for (place, entry) in view.entries().enumerate() {
        let fields = [
            (4, "body_len"),
            (4, "crc"),
            (16, "id"),
            (8, "created_at"),
            (1, "flags"),
            (1, "priority"),
            (2, "key_len"),
            (4, "headers_len"),
        ];
        let at = |name: &str| format!("entry[{place}].{name}");
        let (fixed, rest) = entry.bytes().split_at(40);
        parts.extend(split(fixed, fields.into_iter().map(|(len, name)| (len, at(name)))));
        let times = [(fixed[32] & 2 != 0, "due_at"), (fixed[32] & 4 != 0, "expires_at")];
        let mut fields = Vec::new();
        fields.extend(times.into_iter().filter(|time| time.0).map(|time| (8, at(time.1))));
        fields.extend(entry.key.filter(|key| !key.is_empty()).map(|key| (key.len(), at("key"))));
        let used: usize = fields.iter().map(|field| field.0).sum();
        if rest.len() > used {
            fields.push((rest.len() - used, at("headers")));
        }
        parts.extend(split(rest, fields.into_iter()));
    }
    for (place, message) in view.messages().enumerate() {
        if !message.body.is_empty() {
            parts.push((message.body.to_vec(), format!("body[{place}]")));
        }
    }
    parts
}
