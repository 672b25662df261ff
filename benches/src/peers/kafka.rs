//! Kafka: its binary protocol with one broker, a topic of one partition, produce and long fetches.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::bytes::{Reader, push_len, push_text, unexpected};
use super::link::{Link, Seen, Speaker, Wire};
use super::records::{self, push_batch};
use super::{Durability, Duty, named};
use crate::clock;

/// Kind and version of each request; versions that Kafka 4 still serves.
type Api = (u16, u16);
const PRODUCE: Api = (0, 3);
const FETCH: Api = (1, 4);
const API_VERSIONS: Api = (18, 0);
const CREATE_TOPICS: Api = (19, 2);
const DELETE_TOPICS: Api = (20, 1);
const NO_TEXT: [u8; 2] = [0xFF; 2];
const ALL_REPLICAS: [u8; 2] = [0xFF; 2];
const NO_REPLICA: [u8; 4] = [0xFF; 4];
/// Longest time that a server works at a request.
const TIMEOUT_MS: u32 = 30_000;
/// Bytes of one fetch, and how long one waits for a message.
const FETCHED: u32 = 4 << 20;
const WAIT_MS: u32 = 1000;
/// Larger than any publish of the comparison.
const MESSAGE_BYTES_MAX: &str = "8388608";
/// Longest time until a topic that is made can be used.
const SETTLING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// Unknown topic, no leader, another's partition: so a topic begins.
const NOT_YET: [u16; 3] = [3, 5, 6];

struct Kafka {
    topic: String,
    /// Messages in each publish; none on a connection that consumes.
    batch: Option<usize>,
    published: u32,
    /// The body that was published last, and what is asked for it.
    body: Vec<u8>,
    encoded: Vec<u8>,
    /// The offset that is fetched next.
    next: u64,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let batch = match duty {
        Duty::Publish { batch, .. } => Some(batch),
        Duty::Consume(_) => None,
    };
    let speaker = Kafka {
        topic: named(queue),
        batch,
        published: 0,
        body: Vec::new(),
        encoded: Vec::new(),
        next: 0,
    };
    Link::new(Wire::connect(to)?, Box::new(speaker))
}

/// Makes the topic of a turn and waits until it serves; one of that name is left of a run that was
/// killed.
pub(crate) fn create(to: SocketAddr, queue: &str, durability: Durability) -> io::Result<()> {
    let (mut wire, topic) = (Wire::connect(to)?, named(queue));
    delete(&mut wire, &topic).ok();
    let answer = call(&mut wire, CREATE_TOPICS, &creation(&topic, durability))?;
    accepted(topic_error(&answer), &answer)?;
    let start = clock::now();
    loop {
        let answer = call(&mut wire, FETCH, &fetch(&topic, 0, 0))?;
        let error = fetched(&answer).map(|(error, _)| error);
        if !error.is_some_and(|error| NOT_YET.contains(&error)) || start.elapsed() > SETTLING {
            return accepted(error, &answer);
        }
        clock::pause(PAUSE);
    }
}

/// Deletes the topic of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    delete(&mut Wire::connect(to)?, &named(queue))
}

/// Whether it is a server of this protocol.
pub(crate) fn answers(to: SocketAddr) -> io::Result<()> {
    let answer = call(&mut Wire::connect(to)?, API_VERSIONS, &[])?;
    accepted(Reader::new(&answer).u16(), &answer)
}

fn delete(wire: &mut Wire, topic: &str) -> io::Result<()> {
    let mut body = vec![0, 0, 0, 1];
    push_text(&mut body, topic);
    body.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    let answer = call(wire, DELETE_TOPICS, &body)?;
    accepted(topic_error(&answer), &answer)
}

/// One partition, one replica, and settings of its own, whatever the server's are.
fn creation(topic: &str, durability: Durability) -> Vec<u8> {
    let flush = if durability == Durability::Synced { "1" } else { "9223372036854775807" };
    let settings = [("flush.messages", flush), ("max.message.bytes", MESSAGE_BYTES_MAX)];
    let mut body = vec![0, 0, 0, 1];
    push_text(&mut body, topic);
    body.extend_from_slice(&[0, 0, 0, 1, 0, 1]);
    // No replicas named.
    push_len(&mut body, 0);
    push_len(&mut body, settings.len());
    for (name, value) in settings {
        push_text(&mut body, name);
        push_text(&mut body, value);
    }
    body.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    // Not only to see whether it could be made.
    body.push(0);
    body
}

/// The error of the one topic that was made or deleted.
fn topic_error(answer: &[u8]) -> Option<u16> {
    let mut reader = Reader::new(answer);
    // How long it has held the request back, and one topic.
    reader.bytes(8)?;
    let len = reader.u16()?;
    reader.bytes(usize::from(len))?;
    reader.u16()
}

fn accepted(error: Option<u16>, answer: &[u8]) -> io::Result<()> {
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::other(format!("kafka refused: error {error}"))),
        None => Err(unexpected("kafka", answer)),
    }
}

