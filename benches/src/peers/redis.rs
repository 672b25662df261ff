//! Redis streams: RESP.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::bytes::{Reader, number, push_number, unexpected};
use super::link::{Link, Seen, Speaker, Wire};
use super::{Duty, Take};

/// Entries of one read; each is acknowledged with a command of its own.
const READ_ACKED: &str = "500";
const READ_REPLAY: &str = "1000";

/// What a command's answer will be.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    Added,
    Read,
    Acked,
}

struct Redis {
    queue: String,
    published: u64,
    awaited: VecDeque<Awaited>,
    acked: bool,
    /// Where a replay goes on.
    after: Vec<u8>,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = Wire::connect(to)?;
    let acked = matches!(duty, Duty::Consume(Take { acked: true, .. }));
    if acked {
        let mut out = Vec::new();
        command(&mut out, &[b"XGROUP", b"CREATE", queue.as_bytes(), b"g", b"0", b"MKSTREAM"]);
        let answer = wire.ask_line(&out)?;
        if answer != b"+OK" && !answer.starts_with(b"-BUSYGROUP") {
            return Err(unexpected("redis", &answer));
        }
    }
    let speaker = Redis {
        queue: queue.to_owned(),
        published: 0,
        awaited: VecDeque::new(),
        acked,
        after: b"0".to_vec(),
    };
    Link::new(wire, Box::new(speaker))
}

/// Deletes the stream of a turn that is over.
pub(crate) fn remove(to: SocketAddr, queue: &str) -> io::Result<()> {
    let mut out = Vec::new();
    command(&mut out, &[b"UNLINK", queue.as_bytes()]);
    Wire::connect(to)?.ask_line(&out).map(drop)
}

/// Whether it answers, with its data loaded.
pub(crate) fn answers(to: SocketAddr) -> bool {
    Wire::connect(to).and_then(|mut wire| wire.ask_line(b"PING\r\n")).is_ok_and(|a| a == b"+PONG")
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.push(b'*');
    push_number(out, words.len() as u64);
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.push(b'$');
        push_number(out, word.len() as u64);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

impl Speaker for Redis {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        command(out, &[b"XADD", self.queue.as_bytes(), b"*", b"d", body]);
        self.awaited.push_back(Awaited::Added);
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        let queue = self.queue.as_bytes();
        if self.acked {
            let words: [&[u8]; 11] = [
                b"XREADGROUP",
                b"GROUP",
                b"g",
                b"c",
                b"COUNT",
                READ_ACKED.as_bytes(),
                b"BLOCK",
                b"0",
                b"STREAMS",
                queue,
                b">",
            ];
            command(out, &words);
        } else {
            let count = READ_REPLAY.as_bytes();
            command(out, &[b"XREAD", b"COUNT", count, b"STREAMS", queue, &self.after]);
        }
        self.awaited.push_back(Awaited::Read);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let Some(awaited) = self.awaited.front().copied() else {
            return Err(unexpected("redis", input));
        };
        if input.first() == Some(&b'-') {
            return Err(unexpected("redis", input));
        }
        let mut reader = Reader::new(input);
        match awaited {
            Awaited::Added => {
                if bulk(&mut reader).is_none() {
                    return Ok(0);
                }
                seen.receipts.push(self.published);
                self.published += 1;
            }
            Awaited::Acked => {
                if reader.line().is_none() {
                    return Ok(0);
                }
                seen.settled += 1;
            }
            Awaited::Read => {
                let mut whole = reader;
                let Some(()) = skip(&mut whole) else { return Ok(0) };
                self.awaited.pop_front();
                if input.starts_with(b"*-1") {
                    self.consume(out);
                    return Ok(whole.taken());
                }
                let malformed = || unexpected("redis", input);
                self.entries(&mut reader, out, seen).ok_or_else(malformed)?;
                self.consume(out);
                return Ok(whole.taken());
            }
        }
        self.awaited.pop_front();
        Ok(reader.taken())
    }
}

impl Redis {
    /// `[[stream, [[id, [field, body]], ...]]]`
    fn entries(
        &mut self,
        reader: &mut Reader<'_>,
        out: &mut Vec<u8>,
        seen: &mut Seen,
    ) -> Option<()> {
        array(reader)?;
        array(reader)?;
        bulk(reader)?;
        for _ in 0..array(reader)? {
            array(reader)?;
            let id = bulk(reader)?;
            array(reader)?;
            bulk(reader)?;
            seen.delivered(bulk(reader)?);
            if self.acked {
                command(out, &[b"XACK", self.queue.as_bytes(), b"g", id]);
                self.awaited.push_back(Awaited::Acked);
            } else {
                self.after.clear();
                self.after.extend_from_slice(id);
                seen.settled += 1;
            }
        }
        Some(())
    }
}

fn array(reader: &mut Reader<'_>) -> Option<u64> {
    number(reader.line()?.strip_prefix(b"*")?)
}

fn bulk<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(number(reader.line()?.strip_prefix(b"$")?)?).ok()?;
    let bytes = reader.bytes(len + 2)?;
    bytes.get(..len)
}

/// Goes past one whole value of any kind.
fn skip(reader: &mut Reader<'_>) -> Option<()> {
    let line = reader.line()?;
    let (kind, rest) = line.split_first()?;
    let Some(count) = number(rest) else { return Some(()) };
    match kind {
        b'$' => reader.bytes(usize::try_from(count).ok()? + 2).map(drop),
        b'*' => (0..count).try_for_each(|_| skip(reader)),
        _ => Some(()),
    }
}
