//! The system's side of a connection: what takes bytes, at once or when it can.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use tokio::io::{AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::net::{tcp, unix};
use tokio::task::coop::consume_budget;

/// Parts given to one vectored write.
const PARTS_MAX: usize = 64;

/// Bytes on their way out, in order.
#[derive(Debug, Default)]
pub(crate) struct Parts(VecDeque<Bytes>);

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes these are.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Takes all of `more`.
    pub(crate) fn append(&mut self, more: &mut VecDeque<Bytes>) {
        self.0.append(more);
    }

    /// Gives everything away.
    pub(crate) fn give(&mut self, to: &mut VecDeque<Bytes>) {
        to.append(&mut self.0);
    }

    /// Takes note that the first `bytes` are sent.
    pub(crate) fn sent(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(front) = self.0.front_mut() else { return };
            if front.len() > bytes {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            self.0.pop_front();
        }
    }

    /// The first parts, for one vectored write.
    fn slices(&self) -> ([IoSlice<'_>; PARTS_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        (slices, count)
    }
}

/// Writing nothing is an error.
fn some(written: io::Result<usize>) -> io::Result<usize> {
    match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        sent => Ok(sent),
    }
}

/// A socket that takes bytes without waiting.
#[derive(Clone, Debug)]
pub(crate) enum Sender {
    Tcp(Rc<tcp::OwnedWriteHalf>),
    Unix(Rc<unix::OwnedWriteHalf>),
}

impl Sender {
    /// Writes as much as the system takes at once.
    pub(crate) fn try_write(&self, parts: &Parts) -> io::Result<usize> {
        let (slices, count) = parts.slices();
        let slices = slices.get(..count).unwrap_or_default();
        some(match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            Self::Unix(socket) => socket.try_write_vectored(slices),
        })
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }
}

/// The writing half of a connection.
#[derive(Debug)]
pub(crate) enum Writing {
    Socket(Sender),
    /// A pipe within the process.
    Pipe(WriteHalf<DuplexStream>),
}

impl Writing {
    /// What the core may send with, if it is a socket.
    pub(crate) fn sender(&self) -> Option<Sender> {
        match self {
            Self::Socket(sender) => Some(sender.clone()),
            Self::Pipe(_) => None,
        }
    }

    /// Writes something, when that is possible. Cancelled, it has written nothing.
    pub(crate) async fn write(&mut self, parts: &Parts) -> io::Result<usize> {
        match self {
            Self::Socket(sender) => loop {
                // Neither waits while the socket takes everything; others have their turn, too.
                consume_budget().await;
                sender.writable().await?;
                match sender.try_write(parts) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            },
            Self::Pipe(pipe) => {
                let (slices, count) = parts.slices();
                some(pipe.write_vectored(slices.get(..count).unwrap_or_default()).await)
            }
        }
    }
}
