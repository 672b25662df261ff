//! Apache Iggy: its binary protocol over TCP, a stream of one topic with one partition, polls by offset.

use std::env;
use std::io;
use std::net::SocketAddr;

use super::bytes::{Reader, push_len_le, push_short, unexpected};
use super::link::{Link, Seen, Speaker, Wire};
use super::{Duty, named};

const GET_STATS: u32 = 10;
const LOGIN: u32 = 38;
const POLL: u32 = 100;
const SEND: u32 = 101;
const CREATE_STREAM: u32 = 202;
const DELETE_STREAM: u32 = 203;
const CREATE_TOPIC: u32 = 302;
const TOPIC: &str = "messages";
const NUMERIC: u8 = 1;
const NAMED: u8 = 2;
const BY_PARTITION: u8 = 2;
const BY_OFFSET: u8 = 1;
/// Messages of one poll.
const POLLED: u32 = 10_000;
/// Bytes of a message before its body, and of its entry in the index before all messages.
const HEAD: usize = 64;
/// Where the length of the body stands in a message's head.
const BODY_LEN_AT: usize = 52;
/// Bytes of the statistics between the number of the process and the texts.
const NUMBERS: usize = 104;
/// Texts of the statistics before the version.
const TEXTS: usize = 4;
/// Who logs in unless the environment says otherwise; the server's own default.
const USER: &str = "iggy";

struct Iggy {
    stream: String,
    /// Messages in each publish; none on a connection that consumes.
    batch: Option<usize>,
    acknowledged: u64,
    /// The body that was published last, and its request.
    body: Vec<u8>,
    encoded: Vec<u8>,
    /// The offset that is polled next.
    next: u64,
    /// It was polled before the answer in front was looked at.
    has_polled: bool,
}

/// What a server says of itself.
pub(crate) struct Stats {
    pub(crate) process: u32,
    pub(crate) version: String,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let batch = match duty {
        Duty::Publish { batch, .. } => Some(batch),
        Duty::Consume(_) => None,
    };
    let speaker = Iggy {
        stream: named(queue),
        batch,
        acknowledged: 0,
        body: Vec::new(),
        encoded: Vec::new(),
        next: 0,
        has_polled: false,
    };
    Link::new(login(to)?, Box::new(speaker))
}

/// Makes the stream of a turn; one of that name is left of a run that was killed.
pub(crate) fn create(to: SocketAddr, queue: &str) -> io::Result<()> {
    let (mut wire, stream) = (login(to)?, named(queue));
    let mut id = Vec::new();
    push_id(&mut id, &stream);
    call(&mut wire, DELETE_STREAM, &id).ok();
    let mut name = Vec::new();
    push_short(&mut name, &stream);
    call(&mut wire, CREATE_STREAM, &name)?;
    call(&mut wire, CREATE_TOPIC, &topic(&stream)).map(drop)
}

/// Deletes the stream of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut id = Vec::new();
    push_id(&mut id, &named(queue));
    call(&mut login(to)?, DELETE_STREAM, &id).map(drop)
}

/// Asks which process and which version it is.
pub(crate) fn stats(to: SocketAddr) -> io::Result<Stats> {
    let answer = call(&mut login(to)?, GET_STATS, &[])?;
    parse_stats(&answer).ok_or_else(|| unexpected("iggy", &answer))
}

fn parse_stats(answer: &[u8]) -> Option<Stats> {
    let mut reader = Reader::new(answer);
    let process = reader.u32_le()?;
    reader.bytes(NUMBERS)?;
    for _ in 0..TEXTS {
        text(&mut reader)?;
    }
    let version = String::from_utf8_lossy(text(&mut reader)?).into_owned();
    Some(Stats { process, version })
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = reader.len32_le()?;
    reader.bytes(len)
}

