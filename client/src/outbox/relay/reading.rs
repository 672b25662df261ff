//! Which rows to read next: above the highest seen, and in the gaps below it. How often, and how
//! many at a time.

use super::gaps::Gaps;
use super::machine::Settings;
use super::time::Time;
use crate::outbox::{RowId, RowRange};
use std::time::Duration;

/// The least that is read at a time when there is more.
const ROWS_MIN: u32 = 100;

/// How far the table has been read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    pub(crate) gaps: Gaps,
    /// The highest row seen.
    pub(crate) seen: RowId,
    /// When to look again.
    pub(crate) due: Time,
    /// Whether the last look found nothing.
    pub(crate) is_quiet: bool,
    /// Somebody has said that there is something new since the last look was asked: it may not see it.
    is_woken: bool,
    /// Wait after a look that finds nothing.
    idle: Duration,
    rows: u32,
}

impl Reading {
    /// From the beginning of the table.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            gaps: Gaps::new(settings.gaps_max),
            seen: RowId(0),
            due: Time(0),
            is_quiet: false,
            is_woken: false,
            idle: settings.poll_min,
            rows: ROWS_MIN.min(settings.rows_max),
        }
    }

    /// How many rows to ask for: what there is when little waits, more and more while there is more.
    pub(crate) const fn rows(&self) -> u32 {
        self.rows
    }

    /// Somebody says that there is something new.
    pub(crate) fn wake(&mut self, now: Time, settings: &Settings) {
        self.due = now;
        self.is_woken = true;
        self.idle = settings.poll_min;
    }

    /// A look is asked.
    pub(crate) const fn ask(&mut self) {
        self.is_woken = false;
    }

    /// These rows, ascending, were read and are dealt with. Whatever lies between them will be asked
    /// for again.
    pub(crate) fn take(&mut self, ids: impl Iterator<Item = RowId>, now: Time, life: Duration) {
        for id in ids {
            if id <= self.seen {
                self.gaps.close(id);
                continue;
            }
            if id.0 > self.seen.0 + 1 {
                let (first, last) = (RowId(self.seen.0 + 1), RowId(id.0 - 1));
                self.gaps.open(first, last, now.after(life));
            }
            self.seen = id;
        }
    }

    /// Plans the next look after one that found so many rows; `is_cut` if there are more.
    pub(crate) fn plan(&mut self, found: usize, is_cut: bool, now: Time, settings: &Settings) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        self.is_quiet = found == 0;
        if found == 0 {
            if self.is_woken {
                self.due = now;
            } else {
                self.due = now.after(self.idle);
                self.idle = self.idle.saturating_mul(2).min(settings.poll_max);
            }
            return;
        }
        let is_cut = is_cut || self.is_woken || found >= self.rows;
        self.idle = settings.poll_min;
        self.due = if is_cut { now } else { now.after(settings.poll_min) };
        let floor = ROWS_MIN.min(settings.rows_max);
        self.rows = found.saturating_mul(2).clamp(floor, settings.rows_max);
    }

    /// Rows that are in the table without having been taken; gives them to the next look. They
    /// displace ids that may never come, but not more than half of them at a time.
    ///
    /// Returns the lowest that found no room.
    pub(crate) fn reopen(&mut self, ids: &[RowId], now: Time, life: Duration) -> Option<RowId> {
        let most = self.gaps.most() / 2;
        for (count, range) in runs(ids).enumerate() {
            if count == most.max(1) {
                return Some(range.first);
            }
            self.gaps.open(range.first, range.last, now.after(life));
            // A look under way does not ask for them.
            self.is_woken = true;
            self.due = now;
        }
        None
    }
}

/// Ascending ids as ranges.
fn runs(ids: &[RowId]) -> impl Iterator<Item = RowRange> {
    let chunks = ids.chunk_by(|left, right| left.0 + 1 == right.0);
    chunks.filter_map(|run| Some(RowRange { first: *run.first()?, last: *run.last()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    #[test]
    fn holes_between_rows_are_asked_for_until_they_are_filled() {
        let mut reading = Reading::new(&Settings::default());

        reading.take([RowId(2), RowId(5)].into_iter(), Time(0), LIFE);
        assert_eq!(holes(&reading), [(1, 1), (3, 4)]);
        reading.take([RowId(3), RowId(6)].into_iter(), Time(0), LIFE);

        assert_eq!(holes(&reading), [(1, 1), (4, 4)]);
        assert_eq!(reading.seen, RowId(6));
    }

    #[test]
    fn looks_are_rarer_while_nothing_comes_and_at_once_when_the_bell_rings() {
        let settings = Settings::default();
        let mut reading = Reading::new(&settings);
        let mut waits = Vec::new();

        for _ in 0..8 {
            let before = reading.due;
            reading.plan(0, false, before, &settings);
            waits.push(reading.due.0 - before.0);
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000]);

        reading.wake(Time(5000), &settings);
        assert_eq!(reading.due, Time(5000));
        reading.ask();
        reading.plan(0, false, Time(5000), &settings);
        assert_eq!(reading.due, Time(5020));
    }

    #[test]
    fn bell_that_rings_during_a_look_is_followed_by_another_look_at_once() {
        let settings = Settings::default();
        for found in [0, 3] {
            let mut reading = Reading::new(&settings);
            reading.ask();
            reading.wake(Time(5), &settings);
            reading.plan(found, false, Time(7), &settings);
            assert_eq!(reading.due, Time(7));

            reading.ask();
            reading.plan(found, false, Time(8), &settings);
            assert_eq!(reading.due, Time(28));
        }
    }

    #[test]
    fn more_is_read_at_a_time_while_there_is_more() {
        let settings = Settings::default();
        let mut reading = Reading::new(&settings);
        let mut asked = Vec::new();

        for _ in 0..7 {
            asked.push(reading.rows());
            let found = usize::try_from(reading.rows()).unwrap();
            reading.plan(found, false, Time(0), &settings);
            assert_eq!(reading.due, Time(0), "a full look is followed by the next");
        }
        assert_eq!(asked, [100, 200, 400, 800, 1600, 2000, 2000]);

        reading.plan(3, false, Time(0), &settings);
        assert_eq!((reading.rows(), reading.due), (100, Time(20)));
    }

    #[test]
    fn rows_left_behind_are_ranges_and_what_finds_no_room_is_said() {
        let settings = Settings { gaps_max: 4, ..Settings::default() };
        let mut reading = Reading::new(&settings);
        let ids = [1, 2, 3, 5, 9, 10].map(RowId);

        assert_eq!(reading.reopen(&ids, Time(0), LIFE), Some(RowId(9)));

        assert_eq!(holes(&reading), [(1, 3), (5, 5)]);
    }

    fn holes(reading: &Reading) -> Vec<(u64, u64)> {
        reading.gaps.ranges().iter().map(|range| (range.first.0, range.last.0)).collect()
    }
}
