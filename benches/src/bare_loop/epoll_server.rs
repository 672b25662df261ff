//! The bare loop itself: one thread, epoll, and nothing between it and the disk.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::journal::{Group, Ring};
use super::shape::{Core, Served, Shape, Sync};
use super::syncer::Syncer;
use super::wire::Inbound;
use crate::clock;

const INBOUND: usize = 64 * 1024;
/// Names the sync thread among the connections.
const SYNCED: u64 = u64::MAX;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Serves `connections` connections until the last one is closed.
pub(crate) fn serve(
    listener: &TcpListener,
    connections: usize,
    shape: Shape,
    ring: Ring,
) -> io::Result<Served> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let synced = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let syncer = match shape.sync {
        Sync::Never | Sync::Inline => None,
        Sync::HandOver | Sync::Adaptive(_) => {
            let data = epoll::EventData::new_u64(SYNCED);
            epoll::add(&poll, &*synced, data, epoll::EventFlags::IN)?;
            let signal = Arc::clone(&synced);
            let on_durable = Box::new(move || {
                rustix::io::write(&*signal, &1_u64.to_ne_bytes()).expect("the counter has room");
            });
            Some(Syncer::start(ring.file(), on_durable))
        }
    };
    let peers = (0..connections)
        .map(|number| Peer::accept(listener, &poll, number))
        .collect::<io::Result<Vec<_>>>()?;
    let mut server = Server {
        core: Core::new(shape.sync, ring, syncer, connections),
        group: Group::new(),
        open: peers.len(),
        peers,
        ready: Vec::with_capacity(connections + 1),
        poll,
        synced,
        spin: shape.spin,
    };
    while server.open > 0 {
        server.turn()?;
    }
    Ok(server.core.finish(clock::thread_cpu()))
}

struct Server {
    core: Core,
    group: Group,
    peers: Vec<Peer>,
    open: usize,
    poll: OwnedFd,
    synced: Arc<OwnedFd>,
    ready: Vec<epoll::Event>,
    spin: Duration,
}

struct Peer {
    stream: TcpStream,
    inbound: Inbound,
}

impl Server {
    fn turn(&mut self) -> io::Result<()> {
        self.wait()?;
        self.gather()?;
        self.core.write(&mut self.group)?;
        let something_waits = self.core.wants_to_know_what_waits() && self.poll_at_once()?;
        self.core.settle(something_waits)?;
        let peers = &mut self.peers;
        self.core.reply(|to, bytes| {
            if let Some(peer) = peers.get_mut(to) {
                peer.stream.write_all(bytes).expect("a window of receipts fits the socket");
            }
        });
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        if !self.spin.is_zero() {
            let start = clock::now();
            while start.elapsed() < self.spin {
                if self.poll_at_once()? {
                    return Ok(());
                }
            }
        }
        self.ready.clear();
        epoll::wait(&self.poll, spare_capacity(&mut self.ready), None)?;
        Ok(())
    }

    fn poll_at_once(&mut self) -> io::Result<bool> {
        self.ready.clear();
        epoll::wait(&self.poll, spare_capacity(&mut self.ready), Some(&AT_ONCE))?;
        Ok(!self.ready.is_empty())
    }

    fn gather(&mut self) -> io::Result<()> {
        for event in self.ready.drain(..) {
            let source = event.data.u64();
            if source == SYNCED {
                rustix::io::read(&*self.synced, &mut [0_u8; 8])?;
                continue;
            }
            let number = usize::try_from(source).unwrap_or(usize::MAX);
            let Some(peer) = self.peers.get_mut(number) else { continue };
            if !peer.read_into(number, &mut self.group)? {
                epoll::delete(&self.poll, &peer.stream)?;
                self.open -= 1;
            }
        }
        Ok(())
    }
}

impl Peer {
    fn accept(listener: &TcpListener, poll: &OwnedFd, number: usize) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(poll, &stream, data, epoll::EventFlags::IN)?;
        Ok(Self { stream, inbound: Inbound::new(INBOUND) })
    }

    /// Whether the connection is still open.
    fn read_into(&mut self, number: usize, group: &mut Group) -> io::Result<bool> {
        match self.stream.read(self.inbound.space()) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.inbound.advance(count, |id, body| group.push(number, id, body));
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}
