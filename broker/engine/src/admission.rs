//! What admits messages: the topic's limits for each, and the room for all.

use crate::delay::DELAYED_MAX;
use crate::input::{Space, WindowEntry};
use crate::refusal::Refusal;
use posthouse_protocol::batch::{BatchView, EntryRef, Priority};
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{ErrorCode, Offset, Timestamp, limits};

/// Bytes that a frame takes besides its batch, generously.
const FRAME_BYTES: u64 = 256;
/// When to try again while the checkpointer catches up.
const RETRY_RING_MS: u32 = 100;
/// When to try again while the disk is full.
const RETRY_DISK_MS: u32 = 1_000;

/// When to try again while the broker holds as many delayed messages as it can.
const RETRY_WAITING_MS: u32 = 1_000;

/// What admits publishes.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The room left, publishes since it was measured already deducted.
    pub(crate) space: Space,
    /// Whether new work is refused.
    pub(crate) draining: bool,
    /// The largest body that any topic takes, whatever it allows itself.
    pub(crate) message_bytes_max: u32,
    /// Most messages that wait until they are due.
    pub(crate) delayed_max: usize,
    /// The messages of the batch at hand.
    pub(crate) entries: Vec<WindowEntry>,
    /// Whether any of them has a time at which it is due.
    pub(crate) has_times: bool,
}

impl Default for Admission {
    fn default() -> Self {
        let most = u64::MAX;
        let space = Space { frame_bytes_max: most, disk_bytes: most, ring_bytes: most };
        Self {
            space,
            draining: false,
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            delayed_max: DELAYED_MAX,
            entries: Vec::new(),
            has_times: false,
        }
    }
}

impl Admission {
    /// Checks every message, and keeps what its hand-out needs in `entries`.
    ///
    /// # Errors
    ///
    /// A refusal that names the first message which the topic does not take.
    pub(crate) fn check_messages(
        &mut self,
        settings: &TopicSettings,
        view: &BatchView<'_>,
        base: Offset,
    ) -> Result<(), Refusal> {
        self.entries.clear();
        self.has_times = false;
        let mut offset = base;
        for (place, entry) in view.entries().enumerate() {
            self.check_message(settings, &entry).map_err(|refusal| refusal.of_message(place))?;
            self.entries.push(WindowEntry::new(offset, &entry));
            self.has_times |= entry.due_at != Timestamp::ZERO;
            offset = offset.next();
        }
        Ok(())
    }

    fn check_message(&self, settings: &TopicSettings, entry: &EntryRef<'_>) -> Result<(), Refusal> {
        let whose = if settings.message_bytes_max <= self.message_bytes_max {
            ("topic", settings.message_bytes_max)
        } else {
            ("broker", self.message_bytes_max)
        };
        if entry.body_len > whose.1 {
            let (found, (whose, limit)) = (entry.body_len, whose);
            let text = format!("a body of {found} bytes is above the {whose}'s limit of {limit}");
            return Err(Refusal::of_request(ErrorCode::TooLarge, text));
        }
        let plain = entry.priority == Priority::DEFAULT && entry.expires_at == Timestamp::ZERO;
        if plain {
            return Ok(());
        }
        let text = "expiry and priority of messages are not built yet";
        Err(Refusal::of_request(ErrorCode::Unsupported, text))
    }

    /// Checks that `count` more messages may wait until they are due, where `waiting` do.
    ///
    /// # Errors
    ///
    /// A refusal: too many wait already.
    pub(crate) fn check_waiting(&self, waiting: usize, count: usize) -> Result<(), Refusal> {
        if waiting.saturating_add(count) <= self.delayed_max {
            return Ok(());
        }
        let text = format!("{waiting} delayed messages wait; at most {} can", self.delayed_max);
        Err(Refusal::of_state(ErrorCode::Overloaded, text).retry_after(RETRY_WAITING_MS))
    }

    /// Checks that there is room for a frame with `bytes` of batches.
    ///
    /// # Errors
    ///
    /// A refusal: the broker is stopping, or there is no room.
    pub(crate) fn check_space(&self, bytes: usize) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let (ring, disk) = room_of(bytes);
        if self.space.disk_bytes < disk {
            let text = "the disk has no room: consume or purge messages, or give it more";
            let refusal = Refusal::of_request(ErrorCode::StorageFull, text);
            return Err(refusal.retry_after(RETRY_DISK_MS));
        }
        if self.space.ring_bytes < ring {
            let text = "the journal has no room until the checkpointer has caught up";
            let refusal = Refusal::of_request(ErrorCode::Overloaded, text);
            return Err(refusal.retry_after(RETRY_RING_MS));
        }
        Ok(())
    }

    /// Checks that a frame with `bytes` of batches is not too large for the journal.
    ///
    /// # Errors
    ///
    /// A refusal: it never fits.
    pub(crate) fn check_frame(&self, bytes: usize) -> Result<(), Refusal> {
        let (frame, limit) = (room_of(bytes).0, self.space.frame_bytes_max);
        if frame <= limit {
            return Ok(());
        }
        let text = format!("the batch takes {frame} bytes, where {limit} are the most: divide it");
        Err(Refusal::of_request(ErrorCode::TooLarge, text))
    }

    /// Deducts what a frame with `bytes` of batches takes.
    pub(crate) const fn take(&mut self, bytes: usize) {
        let (ring, disk) = room_of(bytes);
        self.space.ring_bytes = self.space.ring_bytes.saturating_sub(ring);
        self.space.disk_bytes = self.space.disk_bytes.saturating_sub(disk);
    }
}

/// Bytes that batches take in the journal, and on the disk: there once more, in a run.
const fn room_of(bytes: usize) -> (u64, u64) {
    let frame = bytes as u64 + FRAME_BYTES;
    (frame, 2 * frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_messages_wait_and_no_more() {
        let admission = Admission::default();
        assert!(admission.check_waiting(9_999_997, 3).is_ok());
        assert!(admission.check_waiting(9_999_997, 4).is_err());
    }
}
