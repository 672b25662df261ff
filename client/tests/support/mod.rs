//! A broker by hand: each test says frame by frame what it gets and what it answers.

#![allow(dead_code, reason = "every test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::{Bytes, BytesMut};
use posthouse_client::{Client, Connecting, Connector, Consumer, Message, Pipe, Publisher};
use posthouse_protocol::batch::{BatchBuilder, BatchView};
use posthouse_protocol::message::{
    Commit, Committed, CommittedPublish, Credit, Deliver, DeliverySlice, Done, Goodbye,
    ProducerOpened, Publish, Receipt, Refused, RefusedAt, Settle, Settled, Slice, Subscribed,
    TopicInfo, Welcome,
};
use posthouse_protocol::settings::{Durability, TopicSettings};
use posthouse_protocol::{
    Attempt, ConsumerId, CorrelationId, ErrorCode, MessageId, Name, Offset, PartitionId,
    ProducerEpoch, ProducerId, Reply, Request, Sequence, StartEpoch, SubscriptionId, Timestamp,
    TopicId, frame, limits,
};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

pub(crate) const TOPIC: TopicId = TopicId(3);
pub(crate) const PRODUCER: ProducerId = ProducerId(7);
pub(crate) const SUBSCRIPTION: SubscriptionId = SubscriptionId(5);

/// Where connections of the client arrive.
pub(crate) struct FakeBroker {
    accepted: mpsc::Receiver<DuplexStream>,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeConnector {
    connections: mpsc::Sender<DuplexStream>,
}

impl Connector for FakeConnector {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let (near, far) = tokio::io::duplex(4 << 20);
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            self.connections.send(far).await.map_err(refused)?;
            Ok(Box::new(near) as Box<dyn Pipe>)
        })
    }
}

pub(crate) fn fake_broker() -> (FakeBroker, FakeConnector) {
    let (connections, accepted) = mpsc::channel(8);
    (FakeBroker { accepted }, FakeConnector { connections })
}

/// A client and its welcomed connection.
pub(crate) async fn connected() -> (Client, FakeBroker, Peer) {
    let (mut broker, connector) = fake_broker();
    let connecting = Client::builder().connector(connector).name("test").connect();
    let (client, peer) = tokio::join!(connecting, broker.welcome());
    (client.unwrap(), broker, peer)
}

/// Also with a publisher.
pub(crate) async fn publishing() -> (Publisher, Client, FakeBroker, Peer) {
    let (client, broker, mut peer) = connected().await;
    let opening = async { client.publisher("orders").await.unwrap() };
    let (publisher, ()) = tokio::join!(opening, peer.open_publisher());
    (publisher, client, broker, peer)
}

/// Also with a consumer, its first credit already granted.
pub(crate) async fn consuming() -> (Consumer, Client, FakeBroker, Peer) {
    let (client, broker, mut peer) = connected().await;
    let opening = async { client.consumer("orders", "billing").await.unwrap() };
    let (consumer, credit) = tokio::join!(opening, async {
        peer.open_consumer().await;
        peer.credit().await
    });
    assert_eq!((credit.messages, credit.bytes, credit.taken), (256, 8 << 20, 0));
    (consumer, client, broker, peer)
}

impl FakeBroker {
    /// The next connection, still without a word.
    pub(crate) async fn accept(&mut self) -> Peer {
        let stream = self.accepted.recv().await.unwrap();
        Peer { stream, received: BytesMut::new(), skip_heartbeats: true }
    }

    /// The next connection, welcomed.
    pub(crate) async fn welcome(&mut self) -> Peer {
        self.welcome_to(limits::BATCH_BYTES_DEFAULT).await
    }

    /// The next connection, welcomed by a broker that takes batches of so many bytes.
    pub(crate) async fn welcome_to(&mut self, batch_bytes_max: u32) -> Peer {
        let mut peer = self.accept().await;
        let (correlation, hello, _) = peer.request().await;
        assert!(matches!(hello, Request::Hello(_)), "{hello:?}");
        let welcome = Welcome {
            version: 1,
            features: 0,
            broker: "fake".to_owned(),
            start_epoch: StartEpoch(1),
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            batch_bytes_max,
            addresses: Vec::new(),
        };
        peer.reply(correlation, welcome).await;
        peer
    }
}

/// One connection, seen from the broker.
pub(crate) struct Peer {
    stream: DuplexStream,
    received: BytesMut,
    pub(crate) skip_heartbeats: bool,
}

impl Peer {
    /// The next request; panics at the end of the connection.
    pub(crate) async fn request(&mut self) -> (CorrelationId, Request, Bytes) {
        self.try_request().await.expect("the client hung up")
    }

