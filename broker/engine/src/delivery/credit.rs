//! How much a consumer may be sent: totals since it subscribed, so that a repeated grant changes
//! nothing and none can get lost.

use posthouse_protocol::limits;
use posthouse_protocol::message;

/// What was granted, what was sent, and what the application has taken of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    granted_messages: u64,
    granted_bytes: u64,
    sent_messages: u64,
    sent_bytes: u64,
    taken: u64,
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// So many messages.
    pub messages: u32,
    /// So many bytes.
    pub bytes: u64,
}

impl Credit {
    /// Takes note of the client's totals. Totals never fall, and a client cannot have taken what
    /// it was not sent.
    pub(super) fn update(&mut self, totals: &message::Credit) {
        self.granted_messages = self.granted_messages.max(totals.messages);
        self.granted_bytes = self.granted_bytes.max(totals.bytes);
        self.taken = self.taken.max(totals.taken.min(self.sent_messages));
    }

    /// What may be sent now. However much is granted, no more than the protocol's limit is ever
    /// on the way to an application that does not take it.
    pub(super) fn room(&self) -> Room {
        let untaken = self.sent_messages - self.taken;
        let messages = self
            .granted_messages
            .saturating_sub(self.sent_messages)
            .min(u64::from(limits::CREDIT_MESSAGES_MAX).saturating_sub(untaken));
        Room {
            messages: u32::try_from(messages).unwrap_or(limits::CREDIT_MESSAGES_MAX),
            bytes: self.granted_bytes.saturating_sub(self.sent_bytes),
        }
    }

    /// Takes note of what is being sent; returns the number of its first message in the order in
    /// which this consumer is sent messages.
    pub(super) fn send(&mut self, messages: u32, bytes: u64) -> u64 {
        let position = self.sent_messages;
        self.sent_messages = position.saturating_add(u64::from(messages));
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
        debug_assert!(self.sent_messages <= self.granted_messages, "credit is never exceeded");
        position
    }

    /// How many messages the application has taken, in the order in which they were sent.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the application has taken all that was sent, so that the client holds nothing for it.
    pub(super) const fn all_taken(&self) -> bool {
        self.taken == self.sent_messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::ConsumerId;

    #[test]
    fn repeated_and_late_grants_change_nothing() {
        let mut credit = Credit::default();
        credit.update(&totals(10, 100, 0));
        credit.send(4, 40);
        credit.update(&totals(10, 100, 3));
        credit.update(&totals(5, 50, 1));
        assert_eq!(credit.room(), Room { messages: 6, bytes: 60 });
        assert_eq!(credit.taken(), 3);
    }

    #[test]
    fn nobody_takes_what_was_not_sent() {
        let mut credit = Credit::default();
        credit.update(&totals(10, 100, 7));
        assert_eq!(credit.send(2, 20), 0);
        assert_eq!(credit.taken(), 0);
    }

    #[test]
    fn endless_grant_is_capped() {
        let mut credit = Credit::default();
        credit.update(&totals(u64::MAX, u64::MAX, 0));
        assert_eq!(credit.room().messages, limits::CREDIT_MESSAGES_MAX);
        credit.send(limits::CREDIT_MESSAGES_MAX, 0);
        assert_eq!(credit.room().messages, 0);
        credit.update(&totals(u64::MAX, u64::MAX, 30));
        assert_eq!(credit.room().messages, 30);
    }

    fn totals(messages: u64, bytes: u64, taken: u64) -> message::Credit {
        message::Credit { consumer: ConsumerId(1), messages, bytes, taken }
    }
}
