//! The slow look at everything: rows that were left in the table below what has been read, because
//! their transaction took longer than their gap was asked for.

use super::machine::Settings;
use super::time::Time;
use crate::outbox::RowId;
use std::time::Duration;

/// The next sweep takes place no sooner than this many times the last one's duration.
const REST: u32 = 100;

/// When to sweep, and how far the present sweep has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sweep {
    due: Time,
    /// Where to go on, if one is under way.
    from: Option<RowId>,
    spent: Duration,
    /// What it found has to be read before it goes on, or it would find that again.
    is_paused: bool,
}

impl Sweep {
    /// The first one is a period from now.
    pub(crate) fn new(now: Time, settings: &Settings) -> Self {
        Self { due: now.after(settings.sweep_min), ..Self::default() }
    }

    /// Where to look now, if it is time to.
    pub(crate) fn next(&self, now: Time) -> Option<RowId> {
        let first = || (self.due <= now).then_some(RowId(1));
        if self.is_paused { None } else { self.from.or_else(first) }
    }

    /// When the next one begins; `None` if a look comes first.
    pub(crate) fn due(&self) -> Option<Time> {
        (!self.is_paused).then_some(self.due)
    }

    /// Lets a look come first.
    pub(crate) const fn pause(&mut self) {
        self.is_paused = true;
    }

    /// There was a look.
    pub(crate) const fn go_on(&mut self) {
        self.is_paused = false;
    }

    /// A part of it took so long and goes on there, or is done.
    pub(crate) fn looked(
        &mut self,
        took: Duration,
        next: Option<RowId>,
        now: Time,
        settings: &Settings,
    ) {
        self.spent = self.spent.saturating_add(took);
        self.from = next;
        if next.is_none() {
            let rest = self.spent.saturating_mul(REST).max(settings.sweep_min);
            *self = Self { due: now.after(rest), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_come_every_ten_seconds_or_after_a_hundred_times_what_one_takes() {
        let settings = Settings::default();
        let mut sweep = Sweep::new(Time(0), &settings);
        assert_eq!((sweep.next(Time(9_999)), sweep.next(Time(10_000))), (None, Some(RowId(1))));

        sweep.looked(Duration::from_millis(5), None, Time(10_000), &settings);
        assert_eq!(sweep.due(), Some(Time(20_000)));

        sweep.looked(Duration::from_millis(150), Some(RowId(7)), Time(20_150), &settings);
        assert_eq!(sweep.next(Time(20_150)), Some(RowId(7)));
        sweep.looked(Duration::from_millis(50), None, Time(20_200), &settings);
        assert_eq!(sweep.due(), Some(Time(40_200)));
    }
}
