//! What a connection has to send, and the bookkeeping that bounds it.
//!
//! The core puts frames in and, at the end of its round, gives everything that waits to the system
//! itself, with vectored writes: waking a task for that costs more than the frames. What the system
//! does not take at once is left to the connection's writer task. All on one thread, so cells suffice.

use crate::commits;
use crate::socket::{Parts, Sender};
use crate::unanswered::Unanswered;
use bytes::{Bytes, BytesMut};
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::frame::encode_head;
use posthouse_protocol::{CorrelationId, Reply};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// Unanswered requests of one connection beyond which nothing more is read from it.
const UNANSWERED_MAX: usize = 20_000;
/// Writes to one connection in a round of the core, lest a fast reader hold up everybody.
const WRITES_MAX: usize = 8;
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
    /// Room for what is being sent; empty in between.
    parts: RefCell<Parts>,
}

impl Memory {
    /// Nothing is used; at most `each_max` may be by one connection, `all_max` by all.
    pub(crate) fn new(each_max: usize, all_max: usize) -> Self {
        Self {
            used: Cell::new(0),
            each_max,
            all_max,
            room: Notify::new(),
            parts: RefCell::default(),
        }
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
    /// What takes bytes without waiting, if the connection has such a thing.
    sender: Option<Sender>,
    unsent: RefCell<Unsent>,
    /// The writer holds bytes that were taken; whatever comes now is sent after them, by it.
    writing: Cell<bool>,
    /// Rings when there is something to send that the core could not send itself, or the connection
    /// is to close.
    pub(crate) to_send: Notify,
    /// Rings when there is room to read again and the reader waits for that.
    room: Notify,
    waits_for_room: Cell<bool>,
    /// Rings when the connection is to close.
    closed: Notify,
    /// A whole frame came, or none was read because there was no room, since the last look.
    heard: Cell<bool>,
    /// Something was sent since the last look.
    spoke: Cell<bool>,
    /// The hello is over.
    greeted: Cell<bool>,
    unanswered: RefCell<Unanswered>,
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
    pub(crate) fn new(id: ConnectionId, sender: Option<Sender>, memory: Rc<Memory>) -> Self {
        Self {
            id,
            sender,
            unsent: RefCell::default(),
            writing: Cell::new(false),
            to_send: Notify::new(),
            room: Notify::new(),
            waits_for_room: Cell::new(false),
            closed: Notify::new(),
            heard: Cell::new(false),
            spoke: Cell::new(false),
            greeted: Cell::new(false),
            unanswered: RefCell::default(),
            unanswered_bytes: Cell::new(0),
            receiving: Cell::new(0),
            closing: Cell::new(false),
            memory,
        }
    }

    /// Sends a frame without a tail, by way of the writer.
    pub(crate) fn send(&self, correlation: CorrelationId, reply: &Reply) {
        self.queue(correlation, reply, std::iter::empty(), 0);
        self.to_send.notify_one();
    }

    /// Queues a frame; the tail's parts, `tail_len` bytes in all, are sent without a copy. Call
    /// [`Self::send_queued`] later. Says whether nothing was queued before.
    pub(crate) fn queue(
        &self,
        correlation: CorrelationId,
        reply: &Reply,
        tail: impl Iterator<Item = Bytes>,
        tail_len: usize,
    ) -> bool {
        self.answered(correlation);
        let mut unsent = self.unsent.borrow_mut();
        let was_empty = unsent.open.is_empty() && unsent.chunks.is_empty();
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
        was_empty
    }

    /// Gives what is queued to the system, as much as it takes at once; the writer does the rest.
    pub(crate) fn send_queued(&self) {
        if self.writing.get() {
            return; // It looks again when it has sent what it holds.
        }
        let Some(sender) = &self.sender else { return self.to_send.notify_one() };
        let mut parts = std::mem::take(&mut *self.memory.parts.borrow_mut());
        let tells_commit = self.take_unsent(&mut parts);
        for _ in 0..WRITES_MAX {
            if parts.is_empty() {
                break;
            }
            // Whatever is wrong with the socket, the writer is going to meet it.
            let Ok(sent) = sender.try_write(&parts) else { break };
            parts.sent(sent);
            self.sent(sent);
        }
        if parts.is_empty() {
            if tells_commit {
                commits::after_reply();
            }
        } else {
            self.put_back(&mut parts, tells_commit);
            self.to_send.notify_one();
        }
        *self.memory.parts.borrow_mut() = parts;
    }

    /// Takes everything that waits to be sent, for the writer, which says when it is done with
    /// [`Self::written`]. Says whether an answer to a commit is in it.
    pub(crate) fn take_to_write(&self, into: &mut Parts) -> bool {
        let tells_commit = self.take_unsent(into);
        self.writing.set(!into.is_empty());
        tells_commit
    }

    /// The writer has sent everything that it took.
    pub(crate) fn written(&self) {
        self.writing.set(false);
    }

    fn take_unsent(&self, into: &mut Parts) -> bool {
        let mut unsent = self.unsent.borrow_mut();
        unsent.close_chunk();
        into.append(&mut unsent.chunks);
        std::mem::take(&mut unsent.tells_commit)
    }

    fn put_back(&self, parts: &mut Parts, tells_commit: bool) {
        let mut unsent = self.unsent.borrow_mut();
        parts.give(&mut unsent.chunks);
        unsent.tells_commit |= tells_commit;
    }

    /// Takes note that `bytes` have been handed to the system.
    pub(crate) fn sent(&self, bytes: usize) {
        self.spoke.set(true);
        let mut unsent = self.unsent.borrow_mut();
        unsent.bytes = unsent.bytes.saturating_sub(bytes);
        drop(unsent);
        self.memory.give_back(bytes);
        self.ring_if_room();
    }

    /// Takes note of the end of the hello: from now on silence counts.
    pub(crate) fn greeted(&self) {
        self.greeted.set(true);
        self.heard();
    }

    /// Takes note that a whole frame has come.
    pub(crate) fn heard(&self) {
        self.heard.set(true);
    }

    /// Whether the peer was heard since the last call. One that is not read from counts as heard, and
    /// so does one during its hello, which has a limit of its own.
    pub(crate) fn was_heard(&self) -> bool {
        self.heard.replace(false) || self.waits_for_room.get() || !self.greeted.get()
    }

    /// Whether something was sent since the last call, or waits to be. Nothing is due to a peer
    /// during its hello.
    pub(crate) fn spoke(&self) -> bool {
        self.spoke.replace(false) || !self.is_flushed() || !self.greeted.get()
    }

    /// Takes note of a request that will be answered.
    pub(crate) fn asked(&self, correlation: CorrelationId, bytes: usize) {
        if correlation != CorrelationId::ZERO {
            self.unanswered.borrow_mut().insert(correlation, bytes);
            self.unanswered_bytes.set(self.unanswered_bytes.get() + bytes);
            self.memory.take(bytes);
        }
    }

    fn answered(&self, correlation: CorrelationId) {
        if correlation == CorrelationId::ZERO {
            return;
        }
        if let Some(bytes) = self.unanswered.borrow_mut().remove(correlation) {
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

    /// Waits until there is room to read more.
    pub(crate) async fn wait_for_room(&self) {
        while !self.has_room() {
            self.waits_for_room.set(true);
            tokio::select! {
                () = self.room.notified() => {}
                () = self.memory.room.notified() => {}
            }
        }
        if self.waits_for_room.replace(false) {
            self.heard();
        }
    }

    fn ring_if_room(&self) {
        if self.waits_for_room.get() && self.has_room() {
            self.room.notify_one();
        }
    }

    /// Ends the connection once everything that waits has been sent.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.to_send.notify_one();
        self.closed.notify_one();
    }

    /// Waits until the connection is to end.
    pub(crate) async fn closed(&self) {
        while !self.is_closing() {
            self.closed.notified().await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::write_all;
    use crate::socket::Writing;
    use posthouse_protocol::frame;
    use posthouse_protocol::message::Goodbye;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    /// Two ends of a socket: a connection with its writing half, and what reads the other end.
    fn connected() -> std::io::Result<(Rc<Connection>, Writing, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (_, write) = ours.into_split();
        let writing = Writing::Socket(Sender::Unix(Rc::new(write)));
        let memory = Rc::new(Memory::new(1 << 30, 1 << 30));
        let connection = Connection::new(ConnectionId(1), writing.sender(), memory);
        Ok((Rc::new(connection), writing, theirs))
    }

    /// A push with a tail of this many bytes of that value, as the core queues it.
    fn queue(connection: &Connection, value: u8, len: usize) {
        let reply = Reply::Goodbye(Goodbye { code: 0, text: String::new() });
        let tail = Bytes::from(vec![value; len]);
        connection.queue(CorrelationId::ZERO, &reply, [tail].into_iter(), len);
    }

    #[tokio::test]
    async fn what_the_system_takes_at_once_needs_no_writer() -> std::io::Result<()> {
        let (connection, _writing, mut theirs) = connected()?;
        queue(&connection, 1, 100);
        connection.send_queued();

        assert!(connection.is_flushed());
        assert!(theirs.read_u8().await.is_ok());
        Ok(())
    }

    #[tokio::test]
    async fn what_it_does_not_take_is_sent_by_the_writer_in_order() -> std::io::Result<()> {
        const LEN: usize = 1 << 20;
        let (connection, writing, theirs) = connected()?;
        let peer = async {
            let tails = take_slowly(&connection, theirs, LEN).await;
            connection.close();
            tails
        };
        let writer = write_all(writing, Rc::clone(&connection));
        let (tails, written) = tokio::join!(peer, writer);

        let expected: Vec<_> = (1..=4).map(|value| Bytes::from(vec![value; LEN])).collect();
        assert!(tails? == expected, "frames in the order in which they were queued");
        written?;
        assert!(connection.is_flushed());
        Ok(())
    }

    /// Queues four frames; what the other end gets of them.
    async fn take_slowly(
        connection: &Connection,
        mut theirs: UnixStream,
        len: usize,
    ) -> std::io::Result<Vec<Bytes>> {
        let (mut received, mut tails) = (BytesMut::new(), Vec::new());
        for value in 1..=4 {
            queue(connection, value, len);
            connection.send_queued();
            assert!(!connection.is_flushed(), "a socket does not take megabytes at once");
            // The writer takes what there is. The next comes when it is not done with that and the
            // socket has room again, and before it has seen this.
            tokio::task::yield_now().await;
            received.reserve(len);
            theirs.read_buf(&mut received).await?;
            tokio::task::yield_now().await;
        }
        while tails.len() < 4 {
            assert!(theirs.read_buf(&mut received).await? > 0, "only {} frames", tails.len());
            let mut next = || frame::decode(&mut received, 2 << 20);
            while let Some(frame) = next().map_err(std::io::Error::other)? {
                tails.push(frame.tail);
            }
        }
        Ok(tails)
    }
}
