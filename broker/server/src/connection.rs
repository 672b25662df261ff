//! One connection: a reader task that turns bytes into inputs, and a writer task.
//!
//! The reader checks everything that can be checked without state (limits, checksums, who may
//! speak when), so that the core sees well-formed requests only.

use crate::commits;
use crate::inbox::Inbox;
use crate::outbox::Connection;
use crate::socket::{Parts, Writing};
use bytes::{Bytes, BytesMut};
use posthouse_engine::Input;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{Goodbye, HELLO_MAGIC, Refused, RefusedAt, VERSION, Welcome};
use posthouse_protocol::{
    CorrelationId, DecodeError, ErrorCode, Reply, Request, StartEpoch, limits,
};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Room made for each read.
const READ_BYTES: usize = 64 << 10;

/// What every connection is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    pub(crate) start_epoch: StartEpoch,
    pub(crate) message_bytes_max: u32,
    pub(crate) batch_bytes_max: u32,
    /// Frames after the hello.
    pub(crate) frame_bytes_max: u32,
    pub(crate) hello_within: Duration,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed it, or the broker asked for it.
    Closed,
    /// The peer said nothing for too long.
    Silent,
    /// The system's error.
    Io(io::Error),
    /// The peer broke the protocol.
    Broke(ErrorCode, String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Silent => f.write_str("nothing received for too long"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Broke(code, text) => write!(f, "{code}: {text}"),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<DecodeError> for Ended {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::TooLarge { .. } => ErrorCode::TooLarge,
            DecodeError::Checksum { .. } => ErrorCode::Corrupt,
            DecodeError::Truncated { .. }
            | DecodeError::Trailing { .. }
            | DecodeError::Invalid { .. }
            | DecodeError::Text { .. } => ErrorCode::Malformed,
        };
        Self::Broke(code, error.to_string())
    }
}

/// Reads until the connection ends; what it was told before stays in the inbox.
pub(crate) async fn read_all(
    mut stream: impl AsyncRead + Unpin,
    connection: Rc<Connection>,
    inbox: Rc<Inbox>,
    greeting: Greeting,
) -> Ended {
    let mut received = BytesMut::with_capacity(READ_BYTES);
    let ended = match greet(&mut stream, &mut received, &connection, greeting).await {
        Ok(()) => serve(&mut stream, &mut received, &connection, &inbox, greeting).await,
        Err(ended) => ended,
    };
    if let Ended::Broke(code, text) = &ended {
        let goodbye = Goodbye { code: code.number(), text: text.clone() };
        connection.send(CorrelationId::ZERO, &Reply::Goodbye(goodbye));
    }
    connection.close();
    ended
}

async fn greet(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut BytesMut,
    connection: &Connection,
    greeting: Greeting,
) -> Result<(), Ended> {
    let first = next_frame(stream, received, connection, limits::HELLO_FRAME_BYTES_MAX);
    let frame = timeout(greeting.hello_within, first).await.map_err(|_| Ended::Silent)??;
    let Request::Hello(hello) = Request::decode(frame.kind, &frame.head)? else {
        let text = "the first frame must be a hello".to_owned();
        return Err(Ended::Broke(ErrorCode::OutOfState, text));
    };
    if hello.magic != HELLO_MAGIC {
        let text = "the first frame does not start like Posthouse's".to_owned();
        return Err(Ended::Broke(ErrorCode::Malformed, text));
    }
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        let (min, max) = (hello.version_min, hello.version_max);
        let text = format!("this broker speaks version {VERSION}, the client {min} to {max}");
        return Err(Ended::Broke(ErrorCode::UnsupportedVersion, text));
    }
    tracing::debug!(connection = connection.id.0, client = ?hello.client, "welcome");
    let welcome = Welcome {
        version: VERSION,
        features: 0,
        broker: concat!("posthouse ", env!("CARGO_PKG_VERSION")).to_owned(),
        start_epoch: greeting.start_epoch,
        message_bytes_max: greeting.message_bytes_max,
        batch_bytes_max: greeting.batch_bytes_max,
        addresses: Vec::new(),
    };
    connection.send(frame.correlation, &Reply::Welcome(welcome));
    connection.greeted();
    Ok(())
}

