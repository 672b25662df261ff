//! NATS `JetStream`: the text protocol, publishes with acknowledgements, pull consumers.

use std::io;
use std::iter;
use std::net::SocketAddr;

use super::bytes::{Reader, number, push_number, unexpected};
use super::link::{Link, Seen, Speaker, Wire};
use super::{Duty, Take};

/// Messages of one pull; the next is asked for when half of them are here.
const PULL: u64 = 1000;

struct Nats {
    queue: String,
    /// Where answers go. One subject for all would give everybody's answers to each of them.
    inbox: String,
    published: u64,
    acked: bool,
    /// Messages asked for and not here yet.
    wanted: u64,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = hello(to)?;
    let inbox = format!("_INBOX.{}", wire.stream.local_addr()?.port());
    let acked = matches!(duty, Duty::Consume(Take { acked: true, .. }));
    match duty {
        Duty::Publish { .. } => wire.send(format!("SUB {inbox}.p.* 1\r\n").as_bytes())?,
        Duty::Consume(_) => {
            let policy = if acked { "explicit" } else { "none" };
            let config = format!(
                r#"{{"stream_name":"{queue}","config":{{"durable_name":"c","ack_policy":"{policy}","deliver_policy":"all","max_ack_pending":{}}}}}"#,
                if acked { 100_000 } else { 0 }
            );
            api(&mut wire, &format!("CONSUMER.DURABLE.CREATE.{queue}.c"), &config)?;
            wire.send(format!("SUB {inbox}.c 2\r\n").as_bytes())?;
        }
    }
    let speaker = Nats { queue: queue.to_owned(), inbox, published: 0, acked, wanted: 0 };
    Link::new(wire, Box::new(speaker))
}

/// Makes the stream that a turn publishes into.
pub(crate) fn create(to: SocketAddr, queue: &str) -> io::Result<()> {
    let config = format!(
        r#"{{"name":"{queue}","subjects":["{queue}"],"storage":"file","retention":"limits","num_replicas":1}}"#
    );
    api(&mut hello(to)?, &format!("STREAM.CREATE.{queue}"), &config)
}

/// Deletes the stream of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    api(&mut hello(to)?, &format!("STREAM.DELETE.{queue}"), "")
}

/// Whether it serves `JetStream`.
pub(crate) fn serves(to: SocketAddr) -> bool {
    hello(to).and_then(|mut wire| api(&mut wire, "INFO", "")).is_ok()
}

/// Whether the stream is there and can be asked about.
pub(crate) fn answers(to: SocketAddr, queue: &str) -> bool {
    hello(to).and_then(|mut wire| api(&mut wire, &format!("STREAM.INFO.{queue}"), "")).is_ok()
}

fn hello(to: SocketAddr) -> io::Result<Wire> {
    let mut wire = Wire::connect(to)?;
    let info = wire.ask_line(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\"protocol\":1,\"headers\":true,\"no_responders\":true}\r\nPING\r\n")?;
    if !info.starts_with(b"INFO ") {
        return Err(unexpected("nats", &info));
    }
    let pong = wire.ask_line(b"")?;
    if pong == b"PONG" { Ok(wire) } else { Err(unexpected("nats", &pong)) }
}

/// One call of the `JetStream` API, on an inbox of its own.
fn api(wire: &mut Wire, call: &str, body: &str) -> io::Result<()> {
    let len = body.len();
    let ask =
        format!("SUB _INBOX.a 9\r\nUNSUB 9 1\r\nPUB $JS.API.{call} _INBOX.a {len}\r\n{body}\r\n");
    wire.send(ask.as_bytes())?;
    let answer = wire.read(|input| {
        let mut reader = Reader::new(input);
        // Before the answer come news about the server.
        let head = iter::from_fn(|| reader.line()).find(|line| !line.starts_with(b"INFO "))?;
        let len = head.rsplit(|byte| *byte == b' ').next().and_then(number)?;
        let body = reader.bytes(usize::try_from(len).ok()? + 2)?.to_vec();
        Some((body, reader.taken()))
    })?;
    let failed = answer.windows(8).any(|part| part == b"\"error\":") || answer.starts_with(b"NATS");
    if failed { Err(unexpected("nats", &answer)) } else { Ok(()) }
}

impl Speaker for Nats {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(self.queue.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.inbox.as_bytes());
        out.extend_from_slice(b".p.");
        push_number(out, self.published);
        self.published += 1;
        out.push(b' ');
        push_number(out, body.len() as u64);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        self.wanted += PULL;
        let body = format!(r#"{{"batch":{PULL},"expires":30000000000}}"#);
        out.extend_from_slice(b"PUB $JS.API.CONSUMER.MSG.NEXT.");
        out.extend_from_slice(self.queue.as_bytes());
        out.extend_from_slice(
            format!(".c {}.c {}\r\n{body}\r\n", self.inbox, body.len()).as_bytes(),
        );
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let mut reader = Reader::new(input);
        let Some(line) = reader.line() else { return Ok(0) };
        if line.starts_with(b"PING") {
            out.extend_from_slice(b"PONG\r\n");
            return Ok(reader.taken());
        }
        if line.starts_with(b"INFO ") || line.starts_with(b"PONG") {
            return Ok(reader.taken());
        }
        let plain = line.starts_with(b"MSG ");
        if !plain && !line.starts_with(b"HMSG ") {
            return Err(unexpected("nats", line));
        }
        let mut words = line.split(|byte| *byte == b' ');
        words.next();
        let (subject, last) = (words.next().unwrap_or_default(), words.next_back());
        let len = last.and_then(number).and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or_else(|| unexpected("nats", line))?;
        let Some(body) = reader.bytes(len + 2) else { return Ok(0) };
        if !plain {
            // A pull that has ended without having got all it asked for.
            self.wanted = 0;
            self.consume(out);
        } else if let Some(number) = self.answered(subject) {
            if body.windows(8).any(|part| part == b"\"error\":") {
                return Err(unexpected("nats", body));
            }
            seen.receipts.push(number);
        } else {
            // MSG subject sid reply length
            let reply = words.nth(1).unwrap_or_default();
            self.delivered(reply, body, out, seen);
        }
        Ok(reader.taken())
    }
}

impl Nats {
    /// Which publish an answer on this subject is for.
    fn answered(&self, subject: &[u8]) -> Option<u64> {
        let rest = subject.strip_prefix(self.inbox.as_bytes())?;
        rest.strip_prefix(b".p.").and_then(number)
    }

    fn delivered(&mut self, reply: &[u8], body: &[u8], out: &mut Vec<u8>, seen: &mut Seen) {
        seen.delivered(body);
        seen.settled += 1;
        if self.acked {
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(reply);
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
        self.wanted = self.wanted.saturating_sub(1);
        if self.wanted == PULL / 2 {
            self.consume(out);
        }
    }
}
