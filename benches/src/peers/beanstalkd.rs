//! beanstalkd: its text protocol.

use std::io;
use std::net::SocketAddr;

use super::bytes::{Reader, number, push_number, unexpected};
use super::link::{Link, Seen, Speaker, Wire};
use super::{Duty, Take};

/// Reserves in flight while a backlog of known depth is taken.
const RESERVES: u64 = 100;

struct Beanstalkd {
    published: u64,
    /// Reserves that may still be sent; they block the connection when there is no job.
    left: u64,
    window: u64,
}

pub(crate) fn connect(to: SocketAddr, queue: &str, duty: Duty) -> io::Result<Link> {
    let mut wire = Wire::connect(to)?;
    let mut speaker = Beanstalkd { published: 0, left: u64::MAX, window: 1 };
    match duty {
        Duty::Publish { .. } => {
            let answer = wire.ask_line(format!("use {queue}\r\n").as_bytes())?;
            if !answer.starts_with(b"USING") {
                return Err(unexpected("beanstalkd", &answer));
            }
        }
        Duty::Consume(Take { expected, .. }) => {
            let answer = wire.ask_line(format!("watch {queue}\r\n").as_bytes())?;
            if !answer.starts_with(b"WATCHING") {
                return Err(unexpected("beanstalkd", &answer));
            }
            if let Some(expected) = expected {
                speaker.left = expected;
                speaker.window = RESERVES;
            }
        }
    }
    Link::new(wire, Box::new(speaker))
}

impl Speaker for Beanstalkd {
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        out.extend_from_slice(b"put 0 0 600 ");
        push_number(out, body.len() as u64);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    fn consume(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.window {
            self.reserve(out);
        }
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize> {
        let mut reader = Reader::new(input);
        let Some(line) = reader.line() else { return Ok(0) };
        if line.starts_with(b"INSERTED ") {
            seen.receipts.push(self.published);
            self.published += 1;
        } else if line == b"DELETED" {
            seen.settled += 1;
        } else if let Some(rest) = line.strip_prefix(b"RESERVED ") {
            let mut words = rest.split(|byte| *byte == b' ');
            let (Some(id), Some(len)) = (words.next(), words.next().and_then(number)) else {
                return Err(unexpected("beanstalkd", line));
            };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let Some(body) = reader.bytes(len.saturating_add(2)) else { return Ok(0) };
            seen.delivered(body);
            out.extend_from_slice(b"delete ");
            out.extend_from_slice(id);
            out.extend_from_slice(b"\r\n");
            self.reserve(out);
        } else {
            return Err(unexpected("beanstalkd", line));
        }
        Ok(reader.taken())
    }
}

impl Beanstalkd {
    fn reserve(&mut self, out: &mut Vec<u8>) {
        if self.left > 0 {
            self.left -= 1;
            out.extend_from_slice(b"reserve\r\n");
        }
    }
}
