//! Reading rows, claiming them, noting what the broker has, and what keeps all that going.

use super::{
    Candidate, Draft, End, Flight, Machine, Note, Now, OnPoison, Phase, Query, READY_MAX, Sent,
    Time, Verdict,
};
use crate::outbox::RowId;
use std::time::Duration;

impl Machine {
    /// The next query of a relay at work.
    pub(super) fn work(&mut self, now: Time) -> Option<Query> {
        let epoch = self.epoch?;
        if !self.bad.is_empty() {
            let rows = std::mem::take(&mut self.bad);
            return Some(Query::Park { from: self.standing(epoch), rows, claims: Vec::new() });
        }
        if self.can_claim() || self.is_flush_due() {
            return self.renewal();
        }
        if self.closing.is_some() {
            return None;
        }
        let from = self.sweep.next(now)?;
        let (through, limit) = (self.reading.seen, self.settings.sweep_rows);
        Some(Query::Sweep { from, through, limit })
    }

    /// The next look of a relay at work, which is carried out beside its queries. It may find rows that
    /// one of those deletes meanwhile; `gone` keeps them until then.
    pub(super) fn look(&mut self, now: Time) -> Option<Query> {
        if !matches!(self.phase, Phase::Working) || self.closing.is_some() {
            return None;
        }
        if self.reads_on() && self.reading.due <= now {
            return Some(self.scan(now));
        }
        self.lag.next(now).map(|_| Query::Lag)
    }

    /// When [`Self::work`] or [`Self::look`] have something to do that no answer will bring about.
    pub(super) fn next_work(&self) -> Option<Time> {
        if self.closing.is_some() {
            return None;
        }
        let scan = self.reads_on().then_some(self.reading.due);
        let lag = self.looking.is_none().then(|| self.lag.due()).flatten();
        let sweep = self.asked.is_none().then(|| self.sweep.due()).flatten();
        [scan, lag, sweep].into_iter().flatten().min()
    }

    /// Whether rows may be read: those of one claim at a time wait to be claimed.
    pub(super) const fn reads_on(&self) -> bool {
        self.looking.is_none() && self.ready.is_empty()
    }

    /// Rows that waited for long are not claimed as they were read. Everything is read again: as gaps
    /// they would not be asked for any more once those have ended, and lose their order.
    pub(super) fn read_again_if_old(&mut self, now: Time) {
        if self.can_claim() && self.ready_since.after(READY_MAX) < now {
            self.forget_rows();
        }
    }

    fn can_claim(&self) -> bool {
        !self.ready.is_empty() && self.window.len() < self.settings.depth
    }

    /// Acknowledgements ride in the next claim's transaction; one of their own follows if the table
    /// has nothing to claim.
    const fn is_flush_due(&self) -> bool {
        !self.done.is_empty() && (self.reading.is_quiet || self.closing.is_some())
    }

    /// Prolongs the lease and changes nothing else.
    pub(super) const fn prolonging(&self, epoch: u64) -> Query {
        let from = self.standing(epoch);
        Query::Step { from, acked: self.noted, done: Vec::new(), claim: None }
    }

