//! What a sender gets: a receipt, and the future of one.

use crate::completion::{Completion, WaiterSlot};
use crate::error::PublishError;
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{MessageId, Offset};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Proof that a message was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id, made up by the publisher unless the message had one.
    pub id: MessageId,
    /// Its offset; `None` for a delayed message, which has none before it is due, and for a repeat so
    /// old that the broker has forgotten it.
    pub offset: Option<Offset>,
    /// What was reached: on disk, or in the broker's page cache.
    pub durability: Durability,
    /// Whether an earlier sending, whose answer was lost, had been accepted.
    pub duplicate: bool,
}

/// What became of a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The first message's offset.
    pub(crate) base: Option<Offset>,
    /// What was reached.
    pub(crate) durability: Durability,
    /// Whether it had been accepted before.
    pub(crate) duplicate: bool,
}

/// A batch's result, shared by its messages' futures.
pub(crate) type Outcomes = Completion<Result<Accepted, PublishError>>;

/// The future of a submitted message's [`Receipt`].
///
/// Dropping it changes nothing: the message is sent all the same.
#[derive(Debug)]
#[must_use = "dropping it is allowed, but nothing else tells whether the message was accepted"]
pub struct Pending {
    batch: Arc<Outcomes>,
    position: u32,
    id: MessageId,
    slot: WaiterSlot,
}

impl Pending {
    pub(crate) const fn new(batch: Arc<Outcomes>, position: u32, id: MessageId) -> Self {
        Self { batch, position, id, slot: WaiterSlot::NEW }
    }

    /// The message's id.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = ready!(this.batch.poll(cx, &mut this.slot));
        Poll::Ready(match result {
            Ok(accepted) => Ok(Receipt {
                id: this.id,
                offset: accepted.base.map(|base| base.plus(u64::from(this.position))),
                durability: accepted.durability,
                duplicate: accepted.duplicate,
            }),
            Err(error) => Err(error.clone()),
        })
    }
}
