//! One request of the application and the answer to it.

use crate::error::RequestError;
use bytes::Bytes;
use posthouse_protocol::{DecodeError, Reply, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A request on its way through the driver.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked.
    pub(crate) request: Request,
    /// The batches that go with it.
    pub(crate) tail: Bytes,
    /// Whether it may be asked twice.
    pub(crate) repeat: Repeat,
    /// When the caller gives up.
    pub(crate) deadline: Instant,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<Result<Answer, RequestError>>,
}

/// What may be done with a request whose answer was lost with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Ask again: twice is as good as once.
    Safe,
    /// Report that the outcome is unknown.
    Never,
}

/// A broker's answer that is not a refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The head.
    pub(crate) reply: Reply,
    /// Batch or message bytes.
    pub(crate) tail: Bytes,
}

impl Answer {
    /// The error for an answer of the wrong kind.
    pub(crate) fn unexpected(&self) -> RequestError {
        let found = u64::from(self.reply.kind());
        RequestError::Protocol(DecodeError::Invalid { field: "frame.kind", found })
    }
}

/// Unwraps the one kind of reply that answers a request.
macro_rules! expect_reply {
    ($answer:expr, $kind:ident) => {{
        let answer: crate::call::Answer = $answer;
        if let posthouse_protocol::Reply::$kind(reply) = answer.reply {
            Ok(reply)
        } else {
            Err(answer.unexpected())
        }
    }};
}

pub(crate) use expect_reply;
