//! What the broker at hand takes, told in its welcome.

use posthouse_protocol::limits;
use posthouse_protocol::message::Welcome;
use std::sync::atomic::{AtomicU32, Ordering};

/// Limits of the broker that was connected last.
#[derive(Debug)]
pub(crate) struct BrokerLimits {
    batch_bytes_max: AtomicU32,
}

impl BrokerLimits {
    pub(crate) const fn new() -> Self {
        Self { batch_bytes_max: AtomicU32::new(limits::BATCH_BYTES_DEFAULT) }
    }

    pub(crate) fn set(&self, welcome: &Welcome) {
        self.batch_bytes_max.store(welcome.batch_bytes_max, Ordering::Relaxed);
    }

    /// Largest batch.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.batch_bytes_max.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}
