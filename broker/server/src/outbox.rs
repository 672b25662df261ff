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
use tokio::sync::Notify;

/// Unsent bytes of one connection beyond which nothing more is read from it.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// Bytes of unanswered requests of one connection beyond which nothing more is read from it.
const UNANSWERED_BYTES_MAX: usize = 8 << 20;
/// Unanswered requests of one connection beyond which nothing more is read from it.
const UNANSWERED_MAX: usize = 20_000;
/// Small frames are put together in buffers of this size.
const CHUNK_BYTES: usize = 16 << 10;

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
    closing: Cell<bool>,
}

#[derive(Debug, Default)]
struct Unsent {
    chunks: VecDeque<Bytes>,
    open: BytesMut,
    bytes: usize,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId) -> Self {
        Self {
            id,
            unsent: RefCell::default(),
            to_send: Notify::new(),
            room: Notify::new(),
            unanswered: RefCell::default(),
            unanswered_bytes: Cell::new(0),
            closing: Cell::new(false),
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
        if tail_len > 0 || unsent.open.len() >= CHUNK_BYTES {
            unsent.close_chunk();
        }
        unsent.chunks.extend(tail.filter(|part| !part.is_empty()));
        drop(unsent);
        self.to_send.notify_one();
    }

    /// Takes everything that waits to be sent.
    pub(crate) fn take_unsent(&self, into: &mut VecDeque<Bytes>) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.close_chunk();
        into.append(&mut unsent.chunks);
    }

    /// Takes note that `bytes` have been handed to the system.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.bytes = unsent.bytes.saturating_sub(bytes);
        drop(unsent);
        self.ring_if_room();
    }

    /// Takes note of a request that will be answered.
    pub(crate) fn asked(&self, correlation: CorrelationId, bytes: usize) {
        if correlation != CorrelationId::ZERO {
            let mut unanswered = self.unanswered.borrow_mut();
            *unanswered.entry(correlation).or_default() += bytes;
            self.unanswered_bytes.set(self.unanswered_bytes.get() + bytes);
        }
    }

    fn answered(&self, correlation: CorrelationId) {
        if correlation == CorrelationId::ZERO {
            return;
        }
        if let Some(bytes) = self.unanswered.borrow_mut().remove(&correlation) {
            self.unanswered_bytes.set(self.unanswered_bytes.get().saturating_sub(bytes));
        }
        self.ring_if_room();
    }

    /// Whether more may be read from this connection.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent.borrow().bytes < UNSENT_BYTES_MAX
            && self.unanswered_bytes.get() < UNANSWERED_BYTES_MAX
            && self.unanswered.borrow().len() < UNANSWERED_MAX
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

impl Unsent {
    fn close_chunk(&mut self) {
        if !self.open.is_empty() {
            let chunk = self.open.split().freeze();
            self.chunks.push_back(chunk);
        }
    }
}
