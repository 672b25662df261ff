//! `RabbitMQ` quorum queues: AMQP 0-9-1 with confirms.

use std::io;
use std::net::SocketAddr;

use super::Duty;
use super::bytes::{Reader, push_len, push_short, unexpected};
use super::link::{Link, Seen, Speaker, Wire};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;
const FRAME_MAX: usize = 131_072;
const PREFETCH: u16 = 1000;

const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const QUEUE: u16 = 50;
const BASIC: u16 = 60;
const CONFIRM: u16 = 85;

struct Amqp {
    queue: String,
    /// Tag of the oldest publish without a confirm.
    unconfirmed: u64,
    /// Tags after it that are confirmed already.
    early: std::collections::BTreeSet<u64>,
    /// The delivery that is coming: its tag, and body bytes still to come.
    delivery: Option<(u64, u64)>,
    body: Vec<u8>,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = open(to)?;
    match duty {
        Duty::Publish { .. } => {
            call(&mut wire, 1, (CONFIRM, 10), &[0], (CONFIRM, 11))?;
        }
        Duty::Consume(_) => {
            let mut qos = vec![0, 0, 0, 0];
            qos.extend_from_slice(&PREFETCH.to_be_bytes());
            qos.push(0);
            call(&mut wire, 1, (BASIC, 10), &qos, (BASIC, 11))?;
        }
    }
    let speaker = Amqp {
        queue: queue.to_owned(),
        unconfirmed: 1,
        early: std::collections::BTreeSet::new(),
        delivery: None,
        body: Vec::new(),
    };
    Link::new(wire, Box::new(speaker))
}

/// Declares a durable quorum queue.
pub(crate) fn create(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut wire = open(to)?;
    let mut arguments = Vec::new();
    push_short(&mut arguments, "x-queue-type");
    arguments.push(b'S');
    push_len(&mut arguments, 6);
    arguments.extend_from_slice(b"quorum");
    let mut declare = vec![0, 0];
    push_short(&mut declare, queue);
    declare.push(0b0000_0010);
    push_len(&mut declare, arguments.len());
    declare.extend_from_slice(&arguments);
    call(&mut wire, 1, (QUEUE, 10), &declare, (QUEUE, 11))
}

/// Deletes the queue of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut delete = vec![0, 0];
    push_short(&mut delete, queue);
    delete.push(0);
    call(&mut open(to)?, 1, (QUEUE, 40), &delete, (QUEUE, 41))
}

/// Whether it takes connections.
pub(crate) fn answers(to: SocketAddr) -> bool {
    open(to).is_ok()
}

/// A connection with channel 1 open.
fn open(to: SocketAddr) -> io::Result<Wire> {
    let mut wire = Wire::connect(to)?;
    wire.send(b"AMQP\0\0\x09\x01")?;
    expect(&mut wire, (CONNECTION, 10))?;
    let mut start = Vec::new();
    push_len(&mut start, 0);
    push_short(&mut start, "PLAIN");
    push_len(&mut start, 12);
    start.extend_from_slice(b"\0guest\0guest");
    push_short(&mut start, "en_US");
    call(&mut wire, 0, (CONNECTION, 11), &start, (CONNECTION, 30))?;
    let mut tune = 2047_u16.to_be_bytes().to_vec();
    push_len(&mut tune, FRAME_MAX);
    tune.extend_from_slice(&[0, 0]);
    let mut out = Vec::new();
    push_method(&mut out, 0, (CONNECTION, 31), &tune);
    wire.send(&out)?;
    call(&mut wire, 0, (CONNECTION, 40), b"\x01/\0\0", (CONNECTION, 41))?;
    call(&mut wire, 1, (CHANNEL, 10), &[0], (CHANNEL, 11))?;
    Ok(wire)
}

fn call(
    wire: &mut Wire,
    channel: u16,
    method: (u16, u16),
    arguments: &[u8],
    answer: (u16, u16),
) -> io::Result<()> {
    let mut out = Vec::new();
    push_method(&mut out, channel, method, arguments);
    wire.send(&out)?;
    expect(wire, answer)
}

fn expect(wire: &mut Wire, method: (u16, u16)) -> io::Result<()> {
    let payload = wire.read(|input| {
        let frame = frame(input)?;
        Some((frame.payload.to_vec(), frame.len))
    })?;
    let mut reader = Reader::new(&payload);
    let found = reader.u16().zip(reader.u16());
    if found == Some(method) { Ok(()) } else { Err(unexpected("rabbitmq", &payload)) }
}

struct Frame<'a> {
    kind: u8,
    payload: &'a [u8],
    len: usize,
}

fn frame(input: &[u8]) -> Option<Frame<'_>> {
    let mut reader = Reader::new(input);
    let kind = reader.u8()?;
    reader.u16()?;
    let len = reader.len32()?;
    let payload = reader.bytes(len)?;
    reader.u8()?;
    Some(Frame { kind, payload, len: reader.taken() })
}

