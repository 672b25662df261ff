//! The sender's database in the model: transactions commit in any order, a lease may end at any time.

use super::super::machine::{Answer, Candidate, Draft, Query};
use crate::outbox::{Claim, RowId, Standing};
use std::collections::{BTreeMap, BTreeSet};

/// A holder of the lease: a relay, and which of its lives.
pub(super) type Owner = (usize, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Database {
    /// Rows that are visible.
    pub(super) rows: BTreeSet<RowId>,
    /// Rows of transactions in progress, with the rows that had been committed when they were
    /// inserted.
    pub(super) open: BTreeMap<RowId, BTreeSet<RowId>>,
    /// Every row ever committed, likewise.
    pub(super) committed: BTreeMap<RowId, BTreeSet<RowId>>,
    pub(super) parked: BTreeSet<RowId>,
    pub(super) lease: Option<Owner>,
    pub(super) next: u64,
    pub(super) epoch: u64,
    pub(super) claimed: u64,
    pub(super) acked: u64,
    pub(super) claims: BTreeMap<u64, Vec<RowId>>,
    /// A mistake: whoever had the lease once may go on writing.
    pub(super) ignores_epoch: bool,
}

/// Stands for the checksum of what these rows contain.
pub(super) fn digest(rows: &[RowId]) -> u32 {
    rows.iter().fold(0, |digest: u32, row| {
        digest.wrapping_mul(31).wrapping_add(u32::try_from(row.0).unwrap_or(0))
    })
}

impl Database {
    pub(super) fn insert(&mut self) {
        self.next += 1;
        self.open.insert(RowId(self.next), self.committed.keys().copied().collect());
    }

    pub(super) fn commit(&mut self, row: RowId) {
        if let Some(before) = self.open.remove(&row) {
            self.committed.insert(row, before);
            self.rows.insert(row);
        }
    }

    pub(super) fn roll_back(&mut self, row: RowId) {
        self.open.remove(&row);
    }

    /// Carries out a query of this owner.
    pub(super) fn answer(&mut self, owner: Owner, query: &Query) -> Answer {
        match query {
            Query::Describe => Answer::Described { schema_version: 1, is_copied: false },
            Query::Acquire => self.acquire(owner),
            Query::RaiseEpoch { from, to } => {
                let to = *to;
                self.at(*from, |database| database.epoch = to)
            }
            Query::Adopt { .. } => Answer::Done(false),
            Query::Claims => Answer::Claims(self.claims.iter().map(claim).collect()),
            Query::Load { rows, .. } => {
                let is_whole = rows.iter().all(|row| self.rows.contains(row));
                Answer::Loaded { digest: is_whole.then(|| digest(rows)), bytes: 1 }
            }
            Query::Scan { gaps, after, rows_max, .. } => {
                let is_asked = |row: &&RowId| {
                    *row > after || gaps.iter().any(|gap| (gap.first..=gap.last).contains(*row))
                };
                let found = self.rows.iter().filter(is_asked).take(*rows_max as usize);
                let candidate = |row: &RowId| Candidate { id: *row, bytes: 1, fault: None };
                Answer::Scanned(found.map(candidate).collect())
            }
            Query::Sweep { from, through, .. } => {
                let rows = self.rows.iter().filter(|row| (from..=through).contains(row));
                Answer::Swept(rows.copied().collect())
            }
            Query::Step { from, acked, done, claim } => {
                self.standing(*from, |database| database.step(*acked, done, claim.as_ref()))
            }
            Query::Park { from, rows, claims } => {
                self.standing(*from, |database| database.park(rows, claims))
            }
            Query::Release { epoch } => {
                self.at(*epoch, |database| database.lease = None);
                Answer::Released
            }
            Query::Lag => Answer::Lag,
        }
    }

    fn acquire(&mut self, owner: Owner) -> Answer {
        if self.lease.is_some_and(|holder| holder != owner) {
            return Answer::Acquired(None);
        }
        self.lease = Some(owner);
        self.epoch += 1;
        let (epoch, claimed, acked) = (self.epoch, self.claimed, self.acked);
        Answer::Acquired(Some(Standing { epoch, claimed, acked }))
    }

    fn at(&mut self, epoch: u64, work: impl FnOnce(&mut Self)) -> Answer {
        let is_current = self.epoch == epoch || self.ignores_epoch;
        if is_current {
            work(self);
        }
        Answer::Done(is_current)
    }

    fn standing(&mut self, from: Standing, work: impl FnOnce(&mut Self)) -> Answer {
        let is_known = (from.claimed, from.acked) == (self.claimed, self.acked);
        if is_known || self.ignores_epoch {
            return self.at(from.epoch, work);
        }
        Answer::Done(false)
    }

    fn step(&mut self, acked: u64, done: &[RowId], claim: Option<&Draft>) {
        self.acked = acked;
        self.rows.retain(|row| !done.contains(row));
        self.claims.retain(|sequence, _| *sequence > acked);
        if let Some(claim) = claim {
            self.claimed = claim.sequence;
            self.claims.insert(claim.sequence, claim.rows.clone());
        }
    }

    fn park(&mut self, rows: &[(RowId, String)], claims: &[Draft]) {
        for (row, _) in rows {
            if self.rows.remove(row) {
                self.parked.insert(*row);
            }
        }
        for claim in claims {
            self.claims.insert(claim.sequence, claim.rows.clone());
        }
        self.claims.retain(|_, rows| !rows.is_empty());
    }
}

fn claim((sequence, rows): (&u64, &Vec<RowId>)) -> Claim {
    Claim { sequence: *sequence, rows: rows.clone(), digest: digest(rows) }
}
