//! The futures of settlements and extensions: optional to await.

use super::settlements::{Outcomes, Refused};
use crate::completion::WaiterSlot;
use crate::error::{Refusal, SettleError};
use posthouse_protocol::{Offset, Outcome};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What became of a settlement. It was sent when the delivery was settled; awaiting this only tells
/// whether it counted, and with an ack on a `synced` topic that this is on disk.
///
/// It is sent again after a reconnect, until the broker has answered or the client is closed.
#[derive(Debug)]
pub struct Settlement {
    /// `None` if the delivery was settled before, which then stands.
    outcomes: Option<Arc<Outcomes>>,
    offset: Offset,
    slot: WaiterSlot,
}

/// What became of an extension. It ends with the connection, as the lease does.
#[derive(Debug)]
pub struct Extension {
    outcomes: Arc<Outcomes>,
    offset: Offset,
    slot: WaiterSlot,
}

impl Settlement {
    pub(super) const fn new(outcomes: Option<Arc<Outcomes>>, offset: Offset) -> Self {
        Self { outcomes, offset, slot: WaiterSlot::NEW }
    }
}

impl Extension {
    pub(super) const fn new(outcomes: Arc<Outcomes>, offset: Offset) -> Self {
        Self { outcomes, offset, slot: WaiterSlot::NEW }
    }
}

impl Future for Settlement {
    type Output = Result<(), SettleError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match &this.outcomes {
            None => Poll::Ready(Ok(())),
            Some(outcomes) => poll_one(outcomes, this.offset, &mut this.slot, cx),
        }
    }
}

impl Future for Extension {
    type Output = Result<(), SettleError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        poll_one(&this.outcomes, this.offset, &mut this.slot, cx)
    }
}

fn poll_one(
    outcomes: &Outcomes,
    offset: Offset,
    slot: &mut WaiterSlot,
    cx: &Context<'_>,
) -> Poll<Result<(), SettleError>> {
    Poll::Ready(match ready!(outcomes.poll(cx, slot)) {
        Ok(refused) => refused.check(offset),
        Err(error) => Err(error.clone()),
    })
}

impl Refused {
    fn check(&self, offset: Offset) -> Result<(), SettleError> {
        let covers = |first: Offset, count: u32| {
            offset >= first && offset.distance_from(first) < u64::from(count)
        };
        let Some(run) = self.runs.iter().find(|run| covers(run.first, run.count)) else {
            return Ok(());
        };
        let refusal = Refusal::new(run.code, "");
        // A first sending whose answer was lost may have settled it, and that refuses the second.
        let outcome = if self.was_repeated { Outcome::Unknown } else { refusal.outcome() };
        Err(SettleError::Refused { refusal, outcome })
    }
}
