//! The core: the shell with a clock, the connections, and the threads it hands work to.

use crate::clock::Clock;
use crate::deliver::read_delivery;
use crate::exit::Exit;
use crate::inbox::Inbox;
use crate::loader::{Loaded, Loader};
use crate::outbox::Connection;
use crate::shell::{Job, Outlet, Room, Shell};
use crate::syncer::Syncer;
use bytes::Bytes;
use posthouse_engine::effect::Deliver;
use posthouse_engine::input::ConnectionId;
use posthouse_engine::{Engine, Input};
use posthouse_protocol::{CorrelationId, Reply};
use posthouse_storage::journal::Journal;
use posthouse_storage::reader::Reader;
use posthouse_storage::recover::RecoveryReport;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Connections by id, shared with the listener.
pub(crate) type Connections = Rc<RefCell<BTreeMap<ConnectionId, Rc<Connection>>>>;

/// The shell and its threads.
#[derive(Debug)]
pub(crate) struct Core {
    shell: Shell<Sockets>,
    syncer: Syncer,
    clock: Clock,
    inbox: Rc<Inbox>,
    inputs: Vec<Input>,
    loaded: Vec<Loaded>,
}

/// What the core is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) journal: Journal,
    pub(crate) reader: Reader,
    pub(crate) room: Room,
    pub(crate) clock: Clock,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) connections: Connections,
}

/// Where everything goes that leaves the shell: to connections and to the loader.
#[derive(Debug)]
struct Sockets {
    reader: Reader,
    loader: Loader,
    connections: Connections,
    waiting: Waiting,
}

/// Connections for which something waits to be sent.
///
/// Deliveries leave first: who gets one has work to do, and who gets a receipt knew the message
/// before. Sending to one connection takes as long as waking its peer.
#[derive(Debug, Default)]
struct Waiting {
    deliveries: Vec<Rc<Connection>>,
    replies: Vec<Rc<Connection>>,
}

impl Waiting {
    fn drain(&mut self) -> impl Iterator<Item = Rc<Connection>> {
        self.deliveries.drain(..).chain(self.replies.drain(..))
    }
}

impl Core {
    pub(crate) fn new(parts: Parts) -> std::io::Result<Self> {
        let Parts { engine, journal, reader, room, clock, inbox, connections } = parts;
        let syncer = Syncer::start(inbox.arrived.clone())?;
        let loader = Loader::start(&reader, inbox.arrived.clone())?;
        let sockets = Sockets { reader, loader, connections, waiting: Waiting::default() };
        let shell = Shell::new(engine, journal, room, sockets);
        Ok(Self { shell, syncer, clock, inbox, inputs: Vec::new(), loaded: Vec::new() })
    }

    /// Begins a start epoch; when this returns it is durable.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed.
    pub(crate) fn start(&mut self, report: &RecoveryReport) -> Result<(), Exit> {
        self.shell.start(self.clock.now(), report)
    }

    /// Since the start of the broker, for measuring how long something took.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_micros(self.clock.now().mono.0)
    }

    /// When the next round is due even if nothing arrives.
    pub(crate) fn wake_at(&self) -> Instant {
        self.clock.instant(self.shell.wake_at())
    }

    /// Whether everything that was decided has been sent.
    pub(crate) fn is_drained(&mut self) -> bool {
        let sent = |connections: &Connections| {
            connections.borrow().values().all(|connection| connection.is_flushed())
        };
        self.shell.is_drained() && sent(&self.shell.outlet().connections)
    }

    /// One round over everything that waits.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed or a thread has died; nothing that depends on what was not
    /// synced has left.
    pub(crate) fn round(&mut self) -> Result<(), Exit> {
        if self.syncer.is_dead() || self.shell.outlet().loader.is_dead() {
            return Err(Exit::Bug("a thread of the broker has died".to_owned()));
        }
        let now = self.clock.now();
        if let Some(done) = self.syncer.take_done() {
            self.shell.synced(now, done)?;
        }
        let mut inputs = std::mem::take(&mut self.inputs);
        self.inbox.swap(&mut inputs);
        self.take_loaded(&mut inputs);
        let job = self.shell.round(now, inputs.drain(..))?;
        self.inputs = inputs;
        if let Some(job) = job {
            self.syncer.begin(job);
        }
        self.shell.outlet().flush();
        Ok(())
    }

    fn take_loaded(&mut self, inputs: &mut Vec<Input>) {
        let sockets = self.shell.outlet();
        sockets.loader.take(&mut self.loaded);
        for result in self.loaded.drain(..) {
            match result {
                Loaded::Input(input) => inputs.push(input),
                Loaded::Reply { connection, correlation, reply, tail } => {
                    sockets.send(connection, correlation, &reply, tail);
                }
            }
        }
    }

    /// Ends the segment that is being written, so that everything can be folded.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed.
    pub(crate) fn finish_segment(&mut self) -> Result<(), Exit> {
        self.shell.finish_segment()
    }

    /// Ends the journal cleanly.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed; the next start then recovers as after a kill.
    pub(crate) fn close(self) -> Result<(), Exit> {
        self.shell.close()
    }
}

impl Sockets {
    fn send(
        &mut self,
        connection: ConnectionId,
        correlation: CorrelationId,
        reply: &Reply,
        tail: Vec<Bytes>,
    ) {
        // A connection that is gone needs no reply: its client asks again with the same ids.
        if let Some(connection) = self.connections.borrow().get(&connection) {
            let len = tail.iter().map(Bytes::len).sum();
            if connection.queue(correlation, reply, tail.into_iter(), len) {
                self.waiting.replies.push(Rc::clone(connection));
            }
        }
    }
}

impl Outlet for Sockets {
    fn reply(&mut self, connection: ConnectionId, correlation: CorrelationId, reply: Reply) {
        self.send(connection, correlation, &reply, Vec::new());
    }

    fn deliver(&mut self, deliver: Deliver) {
        if let Some(connection) = self.connections.borrow().get(&deliver.connection) {
            read_delivery(&self.reader, &deliver, |head, tail| {
                let len = tail.iter().map(Bytes::len).sum();
                if connection.queue(CorrelationId::ZERO, &head, tail.into_iter(), len) {
                    self.waiting.deliveries.push(Rc::clone(connection));
                }
            });
        }
    }

    fn flush(&mut self) {
        self.waiting.drain().for_each(|connection| connection.send_queued());
    }

    fn load(&mut self, job: Job) {
        self.loader.ask(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Memory;

    #[test]
    fn deliveries_leave_before_replies_each_in_their_order() {
        let memory = Rc::new(Memory::new(1 << 20, 1 << 20));
        let connection = |id| Rc::new(Connection::new(ConnectionId(id), None, Rc::clone(&memory)));
        let mut waiting = Waiting::default();
        waiting.replies.extend([1, 2].map(connection));
        waiting.deliveries.extend([3, 4].map(connection));

        let order: Vec<_> = waiting.drain().map(|connection| connection.id.0).collect();
        assert_eq!(order, [3, 4, 1, 2]);
        assert_eq!(waiting.drain().count(), 0);
    }
}
