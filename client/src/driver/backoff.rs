//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Wait after the first failure: a broker that restarts is there again within a few of these.
const FIRST: Duration = Duration::from_millis(20);
/// Longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

/// Doubles with every failure; a random half of each wait keeps many clients from coming at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt, given random bits.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(millis / 2 + random % (millis / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_random() {
        let waits = |random: fn(u64) -> u64| {
            let mut backoff = Backoff::default();
            [(); 10].map(|()| backoff.next(random(0)).as_millis())
        };

        assert_eq!(waits(|_| 0), [10, 20, 40, 80, 160, 320, 640, 1280, 2500, 2500]);
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(10).as_millis(), 20);
    }
}
