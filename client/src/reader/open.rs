//! Opening a reader.

use super::{Follow, From, Reader, State};
use crate::call::{Repeat, expect_reply};
use crate::core::Core;
use crate::error::RequestError;
use posthouse_protocol::message::{Fetch, SubscriptionDescribe, TopicDescribe};
use posthouse_protocol::{Name, Offset, SubscriptionId, Timestamp, TopicId};
use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

/// Where a reader starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the first message still there.
    Earliest,
    /// Behind the last message visible when the reader is opened.
    Latest,
    /// At this offset, or the next one still there. Beyond the end, which is where the next message
    /// will be, reading fails with [`ReadError::BeyondEnd`](crate::ReadError::BeyondEnd).
    Offset(Offset),
    /// At the first message that arrived at this time or later.
    Time(Timestamp),
    /// Where the cursor of this stream subscription was saved; [`Reader::save`] saves it there.
    Saved(String),
}

impl Position {
    /// The saved cursor of this stream subscription.
    pub fn saved(subscription: impl Into<String>) -> Self {
        Self::Saved(subscription.into())
    }
}

/// A reader being configured; `.await` opens it.
#[derive(Debug)]
#[must_use = "a reader is opened by awaiting this"]
pub struct OpenReader {
    core: Arc<Core>,
    topic: String,
    from: Position,
    follows: Follow,
}

impl OpenReader {
    pub(crate) const fn new(core: Arc<Core>, topic: String, from: Position) -> Self {
        Self { core, topic, from, follows: Follow::No }
    }

    /// At the end, waits for more instead of saying so.
    pub const fn follow(mut self) -> Self {
        self.follows = Follow::Yes;
        self
    }

    async fn open(self) -> Result<Reader, RequestError> {
        let topic = Name::new(&self.topic)?;
        let describe = TopicDescribe { topic: topic.clone() };
        let info = expect_reply!(self.core.call(describe, Repeat::Safe).await?, TopicInfo)?;
        let (from, subscription) = self.start(&topic, info.id).await?;
        Ok(Reader {
            core: self.core,
            topic: (info.id, topic),
            subscription,
            follows: self.follows,
            state: State::At(from),
            ahead: None,
            slices: VecDeque::new(),
            damaged: None,
        })
    }

    async fn start(
        &self,
        topic: &Name,
        id: TopicId,
    ) -> Result<(From, Option<(SubscriptionId, String)>), RequestError> {
        let subscription = match &self.from {
            Position::Earliest => return Ok((From::Earliest, None)),
            Position::Latest => return Ok((From::Offset(self.end(id).await?), None)),
            Position::Offset(offset) => return Ok((From::Offset(*offset), None)),
            Position::Time(at) => return Ok((From::Time(*at), None)),
            Position::Saved(subscription) => Name::new(subscription)?,
        };
        let describe = SubscriptionDescribe { topic: topic.clone(), subscription };
        let answer = self.core.call(describe, Repeat::Safe).await?;
        let info = expect_reply!(answer, SubscriptionInfo)?;
        let name = info.subscription.as_str().to_owned();
        Ok((From::Offset(info.ack_floor), Some((info.id, name))))
    }

    /// Where the topic ends now. Asked once: a place that moves would pass over what comes before the
    /// first answer is there, over lost connections for one.
    async fn end(&self, topic: TopicId) -> Result<Offset, RequestError> {
        let from = From::Latest;
        let fetch = Fetch { topic, from, bytes_max: 0, messages_max: 0, wait_ms: 0 };
        let fetched = expect_reply!(self.core.call(fetch, Repeat::Safe).await?, Fetched)?;
        Ok(fetched.end)
    }
}

impl IntoFuture for OpenReader {
    type Output = Result<Reader, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