fn push_frame(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    push_len(out, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(END);
}

fn push_method(out: &mut Vec<u8>, channel: u16, method: (u16, u16), arguments: &[u8]) {
    let (class, method) = (method.0.to_be_bytes(), method.1.to_be_bytes());
    push_frame(out, METHOD, channel, &[&class, &method, arguments]);
}

impl Speaker for Amqp {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        let queue = self.queue.as_bytes();
        let len = [u8::try_from(queue.len()).unwrap_or(u8::MAX)];
        // Class 60, method 40, ticket, the default exchange; then the queue as key, and no flags.
        let head = [0, 60, 0, 40, 0, 0, 0];
        push_frame(out, METHOD, 1, &[&head, &len, queue, &[0]]);
        // Class 60, weight, size, only the delivery mode is given: 2, persistent.
        let size = (body.len() as u64).to_be_bytes();
        push_frame(out, HEADER, 1, &[&[0, 60, 0, 0], &size, &[0x10, 0x00, 2]]);
        body.chunks(FRAME_MAX - 8).for_each(|part| push_frame(out, BODY, 1, &[part]));
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        let mut consume = vec![0, 0];
        push_short(&mut consume, &self.queue);
        push_short(&mut consume, "c");
        consume.push(0);
        push_len(&mut consume, 0);
        push_method(out, 1, (BASIC, 20), &consume);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let Some(frame) = frame(input) else { return Ok(0) };
        match frame.kind {
            METHOD => self
                .method(frame.payload, seen)
                .ok_or_else(|| unexpected("rabbitmq", frame.payload))?,
            HEADER => {
                let mut reader = Reader::new(frame.payload);
                reader.bytes(4);
                let size = reader.u64().unwrap_or(0);
                if let Some((_, left)) = &mut self.delivery {
                    *left = size;
                }
                if size == 0 {
                    self.delivered(out, seen);
                }
            }
            BODY => self.body(frame.payload, out, seen),
            HEARTBEAT => {}
            _ => return Err(unexpected("rabbitmq", frame.payload)),
        }
        Ok(frame.len)
    }
}

impl Amqp {
    fn method(&mut self, payload: &[u8], seen: &mut Seen) -> Option<()> {
        let mut reader = Reader::new(payload);
        match (reader.u16()?, reader.u16()?) {
            (BASIC, 21) => {}
            (BASIC, 60) => {
                let tag = usize::from(reader.u8()?);
                reader.bytes(tag)?;
                self.delivery = Some((reader.u64()?, 0));
            }
            (BASIC, 80) => {
                let tag = reader.u64()?;
                self.confirmed(tag, reader.u8()? & 1 == 1, seen);
            }
            _ => return None,
        }
        Some(())
    }

    fn confirmed(&mut self, tag: u64, multiple: bool, seen: &mut Seen) {
        if !multiple {
            if tag != self.unconfirmed {
                self.early.insert(tag);
                seen.receipts.push(tag - 1);
                return;
            }
            seen.receipts.push(tag - 1);
            self.unconfirmed += 1;
        }
        while multiple && self.unconfirmed <= tag {
            if !self.early.remove(&self.unconfirmed) {
                seen.receipts.push(self.unconfirmed - 1);
            }
            self.unconfirmed += 1;
        }
        while self.early.remove(&self.unconfirmed) {
            self.unconfirmed += 1;
        }
    }

    fn body(&mut self, part: &[u8], out: &mut Vec<u8>, seen: &mut Seen) {
        let Some((_, left)) = &mut self.delivery else { return };
        *left = left.saturating_sub(part.len() as u64);
        let whole = *left == 0;
        if self.body.len() < 8 {
            self.body.extend_from_slice(part.get(..part.len().min(8)).unwrap_or_default());
        }
        if whole {
            self.delivered(out, seen);
        }
    }

    fn delivered(&mut self, out: &mut Vec<u8>, seen: &mut Seen) {
        let Some((tag, _)) = self.delivery.take() else { return };
        seen.delivered(&self.body);
        self.body.clear();
        // Each message is acknowledged on its own.
        push_frame(out, METHOD, 1, &[&[0, 60, 0, 80], &tag.to_be_bytes(), &[0]]);
        seen.settled += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Amqp, Seen};

    #[test]
    fn confirms_out_of_order_and_in_groups_count_once() {
        let mut amqp = Amqp {
            queue: String::new(),
            unconfirmed: 1,
            early: std::collections::BTreeSet::new(),
            delivery: None,
            body: Vec::new(),
        };
        let mut seen = Seen::default();
        amqp.confirmed(2, false, &mut seen);
        amqp.confirmed(1, false, &mut seen);
        amqp.confirmed(5, false, &mut seen);
        amqp.confirmed(6, true, &mut seen);
        assert_eq!(seen.receipts, [1, 0, 4, 2, 3, 5]);
        assert_eq!(amqp.unconfirmed, 7);
        assert!(amqp.early.is_empty());
    }
}
