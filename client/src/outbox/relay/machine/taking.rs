//! From the lease to the work: comparing what the database and the broker know, and going on with
//! what an earlier holder left.

use super::{
    BrokerFault, Call, Doubt, Draft, End, Flight, Machine, Note, Now, Phase, Producer, Query,
    Standing, Sweep, Then, Window,
};
use crate::outbox::{Claim, SCHEMA_VERSIONS};
use std::collections::VecDeque;
use std::time::Duration;

/// A producer's epoch has 32 bits at the broker.
const EPOCH_MAX: u64 = u32::MAX as u64;
/// So often may the broker's epoch be found above that of the lease.
const RAISES_MAX: u32 = 3;

impl Machine {
    pub(super) fn on_described(&mut self, schema_version: u32, is_copied: bool) {
        if !SCHEMA_VERSIONS.contains(&schema_version) {
            self.end(End::NotInstalled { found: Some(schema_version) });
        } else if is_copied && self.settings.copied == Doubt::Halt {
            self.end(End::Copied);
        } else {
            self.phase = Phase::Acquiring { is_copied, is_refused: false };
        }
    }

    pub(super) fn on_acquired(&mut self, now: Now, standing: Option<Standing>) {
        let Phase::Acquiring { is_copied, is_refused } = self.phase else { return };
        let Some(standing) = standing else {
            self.epoch = None;
            self.not_before = now.at.after(self.settings.standby);
            self.phase = Phase::Acquiring { is_copied, is_refused: true };
            if !is_refused {
                self.notes.push_back(Note::StandingBy);
            }
            return;
        };
        // With nobody in between, what was described is so under this lease, too. Otherwise another
        // holder may have adopted the copy since, and handed rows over under the new id.
        let is_unbroken = self.epoch.is_some_and(|before| before + 1 == standing.epoch);
        self.epoch = Some(standing.epoch);
        if is_refused || is_copied && !is_unbroken {
            self.start_over(now.at, Duration::ZERO);
            return;
        }
        self.claimed = standing.claimed;
        self.recorded = standing.claimed;
        self.noted = standing.acked;
        self.renew = now.at.after(self.settings.lease / 3);
        if standing.epoch >= EPOCH_MAX {
            self.end(End::EpochsExhausted);
        } else if is_copied {
            self.phase = Phase::Adopting;
        } else {
            self.phase = Phase::Comparing;
        }
    }

    pub(super) fn on_broker(
        &mut self,
        now: Now,
        call: Call,
        answer: Result<Producer, BrokerFault>,
    ) {
        if !self.is_calling || self.expected_call() != Some(call) {
            return;
        }
        self.is_calling = false;
        match answer {
            Ok(producer) => {
                self.backoff.reset();
                self.on_producer(now, producer);
            }
            Err(BrokerFault::Fenced) => self.start_over(now.at, Duration::ZERO),
            Err(BrokerFault::Retry(after)) => {
                let pause = self.backoff.next(&self.settings, now.random);
                self.not_before = now.at.after(after.unwrap_or(pause));
            }
            Err(BrokerFault::Closed) => self.end(End::ClientClosed),
        }
    }

    fn on_producer(&mut self, now: Now, producer: Producer) {
        let (broker_epoch, last) = match producer {
            Producer::Unknown => (0, 0),
            Producer::Known { epoch, last } => (epoch, last),
        };
        if last < self.noted && self.settings.broker_restored == Doubt::Halt {
            self.end(End::BrokerRestored { acked: self.noted, last });
            return;
        }
        if matches!(self.phase, Phase::Comparing) {
            self.on_compared(broker_epoch);
        } else if let Phase::Reopening(verdict) = &self.phase {
            let verdict = verdict.clone();
            self.on_reopened(now, verdict, last);
        } else {
            self.on_opened(last);
        }
    }

    /// The broker's epoch was opened by a holder of the lease, after the database had given it that
    /// epoch. So if the lease is still ours, and theirs is not below it, the database has lost that:
    /// it is an older copy.
    fn on_compared(&mut self, broker_epoch: u64) {
        if self.epoch.is_some_and(|epoch| broker_epoch < epoch) {
            self.phase = Phase::Opening;
        } else if self.raises == RAISES_MAX {
            self.end(End::Contested);
        } else if broker_epoch >= EPOCH_MAX {
            self.end(End::EpochsExhausted);
        } else {
            // Dropping checks the epoch, so it does nothing if the lease is not ours any more.
            self.phase = Phase::Listing(Then::Raise { to: broker_epoch + 1 });
        }
    }

