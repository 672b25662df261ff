//! One connection: the handshake, and frames as bytes.

use super::outgoing::Outgoing;
use super::received::Received;
use crate::connector::{Connector, Pipe};
use crate::error::Refusal;
use bytes::BytesMut;
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{HELLO_MAGIC, Hello, VERSION, Welcome};
use posthouse_protocol::{CorrelationId, DecodeError, Reply, Request};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// How long one attempt may take, the handshake included.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Bytes of the client's name that fit the first frame.
const NAME_BYTES_MAX: usize = 200;

/// A connection that has been welcomed.
pub(crate) struct Connection {
    pipe: Box<dyn Pipe>,
    received: Received,
    /// What the broker said first.
    pub(crate) welcome: Welcome,
    /// When the broker was last heard of.
    pub(crate) heard: Instant,
    /// When something was last sent.
    pub(crate) spoke: Instant,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No bytes get through, or they make no sense.
    Io(io::Error),
    /// It took too long.
    TimedOut,
    /// The broker does not want this client.
    Refused(Refusal),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Io(malformed(error))
    }
}

/// What one look at a connection found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Bytes have come.
    pub(crate) received: bool,
    /// Everything that waited has been written.
    pub(crate) written: bool,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn open(connector: &dyn Connector, client: &str) -> Result<Self, Failure> {
        let attempt = async {
            let mut pipe = connector.connect().await?;
            let mut received = Received::default();
            let welcome = greet(&mut *pipe, &mut received, client).await?;
            let now = Instant::now();
            Ok(Self { pipe, received, welcome, heard: now, spoke: now })
        };
        timeout(ATTEMPT, attempt).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// The next whole frame that has come.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; the connection is then beyond repair.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        self.received.next_frame()
    }

    /// Writes what waits and reads what has come; ready when bytes have come or all is written.
    pub(crate) fn poll_progress(
        &mut self,
        out: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Progress>> {
        let mut progress = Progress::default();
        if !out.is_empty() {
            progress.written = out.poll_write(&mut *self.pipe, cx)?.is_ready();
        }
        progress.received = self.poll_read(cx)?.is_ready();
        if progress.received || progress.written {
            Poll::Ready(Ok(progress))
        } else {
            Poll::Pending
        }
    }

    /// Reads what has come before a connection that cannot be written to is given up: among it may
    /// be answers that would otherwise have to be asked for again.
    pub(crate) async fn read_last(&mut self) {
        poll_fn(|cx| {
            while let Poll::Ready(Ok(())) = self.poll_read(cx) {}
            Poll::Ready(())
        })
        .await;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Dropping this future takes nothing: it has either read or not.
        let reading = pin!(self.pipe.read_buf(self.received.space()));
        if ready!(reading.poll(cx))? == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing has been sent for a while, and so nothing is expected.
    pub(crate) fn rest(&mut self) {
        self.received.rest();
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn shutdown(mut self) {
        // The broker notices the end either way.
        let _ = timeout(Duration::from_secs(1), self.pipe.shutdown()).await;
    }
}

async fn greet(
    pipe: &mut dyn Pipe,
    received: &mut Received,
    client: &str,
) -> Result<Welcome, Failure> {
    let mut end = client.len().min(NAME_BYTES_MAX);
    while !client.is_char_boundary(end) {
        end -= 1;
    }
    let hello = Request::Hello(Hello {
        magic: HELLO_MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: client.get(..end).unwrap_or_default().to_owned(),
        credentials: Vec::new(),
    });
    let mut bytes = BytesMut::new();
    let head = |out: &mut BytesMut| hello.encode(out);
    frame::encode_head(&mut bytes, hello.kind(), CorrelationId(1), 0, head);
    pipe.write_all(&bytes).await?;
    pipe.flush().await?;
    let frame = first_frame(pipe, received).await?;
    let reply = Reply::decode(frame.kind, &frame.head)?;
    let found = u64::from(reply.kind());
    if let Reply::Welcome(welcome) = reply {
        Ok(welcome)
    } else if let Reply::Refused(refused) = reply {
        Err(Failure::Refused(refused.into()))
    } else {
        Err(DecodeError::Invalid { field: "frame.kind", found }.into())
    }
}

async fn first_frame(pipe: &mut dyn Pipe, received: &mut Received) -> Result<Frame, Failure> {
    loop {
        if let Some(frame) = received.next_frame()? {
            return Ok(frame);
        }
        if pipe.read_buf(received.space()).await? == 0 {
            return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// A broken answer, as an error of the connection.
pub(crate) fn malformed(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
