//! Message ids. A publisher's are ten random bytes of its own and a counter: drawing sixteen random
//! bytes for every message would cost a system call each. Others are version 7 UUIDs.

use posthouse_protocol::{MessageId, Timestamp};

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

/// An id for one message, made at `now`: a version 7 UUID, so that ids of one time lie side by side in
/// the tables that are ordered by them.
pub(crate) fn fresh_id(now: Timestamp) -> MessageId {
    let time = u128::from(now.0 & 0xffff_ffff_ffff) << 80;
    let bits = (u128::from(random()) << 64) | u128::from(random());
    let random = bits & 0x0fff_3fff_ffff_ffff_ffff;
    MessageId((time | (0x7 << 76) | (0b10 << 62) | random).to_be_bytes())
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
    fn fresh_id_is_a_uuid_of_its_time() {
        let (first, second) = (fresh_id(Timestamp(0x0123)), fresh_id(Timestamp(0x0123)));

        assert_eq!(first.0[..6], [0, 0, 0, 0, 1, 0x23]);
        assert_eq!((first.0[6] >> 4, first.0[8] >> 6), (7, 0b10));
        assert_ne!(first, second);
    }

    #[test]
    fn two_sources_differ() {
        assert_ne!(IdSource::new().next(), IdSource::new().next());
    }
}
