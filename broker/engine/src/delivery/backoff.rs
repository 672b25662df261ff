//! How long a failed message waits.

use posthouse_protocol::settings::SubscriptionSettings;
use posthouse_protocol::{Attempt, Offset};

/// The share of a wait that jitter may take off, in per cent.
const JITTER_PERCENT: u64 = 20;

/// Milliseconds until the message at `offset`, which has failed `attempt` times, is handed out
/// again: doubling from the first wait to the longest, less up to a fifth, so that messages
/// which failed together do not return together.
///
/// The jitter only ever shortens, so that the settings stay the longest that anybody waits; and it
/// depends on nothing but the message and the attempt, so that a replay waits as long.
pub(super) fn wait_ms(settings: &SubscriptionSettings, offset: Offset, attempt: Attempt) -> u64 {
    let doublings = attempt.0.saturating_sub(1);
    let doubled = 1_u64
        .checked_shl(doublings)
        .map_or(u64::MAX, |factor| settings.backoff_ms_first.saturating_mul(factor));
    let full = doubled.min(settings.backoff_ms_max);
    let share = mix(offset.0 ^ u64::from(attempt.0).rotate_left(32)) % (JITTER_PERCENT * 10 + 1);
    let off = u128::from(full) * u128::from(share) / 1000;
    full.saturating_sub(u64::try_from(off).unwrap_or(0))
}

/// The finaliser of `SplitMix64`: spreads neighbouring numbers over all bits.
const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_doubles_up_to_the_longest_and_loses_at_most_a_fifth() {
        let settings = SubscriptionSettings::default();
        for (attempt, full) in [(1, 1_000), (2, 2_000), (5, 16_000), (10, 300_000), (99, 300_000)] {
            for offset in 0..500 {
                let wait = wait_ms(&settings, Offset(offset), Attempt(attempt));
                assert!((full * 8 / 10..=full).contains(&wait), "attempt={attempt} wait={wait}");
            }
        }
    }

    #[test]
    fn messages_that_failed_together_return_spread_out() {
        let settings = SubscriptionSettings::default();
        let mut buckets = [0_u32; 10];
        for offset in 0..1_000 {
            let wait = wait_ms(&settings, Offset(offset), Attempt(1));
            buckets[usize::try_from((wait - 800) / 21).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|bucket| (50..200).contains(bucket)), "{buckets:?}");
    }

    #[test]
    fn no_backoff_is_no_wait() {
        let settings = SubscriptionSettings {
            backoff_ms_first: 0,
            backoff_ms_max: 0,
            ..SubscriptionSettings::default()
        };
        assert_eq!(wait_ms(&settings, Offset(7), Attempt(3)), 0);
    }
}
