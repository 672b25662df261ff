//! What a transaction sends, and the bell that is rung when it is committed.

use posthouse_client::Outgoing;
use std::sync::Arc;
use tokio::sync::Notify;

/// Wakes the relay of this process, once the transaction is committed.
#[derive(Clone, Debug)]
#[must_use = "ring it after the commit; without that the relay finds the message up to a second later"]
pub struct Bell(Arc<Notify>);

impl Bell {
    pub(crate) const fn new(notify: Arc<Notify>) -> Self {
        Self(notify)
    }

    /// Tells the relay that there is something. Rung before the commit, or without one, it does no
    /// harm and no good.
    pub fn ring(self) {
        self.0.notify_one();
    }
}

/// What a transaction sends, see `Outbox::transaction`.
#[derive(Debug, Default)]
pub struct Sends {
    pub(crate) outgoing: Vec<Outgoing>,
}

impl Sends {
    /// Sends this if the transaction commits, behind what was sent before.
    pub fn send(&mut self, outgoing: Outgoing) {
        self.outgoing.push(outgoing);
    }
}
