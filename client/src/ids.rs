//! Message ids: ten random bytes for each publisher, then a counter.
//!
//! Drawing sixteen random bytes for every message would cost a system call each.

use posthouse_protocol::MessageId;

/// Gives out ids that no other source gives out.
#[derive(Debug)]
pub(crate) struct IdSource {
    prefix: [u8; 10],
    used: u64,
}

impl IdSource {
    /// A source with a fresh prefix.
    pub(crate) fn new() -> Self {
        let [low, high] = [random(), random()].map(u64::to_be_bytes);
        let mut prefix = [0; 10];
        prefix.iter_mut().zip(low.iter().chain(&high)).for_each(|(slot, byte)| *slot = *byte);
        Self { prefix, used: 0 }
    }

    /// The next id.
    pub(crate) fn next(&mut self) -> MessageId {
        self.used += 1;
        let mut id = [0; 16];
        let counter = self.used.to_be_bytes();
        let bytes = self.prefix.iter().chain(counter.iter().skip(2));
        id.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = *byte);
        MessageId(id)
    }
}

/// Random bits from the operating system; from the process' hash seed where it has none to give.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_source_share_a_prefix_and_count_up() {
        let mut source = IdSource::new();

        let (first, second) = (source.next(), source.next());

        assert_eq!(first.0[..10], second.0[..10]);
        assert_eq!((first.0[15], second.0[15]), (1, 2));
    }

    #[test]
    fn two_sources_differ() {
        assert_ne!(IdSource::new().next(), IdSource::new().next());
    }
}