fn call(wire: &mut Wire, api: Api, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    push_request(&mut out, api, 0, body);
    wire.send(&out)?;
    wire.read(|input| {
        let mut reader = Reader::new(input);
        let (_, body) = response(&mut reader)?;
        Some((body.to_vec(), reader.taken()))
    })
}

/// Length, kind, version, number, and nobody's name.
fn push_request(out: &mut Vec<u8>, (kind, version): Api, number: u32, body: &[u8]) {
    push_len(out, body.len() + 10);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&NO_TEXT);
    out.extend_from_slice(body);
}

/// Number and body of the response in front, if all of it is here.
fn response<'a>(reader: &mut Reader<'a>) -> Option<(u32, &'a [u8])> {
    let len = reader.len32()?;
    let mut whole = Reader::new(reader.bytes(len)?);
    Some((whole.u32()?, whole.bytes(len.checked_sub(4)?)?))
}

/// To no transaction, acknowledged by all replicas, for one partition of one topic.
fn produce(topic: &str, batch: usize, body: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    push_batch(&mut records, batch, body, clock::millis());
    let mut out = NO_TEXT.to_vec();
    out.extend_from_slice(&ALL_REPLICAS);
    out.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 1]);
    push_text(&mut out, topic);
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    push_len(&mut out, records.len());
    out.extend_from_slice(&records);
    out
}

/// The error of the one partition that was published to.
fn produced(answer: &[u8]) -> Option<u16> {
    let mut reader = Reader::new(answer);
    partition(&mut reader)?;
    reader.u16()
}

/// Waits for one byte at least, and sees everything that is there.
fn fetch(topic: &str, from: u64, wait_ms: u32) -> Vec<u8> {
    let mut out = NO_REPLICA.to_vec();
    out.extend_from_slice(&wait_ms.to_be_bytes());
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&FETCHED.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 1]);
    push_text(&mut out, topic);
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(&from.to_be_bytes());
    out.extend_from_slice(&FETCHED.to_be_bytes());
    out
}

/// Error and records of the one partition that was read; a server may leave it out when there is
/// nothing new.
fn fetched(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut reader = Reader::new(answer);
    // How long it has held the request back.
    reader.u32()?;
    if answer.get(4..) == Some(&[0; 4]) {
        return Some((0, &[]));
    }
    partition(&mut reader)?;
    let error = reader.u16()?;
    // The ends of all, and of all transactions; then those that were given up, or no list.
    reader.bytes(16)?;
    for _ in 0..reader.u32().map(some)? {
        reader.bytes(16)?;
    }
    let len = reader.u32().map(some)?;
    Some((error, reader.bytes(usize::try_from(len).ok()?)?))
}

/// A count or length, where -1 is for nothing at all.
const fn some(count: u32) -> u32 {
    if count == u32::MAX { 0 } else { count }
}

/// Goes past the one topic and the number of its one partition.
fn partition(reader: &mut Reader<'_>) -> Option<()> {
    reader.u32()?;
    let len = reader.u16()?;
    reader.bytes(usize::from(len))?;
    reader.bytes(8).map(drop)
}