    /// Prolongs the lease, with whatever there is to be noted and claimed.
    pub(super) fn renewal(&mut self) -> Option<Query> {
        let epoch = self.epoch?;
        if !matches!(self.phase, Phase::Working) {
            return Some(self.prolonging(epoch));
        }
        let claim = self.can_claim().then(|| {
            let rows = std::mem::take(&mut self.ready);
            Draft { sequence: self.next_sequence(&rows), rows, bytes: self.ready_bytes }
        });
        let done = std::mem::take(&mut self.done);
        Some(Query::Step { from: self.standing(epoch), acked: self.window.last(), done, claim })
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn next_sequence(&self, rows: &[RowId]) -> u64 {
        let highest = rows.last().map_or(0, |row| row.0);
        let is_wrong = self.makes(super::Mistake::RowIdAsSequence);
        if is_wrong { highest } else { self.claimed + 1 }
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    const fn next_sequence(&self, _rows: &[RowId]) -> u64 {
        self.claimed + 1
    }

    fn scan(&mut self, now: Time) -> Query {
        self.reading.gaps.expire(now);
        self.reading.ask();
        Query::Scan {
            gaps: self.reading.gaps.ranges(),
            after: self.reading.seen,
            rows_max: self.reading.rows(),
            bytes_max: self.bytes_max,
        }
    }

    pub(super) fn on_scanned(&mut self, now: Time, asked: u32, found: Vec<Candidate>) {
        self.backoff.reset();
        self.sweep.go_on();
        let mut is_cut = found.len() >= usize::try_from(asked).unwrap_or(usize::MAX);
        let mut taken = Vec::new();
        self.ready_bytes = 0;
        for row in found {
            if self.held.contains(&row.id) {
                taken.push(row.id);
                continue;
            }
            let bytes = self.ready_bytes.saturating_add(row.bytes);
            if row.fault.is_none() && !self.ready.is_empty() && bytes > self.bytes_max {
                is_cut = true;
                break;
            }
            taken.push(row.id);
            self.held.insert(row.id);
            match row.fault {
                Some(reason) => self.bad.push((row.id, reason)),
                None => {
                    self.ready_bytes = bytes;
                    self.ready.push(row.id);
                }
            }
        }
        let count = taken.len();
        self.ready_since = now;
        self.reading.take(taken.into_iter(), now, self.settings.gap_life);
        self.reading.plan(count, is_cut, now, &self.settings);
        self.forget_gaps_by_mistake();
        if let Some((row, reason)) = self.bad.first().cloned()
            && self.settings.on_poison == OnPoison::Halt
        {
            self.end(End::Poison { row, reason });
        }
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn forget_gaps_by_mistake(&mut self) {
        if self.makes(super::Mistake::CursorWithoutGaps) {
            self.reading.gaps.clear();
        }
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn forget_gaps_by_mistake(&self) {}

    pub(super) fn on_stepped(
        &mut self,
        now: Time,
        acked: u64,
        done: &[RowId],
        claim: Option<Draft>,
    ) {
        if let Phase::Doubting(sequence) = self.phase {
            self.end(End::RowsChanged { sequence });
            return;
        }
        self.noted = acked;
        self.renew = now.after(self.settings.lease / 3);
        self.gone.extend(done);
        self.let_go();
        if let Some(Draft { sequence, rows, bytes }) = claim {
            self.claimed = sequence;
            self.recorded = sequence;
            self.window.push(Flight { sequence, rows, bytes });
        }
    }

    pub(super) fn on_swept(
        &mut self,
        now: Time,
        took: Duration,
        (through, limit): (RowId, u32),
        ids: &[RowId],
    ) {
        // What is above is read anyway; asked for twice it would come twice.
        let seen = self.reading.seen;
        let is_known = |id: &RowId| self.held.contains(id) || self.reading.gaps.contains(*id);
        let is_left = |id: &&RowId| **id <= seen && !is_known(id);
        let left: Vec<RowId> = ids.iter().filter(is_left).copied().collect();
        let overflow = self.reading.reopen(&left, now, self.settings.gap_life);
        let is_full = ids.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let last = ids.last().filter(|last| is_full && **last < through);
        let next = overflow.or_else(|| last.map(|last| RowId(last.0 + 1)));
        self.sweep.looked(took, next, now, &self.settings);
        if !left.is_empty() {
            self.sweep.pause();
        }
    }

    pub(super) fn on_sent(&mut self, now: Now, sequence: u64, outcome: Sent) {
        if self.window.get(sequence).is_none() {
            return;
        }
        let is_working = matches!(self.phase, Phase::Working);
        match outcome {
            Sent::Accepted => self.on_accepted(sequence),
            _ if !is_working => {}
            Sent::Retry(after) => {
                let pause = self.backoff.next(&self.settings, now.random);
                self.window.refuse(sequence, now.at.after(after.unwrap_or(pause)));
            }
            // With everything before it taken, the broker has another history than we think.
            Sent::OutOfSequence if self.window.is_first(sequence) => {
                let pause = self.backoff.next(&self.settings, now.random);
                self.start_over(now.at, pause);
            }
            Sent::OutOfSequence => self.window.refuse(sequence, now.at),
            Sent::Fenced => self.start_over(now.at, Duration::ZERO),
            Sent::UnknownProducer => {
                let pause = self.backoff.next(&self.settings, now.random);
                self.start_over(now.at, pause);
            }
            Sent::Reused => self.end(End::Reused { sequence }),
            Sent::Poison { rows, reason } => {
                self.on_refused(now, Verdict::Poison { sequence, rows, reason });
            }
            Sent::TooLarge { reason } => {
                self.on_refused(now, Verdict::TooLarge { sequence, reason });
            }
            Sent::Closed => self.end(End::ClientClosed),
        }
    }

    fn on_accepted(&mut self, sequence: u64) {
        self.backoff.reset();
        let finished = self.window.accept(sequence);
        self.finish(finished);
    }

    pub(super) fn finish(&mut self, finished: Vec<Flight>) {
        for Flight { sequence, rows, .. } in finished {
            self.notes.push_back(Note::HandedOver { sequence, rows: rows.len() });
            self.done.extend(rows);
        }
    }
}
