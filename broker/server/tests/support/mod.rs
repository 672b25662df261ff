//! A client that speaks bare frames, so that tests can say exactly what stands on the wire.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

use bytes::{Bytes, BytesMut};
use posthouse_broker::{Broker, Config};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{HELLO_MAGIC, Hello, VERSION};
use posthouse_protocol::{CorrelationId, MessageId, Name, Reply, Request, Timestamp, limits};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for anything that is going to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    received: BytesMut,
    next: u32,
}

/// A broker in a temporary directory on a free port of the loopback.
pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Broker {
    let mut config = Config::temporary().unwrap();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    change(&mut config);
    Broker::start(config).await.unwrap()
}

impl Wire {
    /// Connects without a hello.
    pub(crate) async fn bare(broker: &Broker) -> Self {
        let stream = TcpStream::connect(&broker.addresses()[0]).await.unwrap();
        Self { stream, received: BytesMut::new(), next: 1 }
    }

    /// Connects and says hello.
    pub(crate) async fn hello(broker: &Broker) -> Self {
        let mut wire = Self::bare(broker).await;
        let reply = wire.ask(hello(), &[]).await;
        assert!(matches!(reply, Reply::Welcome(_)), "{reply:?}");
        wire
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends as much of these bytes as the other end takes within a moment.
    pub(crate) async fn send_what_fits(&mut self, bytes: &[u8]) {
        let sent = timeout(Duration::from_millis(100), self.stream.write_all(bytes)).await;
        assert!(!matches!(sent, Ok(Err(_))), "the broker keeps the connection");
    }

    /// Sends a request; its correlation.
    pub(crate) async fn send(&mut self, request: impl Into<Request>, tail: &[u8]) -> CorrelationId {
        let correlation = CorrelationId(self.next);
        self.next += 1;
        self.send_bytes(&encode(&request.into(), correlation, tail)).await;
        correlation
    }

    /// Sends a request and waits for its reply; pushes that come before it are dropped.
    pub(crate) async fn ask(&mut self, request: impl Into<Request>, tail: &[u8]) -> Reply {
        let correlation = self.send(request, tail).await;
        loop {
            let (found, reply, _) = self.receive().await.expect("a reply");
            if found == correlation {
                return reply;
            }
        }
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<(CorrelationId, Reply, Bytes)> {
        let frame: Frame = loop {
            if let Some(frame) = frame::decode(&mut self.received, limits::FRAME_BYTES_MAX).unwrap()
            {
                break frame;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await;
            if read.expect("the broker says something in time").unwrap_or(0) == 0 {
                return None;
            }
        };
        let reply = Reply::decode(frame.kind, &frame.head).unwrap();
        Some((frame.correlation, reply, frame.tail))
    }

    /// Waits for the end of the stream; the replies before it.
    pub(crate) async fn drain(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some((_, reply, _)) = self.receive().await {
            replies.push(reply);
        }
        replies
    }
}

/// A whole frame.
pub(crate) fn encode(request: &Request, correlation: CorrelationId, tail: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode_head(&mut out, request.kind(), correlation, tail.len(), |out| {
        request.encode(out);
    });
    out.extend_from_slice(tail);
    out.to_vec()
}

/// A hello as it should be.
pub(crate) fn hello() -> Hello {
    Hello {
        magic: HELLO_MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "test".to_owned(),
        credentials: Vec::new(),
    }
}

/// A batch of these bodies.
pub(crate) fn batch(bodies: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (number, body) in (1_u128..).zip(bodies) {
        let id = MessageId(number.to_be_bytes());
        let body = Bytes::copy_from_slice(body);
        builder.push(&Message { id, body, ..Message::default() }).unwrap();
    }
    builder.finish(Timestamp(1))
}

/// A name.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
