//! Refusals and their texts: what is wrong, and which command helps.

use posthouse_protocol::message::{Refused, RefusedAt};
use posthouse_protocol::{ErrorCode, Name, Reply};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: ErrorCode,
    text: String,
    retry_after_ms: u32,
    reveals: bool,
    at: Option<RefusedAt>,
}

impl Refusal {
    /// A refusal that follows from the request alone.
    pub(crate) fn of_request(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), retry_after_ms: 0, reveals: false, at: None }
    }

    /// A refusal that tells something about the state, and so waits until that is committed.
    pub(crate) fn of_state(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), retry_after_ms: 0, reveals: true, at: None }
    }

    /// Advises when to try again.
    pub(crate) fn retry_after(self, retry_after_ms: u32) -> Self {
        Self { retry_after_ms, ..self }
    }

    /// Says which operation is at fault, and which message of it, unless that is said already.
    pub(crate) fn of_operation(self, operation: usize) -> Self {
        let operation = u32::try_from(operation).unwrap_or(u32::MAX);
        let message = self.at.map_or(RefusedAt::NO_MESSAGE, |at| at.message);
        Self { at: Some(RefusedAt { operation, message }), ..self }
    }

    /// Says which message of its batch is at fault.
    pub(crate) fn of_message(self, message: usize) -> Self {
        let message = u32::try_from(message).unwrap_or(u32::MAX);
        Self { at: Some(RefusedAt { operation: 0, message }), ..self }
    }

    /// The broker is stopping.
    pub(crate) fn shutting_down() -> Self {
        Self::of_request(ErrorCode::ShuttingDown, "the broker is stopping: connect again")
    }

    /// There is no topic of this name.
    pub(crate) fn no_topic(topic: &Name) -> Self {
        let help = format!("create it with: posthouse topic create {topic}");
        Self::of_state(ErrorCode::NotFound, format!("no topic \"{topic}\": {help}"))
    }

    /// There is no producer of this name.
    pub(crate) fn no_producer(producer: &Name) -> Self {
        let text = format!("no producer \"{producer}\": it was never opened, or is retired");
        Self::of_state(ErrorCode::NotFound, text)
    }

    /// There is no topic with this number.
    pub(crate) fn no_topic_id(id: posthouse_protocol::TopicId) -> Self {
        let text = format!("no topic with id {id}: it was deleted; look its name up again");
        Self::of_state(ErrorCode::NotFound, text)
    }

    /// There is no subscription of this name.
    pub(crate) fn no_subscription(topic: &Name, subscription: &Name) -> Self {
        let help = format!("create it with: posthouse subscription create {topic} {subscription}");
        let text = format!("no subscription \"{subscription}\" of topic \"{topic}\": {help}");
        Self::of_state(ErrorCode::NotFound, text)
    }

    /// There is no subscription with this number.
    pub(crate) fn no_subscription_id(id: posthouse_protocol::SubscriptionId) -> Self {
        let text = format!("no subscription with id {id}: it was deleted; look its name up again");
        Self::of_state(ErrorCode::NotFound, text)
    }

    /// Whether it tells something about the state.
    pub(crate) const fn reveals(&self) -> bool {
        self.reveals
    }

    /// The frame that says so.
    pub(crate) fn into_reply(self) -> Reply {
        Reply::Refused(Refused {
            code: self.code.number(),
            retry_after_ms: self.retry_after_ms,
            text: self.text,
            leader: String::new(),
            leader_epoch: 0,
            at: self.at,
        })
    }
}