    pub(super) fn on_raised(&mut self, to: u64) {
        self.epoch = Some(to);
        self.is_calling = false;
        if let Phase::Fencing(verdict) = &self.phase {
            self.phase = Phase::Reopening(verdict.clone());
        } else {
            self.raises += 1;
            self.phase = Phase::Opening;
        }
    }

    /// All lower epochs are fenced: what the broker has not taken now, it will take from here only.
    fn on_opened(&mut self, last: u64) {
        self.window = Window::new(last);
        let is_restored = last > self.claimed;
        // Numbers below the broker's are used up.
        self.claimed = self.claimed.max(last);
        let drop_them = is_restored || self.drops_claims();
        self.phase = Phase::Listing(if drop_them { Then::Work } else { Then::Resume });
        if is_restored {
            self.notes.push_back(Note::DatabaseRestored);
        }
    }

    pub(super) fn on_claims(&mut self, now: Now, claims: Vec<Claim>) {
        let Phase::Listing(then) = self.phase else { return };
        if let Then::Raise { .. } = then {
            self.notes.push_back(Note::DatabaseRestored);
        }
        if then != Then::Resume {
            self.drop_all(now, claims.iter().map(|claim| claim.sequence).collect(), then);
            return;
        }
        let (taken, open): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.sequence <= self.window.last());
        for claim in taken {
            self.held.extend(claim.rows.iter().copied());
            self.done.extend(claim.rows);
        }
        self.load(now, open.into());
    }

    fn load(&mut self, now: Now, claims: VecDeque<Claim>) {
        if claims.is_empty() {
            self.begin(now);
        } else {
            self.phase = Phase::Loading(claims);
        }
    }

    pub(super) fn on_loaded(&mut self, now: Now, flight: Flight, digest: Option<u32>) {
        let Phase::Loading(claims) = &mut self.phase else { return };
        let Some(claim) = claims.pop_front() else { return };
        let left = std::mem::take(claims);
        if digest == Some(claim.digest) {
            self.held.extend(flight.rows.iter().copied());
            self.window.push(flight);
            self.load(now, left);
        } else if self.settings.rows_changed == Doubt::Halt {
            self.phase = Phase::Doubting(claim.sequence);
        } else {
            // None of these was taken, and none will be: the producer has been opened anew.
            let behind = std::iter::once(claim.sequence).chain(left.iter().map(|it| it.sequence));
            let sequences = self.window.sequences().chain(behind).collect();
            self.drop_all(now, sequences, Then::Work);
        }
    }

    /// Removes claims and reads their rows again, in the order of the table.
    pub(super) fn drop_all(&mut self, now: Now, sequences: Vec<u64>, then: Then) {
        for row in self.window.rows() {
            self.held.remove(row);
        }
        self.window = Window::new(self.window.last());
        self.forget_rows();
        self.phase = Phase::Dropping(sequences, then);
        if matches!(&self.phase, Phase::Dropping(sequences, _) if sequences.is_empty()) {
            self.on_dropped(now, then);
        }
    }

    pub(super) fn drop_claims(&self, sequences: &[u64], epoch: u64) -> Query {
        let removed = |sequence: &u64| Draft { sequence: *sequence, rows: Vec::new(), bytes: 0 };
        let from = self.standing(epoch);
        Query::Park { from, rows: Vec::new(), claims: sequences.iter().map(removed).collect() }
    }

    pub(super) fn on_dropped(&mut self, now: Now, then: Then) {
        match then {
            Then::Raise { to } => self.phase = Phase::Raising { to },
            Then::Resume | Then::Work => self.begin(now),
        }
    }

    fn begin(&mut self, now: Now) {
        self.phase = Phase::Working;
        self.sweep = Sweep::new(now.at, &self.settings);
        self.reading.wake(now.at, &self.settings);
        self.notes.push_back(Note::Active { epoch: self.epoch.unwrap_or_default() });
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn drops_claims(&self) -> bool {
        self.makes(super::Mistake::ClaimsNotResumed)
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn drops_claims(&self) -> bool {
        false
    }
}
