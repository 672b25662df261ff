//! A fingerprint of everything that happened, so that two runs can be compared.

use bytes::Bytes;

/// A running hash (FNV-1a over words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(u64);

impl Trace {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) const fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(crate) fn frame(&mut self, now: u64, connection: u64, frame: &Bytes) {
        self.word(now);
        self.word(connection);
        self.word(u64::from(crc32fast::hash(frame)));
    }

    pub(crate) const fn hash(self) -> u64 {
        self.0
    }
}