/// One partition, nothing compressed, nothing dropped for its age or size.
fn topic(stream: &str) -> Vec<u8> {
    const COMPRESSION_NONE: u8 = 1;
    let mut body = Vec::new();
    push_id(&mut body, stream);
    body.extend_from_slice(&1_u32.to_le_bytes());
    body.push(COMPRESSION_NONE);
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    body.push(1);
    push_short(&mut body, TOPIC);
    body
}

fn login(to: SocketAddr) -> io::Result<Wire> {
    let word = |name| env::var(name).unwrap_or_else(|_| USER.to_owned());
    let mut body = Vec::new();
    push_short(&mut body, &word("IGGY_USERNAME"));
    push_short(&mut body, &word("IGGY_PASSWORD"));
    // Neither a version nor a context.
    body.extend_from_slice(&[0; 8]);
    let mut wire = Wire::connect(to)?;
    call(&mut wire, LOGIN, &body)?;
    Ok(wire)
}

fn call(wire: &mut Wire, code: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    push_request(&mut out, code, body);
    wire.send(&out)?;
    let (status, payload) = wire.read(|input| {
        let mut reader = Reader::new(input);
        let (status, payload) = response(&mut reader)?;
        Some(((status, payload.to_vec()), reader.taken()))
    })?;
    accepted(status).map(|()| payload)
}

fn accepted(status: u32) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("iggy refused: error {status}")))
    }
}

/// Status and payload of the response in front, if all of it is here.
fn response<'a>(reader: &mut Reader<'a>) -> Option<(u32, &'a [u8])> {
    Some((reader.u32_le()?, text(reader)?))
}

/// The length counts the code, too.
fn push_request(out: &mut Vec<u8>, code: u32, body: &[u8]) {
    push_len_le(out, body.len() + 4);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(body);
}

fn push_id(out: &mut Vec<u8>, name: &str) {
    out.push(NAMED);
    push_short(out, name);
}

/// Where the messages go, how many, where each of them ends, and then they themselves.
fn push_send(out: &mut Vec<u8>, stream: &str, batch: usize, body: &[u8]) {
    let mut to = Vec::new();
    push_id(&mut to, stream);
    push_id(&mut to, TOPIC);
    to.extend_from_slice(&[BY_PARTITION, 4, 0, 0, 0, 0]);
    push_len_le(&mut to, batch);
    let mut request = Vec::new();
    push_len_le(&mut request, to.len());
    request.extend_from_slice(&to);
    for number in 1..=batch {
        request.extend_from_slice(&[0; 4]);
        push_len_le(&mut request, number * (HEAD + body.len()));
        request.extend_from_slice(&[0; 8]);
    }
    // Checksum, id, offset and time are the server's; there are no headers.
    let mut head = vec![0; BODY_LEN_AT];
    push_len_le(&mut head, body.len());
    head.resize(HEAD, 0);
    for _ in 0..batch {
        request.extend_from_slice(&head);
        request.extend_from_slice(body);
    }
    push_request(out, SEND, &request);
}

/// Polls as a consumer with a number, whose place the server does not keep.
fn push_poll(out: &mut Vec<u8>, stream: &str, from: u64) {
    let mut request = vec![1, NUMERIC, 4, 1, 0, 0, 0];
    push_id(&mut request, stream);
    push_id(&mut request, TOPIC);
    request.extend_from_slice(&[1, 0, 0, 0, 0, BY_OFFSET]);
    request.extend_from_slice(&from.to_le_bytes());
    request.extend_from_slice(&POLLED.to_le_bytes());
    request.push(0);
    push_request(out, POLL, &request);
}

