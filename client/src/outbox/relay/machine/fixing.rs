//! Claims that the broker will never take as they are.
//!
//! Before a claim is changed, the epoch is raised in the database and opened at the broker. A copy of
//! the claim that is still on its way, over a connection that was given up, is then refused, and the
//! broker has said whether it took one before.

use super::{Draft, End, Machine, Note, Now, OnPoison, Phase, Query, Then};
use crate::outbox::RowId;
use std::time::Duration;

/// Why a claim was refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// For these rows.
    Poison { sequence: u64, rows: Vec<RowId>, reason: String },
    /// For its size.
    TooLarge { sequence: u64, reason: String },
}

impl Verdict {
    pub(super) const fn sequence(&self) -> u64 {
        match self {
            Self::Poison { sequence, .. } | Self::TooLarge { sequence, .. } => *sequence,
        }
    }
}

impl Machine {
    pub(super) fn on_refused(&mut self, now: Now, verdict: Verdict) {
        let Some(flight) = self.window.get(verdict.sequence()) else { return };
        let mut verdict = verdict;
        if let Verdict::TooLarge { sequence, reason } = &verdict
            && flight.rows.len() == 1
        {
            let (sequence, rows, reason) = (*sequence, flight.rows.clone(), reason.clone());
            verdict = Verdict::Poison { sequence, rows, reason };
        }
        if let Verdict::Poison { rows, reason, .. } = &mut verdict {
            rows.retain(|row| flight.rows.contains(row));
            match (rows.first(), self.settings.on_poison) {
                (None, _) => {
                    // The broker names rows that are not in it: nothing to be sure of.
                    let pause = self.backoff.next(&self.settings, now.random);
                    self.window.refuse(verdict.sequence(), now.at.after(pause));
                    return;
                }
                (Some(row), OnPoison::Halt) => {
                    let end = End::Poison { row: *row, reason: std::mem::take(reason) };
                    self.end(end);
                    return;
                }
                (Some(_), OnPoison::Park) => {}
            }
        }
        self.not_before = now.at;
        self.phase =
            if self.skips_fence() { Phase::Parking(verdict) } else { Phase::Fencing(verdict) };
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn skips_fence(&self) -> bool {
        self.makes(super::Mistake::ParkWithoutFence)
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn skips_fence(&self) -> bool {
        false
    }

    pub(super) fn on_reopened(&mut self, now: Now, verdict: Verdict, last: u64) {
        if last < self.window.last() {
            // The broker has lost what it said it had. Comparing again says what to do about it.
            self.start_over(now.at, Duration::ZERO);
            return;
        }
        let finished = self.window.reopen(last);
        self.finish(finished);
        if self.window.get(verdict.sequence()).is_none() {
            // An earlier copy of it was taken before the refusal.
            self.phase = Phase::Working;
            return;
        }
        match verdict {
            Verdict::Poison { .. } => self.phase = Phase::Parking(verdict),
            Verdict::TooLarge { sequence, .. } => {
                let bytes = self.window.get(sequence).map_or(u64::MAX, |flight| flight.bytes);
                self.bytes_max = (self.bytes_max.min(bytes) / 2).max(1);
                let sequences = self.window.sequences().collect();
                self.drop_all(now, sequences, Then::Work);
            }
        }
    }

    pub(super) fn park(&self, verdict: &Verdict, epoch: u64) -> Option<Query> {
        let Verdict::Poison { sequence, rows, reason } = verdict else { return None };
        let flight = self.window.get(*sequence)?;
        let left = flight.rows.iter().filter(|row| !rows.contains(row)).copied().collect();
        let claim = Draft { sequence: *sequence, rows: left, bytes: flight.bytes };
        let rows = rows.iter().map(|row| (*row, reason.clone())).collect();
        Some(Query::Park { from: self.standing(epoch), rows, claims: vec![claim] })
    }

    pub(super) fn on_parked(&mut self, now: Now, rows: Vec<(RowId, String)>, claims: Vec<Draft>) {
        self.gone.extend(rows.iter().map(|(row, _)| *row));
        self.let_go();
        if !rows.is_empty() {
            self.notes.push_back(Note::Parked { rows });
        }
        if let Phase::Dropping(_, then) = self.phase {
            self.on_dropped(now, then);
        } else if matches!(self.phase, Phase::Parking(_)) {
            for Draft { sequence, rows, .. } in claims {
                self.window.rewrite(sequence, &rows);
            }
            self.phase = Phase::Working;
            self.resend_by_mistake();
        }
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn resend_by_mistake(&mut self) {
        if self.makes(super::Mistake::ParkWithoutFence) {
            let last = self.window.last();
            self.window.reopen(last);
        }
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn resend_by_mistake(&self) {}
}
