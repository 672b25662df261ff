//! The one place where inputs wait for the core, bounded in bytes.

use posthouse_engine::Input;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes of inputs beyond which no connection reads more.
const INBOX_BYTES_MAX: usize = 64 << 20;

/// Inputs of the core's thread.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    inputs: RefCell<Vec<Input>>,
    bytes: Cell<usize>,
    /// Rings when the core has something to do; other threads ring it too.
    pub(crate) arrived: Arc<Notify>,
    emptied: Notify,
}

impl Inbox {
    /// Adds an input that keeps `bytes` alive.
    pub(crate) fn push(&self, input: Input, bytes: usize) {
        self.inputs.borrow_mut().push(input);
        self.bytes.set(self.bytes.get() + bytes);
        self.arrived.notify_one();
    }

    /// How many inputs wait.
    pub(crate) fn len(&self) -> usize {
        self.inputs.borrow().len()
    }

    /// What they keep alive.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Takes everything, leaving the emptied `into` in its place.
    pub(crate) fn swap(&self, into: &mut Vec<Input>) {
        debug_assert!(into.is_empty(), "inputs of the last round are all handled");
        std::mem::swap(&mut *self.inputs.borrow_mut(), into);
        self.bytes.set(0);
        self.emptied.notify_waiters();
    }

    /// Waits until the core has caught up.
    pub(crate) async fn room(&self) {
        while self.bytes.get() >= INBOX_BYTES_MAX {
            self.emptied.notified().await;
        }
    }
}
