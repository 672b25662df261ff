//! The store's identity and its salts, made from the process's random seed and not leading back to it.
//!
//! They stand in clear in every file. Each is SHA-256 of the seed and of what it is for, so that
//! whoever has read one file knows no salt of another.

use crate::frame::Salt;
use crate::names::FileId;
use crate::segment::StoreId;
use posthouse_protocol::StartEpoch;
use sha2::{Digest, Sha256};

/// The identity of a store that is made by a process with this seed.
#[must_use]
pub(crate) fn derive_store(seed: &[u8; 16]) -> StoreId {
    StoreId(digest(&[b"posthouse store", seed]))
}

/// A salt that nobody can guess who does not know `seed`, and that no other file or start has.
#[must_use]
pub(crate) fn derive_salt(seed: &[u8; 16], epoch: StartEpoch, id: FileId) -> Salt {
    let (epoch, id) = (epoch.0.to_le_bytes(), id.0.to_le_bytes());
    Salt(digest(&[b"posthouse salt", seed, &epoch, &id]))
}

/// The first half of the SHA-256 of `parts`, one after another. All but the first have fixed
/// lengths, and no first one begins like another.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let whole: [u8; 32] = hasher.finalize().into();
    whole.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn no_two_files_and_no_two_starts_have_the_same_salt() {
        let mut salts = Vec::new();
        for epoch in [0, 1, 2, u32::MAX] {
            for id in [1, 2, 1 << 32, u64::MAX] {
                salts.push(derive_salt(&SEED, StartEpoch(epoch), FileId(id)).0);
            }
        }
        salts.push(derive_store(&SEED).0);
        let count = salts.len();
        salts.sort_unstable();
        salts.dedup();
        assert_eq!(salts.len(), count);
    }

    #[test]
    fn mixing_can_be_undone() {
        assert_eq!(unmix(mix(0x0123_4567_89AB_CDEF)), 0x0123_4567_89AB_CDEF);
    }

    #[test]
    fn identity_of_the_store_does_not_give_a_salt() {
        let (store, epoch, file) = (derive_store(&SEED), StartEpoch(3), FileId(7));

        assert_ne!(derive_salt(&store.0, epoch, file), derive_salt(&SEED, epoch, file));
    }

    #[test]
    fn salt_of_one_file_does_not_give_the_salt_of_another() {
        let (epoch, known, other) = (StartEpoch(3), FileId(7), FileId(8));
        let salt = derive_salt(&SEED, epoch, known);

        let seed = seed_behind_a_mixed_salt(salt, epoch, known);

        assert_ne!(derive_salt(&seed, epoch, other), derive_salt(&SEED, epoch, other));
    }

    /// The salts were once mixed with splitmix64, which can be undone.
    fn seed_behind_a_mixed_salt(salt: Salt, epoch: StartEpoch, id: FileId) -> [u8; 16] {
        let word = |at: usize| u64::from_le_bytes(salt.0[at..at + 8].try_into().unwrap());
        let (first, second) = (word(0), word(8));
        let low = unmix(first) ^ mix(id.0 ^ (u64::from(epoch.0) << 32));
        let high = unmix(second) ^ first;
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&low.to_le_bytes());
        seed[8..].copy_from_slice(&high.to_le_bytes());
        seed
    }

    /// The finaliser of splitmix64.
    const fn mix(word: u64) -> u64 {
        let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    const fn unmix(word: u64) -> u64 {
        let word = (word ^ (word >> 31) ^ (word >> 62)).wrapping_mul(0x3196_42B2_D24D_8EC3);
        let word = (word ^ (word >> 27) ^ (word >> 54)).wrapping_mul(0x96DE_1B17_3F11_9089);
        (word ^ (word >> 30) ^ (word >> 60)).wrapping_sub(0x9E37_79B9_7F4A_7C15)
    }
}