async fn serve(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut BytesMut,
    connection: &Connection,
    inbox: &Inbox,
    greeting: Greeting,
) -> Ended {
    loop {
        connection.wait_for_room().await;
        inbox.room().await;
        let next = next_frame(stream, received, connection, greeting.frame_bytes_max);
        let frame = match next.await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        if let Err(ended) = accept(frame, connection, inbox, greeting) {
            return ended;
        }
        // Everything else that came with the same read goes into the same round.
        loop {
            match frame::decode(received, greeting.frame_bytes_max) {
                Ok(Some(frame)) => {
                    if let Err(ended) = accept(frame, connection, inbox, greeting) {
                        return ended;
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
    }
}

/// The next whole frame. Cancel-safe: what was received stays in `received`.
async fn next_frame(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut BytesMut,
    connection: &Connection,
    limit: u32,
) -> Result<Frame, Ended> {
    loop {
        if let Some(frame) = frame::decode(received, limit)? {
            connection.receiving(0);
            return Ok(frame);
        }
        if received.len() > READ_BYTES {
            connection.receiving(received.len());
            connection.wait_for_memory().await;
        }
        if received.capacity() - received.len() < READ_BYTES / 4 {
            // Grows with the bytes received, never with the length announced.
            received.reserve(READ_BYTES.max(received.len()));
        }
        if stream.read_buf(received).await? == 0 {
            return Err(Ended::Closed);
        }
    }
}

/// Checks a frame and passes it on.
fn accept(
    frame: Frame,
    connection: &Connection,
    inbox: &Inbox,
    greeting: Greeting,
) -> Result<(), Ended> {
    connection.heard();
    let bytes = frame::FRAME_HEADER_LEN + frame.head.len() + frame.tail.len();
    let request = Request::decode(frame.kind, &frame.head)?;
    if matches!(request, Request::Hello(_)) {
        let text = "a second hello on one connection".to_owned();
        return Err(Ended::Broke(ErrorCode::OutOfState, text));
    }
    if let Err((error, at)) = check_tail(&request, &frame.tail, greeting.batch_bytes_max) {
        refuse(connection, frame.correlation, error, at);
        return Ok(());
    }
    if !frame.tail.is_empty() && !request.has_tail() {
        let text = format!("a frame of kind {} has no tail", frame.kind);
        return Err(Ended::Broke(ErrorCode::Malformed, text));
    }
    if matches!(request, Request::Heartbeat(_)) {
        return Ok(());
    }
    connection.asked(frame.correlation, bytes);
    let input = Input::Request {
        connection: connection.id,
        correlation: frame.correlation,
        request,
        batch: frame.tail,
    };
    inbox.push(input, bytes);
    Ok(())
}

/// Checks the limits and checksums of what follows a head, and says which part is at fault.
fn check_tail(
    request: &Request,
    tail: &Bytes,
    limit: u32,
) -> Result<(), (DecodeError, Option<RefusedAt>)> {
    if let Request::Publish(_) = request {
        check_size("batch", tail, limit).map_err(|error| (error, None))?;
        check_batch(tail).map_err(|(error, message)| (error, at(0, message)))?;
    }
    if let Request::Commit(commit) = request {
        check_size("batches", tail, limit).map_err(|error| (error, None))?;
        for (place, batch) in commit.batches(tail).map_err(|error| (error, None))? {
            check_batch(&batch).map_err(|(error, message)| (error, at(place, message)))?;
        }
    }
    Ok(())
}

fn check_size(field: &'static str, tail: &Bytes, limit: u32) -> Result<(), DecodeError> {
    let (found, limit) = (tail.len() as u64, u64::from(limit));
    if found <= limit { Ok(()) } else { Err(DecodeError::TooLarge { field, found, limit }) }
}

/// Checks a batch; the error names the message if it is one's.
fn check_batch(batch: &[u8]) -> Result<(), (DecodeError, Option<u32>)> {
    let view = BatchView::parse(batch).map_err(|error| (error, None))?;
    view.verify_bodies().map_err(|(message, error)| (error, Some(message)))
}

fn at(operation: usize, message: Option<u32>) -> Option<RefusedAt> {
    let operation = u32::try_from(operation).unwrap_or(u32::MAX);
    Some(RefusedAt { operation, message: message.unwrap_or(RefusedAt::NO_MESSAGE) })
}

fn refuse(
    connection: &Connection,
    correlation: CorrelationId,
    error: DecodeError,
    at: Option<RefusedAt>,
) {
    let Ended::Broke(code, text) = Ended::from(error) else { return };
    let refused = Refused {
        code: code.number(),
        retry_after_ms: 0,
        text,
        leader: String::new(),
        leader_epoch: 0,
        at,
    };
    connection.send(correlation, &Reply::Refused(refused));
}

/// Sends what the core could not send itself, until the connection ends and everything is sent.
pub(crate) async fn write_all(mut writing: Writing, connection: Rc<Connection>) -> io::Result<()> {
    let stuck = Duration::from_secs(limits::IDLE_SECONDS_MAX);
    let mut parts = Parts::default();
    loop {
        let tells_commit = connection.take_to_write(&mut parts);
        if parts.is_empty() {
            if connection.is_closing() {
                return Ok(());
            }
            connection.to_send.notified().await;
            continue;
        }
        while !parts.is_empty() {
            let sent = timeout(stuck, writing.write(&parts)).await??;
            parts.sent(sent);
            connection.sent(sent);
        }
        connection.written();
        if tells_commit {
            commits::after_reply();
        }
    }
}