impl Speaker for Kafka {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        if self.body != body || self.encoded.is_empty() {
            self.encoded = produce(&self.topic, self.batch.unwrap_or(1), body);
            body.clone_into(&mut self.body);
        }
        push_request(out, PRODUCE, self.published, &self.encoded);
        self.published += 1;
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        push_request(out, FETCH, 0, &fetch(&self.topic, self.next, WAIT_MS));
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let mut reader = Reader::new(input);
        let Some((number, answer)) = response(&mut reader) else { return Ok(0) };
        if self.batch.is_some() {
            accepted(produced(answer), answer)?;
            seen.receipts.push(u64::from(number));
        } else {
            let (error, records) = fetched(answer).ok_or_else(|| unexpected("kafka", answer))?;
            accepted(Some(error), answer)?;
            let before = seen.deliveries;
            let next = records::read(records, self.next, |body| seen.delivered(body));
            self.next = next.ok_or_else(|| unexpected("kafka", records))?;
            seen.settled += seen.deliveries - before;
            self.consume(out);
        }
        Ok(reader.taken())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CREATE_TOPICS, Durability, Kafka, NOT_YET, Seen, Speaker, creation, fetch, fetched,
        produce, produced, push_batch, push_len, push_request, topic_error,
    };

    fn speaker(batch: Option<usize>) -> Kafka {
        Kafka {
            topic: "t".to_owned(),
            batch,
            published: 0,
            body: Vec::new(),
            encoded: Vec::new(),
            next: 0,
        }
    }

    /// A response with this number.
    fn response(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_len(&mut out, body.len() + 4);
        out.extend_from_slice(&[0, 0, 0, number]);
        out.extend_from_slice(body);
        out
    }

    /// Throttle, one topic, one partition, error, two ends, nothing aborted, records.
    fn fetch_answer(error: u8, records: &[u8]) -> Vec<u8> {
        let mut out = b"\0\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0".to_vec();
        out.push(error);
        out.extend_from_slice(&[9; 16]);
        out.extend_from_slice(&[0xFF; 4]);
        push_len(&mut out, records.len());
        out.extend_from_slice(records);
        out
    }

    #[test]
    fn a_request_names_kind_version_and_number_but_no_client() {
        let mut out = Vec::new();
        push_request(&mut out, CREATE_TOPICS, 7, b"xy");
        assert_eq!(out, *b"\0\0\0\x0C\0\x13\0\x02\0\0\0\x07\xFF\xFFxy");
    }

    #[test]
    fn a_topic_is_made_with_what_it_promises() {
        let head = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\x01\0\0\0\0\0\0\0\x02\0\x0Eflush.messages";
        let tail = b"\0\x11max.message.bytes\0\x078388608\0\0\x75\x30\0";
        let synced = creation("t", Durability::Synced);
        assert_eq!(synced, [&head[..], b"\0\x011", tail].concat());
        let written = creation("t", Durability::Written);
        assert_eq!(written, [&head[..], b"\0\x139223372036854775807", tail].concat());
    }

    #[test]
    fn what_became_of_a_topic_stands_behind_its_name() {
        assert_eq!(topic_error(b"\0\0\0\0\0\0\0\x01\0\x01t\0\x24\xFF\xFF"), Some(36));
        assert_eq!(topic_error(b"\0\0\0\0\0\0\0\x01\0\x01t\0"), None);
    }

    #[test]
    fn a_publish_waits_for_all_replicas() {
        let out = produce("t", 3, b"body");
        let head = b"\xFF\xFF\xFF\xFF\0\0\x75\x30\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0";
        assert_eq!(out[..head.len()], *head);
        let mut records = Vec::new();
        push_batch(&mut records, 3, b"body", 0);
        assert_eq!(out.len(), head.len() + 4 + records.len());
        assert_eq!(out[head.len() + 3], u8::try_from(records.len()).unwrap());
    }

    #[test]
    fn a_fetch_waits_for_one_byte_from_an_offset_on() {
        let expected = b"\xFF\xFF\xFF\xFF\0\0\x03\xE8\0\0\0\x01\0\x40\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x05\0\x40\0\0";
        assert_eq!(fetch("t", 5, 1000), expected);
    }

    #[test]
    fn receipts_have_the_numbers_of_their_publishes() {
        let (mut kafka, mut out, mut seen) = (speaker(Some(1)), Vec::new(), Seen::default());
        kafka.publish(&mut out, b"one");
        kafka.publish(&mut out, b"one");
        assert_eq!(out[11], 0);
        assert_eq!(out[out.len() / 2 + 11], 1);
        let body = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0";
        let mut input = response(0, body);
        input.extend(response(1, body));
        let first = kafka.take(&input, &mut out, &mut seen).unwrap();
        assert_eq!(first, input.len() / 2);
        kafka.take(&input[first..], &mut out, &mut seen).unwrap();
        assert_eq!(seen.receipts, [0, 1]);
        let refusal = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\x0A";
        assert_eq!(produced(refusal), Some(10));
    }

    #[test]
    fn fetched_records_are_counted_and_the_next_are_asked_for() {
        let mut records = Vec::new();
        push_batch(&mut records, 2, b"\x09\0\0\0\0\0\0\0", 0);
        let input = response(0, &fetch_answer(0, &records));
        let (mut kafka, mut out) = (speaker(None), Vec::new());
        let mut seen = Seen { stamps: Some(Vec::new()), ..Seen::default() };
        assert_eq!(kafka.take(&input[..9], &mut out, &mut seen).unwrap(), 0);
        assert_eq!(kafka.take(&input, &mut out, &mut seen).unwrap(), input.len());
        assert_eq!((seen.deliveries, seen.settled, seen.stamps), (2, 2, Some(vec![9, 9])));
        let mut next = Vec::new();
        kafka.next = 2;
        kafka.consume(&mut next);
        assert_eq!(out, next);
    }

    #[test]
    fn what_is_aborted_and_nothing_at_all_are_passed_over() {
        let mut answer = fetch_answer(3, b"");
        assert_eq!(fetched(&answer), Some((3, &[][..])));
        assert!(NOT_YET.contains(&3));
        // One aborted transaction, and no records rather than none.
        answer.truncate(answer.len() - 8);
        answer.extend_from_slice(&[0, 0, 0, 1]);
        answer.extend_from_slice(&[5; 16]);
        answer.extend_from_slice(&[0xFF; 4]);
        assert_eq!(fetched(&answer), Some((3, &[][..])));
        assert_eq!(fetched(&[0; 8]), Some((0, &[][..])));
    }
}
