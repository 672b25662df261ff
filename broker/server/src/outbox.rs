//! What a connection has to send, and the bookkeeping that bounds it.
//!
//! The core puts frames in; the connection's writer task takes everything that waits and sends
//! it with one vectored write. All on one thread, so cells suffice.

use bytes::{Bytes, BytesMut};
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::frame::encode_head;
use posthouse_protocol::{CorrelationId, Reply};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use tokio::sync::Notify;

/// Unanswered requests of one connection beyond which nothing more is read from it.
const UNANSWERED_MAX: usize = 20_000;
/// Small frames are put together in buffers of this size.
const CHUNK_BYTES: usize = 16 << 10;

/// Memory for what connections have sent and has not been answered, and for what waits to be sent
/// to them.
#[derive(Debug)]
pub(crate) struct Memory {
    used: Cell<usize>,
    each_max: usize,
    all_max: usize,
    /// Rings when all together are below their limit again.
    room: Notify,
}

impl Memory {
    /// Nothing is used; at most `each_max` may be by one connection, `all_max` by all.
    pub(crate) fn new(each_max: usize, all_max: usize) -> Self {
        Self { used: Cell::new(0), each_max, all_max, room: Notify::new() }
    }

    fn take(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    fn give_back(&self, bytes: usize) {
        let before = self.used.get();
        self.used.set(before.saturating_sub(bytes));
        if before >= self.all_max && self.used.get() < self.all_max {
            self.room.notify_waiters();
        }
    }
}

/// One connection, as the core, its reader and its writer share it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    unsent: RefCell<Unsent>,
    /// Rings when there is something to send, or the connection is to close.
    pub(crate) to_send: Notify,
    /// Rings when there is room to read again.
    pub(crate) room: Notify,
    unanswered: RefCell<BTreeMap<CorrelationId, usize>>,
    unanswered_bytes: Cell<usize>,
    /// Bytes of a large frame that has not all arrived.
    receiving: Cell<usize>,
    closing: Cell<bool>,
    memory: Rc<Memory>,
}

#[derive(Debug, Default)]
struct Unsent {
    chunks: VecDeque<Bytes>,
    open: BytesMut,
    bytes: usize,
    /// An answer to a commit is in it.
    tells_commit: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, memory: Rc<Memory>) -> Self {
        Self {
            id,
            unsent: RefCell::default(),
            to_send: Notify::new(),
            room: Notify::new(),
            unanswered: RefCell::default(),
            unanswered_bytes: Cell::new(0),
            receiving: Cell::new(0),
            closing: Cell::new(false),
            memory,
        }
    }

    /// Queues a frame without a tail.
    pub(crate) fn send(&self, correlation: CorrelationId, reply: &Reply) {
        self.send_with_tail(correlation, reply, std::iter::empty(), 0);
    }

    /// Queues a frame; the tail's parts, `tail_len` bytes in all, are sent without a copy.
    pub(crate) fn send_with_tail(
        &self,
        correlation: CorrelationId,
        reply: &Reply,
        tail: impl Iterator<Item = Bytes>,
        tail_len: usize,
    ) {
        self.answered(correlation);
        let mut unsent = self.unsent.borrow_mut();
        let before = unsent.open.len();
        encode_head(&mut unsent.open, reply.kind(), correlation, tail_len, |out| reply.encode(out));
        let grown = unsent.open.len() - before + tail_len;
        unsent.bytes += grown;
        unsent.tells_commit |= matches!(reply, Reply::Committed(_));
        self.memory.take(grown);
        if tail_len > 0 || unsent.open.len() >= CHUNK_BYTES {
            unsent.close_chunk();
        }
        unsent.chunks.extend(tail.filter(|part| !part.is_empty()));
        drop(unsent);
        self.to_send.notify_one();
    }

    /// Takes everything that waits to be sent. Says whether an answer to a commit is in it.
    pub(crate) fn take_unsent(&self, into: &mut VecDeque<Bytes>) -> bool {
        let mut unsent = self.unsent.borrow_mut();
        unsent.close_chunk();
        into.append(&mut unsent.chunks);
        std::mem::take(&mut unsent.tells_commit)
    }

    /// Takes note that `bytes` have been handed to the system.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.bytes = unsent.bytes.saturating_sub(bytes);
        drop(unsent);
        self.memory.give_back(bytes);
        self.ring_if_room();
    }

    /// Takes note of a request that will be answered.
    pub(crate) fn asked(&self, correlation: CorrelationId, bytes: usize) {
        if correlation != CorrelationId::ZERO {
            let mut unanswered = self.unanswered.borrow_mut();
            *unanswered.entry(correlation).or_default() += bytes;
            self.unanswered_bytes.set(self.unanswered_bytes.get() + bytes);
            self.memory.take(bytes);
        }
    }

    fn answered(&self, correlation: CorrelationId) {
        if correlation == CorrelationId::ZERO {
            return;
        }
        if let Some(bytes) = self.unanswered.borrow_mut().remove(&correlation) {
            self.unanswered_bytes.set(self.unanswered_bytes.get().saturating_sub(bytes));
            self.memory.give_back(bytes);
        }
        self.ring_if_room();
    }

    /// Whether more may be read from this connection.
    pub(crate) fn has_room(&self) -> bool {
        let own = self.held();
        let fits = own < self.memory.each_max && self.unanswered.borrow().len() < UNANSWERED_MAX;
        // One that holds nothing is let through, so that a crowd cannot starve it.
        fits && (own == 0 || self.memory.used.get() < self.memory.all_max)
    }

    fn held(&self) -> usize {
        self.unsent.borrow().bytes + self.unanswered_bytes.get() + self.receiving.get()
    }

    /// Takes note of how much of an unfinished frame has arrived.
    pub(crate) fn receiving(&self, bytes: usize) {
        let before = self.receiving.replace(bytes);
        if bytes >= before {
            self.memory.take(bytes - before);
        } else {
            self.memory.give_back(before - bytes);
        }
    }

    /// Waits until all connections together are below their limit. Who waits too long with half a
    /// frame is closed by the idle limit, which makes room for the others.
    pub(crate) async fn wait_for_memory(&self) {
        while self.memory.used.get() >= self.memory.all_max {
            self.memory.room.notified().await;
        }
    }

    /// Waits for something that may have made room.
    pub(crate) async fn wait_for_room(&self) {
        tokio::select! {
            () = self.room.notified() => {}
            () = self.memory.room.notified() => {}
        }
    }

    fn ring_if_room(&self) {
        if self.has_room() {
            self.room.notify_one();
        }
    }

    /// Ends the connection once everything that waits has been sent.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.to_send.notify_one();
        self.room.notify_one();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.borrow().bytes == 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.memory.give_back(self.held());
    }
}

impl Unsent {
    fn close_chunk(&mut self) {
        if !self.open.is_empty() {
            let chunk = self.open.split().freeze();
            self.chunks.push_back(chunk);
        }
    }
}
