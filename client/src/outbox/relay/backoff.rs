//! How long to wait after a failure.

use super::machine::Settings;
use std::time::Duration;

/// Doubles with every failure; a random half of each wait keeps many relays from coming at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt, given random bits.
    pub(crate) fn next(&mut self, settings: &Settings, random: u64) -> Duration {
        let whole = settings.backoff_min.saturating_mul(1 << self.failures.min(16));
        let whole = whole.min(settings.backoff_max);
        self.failures = (self.failures + 1).min(settings.failures_counted);
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(millis / 2 + random % (millis / 2 + 1))
    }

    /// Something worked.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_50_ms_to_5_s_and_half_of_each_is_random() {
        let settings = Settings::default();
        let waits = |random: u64| {
            let mut backoff = Backoff::default();
            [(); 9].map(|()| backoff.next(&settings, random).as_millis())
        };

        assert_eq!(waits(0), [25, 50, 100, 200, 400, 800, 1600, 2500, 2500]);
        assert_eq!(waits(25)[0], 50);
        assert_eq!(waits(2500)[8], 5000);
    }
}
