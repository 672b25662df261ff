//! How many messages were accepted, and how safe they are.

use crate::output::{counted, grouped};
use crate::settings::durability_word;
use posthouse_client::{Durability, Receipt};
use serde::Serialize;

/// Receipts counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    synced: u64,
    written: u64,
    duplicates: u64,
}

/// The tally as JSON.
#[derive(Serialize)]
pub(super) struct TallyObject<'a> {
    topic: &'a str,
    accepted: u64,
    synced: u64,
    written: u64,
    duplicates: u64,
}

impl Tally {
    pub(super) fn count(&mut self, receipt: &Receipt) {
        match receipt.durability {
            Durability::Synced => self.synced += 1,
            Durability::Written => self.written += 1,
        }
        self.duplicates += u64::from(receipt.duplicate);
    }

    pub(super) const fn accepted(&self) -> u64 {
        self.synced + self.written
    }

    pub(super) const fn object<'a>(&self, topic: &'a str) -> TallyObject<'a> {
        TallyObject {
            topic,
            accepted: self.accepted(),
            synced: self.synced,
            written: self.written,
            duplicates: self.duplicates,
        }
    }

    /// `accepted 120,000 messages, all synced`.
    pub(super) fn text(&self) -> String {
        let accepted = counted(self.accepted(), "message");
        let word = durability_word;
        match (self.synced, self.written) {
            (0, 0) => format!("accepted {accepted}"),
            (_, 0) => format!("accepted {accepted}, all {}", word(Durability::Synced)),
            (0, _) => format!("accepted {accepted}, all {}", word(Durability::Written)),
            (synced, written) => format!(
                "accepted {accepted}, {} {} and {} {}",
                grouped(synced),
                word(Durability::Synced),
                grouped(written),
                word(Durability::Written),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durabilities_are_counted_apart() {
        let mut tally = Tally { synced: 1_999, ..Tally::default() };
        tally.count(&receipt(Durability::Synced, true));
        assert_eq!(tally.text(), "accepted 2,000 messages, all synced");
        tally.count(&receipt(Durability::Written, false));
        assert_eq!(tally.text(), "accepted 2,001 messages, 2,000 synced and 1 written");
        assert_eq!(tally.duplicates, 1);
    }

    fn receipt(durability: Durability, duplicate: bool) -> Receipt {
        Receipt { id: posthouse_client::MessageId::default(), offset: None, durability, duplicate }
    }
}
