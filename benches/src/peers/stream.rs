//! `RabbitMQ` streams: the stream protocol.

use std::io;
use std::net::SocketAddr;

use super::Duty;
use super::bytes::{Reader, push_len, push_text, unexpected};
use super::link::{Link, Seen, Speaker, Wire};

const DECLARE_PUBLISHER: u16 = 1;
const PUBLISH: u16 = 2;
const PUBLISH_CONFIRM: u16 = 3;
const SUBSCRIBE: u16 = 7;
const DELIVER: u16 = 8;
const CREDIT: u16 = 9;
const CREATE: u16 = 13;
const DELETE: u16 = 14;
const METADATA_UPDATE: u16 = 16;
const PEER_PROPERTIES: u16 = 17;
const SASL_HANDSHAKE: u16 = 18;
const SASL_AUTHENTICATE: u16 = 19;
const TUNE: u16 = 20;
const OPEN: u16 = 21;
const HEARTBEAT: u16 = 23;
const RESPONSE: u16 = 0x8000;
const OK: u16 = 1;
/// Bytes of a chunk before its entries.
const CHUNK_HEADER: usize = 48;
/// Chunks that the broker may send ahead.
const CREDITS: u16 = 10;

struct Stream {
    queue: String,
    published: u64,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = open(to)?;
    if matches!(duty, Duty::Publish { .. }) {
        let mut body = vec![1];
        push_text(&mut body, "");
        push_text(&mut body, queue);
        call(&mut wire, DECLARE_PUBLISHER, &body)?;
    }
    Link::new(wire, Box::new(Stream { queue: queue.to_owned(), published: 0 }))
}

pub(crate) fn create(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut body = Vec::new();
    push_text(&mut body, queue);
    push_len(&mut body, 0);
    call(&mut open(to)?, CREATE, &body)
}

/// Deletes the stream of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut body = Vec::new();
    push_text(&mut body, queue);
    call(&mut open(to)?, DELETE, &body)
}

/// Whether it takes connections.
pub(crate) fn answers(to: SocketAddr) -> bool {
    open(to).is_ok()
}

/// Whether the stream can be read.
pub(crate) fn serves(to: SocketAddr, queue: &str) -> bool {
    open(to).and_then(|mut wire| call(&mut wire, SUBSCRIBE, &subscription(queue))).is_ok()
}

/// Subscribes from the first message on, after the correlation.
fn subscription(queue: &str) -> Vec<u8> {
    let mut body = vec![1];
    push_text(&mut body, queue);
    body.extend_from_slice(&[0, 1]);
    body.extend_from_slice(&CREDITS.to_be_bytes());
    body
}

fn open(to: SocketAddr) -> io::Result<Wire> {
    let mut wire = Wire::connect(to)?;
    call(&mut wire, PEER_PROPERTIES, &[0; 4])?;
    call(&mut wire, SASL_HANDSHAKE, &[])?;
    let mut body = Vec::new();
    push_text(&mut body, "PLAIN");
    push_len(&mut body, 12);
    body.extend_from_slice(b"\0guest\0guest");
    call(&mut wire, SASL_AUTHENTICATE, &body)?;
    let tune = wire.read(|input| {
        let (payload, len) = frame(input)?;
        Some((payload.to_vec(), len))
    })?;
    let mut reader = Reader::new(&tune);
    if reader.u16() != Some(TUNE) {
        return Err(unexpected("rabbitmq streams", &tune));
    }
    let mut out = Vec::new();
    // The frame size that the broker offers, and no heartbeats.
    let offered = tune.get(4..8).unwrap_or_default();
    push_frame(&mut out, &[&TUNE.to_be_bytes(), &[0, 1], offered, &[0; 4]]);
    wire.send(&out)?;
    let mut body = Vec::new();
    push_text(&mut body, "/");
    call(&mut wire, OPEN, &body)?;
    Ok(wire)
}

fn call(wire: &mut Wire, key: u16, body: &[u8]) -> io::Result<()> {
    let mut out = Vec::new();
    push_frame(&mut out, &[&key.to_be_bytes(), &[0, 1], &[0, 0, 0, 1], body]);
    wire.send(&out)?;
    let answer = wire.read(|input| {
        let (payload, len) = frame(input)?;
        Some((payload.to_vec(), len))
    })?;
    let mut reader = Reader::new(&answer);
    let found = reader.u16();
    reader.bytes(6);
    if found == Some(key | RESPONSE) && reader.u16() == Some(OK) {
        return Ok(());
    }
    Err(unexpected("rabbitmq streams", &answer))
}

fn frame(input: &[u8]) -> Option<(&[u8], usize)> {
    let mut reader = Reader::new(input);
    let len = reader.len32()?;
    let payload = reader.bytes(len)?;
    Some((payload, reader.taken()))
}

fn push_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    push_len(out, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

impl Speaker for Stream {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        let number = self.published.to_be_bytes();
        self.published += 1;
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let one = [0, 0, 0, 1];
        push_frame(out, &[&PUBLISH.to_be_bytes(), &[0, 1, 1], &one, &number, &len, body]);
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        let body = subscription(&self.queue);
        push_frame(out, &[&SUBSCRIBE.to_be_bytes(), &[0, 1], &[0, 0, 0, 1], &body]);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let Some((payload, len)) = frame(input) else { return Ok(0) };
        self.frame(payload, out, seen).ok_or_else(|| unexpected("rabbitmq streams", payload))?;
        Ok(len)
    }
}

impl Stream {
    fn frame(&self, payload: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> Option<()> {
        let mut reader = Reader::new(payload);
        let key = reader.u16()?;
        reader.u16()?;
        match key {
            PUBLISH_CONFIRM => {
                reader.u8()?;
                for _ in 0..reader.u32()? {
                    seen.receipts.push(reader.u64()?);
                }
            }
            DELIVER => {
                let subscription = reader.u8()?;
                chunk(&mut reader, seen)?;
                // One chunk is done with, so one more may come.
                let parts: [&[u8]; 4] = [&CREDIT.to_be_bytes(), &[0, 1], &[subscription], &[0, 1]];
                push_frame(out, &parts);
            }
            HEARTBEAT | METADATA_UPDATE => {}
            _ if key == SUBSCRIBE | RESPONSE => {
                reader.u32()?;
                return (reader.u16()? == OK).then_some(());
            }
            _ => return None,
        }
        Some(())
    }
}

fn chunk(reader: &mut Reader<'_>, seen: &mut Seen) -> Option<()> {
    let header = reader.bytes(CHUNK_HEADER)?;
    let mut fields = Reader::new(header);
    fields.bytes(2)?;
    for _ in 0..fields.u16()? {
        let size = reader.len32()?;
        // The highest bit marks a group of compressed entries, which nobody here sends.
        let body = reader.bytes(size & 0x7FFF_FFFF)?;
        seen.delivered(body);
        seen.settled += 1;
    }
    Some(())
}