    /// The next request, or the end of the connection.
    pub(crate) async fn try_request(&mut self) -> Option<(CorrelationId, Request, Bytes)> {
        loop {
            let decoded = frame::decode(&mut self.received, limits::FRAME_BYTES_MAX).unwrap();
            if let Some(frame) = decoded {
                let request = Request::decode(frame.kind, &frame.head).unwrap();
                if self.skip_heartbeats && matches!(request, Request::Heartbeat(_)) {
                    continue;
                }
                return Some((frame.correlation, request, frame.tail));
            }
            if self.stream.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Nothing more comes while nothing else happens.
    pub(crate) async fn expect_silence(&mut self) {
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(10), self.request());
        if let Ok((_, request, _)) = quiet.await {
            panic!("not expected: {request:?}");
        }
    }

    pub(crate) async fn reply(&mut self, correlation: CorrelationId, reply: impl Into<Reply>) {
        self.reply_with(correlation, reply, &[]).await;
    }

    pub(crate) async fn reply_with(
        &mut self,
        correlation: CorrelationId,
        reply: impl Into<Reply>,
        tail: &[u8],
    ) {
        let reply = reply.into();
        let mut bytes = BytesMut::new();
        let head = |out: &mut BytesMut| reply.encode(out);
        frame::encode_head(&mut bytes, reply.kind(), correlation, tail.len(), head);
        bytes.extend_from_slice(tail);
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn refuse(&mut self, correlation: CorrelationId, code: ErrorCode) {
        self.refuse_for(correlation, code, 0).await;
    }

    pub(crate) async fn refuse_for(
        &mut self,
        correlation: CorrelationId,
        code: ErrorCode,
        millis: u32,
    ) {
        let refused = Refused {
            code: code.number(),
            retry_after_ms: millis,
            text: "as scripted".to_owned(),
            leader: String::new(),
            leader_epoch: 0,
            at: None,
        };
        self.reply(correlation, refused).await;
    }

    /// Refuses with the part that is at fault.
    pub(crate) async fn refuse_at(
        &mut self,
        correlation: CorrelationId,
        code: ErrorCode,
        at: RefusedAt,
    ) {
        let refused = Refused {
            code: code.number(),
            retry_after_ms: 0,
            text: "as scripted".to_owned(),
            leader: String::new(),
            leader_epoch: 0,
            at: Some(at),
        };
        self.reply(correlation, refused).await;
    }

    /// Closes the connection over something that the client did.
    pub(crate) async fn dismiss(&mut self, code: ErrorCode) {
        let text = "as scripted".to_owned();
        self.reply(CorrelationId(0), Goodbye { code: code.number(), text }).await;
        self.stream.shutdown().await.unwrap();
    }

    // Publishing.

    pub(crate) async fn describe_topic(&mut self, info: TopicInfo) {
        let (correlation, request, _) = self.request().await;
        assert!(matches!(request, Request::TopicDescribe(_)), "{request:?}");
        self.reply(correlation, info).await;
    }

    pub(crate) async fn open_publisher(&mut self) {
        self.describe_topic(topic_info()).await;
        self.open_producer(PRODUCER).await;
    }

    pub(crate) async fn open_producer(&mut self, producer: ProducerId) {
        let (correlation, request, _) = self.request().await;
        assert!(matches!(request, Request::ProducerOpen(_)), "{request:?}");
        self.opened_as(correlation, producer).await;
    }

    pub(crate) async fn opened(&mut self, correlation: CorrelationId) {
        self.opened_as(correlation, PRODUCER).await;
    }

    async fn opened_as(&mut self, correlation: CorrelationId, producer: ProducerId) {
        let opened = ProducerOpened { producer, epoch: ProducerEpoch(1), last: Sequence(0) };
        self.reply(correlation, opened).await;
    }

    /// The next request, which must be a publish, and the bodies in it.
    pub(crate) async fn publish(&mut self) -> (CorrelationId, Publish, Vec<String>) {
        let (correlation, request, tail) = self.request().await;
        let Request::Publish(publish) = request else {
            panic!("not a publish: {request:?}");
        };
        (correlation, publish, bodies(&tail))
    }

    /// The next publish, asserted by sequence, prev and bodies; returns its correlation.
    pub(crate) async fn expect_publish(
        &mut self,
        sequence: u64,
        prev: u64,
        expected: &[&str],
    ) -> CorrelationId {
        let (correlation, publish, bodies) = self.publish().await;
        assert_eq!((publish.sequence.0, publish.prev.0), (sequence, prev));
        assert_eq!(bodies, expected);
        correlation
    }

    pub(crate) async fn receipt(&mut self, correlation: CorrelationId, base: u64) {
        self.reply(correlation, receipt(base)).await;
    }

    // Committing.

    /// The next request, which must be a commit, and its batches.
    pub(crate) async fn commit(&mut self) -> (CorrelationId, Commit, Bytes) {
        let (correlation, request, tail) = self.request().await;
        let Request::Commit(commit) = request else {
            panic!("not a commit: {request:?}");
        };
        (correlation, commit, tail)
    }

    /// Carries a commit out; for each publish the first offset and how many messages.
    pub(crate) async fn committed(&mut self, correlation: CorrelationId, published: &[(u64, u32)]) {
        let published = published
            .iter()
            .map(|(base, count)| CommittedPublish { base: Some(Offset(*base)), count: *count });
        let (durability, duplicate) = (Durability::Synced, false);
        let published = published.collect();
        self.reply(correlation, Committed { published, durability, duplicate }).await;
    }

    // Consuming.

    pub(crate) async fn open_consumer(&mut self) -> ConsumerId {
        let (correlation, request, _) = self.request().await;
        let Request::Subscribe(subscribe) = request else {
            panic!("not a subscribe: {request:?}");
        };
        self.subscribed(correlation).await;
        subscribe.consumer
    }

    pub(crate) async fn subscribed(&mut self, correlation: CorrelationId) {
        let subscribed = Subscribed {
            subscription: SUBSCRIPTION,
            topic: TOPIC,
            lease_ms: 30_000,
            lease_ms_max: 600_000,
        };
        self.reply(correlation, subscribed).await;
    }

    pub(crate) async fn credit(&mut self) -> Credit {
        let (correlation, request, _) = self.request().await;
        let Request::Credit(credit) = request else {
            panic!("not credit: {request:?}");
        };
        assert_eq!(correlation, CorrelationId(0));
        credit
    }

    /// The next request that is not credit, which must be a settlement.
    pub(crate) async fn settle(&mut self) -> (CorrelationId, Settle) {
        loop {
            match self.request().await {
                (_, Request::Credit(_), _) => {}
                (correlation, Request::Settle(settle), _) => return (correlation, settle),
                (_, request, _) => panic!("not a settlement: {request:?}"),
            }
        }
    }

    pub(crate) async fn confirm(&mut self, correlation: CorrelationId) {
        self.reply(correlation, Settled { refused: Vec::new() }).await;
    }

    /// Hands out messages with consecutive offsets and fences.
    pub(crate) async fn deliver(&mut self, first: u64, bodies: &[&str]) {
        self.deliver_damaged(first, bodies, |_| {}).await;
    }

    /// Like `deliver`, with the bytes changed on the way.
    pub(crate) async fn deliver_damaged(
        &mut self,
        first: u64,
        bodies: &[&str],
        damage: impl FnOnce(&mut Vec<u8>),
    ) {
        let (slice, mut tail) = slice(first, bodies);
        let slice = DeliverySlice { slice, fence_counter: first + 100, attempt: Attempt(0) };
        let deliver = Deliver {
            consumer: ConsumerId(0),
            ack_floor: Offset(0),
            fence_epoch: StartEpoch(1),
            slices: vec![slice],
        };
        damage(&mut tail);
        self.reply_with(CorrelationId(0), deliver, &tail).await;
    }

    pub(crate) async fn done(&mut self, correlation: CorrelationId) {
        self.reply(correlation, Done {}).await;
    }
}

/// Index entries and bodies as they would lie in a delivery or a fetched part.
pub(crate) fn slice(first: u64, bodies: &[&str]) -> (Slice, Vec<u8>) {
    let mut builder = BatchBuilder::new();
    for (number, body) in (0..=u8::MAX).cycle().zip(bodies) {
        let message = posthouse_protocol::batch::Message {
            id: MessageId([number; 16]),
            created_at: Timestamp(1),
            key: Some(Bytes::from_static(b"k")),
            headers: vec![(Bytes::from_static(b"name"), Bytes::from_static(b"value"))],
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Default::default()
        };
        builder.push(&message).unwrap();
    }
    let batch = builder.finish(Timestamp(1));
    let view = BatchView::parse(&batch).unwrap();
    let slice = Slice {
        first: Offset(first),
        count: view.count(),
        index_len: u32::try_from(view.index().len()).unwrap(),
        bodies_len: u32::try_from(view.bodies().len()).unwrap(),
    };
    (slice, [view.index(), view.bodies()].concat())
}

pub(crate) fn bodies(batch: &[u8]) -> Vec<String> {
    let view = BatchView::parse(batch).unwrap();
    view.verify_bodies().unwrap();
    view.messages().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

pub(crate) fn receipt(base: u64) -> Receipt {
    let durability = Durability::Synced;
    Receipt { base: Some(Offset(base)), count: 1, durability, duplicate: false }
}

pub(crate) fn topic_info() -> TopicInfo {
    TopicInfo {
        id: TOPIC,
        topic: Name::new("orders").unwrap(),
        partition: PartitionId(1),
        settings: TopicSettings::default(),
        start: Offset(0),
        end: Offset(0),
        messages: 0,
        bytes: 0,
        oldest_at: Timestamp::ZERO,
        subscriptions: 0,
        waiting: 0,
        next_due_at: Timestamp::ZERO,
    }
}

pub(crate) fn message(body: &str) -> Message {
    Message::new(body.to_owned())
}
