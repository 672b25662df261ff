//! What was sent and what came out, so far as to tell a difference.

use sha2::{Digest, Sha256};

/// A sequence of bodies: how many, and the hash of all in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    count: u64,
    hash: Sha256,
}

impl Evidence {
    pub(super) fn add(&mut self, body: &[u8]) {
        self.count += 1;
        // With its length, so that no two sequences look the same.
        self.hash.update((body.len() as u64).to_le_bytes());
        self.hash.update(body);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// In hexadecimal.
    pub(super) fn digest(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The body of a message: some lines that differ from all others in content and length.
pub(super) fn body(number: u64) -> Vec<u8> {
    let seed = Sha256::digest(number.to_le_bytes());
    let len = usize::from(seed.first().copied().unwrap_or(0)) * 2;
    let mut body = format!("parcel {number}: ").into_bytes();
    body.extend(seed.iter().cycle().take(len));
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_shows() {
        let of = |bodies: &[&[u8]]| {
            let mut evidence = Evidence::default();
            bodies.iter().for_each(|body| evidence.add(body));
            evidence.digest()
        };
        let original = of(&[b"ab", b"c"]);
        for other in [&[&b"ab"[..]][..], &[b"c", b"ab"], &[b"a", b"bc"], &[b"ab", b"c", b"c"]] {
            assert_ne!(of(other), original);
        }
        assert_eq!(of(&[b"ab", b"c"]), original);
        assert_ne!(body(1), body(2));
    }
}
