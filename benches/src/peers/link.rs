//! One connection of the load generator: a socket, what came and what is to go, and who speaks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const READ: usize = 256 << 10;
/// Longest silence while a connection is being set up.
const SETUP: Duration = Duration::from_secs(30);

/// What a connection has been told since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Numbers of the publishes that are acknowledged now.
    pub(crate) receipts: Vec<u64>,
    /// Publishes that have to be sent again, because the broker has no room for them now or because
    /// of those before them.
    pub(crate) refused: usize,
    /// Messages delivered.
    pub(crate) deliveries: u64,
    /// Deliveries whose acknowledgement is done with, as far as the protocol tells.
    pub(crate) settled: u64,
    /// The first eight bytes of each delivered body, if they are wanted.
    pub(crate) stamps: Option<Vec<u64>>,
}

impl Seen {
    /// Notes a delivered body.
    pub(crate) fn delivered(&mut self, body: &[u8]) {
        self.deliveries += 1;
        if let Some(stamps) = &mut self.stamps
            && let Some(stamp) = body.first_chunk()
        {
            stamps.push(u64::from_le_bytes(*stamp));
        }
    }
}

/// A client's end of a protocol, without the socket.
pub(crate) trait Speaker {
    /// Appends a publish of one body (or of one batch of them). Numbers count from 0.
    fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]);

    /// Counts on from this number: it and all behind it are published again.
    fn rewind(&mut self, _to: u64) {}

    /// Appends what makes the broker deliver.
    fn consume(&mut self, out: &mut Vec<u8>);

    /// Takes one whole frame from the front of `input` and appends what is to be answered.
    /// Returns how long it was; 0 if it is not whole yet, or if what was appended should leave before
    /// the frame is looked at: it is then given again.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, seen: &mut Seen) -> io::Result<usize>;
}

/// A blocking connection that is being set up.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) input: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SETUP))?;
        Ok(Self { stream, input: Vec::new() })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads until `parse` has what it wants; it returns that and how many bytes it took.
    pub(crate) fn read<T>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Option<(T, usize)>,
    ) -> io::Result<T> {
        loop {
            if let Some((value, taken)) = parse(&self.input) {
                self.input.drain(..taken);
                return Ok(value);
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).map_err(silent)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }

    /// Sends a request whose answer is one line, and returns the line.
    pub(crate) fn ask_line(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request)?;
        self.read(|input| {
            let mut reader = super::bytes::Reader::new(input);
            let line = reader.line()?.to_vec();
            Some((line, reader.taken()))
        })
    }
}

/// The system only says that there is nothing to be read for now.
fn silent(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock {
        return io::Error::other(format!("no answer for {} s", SETUP.as_secs()));
    }
    error
}

/// A connection in use.
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    speaker: Box<dyn Speaker>,
    input: Vec<u8>,
    start: usize,
    filled: usize,
    out: Vec<u8>,
    sent: usize,
    /// When each publish in flight was sent; `None` where the answer overtook another's.
    in_flight: VecDeque<Option<Instant>>,
    /// Number of the first of them.
    first: u64,
    /// How many of them are to be sent again.
    refused: usize,
}

impl Link {
    pub(crate) fn new(wire: Wire, speaker: Box<dyn Speaker>) -> io::Result<Self> {
        wire.stream.set_nonblocking(true)?;
        let filled = wire.input.len();
        let mut input = wire.input;
        input.resize(filled.max(READ), 0);
        Ok(Self {
            stream: wire.stream,
            speaker,
            input,
            start: 0,
            filled,
            out: Vec::with_capacity(READ),
            sent: 0,
            in_flight: VecDeque::new(),
            first: 0,
            refused: 0,
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether bytes wait that the socket does not take.
    pub(crate) fn is_blocked(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Publishes `count` times the same body.
    pub(crate) fn publish(&mut self, count: usize, body: &[u8], now: Instant) -> io::Result<()> {
        for _ in 0..count {
            self.speaker.publish(&mut self.out, body);
            self.in_flight.push_back(Some(now));
        }
        self.flush()
    }

    pub(crate) fn consume(&mut self) -> io::Result<()> {
        self.speaker.consume(&mut self.out);
        self.flush()
    }

    /// Reads once, takes what is whole, sends what is to be answered. Whether anything came.
    pub(crate) fn pump(&mut self, seen: &mut Seen) -> io::Result<bool> {
        self.make_room();
        let space = self.input.get_mut(self.filled..).unwrap_or_default();
        let count = match self.stream.read(space) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.filled += count;
        // The same frame is given twice at most.
        let mut gave_up = false;
        loop {
            let input = self.input.get(self.start..self.filled).unwrap_or_default();
            if input.is_empty() {
                break;
            }
            let taken = self.speaker.take(input, &mut self.out, seen)?;
            if taken == 0 {
                if gave_up || self.out.is_empty() {
                    break;
                }
                self.flush()?;
            }
            gave_up = taken == 0;
            self.start += taken;
        }
        self.refused += std::mem::take(&mut seen.refused);
        self.flush()?;
        Ok(count > 0)
    }

    /// Whether everything in flight was refused, so that it can be sent again.
    pub(crate) fn wants_retry(&self) -> bool {
        self.refused > 0 && self.refused == self.in_flight.iter().flatten().count()
    }

    /// Sends again what was refused. It counts as sent when it was sent first.
    pub(crate) fn retry(&mut self, body: &[u8]) -> io::Result<()> {
        // What was accepted in between leaves no gap: the numbers begin anew.
        self.in_flight.retain(Option::is_some);
        self.speaker.rewind(self.first);
        for _ in 0..std::mem::take(&mut self.refused) {
            self.speaker.publish(&mut self.out, body);
        }
        self.flush()
    }

    /// Moves an unfinished frame to the front; a frame that fills everything gets more room.
    fn make_room(&mut self) {
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        } else if self.input.len() - self.filled < READ / 4 {
            self.input.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
            if self.input.len() - self.filled < READ / 4 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }

    /// When the publish with this number was sent; forgets it. A receipt for what is not in flight is
    /// an error: somebody else's was counted, or one twice.
    pub(crate) fn sent_at(&mut self, number: u64) -> io::Result<Instant> {
        let stray = || io::Error::other(format!("a receipt for publish {number}, not in flight"));
        self.forget(number).ok_or_else(stray)
    }

    fn forget(&mut self, number: u64) -> Option<Instant> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.in_flight.get_mut(place)?.take();
        while let Some(None) = self.in_flight.front() {
            self.in_flight.pop_front();
            self.first += 1;
        }
        sent
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(self.out.get(self.sent..).unwrap_or_default()) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // What is sent is dropped now and then, lest it pile up behind a slow reader.
                    if self.sent > READ {
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }
}
