//! A load generator that costs little: one thread, epoll, a window per connection.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;

use super::wire::{self, Inbound, RECEIPT};
use crate::clock;

/// What to send, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Requests in flight per connection.
    pub(crate) window: usize,
    /// Wait in `read` and not in epoll; for one connection.
    pub(crate) blocking: bool,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Nanoseconds from send to receipt.
    pub(crate) latency: Histogram<u64>,
    pub(crate) elapsed: Duration,
    /// Receipts of the whole run, warm-up and all.
    pub(crate) receipts: u64,
    /// Processor time from the first request to the last receipt.
    pub(crate) cpu: Duration,
    pub(crate) lifetime: Duration,
}

pub(crate) fn run(to: SocketAddr, load: Load) -> io::Result<Outcome> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut peers = (0..load.connections)
        .map(|number| Peer::connect(to, &poll, number, load))
        .collect::<io::Result<Vec<_>>>()?;
    let cpu_before = clock::thread_cpu();
    let start = clock::now();
    let from = start + load.warm_up;
    let mut phase = Phase { from, until: from + load.measured, latency: histogram(), receipts: 0 };
    for peer in &mut peers {
        peer.send(load.window, start)?;
    }
    let mut events = Vec::with_capacity(load.connections);
    let mut ready = Vec::with_capacity(load.connections);
    let mut now = start;
    while now < phase.until || peers.iter().any(|peer| !peer.sent_at.is_empty()) {
        wait(&poll, load.blocking, &mut events, &mut ready)?;
        for number in ready.drain(..) {
            let Some(peer) = peers.get_mut(number) else { continue };
            let answered = peer.receive(&mut phase)?;
            now = clock::now();
            peer.send(if now < phase.until { answered } else { 0 }, now)?;
        }
    }
    Ok(Outcome {
        latency: phase.latency,
        elapsed: load.measured,
        receipts: phase.receipts,
        cpu: clock::thread_cpu() - cpu_before,
        lifetime: start.elapsed(),
    })
}

/// Which peers may have something to read.
fn wait(
    poll: &OwnedFd,
    blocking: bool,
    events: &mut Vec<epoll::Event>,
    ready: &mut Vec<usize>,
) -> io::Result<()> {
    if blocking {
        ready.push(0);
        return Ok(());
    }
    events.clear();
    epoll::wait(poll, spare_capacity(events), None)?;
    ready.extend(events.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()));
    Ok(())
}

fn histogram() -> Histogram<u64> {
    const MINUTE: u64 = 60_000_000_000;
    Histogram::new_with_max(MINUTE, 3).expect("three digits are allowed")
}

struct Phase {
    from: Instant,
    until: Instant,
    latency: Histogram<u64>,
    receipts: u64,
}

impl Phase {
    fn record(&mut self, sent_at: Instant, now: Instant) {
        self.receipts += 1;
        if now >= self.from && now < self.until {
            self.latency.saturating_record(clock::nanos(now - sent_at));
        }
    }
}

struct Peer {
    stream: TcpStream,
    inbound: Inbound,
    outbound: Vec<u8>,
    next_id: u64,
    /// One entry per request in flight, oldest first.
    sent_at: VecDeque<Instant>,
}

impl Peer {
    fn connect(to: SocketAddr, poll: &OwnedFd, number: usize, load: Load) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(!load.blocking)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(poll, &stream, data, epoll::EventFlags::IN)?;
        Ok(Self {
            stream,
            inbound: Inbound::new(RECEIPT * load.window),
            outbound: Vec::new(),
            next_id: 0,
            sent_at: VecDeque::with_capacity(load.window),
        })
    }

    /// How many receipts came.
    fn receive(&mut self, phase: &mut Phase) -> io::Result<usize> {
        let count = match self.stream.read(self.inbound.space()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let now = clock::now();
        let before = self.sent_at.len();
        let mut expected = self.next_id - before as u64;
        self.inbound.advance(count, |id, _| {
            assert_eq!(id, expected, "receipts of a connection come in order");
            expected += 1;
            if let Some(sent_at) = self.sent_at.pop_front() {
                phase.record(sent_at, now);
            }
        });
        Ok(before - self.sent_at.len())
    }

    fn send(&mut self, count: usize, now: Instant) -> io::Result<()> {
        for _ in 0..count {
            wire::push_publish(&mut self.outbound, self.next_id);
            self.next_id += 1;
            self.sent_at.push_back(now);
        }
        if self.outbound.is_empty() {
            return Ok(());
        }
        match self.stream.write(&self.outbound) {
            Ok(sent) => {
                self.outbound.drain(..sent);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