impl Speaker for Iggy {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        if self.body != body || self.encoded.is_empty() {
            self.encoded.clear();
            push_send(&mut self.encoded, &self.stream, self.batch.unwrap_or(1), body);
            body.clone_into(&mut self.body);
        }
        out.extend_from_slice(&self.encoded);
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        push_poll(out, &self.stream, self.next);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let mut reader = Reader::new(input);
        let Some((status, payload)) = response(&mut reader) else { return Ok(0) };
        accepted(status)?;
        if self.batch.is_some() {
            // It answers in the order in which it is asked.
            seen.receipts.push(self.acknowledged);
            self.acknowledged += 1;
        } else if std::mem::replace(&mut self.has_polled, true) {
            polled(payload, seen).ok_or_else(|| unexpected("iggy", payload))?;
            self.has_polled = false;
        } else {
            self.next = behind(payload, self.next).ok_or_else(|| unexpected("iggy", payload))?;
            // No poll waits for messages, so the next one asks at once.
            self.consume(out);
            return Ok(0);
        }
        Ok(reader.taken())
    }
}

/// Partition and its newest offset.
const POLLED_HEAD: usize = 12;
/// Checksum and id of a message, in front of its offset.
const BEFORE_OFFSET: usize = 24;

/// The offset behind the messages of a poll's answer; `next` if there are none.
fn behind(payload: &[u8], next: u64) -> Option<u64> {
    let mut reader = Reader::new(payload);
    reader.bytes(POLLED_HEAD)?;
    let count = reader.u32_le()?;
    if count == 0 {
        return Some(next);
    }
    reader.bytes(BEFORE_OFFSET)?;
    Some(reader.u64_le()? + u64::from(count))
}

