//! The server shapes under comparison.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::journal::{Group, Ring};
use super::syncer::{Syncer, Work};
use super::wire;

/// Who waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Nobody: replies follow the write.
    Never,
    /// The core thread itself.
    Inline,
    /// A second thread, always.
    HandOver,
    /// The second thread if something else is readable and the group has at least so many
    /// bytes, else the core.
    Adaptive(usize),
}

/// Who waits for the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sockets {
    Epoll,
    Tokio,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) sockets: Sockets,
    pub(crate) sync: Sync,
    /// How long the core polls before it blocks.
    pub(crate) spin: Duration,
}

/// What a server did in one run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    pub(crate) writes: u64,
    /// None at all where replies follow the write.
    pub(crate) syncs: u64,
    pub(crate) core_cpu: Duration,
    pub(crate) sync_cpu: Duration,
}

/// Everything of a server that is not a socket.
#[derive(Debug)]
pub(crate) struct Core {
    sync: Sync,
    ring: Ring,
    syncer: Option<Syncer>,
    durable: u64,
    inline_syncs: u64,
    /// Bytes of the last group.
    last_size: usize,
    /// Group, connection and request of every reply that is due.
    pending: VecDeque<(u64, usize, u64)>,
    outbound: Vec<Vec<u8>>,
    dirty: Vec<usize>,
}

impl Core {
    pub(crate) fn new(sync: Sync, ring: Ring, syncer: Option<Syncer>, connections: usize) -> Self {
        Self {
            sync,
            ring,
            syncer,
            durable: 0,
            inline_syncs: 0,
            last_size: 0,
            pending: VecDeque::new(),
            outbound: vec![Vec::new(); connections],
            dirty: Vec::new(),
        }
    }

    /// Writes the group, if there is anything in it.
    pub(crate) fn write(&mut self, group: &mut Group) -> io::Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let position = self.ring.written + 1;
        self.pending.extend(group.waiting.iter().map(|(to, id)| (position, *to, *id)));
        self.last_size = group.size();
        self.ring.append(group)
    }

    /// Whether the choice between the two threads hangs on what else is readable.
    pub(crate) fn wants_to_know_what_waits(&self) -> bool {
        matches!(self.sync, Sync::Adaptive(least) if self.last_size >= least)
            && self.syncer.as_ref().is_some_and(Syncer::is_idle)
            && self.durable() < self.ring.written
    }

    fn durable(&self) -> u64 {
        self.durable.max(self.syncer.as_ref().map_or(0, Syncer::durable))
    }

    /// Makes what is written durable, or has it made.
    pub(crate) fn settle(&mut self, something_waits: bool) -> io::Result<()> {
        let written = self.ring.written;
        if self.durable() == written {
            return Ok(());
        }
        match (self.sync, &mut self.syncer) {
            (Sync::Never, _) => {}
            (Sync::HandOver, Some(syncer)) => {
                syncer.request(written);
                return Ok(());
            }
            (Sync::Adaptive(_), Some(syncer)) if something_waits || !syncer.is_idle() => {
                syncer.request(written);
                return Ok(());
            }
            (Sync::Inline | Sync::HandOver | Sync::Adaptive(_), _) => {
                self.ring.sync()?;
                self.inline_syncs += 1;
            }
        }
        self.durable = written;
        Ok(())
    }

    /// Sends, one buffer per connection, every receipt whose group is safe.
    pub(crate) fn reply(&mut self, mut send: impl FnMut(usize, &[u8])) {
        let safe = self.durable();
        while let Some((_, to, id)) = self.pending.pop_front_if(|(group, ..)| *group <= safe) {
            if let Some(buffer) = self.outbound.get_mut(to) {
                if buffer.is_empty() {
                    self.dirty.push(to);
                }
                wire::push_receipt(buffer, id);
            }
        }
        for to in self.dirty.drain(..) {
            if let Some(buffer) = self.outbound.get_mut(to) {
                send(to, buffer);
                buffer.clear();
            }
        }
    }

    pub(crate) fn finish(self, core_cpu: Duration) -> Served {
        let Work { syncs, cpu } = self.syncer.map(Syncer::stop).unwrap_or_default();
        Served {
            writes: self.ring.written,
            syncs: syncs + self.inline_syncs,
            core_cpu,
            sync_cpu: cpu,
        }
    }
}
