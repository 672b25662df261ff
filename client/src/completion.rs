//! A result that many futures share: set once, read by all.
//!
//! One allocation serves a whole batch, so that a message's future is an `Arc` and an index.

use crate::lock::lock;
use std::sync::{Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

/// Set once; wakes everyone who waits.
#[derive(Debug)]
pub(crate) struct Completion<T> {
    value: OnceLock<T>,
    waiting: Mutex<Vec<Waker>>,
}

/// Where a future's waker is kept while it waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaiterSlot(Option<usize>);

impl WaiterSlot {
    /// Of a future that has not waited yet.
    pub(crate) const NEW: Self = Self(None);
}

impl<T> Completion<T> {
    /// Not set yet.
    pub(crate) const fn new() -> Self {
        Self { value: OnceLock::new(), waiting: Mutex::new(Vec::new()) }
    }

    /// Sets the value. A second call changes nothing.
    pub(crate) fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The value, or a promise to wake `cx`. Each future passes its own `slot` every time.
    pub(crate) fn poll(&self, cx: &Context<'_>, slot: &mut WaiterSlot) -> Poll<&T> {
        if let Some(value) = self.value.get() {
            return Poll::Ready(value);
        }
        let mut waiting = lock(&self.waiting);
        // `set` stores the value before it takes the lock, so a value missed here wakes us.
        if let Some(value) = self.value.get() {
            return Poll::Ready(value);
        }
        match slot.0.and_then(|at| waiting.get_mut(at)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                slot.0 = Some(waiting.len());
                waiting.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}
