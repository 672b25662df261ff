//! Whether the core looks at its sockets a while longer before it sleeps.
//!
//! Waking a sleeping processor takes longer than answering a request. While requests follow one
//! another closely the core does not go to sleep between them; as soon as they do not, it does. What
//! looking in vain may cost is bounded by how often it has paid.

use std::time::Duration;

/// Longest look.
const LOOK_MAX: Duration = Duration::from_micros(60);
/// Short waits in a row from which on looking pays.
const WORTH: u32 = 8;
/// More of them count no more.
const SCORE_MAX: u32 = 16;
/// Short waits that one long wait outweighs.
const LONG_WAIT: u32 = 4;

/// What is known of the latest waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spin {
    /// Where there is one processor only, whoever is waited for cannot run while the core looks.
    alone: bool,
    score: u32,
}

impl Spin {
    /// Nothing is known yet. `processors` are those that the process may run on.
    pub(crate) const fn new(processors: usize) -> Self {
        Self { alone: processors < 2, score: 0 }
    }

    /// How long to look before sleeping.
    pub(crate) const fn budget(self) -> Duration {
        if self.alone || self.score < WORTH { Duration::ZERO } else { LOOK_MAX }
    }

    /// Takes note of how long no request came before something else ended the wait: a timer, or the
    /// end of a load or of a sync.
    pub(crate) fn ended_otherwise(&mut self, wait: Duration) {
        // A short one says nothing: a request might have come.
        if wait > LOOK_MAX {
            self.waited(wait);
        }
    }

    /// Takes note of how long it took, looking or sleeping, until a request came.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.score = if wait <= LOOK_MAX {
            SCORE_MAX.min(self.score + 1)
        } else {
            self.score.saturating_sub(LONG_WAIT)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = LOOK_MAX;
    const LONG: Duration = Duration::from_micros(61);

    fn after(waits: impl IntoIterator<Item = Duration>) -> Spin {
        let mut spin = Spin::new(2);
        waits.into_iter().for_each(|wait| spin.waited(wait));
        spin
    }

    #[test]
    fn nobody_looks_longer_until_requests_have_followed_one_another() {
        assert_eq!(after([SHORT; 7]).budget(), Duration::ZERO);
        assert_eq!(after([SHORT; 8]).budget(), LOOK_MAX);
    }

    #[test]
    fn a_few_long_waits_end_it_however_long_it_went_well() {
        let waits = [SHORT; 1000].into_iter().chain([LONG; 3]);
        assert_eq!(after(waits).budget(), Duration::ZERO);
    }

    #[test]
    fn in_vain_at_most_every_fifth_time() {
        let mut spin = Spin::new(2);
        let mut looks = 0_u32;
        for round in 0..10_000 {
            let looked = spin.budget() > Duration::ZERO;
            // The worst sender: it is late whenever it is waited for.
            spin.waited(if looked { LONG } else { SHORT });
            looks += u32::from(looked);
            assert!(looks <= round / 5 + 1, "{looks} looks in vain of {round}");
        }
    }

    #[test]
    fn who_is_woken_by_other_things_only_looks_no_longer() {
        let mut spin = after([SHORT; 1000]);
        (0..1000).for_each(|_| spin.ended_otherwise(SHORT));
        assert_eq!(spin.budget(), LOOK_MAX);
        (0..3).for_each(|_| spin.ended_otherwise(LONG));
        assert_eq!(spin.budget(), Duration::ZERO);
    }

    #[test]
    fn on_a_single_processor_nobody_looks() {
        let mut spin = Spin::new(1);
        (0..100).for_each(|_| spin.waited(SHORT));
        assert_eq!(spin.budget(), Duration::ZERO);
    }
}