/// Counts the messages of a poll's answer.
fn polled(payload: &[u8], seen: &mut Seen) -> Option<()> {
    let mut reader = Reader::new(payload);
    reader.bytes(POLLED_HEAD)?;
    for _ in 0..reader.u32_le()? {
        reader.bytes(BEFORE_OFFSET)?;
        // The offset; then time, and time of origin.
        reader.bytes(8 + 16)?;
        let (headers, body) = (reader.len32_le()?, reader.len32_le()?);
        reader.bytes(8)?;
        seen.delivered(reader.bytes(body)?);
        seen.settled += 1;
        reader.bytes(headers)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{
        HEAD, Iggy, NUMBERS, Seen, Speaker, parse_stats, push_len_le, push_poll, push_request,
        push_send, topic,
    };

    fn speaker(batch: Option<usize>) -> Iggy {
        Iggy {
            stream: "s".to_owned(),
            batch,
            acknowledged: 0,
            body: Vec::new(),
            encoded: Vec::new(),
            next: 0,
            has_polled: false,
        }
    }

    /// One message of a poll's answer.
    fn message(offset: u8, body: &[u8], headers: &[u8]) -> Vec<u8> {
        let mut out = vec![7; 24];
        out.extend_from_slice(&[offset, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&[7; 16]);
        push_len_le(&mut out, headers.len());
        push_len_le(&mut out, body.len());
        out.extend_from_slice(&[7; 8]);
        assert_eq!(out.len(), HEAD);
        out.extend_from_slice(body);
        out.extend_from_slice(headers);
        out
    }

    #[test]
    fn a_publish_has_an_index_of_ends_before_the_messages() {
        let mut out = Vec::new();
        push_send(&mut out, "s", 2, b"body");
        let (head, rest) = out.split_at(8);
        assert_eq!(usize::from(head[0]), rest.len() + 4);
        assert_eq!(head[4..], [101, 0, 0, 0]);
        let (to, rest) = rest.split_at(27);
        assert_eq!(to, b"\x17\0\0\0\x02\x01s\x02\x08messages\x02\x04\0\0\0\0\x02\0\0\0");
        let (index, messages) = rest.split_at(32);
        assert_eq!(index[..16], [0, 0, 0, 0, 68, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(index[20], 136);
        let (first, second) = messages.split_at(68);
        assert_eq!(first, second);
        assert_eq!(first[..52], [0; 52]);
        assert_eq!(first[52..], *b"\x04\0\0\0\0\0\0\0\0\0\0\0body");
    }

    #[test]
    fn a_poll_asks_for_an_offset_and_stores_none() {
        let mut out = Vec::new();
        push_poll(&mut out, "s", 5);
        let expected = b"\x01\x01\x04\x01\0\0\0\x02\x01s\x02\x08messages\x01\0\0\0\0\x01\x05\0\0\0\0\0\0\0\x10\x27\0\0\0";
        assert_eq!(out[4..8], [100, 0, 0, 0]);
        assert_eq!(out[8..], *expected);
    }

    #[test]
    fn a_topic_has_one_partition_and_no_end() {
        let expected = [b"\x02\x01s\x01\0\0\0\x01", &[0xFF; 16][..], b"\x01\x08messages"].concat();
        assert_eq!(topic("s"), expected);
    }

    #[test]
    fn polled_messages_are_counted_and_the_next_are_asked_for() {
        let mut payload = vec![0; 12];
        payload.extend_from_slice(&[2, 0, 0, 0]);
        payload.extend(message(4, b"\x09\0\0\0\0\0\0\0 one", b"headers"));
        payload.extend(message(5, b"\x08\0\0\0\0\0\0\0 two", b""));
        let mut input = vec![0; 4];
        push_len_le(&mut input, payload.len());
        input.extend(payload);
        let (mut iggy, mut out) = (speaker(None), Vec::new());
        let mut seen = Seen { stamps: Some(Vec::new()), ..Seen::default() };
        let half = &input[..input.len() - 1];
        assert_eq!(iggy.take(half, &mut out, &mut seen).unwrap(), 0);
        assert!(out.is_empty());
        assert_eq!(iggy.take(&input, &mut out, &mut seen).unwrap(), 0, "the poll leaves first");
        assert_eq!(iggy.take(&input, &mut out, &mut seen).unwrap(), input.len());
        assert_eq!((seen.deliveries, seen.settled, seen.stamps), (2, 2, Some(vec![9, 8])));
        let mut poll = Vec::new();
        push_poll(&mut poll, "s", 6);
        assert_eq!(out, poll);
    }

    #[test]
    fn receipts_are_numbered_and_a_refusal_is_an_error() {
        let (mut iggy, mut out, mut seen) = (speaker(Some(1)), Vec::new(), Seen::default());
        for _ in 0..2 {
            assert_eq!(iggy.take(&[0; 8], &mut out, &mut seen).unwrap(), 8);
        }
        assert_eq!(seen.receipts, [0, 1]);
        let refusal = iggy.take(&[40, 0, 0, 0, 0, 0, 0, 0], &mut out, &mut seen);
        assert_eq!(refusal.unwrap_err().to_string(), "iggy refused: error 40");
    }

    #[test]
    fn another_body_makes_another_request() {
        let (mut iggy, mut out) = (speaker(Some(1)), Vec::new());
        iggy.publish(&mut out, b"one");
        iggy.publish(&mut out, b"two");
        let mut expected = Vec::new();
        push_send(&mut expected, "s", 1, b"one");
        push_send(&mut expected, "s", 1, b"two");
        assert_eq!(out, expected);
    }

    #[test]
    fn the_version_stands_behind_the_other_texts() {
        let mut answer = vec![57, 1, 0, 0];
        answer.resize(4 + NUMBERS, 0);
        for text in ["host", "", "12", "6.1", "0.8.0"] {
            push_len_le(&mut answer, text.len());
            answer.extend_from_slice(text.as_bytes());
        }
        let stats = parse_stats(&answer).unwrap();
        assert_eq!((stats.process, stats.version.as_str()), (313, "0.8.0"));
        assert!(parse_stats(&answer[..answer.len() - 1]).is_none());
    }

    #[test]
    fn a_request_counts_its_code() {
        let mut out = Vec::new();
        push_request(&mut out, 38, b"xy");
        assert_eq!(out, [6, 0, 0, 0, 38, 0, 0, 0, b'x', b'y']);
    }
}
