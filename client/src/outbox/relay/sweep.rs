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
}

impl Sweep {
    /// The first one is a period from now.
    pub(crate) fn new(now: Time, settings: &Settings) -> Self {
        Self { due: now.after(settings.sweep_min), from: None, spent: Duration::ZERO }
    }

    /// Where to look now, if it is time to.
    pub(crate) fn next(&self, now: Time) -> Option<RowId> {
        self.from.or_else(|| (self.due <= now).then_some(RowId(1)))
    }

    /// When the next one begins.
    pub(crate) const fn due(&self) -> Time {
        self.due
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
            *self = Self { due: now.after(rest), from: None, spent: Duration::ZERO };
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
        assert_eq!(sweep.due(), Time(20_000));

        sweep.looked(Duration::from_millis(150), Some(RowId(7)), Time(20_150), &settings);
        assert_eq!(sweep.next(Time(20_150)), Some(RowId(7)));
        sweep.looked(Duration::from_millis(50), None, Time(20_200), &settings);
        assert_eq!(sweep.due(), Time(40_200));
    }
}
