//! Connections that break after so many bytes, anywhere inside a frame.

use posthouse_client::{Connecting, Connector, Pipe};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Connects to a broker in this process; each connection lives for a random number of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Cutting {
    broker: posthouse_broker::Connector,
    bytes_max: u64,
    /// How many connections there have been so far.
    pub(crate) made: Arc<AtomicU64>,
    cuts: Arc<AtomicU64>,
}

impl Cutting {
    pub(crate) fn new(broker: posthouse_broker::Connector, bytes_max: u64) -> Self {
        Self { broker, bytes_max, made: Arc::default(), cuts: Arc::default() }
    }

    /// How many connections have broken so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Connector for Cutting {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let inner = self.broker.connect().await?;
            let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            let random = made.wrapping_mul(6_364_136_223_846_793_005) >> 33;
            let left = 2000 + random % self.bytes_max;
            Ok(Box::new(Cut { inner, left, cuts: Arc::clone(&self.cuts) }) as Box<dyn Pipe>)
        })
    }
}

struct Cut {
    inner: DuplexStream,
    /// Bytes, both ways together, until it breaks.
    left: u64,
    cuts: Arc<AtomicU64>,
}

impl Cut {
    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        if self.left == 0 {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.left == 0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.spend(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let some = bytes.len().min(usize::try_from(self.left).unwrap());
        let written =
            Pin::new(&mut self.inner).poll_write(cx, bytes.get(..some).unwrap_or_default());
        if let Poll::Ready(Ok(written)) = written {
            self.spend(written);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
