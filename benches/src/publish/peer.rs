//! A publisher that costs little: bare frames around one batch that is encoded once.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{
    HELLO_MAGIC, Hello, ProducerOpen, ProducerOpened, Publish, TopicCreate, VERSION,
};
use posthouse_protocol::settings::{Durability, TopicSettings};
use posthouse_protocol::{CorrelationId, Name, Reply, Request, Sequence, TopicId, limits};

const READ: usize = 64 << 10;

/// One connection with one producer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    received: BytesMut,
    /// Where each read puts its bytes; cleared once, not before every read.
    scratch: Box<[u8]>,
    outbound: BytesMut,
    batch: Bytes,
    topic: TopicId,
    producer: ProducerOpened,
    sequence: u64,
    /// When each publish in flight was sent, oldest first.
    pub(crate) sent_at: VecDeque<Instant>,
}

impl Peer {
    /// Connects, says hello, makes the topic and opens a producer.
    pub(crate) fn connect(
        to: SocketAddr,
        topic: &str,
        durability: Durability,
        batch: Bytes,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let unopened = ProducerOpened {
            producer: posthouse_protocol::ProducerId(0),
            epoch: posthouse_protocol::ProducerEpoch(0),
            last: Sequence(0),
        };
        let mut peer = Self {
            stream,
            received: BytesMut::with_capacity(READ),
            scratch: vec![0; READ].into_boxed_slice(),
            outbound: BytesMut::new(),
            batch,
            topic: TopicId(0),
            producer: unopened,
            sequence: 0,
            sent_at: VecDeque::new(),
        };
        peer.ask(&hello().into())?;
        let topic = Name::new(topic).map_err(io::Error::other)?;
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        if let Reply::TopicInfo(info) = peer.ask(&TopicCreate { topic, settings }.into())? {
            peer.topic = info.id;
        }
        if let Reply::ProducerOpened(opened) =
            peer.ask(&ProducerOpen { name: None, epoch: None }.into())?
        {
            peer.producer = opened;
        }
        peer.stream.set_nonblocking(true)?;
        Ok(peer)
    }

    fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let correlation = CorrelationId(1);
        frame::encode_head(&mut self.outbound, request.kind(), correlation, 0, |out| {
            request.encode(out);
        });
        self.stream.write_all(&self.outbound.split())?;
        loop {
            if let Some(frame) = self.next_frame()? {
                return reply(&frame);
            }
            self.fill()?;
        }
    }

    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        frame::decode(&mut self.received, limits::FRAME_BYTES_MAX).map_err(io::Error::other)
    }

    /// Reads once; `true` if there may be more to read.
    fn fill(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.scratch) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.received.extend_from_slice(self.scratch.get(..count).unwrap_or_default());
                Ok(count == self.scratch.len())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes every receipt that has come; each is passed on with the moment it was sent.
    ///
    /// A read that does not fill its buffer has emptied the socket, so that a watcher of edges needs
    /// no second read to be told so.
    pub(crate) fn receive(&mut self, mut received: impl FnMut(Instant)) -> io::Result<usize> {
        let mut count = 0;
        loop {
            let more = self.fill()?;
            while let Some(frame) = self.next_frame()? {
                let reply = reply(&frame)?;
                let Reply::Receipt(receipt) = &reply else {
                    return Err(io::Error::other(format!("instead of a receipt: {reply:?}")));
                };
                assert!(!receipt.duplicate, "every publish is new");
                count += 1;
                if let Some(sent_at) = self.sent_at.pop_front() {
                    received(sent_at);
                }
            }
            if !more {
                return Ok(count);
            }
        }
    }

    /// Sends `count` more publishes.
    pub(crate) fn send(&mut self, count: usize, now: Instant) -> io::Result<()> {
        for _ in 0..count {
            let prev = Sequence(self.sequence);
            self.sequence += 1;
            let publish = Request::from(Publish {
                topic: self.topic,
                producer: self.producer.producer,
                epoch: self.producer.epoch,
                sequence: Sequence(self.sequence),
                prev,
            });
            let correlation = CorrelationId(u32::try_from(self.sequence).unwrap_or(u32::MAX));
            let (out, tail) = (&mut self.outbound, self.batch.len());
            frame::encode_head(out, publish.kind(), correlation, tail, |out| publish.encode(out));
            self.outbound.extend_from_slice(&self.batch);
            self.sent_at.push_back(now);
        }
        self.flush()
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.outbound.is_empty() {
            match self.stream.write(&self.outbound) {
                Ok(sent) => drop(self.outbound.split_to(sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn reply(frame: &Frame) -> io::Result<Reply> {
    Reply::decode(frame.kind, &frame.head).map_err(io::Error::other)
}

fn hello() -> Hello {
    Hello {
        magic: HELLO_MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "bench".to_owned(),
        credentials: Vec::new(),
    }
}
