//! Frames on their way out: what waits leaves together in one vectored write.

use bytes::{Buf, Bytes, BytesMut};
use posthouse_protocol::{
    ConsumerId, CorrelationId, DecodeError, ErrorCode, Request, Sequence, frame, limits,
};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::connector::Pipe;
use crate::error::Refusal;
use crate::{commit, publisher};

/// Bytes that may wait for the socket before no more frames are made.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Tails up to this size are copied behind their head; larger ones are written where they lie.
const COPIED_BYTES_MAX: usize = 2 << 10;
/// Room for heads that is allocated at a time.
const HEADS_BYTES: usize = 16 << 10;
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;

/// Who gets the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A call of the application.
    Call(u64),
    /// A batch.
    Publish { publisher: publisher::Key, sequence: Sequence },
    /// A publisher that looks its topic up.
    Topic(publisher::Key),
    /// A publisher that opens a producer.
    Producer(publisher::Key),
    /// A consumer that subscribes.
    Subscribe(ConsumerId),
    /// A consumer's settlements.
    Settle { consumer: ConsumerId, number: u64 },
    /// A commit, by its number in the lane.
    Commit { lane: commit::Key, number: u64 },
    /// A lane of commits that opens or describes its producer.
    Lane(commit::Key),
    /// The answer says nothing new.
    Nobody,
}

/// The frames that wait for the socket, and who waits for their answers.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    heads: BytesMut,
    chunks: VecDeque<Bytes>,
    waiting: usize,
    owners: HashMap<CorrelationId, Owner>,
    last: CorrelationId,
    /// The most that this broker takes behind a head, once it has said so.
    tail_bytes_max: Option<u32>,
    /// What was not sent because the broker would close the connection over it.
    refused: Vec<(Owner, Refusal)>,
}

impl Outgoing {
    /// Forgets everything; correlations begin anew with the connection.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The broker at hand takes no more than this behind a head.
    pub(crate) const fn limit(&mut self, tail_bytes_max: u32) {
        self.tail_bytes_max = Some(tail_bytes_max);
    }

    /// What was not sent since the last time, and why.
    pub(crate) fn take_refused(&mut self) -> Vec<(Owner, Refusal)> {
        std::mem::take(&mut self.refused)
    }

    /// Whether more frames may be made.
    pub(crate) const fn has_room(&self) -> bool {
        self.waiting < WAITING_BYTES_MAX
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Queues a request with a tail, or refuses it if the broker could not read it: that would cost
    /// everybody's connection, and the next one, too, on which it would be sent again.
    pub(crate) fn send(&mut self, request: impl Into<Request>, tail: Bytes, owner: Owner) {
        let request = request.into();
        if let Err(error) = self.check(&request, tail.len()) {
            let text = format!("not sent: {error}");
            self.refused.push((owner, Refusal::new(ErrorCode::TooLarge.number(), &text)));
            return;
        }
        // A number still in use after going round would take another's answer.
        loop {
            self.last = CorrelationId(self.last.0.wrapping_add(1).max(1));
            if !self.owners.contains_key(&self.last) {
                break;
            }
        }
        self.owners.insert(self.last, owner);
        self.push(&request, self.last, tail);
    }

    fn check(&self, request: &Request, tail: usize) -> Result<(), DecodeError> {
        let mut field = "batch";
        if let Request::Commit(commit) = request {
            field = "Commit.batches";
            at_most("Commit.operations", commit.operations.len(), limits::LIST_ENTRIES_MAX)?;
        }
        at_most(field, tail, self.tail_bytes_max.unwrap_or(u32::MAX))
    }

    /// Queues a request without a tail.
    pub(crate) fn ask(&mut self, request: impl Into<Request>, owner: Owner) {
        self.send(request, Bytes::new(), owner);
    }

    /// Queues a request that gets no answer.
    pub(crate) fn tell(&mut self, request: impl Into<Request>) {
        self.push(&request.into(), CorrelationId(0), Bytes::new());
    }

    fn push(&mut self, request: &Request, correlation: CorrelationId, tail: Bytes) {
        if self.heads.capacity() - self.heads.len() < HEADS_BYTES / 4 {
            self.heads.reserve(HEADS_BYTES);
        }
        let before = self.heads.len();
        let head = |out: &mut BytesMut| request.encode(out);
        frame::encode_head(&mut self.heads, request.kind(), correlation, tail.len(), head);
        self.waiting += self.heads.len() - before + tail.len();
        if tail.len() <= COPIED_BYTES_MAX {
            self.heads.extend_from_slice(&tail);
        } else {
            self.cut_heads();
            self.chunks.push_back(tail);
        }
    }

    fn cut_heads(&mut self) {
        if !self.heads.is_empty() {
            self.chunks.push_back(self.heads.split().freeze());
        }
    }

    /// Who waits for the answer with this correlation.
    pub(crate) fn take_owner(&mut self, correlation: CorrelationId) -> Option<Owner> {
        self.owners.remove(&correlation)
    }

    /// Writes as much as the pipe takes; ready when nothing waits any more.
    pub(crate) fn poll_write(
        &mut self,
        pipe: &mut dyn Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut_heads();
        while !self.chunks.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = slices.iter_mut().zip(&self.chunks);
            let count = filled.map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count();
            let slices = slices.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut *pipe).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written(written);
        }
        Pin::new(pipe).poll_flush(cx)
    }

    fn written(&mut self, mut written: usize) {
        self.waiting -= written;
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
    }
}

fn at_most(field: &'static str, found: usize, limit: u32) -> Result<(), DecodeError> {
    let (found, limit) = (found as u64, u64::from(limit));
    if found <= limit { Ok(()) } else { Err(DecodeError::TooLarge { field, found, limit }) }
}
