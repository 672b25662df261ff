//! How the broker dies and starts again.

use super::World;
use crate::chance::Chance;
use crate::host::Host;
use posthouse_broker::{Exit, Folded};
use posthouse_checker::history::{self, BrokerChange, Event};
use posthouse_storage::fs::faults::{Fault, Operation};
use posthouse_storage::recover::OpenError;
use posthouse_storage::{Fold, Store};
use std::sync::Arc;

/// What a death takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Nothing: the page cache survives.
    Kill,
    /// What was not synced, or any part of it.
    PowerLoss,
}

impl World {
    /// The broker has ended by itself: only a disk that fails is a reason.
    pub(super) fn exited(&mut self, exit: &Exit) -> Result<(), String> {
        let has_reason = self.has_trouble();
        let Exit::Disk(text) = exit else {
            return Err(format!("the broker ended: {exit}"));
        };
        if !has_reason {
            return Err(format!("the disk is well, and the broker ended: {exit}"));
        }
        self.note_hit(text);
        let death = if self.dice.percent(50) { Death::Kill } else { Death::PowerLoss };
        self.die(death);
        // The frames of the round that failed may have been applied and not written.
        self.expected = None;
        Ok(())
    }

    fn has_trouble(&self) -> bool {
        self.tap.faults.hit().is_some()
            || self.trouble.syncs_fail
            || self.trouble.full_until.is_some()
    }

    fn note_hit(&mut self, text: &str) {
        let failed_sync = self.trouble.syncs_fail && text.contains("sync");
        self.faults.failed_syncs += u64::from(failed_sync);
        match self.tap.faults.hit() {
            Some(Operation::Sync | Operation::SyncDirectory) => {
                self.faults.kills_during_sync += 1;
            }
            Some(Operation::Write | Operation::Entry) => self.faults.failed_writes += 1,
            None => {}
        }
    }

    /// The process ends now, in the middle of whatever it does.
    pub(super) fn die(&mut self, death: Death) {
        self.post();
        let Some(host) = self.host.take() else { return };
        self.faults.kills_during_sync += u64::from(host.is_syncing());
        let mut live = Vec::new();
        host.state().encode(&mut live);
        self.expected = (death == Death::Kill).then_some(live);
        drop(host);
        self.part();
        match death {
            Death::Kill => self.faults.kills += 1,
            Death::PowerLoss => self.faults.power_losses += 1,
        }
        self.lose(death);
        self.now += 1_000;
        self.restart_at = self.now + self.dice.between(1_000_000, 60_000_000);
    }

    /// What a death does to the disk, and to the promises.
    fn lose(&mut self, death: Death) {
        // A sync that failed has lost what it was to write, whatever happens afterwards.
        let is_lossy = death == Death::PowerLoss
            || self.trouble.syncs_fail
            || self.tap.faults.hit() == Some(Operation::Sync);
        let disk = match death {
            Death::Kill => self.tap.disk().kill(),
            Death::PowerLoss => {
                self.trouble.syncs_fail = false;
                self.tap.disk().crash(&mut self.dice)
            }
        };
        if is_lossy {
            self.ledger.power_lost();
            self.expected = None;
        }
        self.tap = self.tap.onto(disk);
        self.trouble.is_planned = false;
        let change = if is_lossy { BrokerChange::PowerLost } else { BrokerChange::Killed };
        self.record((self.now, self.now), change);
    }

    /// Every connection is lost with the broker.
    pub(super) fn part(&mut self) {
        for delivered in self.net.fall(&mut self.dice) {
            let (client, connection, ..) = &delivered;
            let (client, connection) = (*client, *connection);
            self.hear(delivered);
            self.with_client(client, |client, around| {
                if client.session().connection == Some(connection) {
                    client.lost(around);
                }
            });
        }
        self.ledger.forget_connections();
    }

    pub(super) fn record(&mut self, (t0, t1): (u64, u64), change: BrokerChange) {
        self.trace.word(t1);
        self.history.push(Event::Broker(history::Broker {
            t0: history::Time(t0),
            t1: history::Time(t1),
            change,
        }));
    }

    /// A start; it may be interrupted like anything else.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let t0 = self.now;
        self.born = self.now;
        if self.phase == crate::client::Phase::Load && self.dice.percent(15) {
            let operations = self.dice.below(30);
            self.tap.faults.plan(operations, Fault::PowerLoss);
        }
        let mut store = match self.open() {
            Ok(store) => store,
            Err(error) => return self.start_failed(&error),
        };
        self.recovered(&store)?;
        if self.dice.percent(20) {
            store = match self.open_again(store)? {
                Some(store) => store,
                None => return Ok(()),
            };
        }
        self.expected = None;
        let now = self.clock();
        let epoch = store.report.start_epoch;
        let hand_over = self.dice.percent(50).then(|| self.dice.index(800));
        match Host::start(store, self.tap.clone(), now, hand_over) {
            Ok(host) => self.host = Some(host),
            Err(exit) if self.has_trouble() => return self.died_starting(&exit.to_string()),
            Err(exit) => return Err(format!("the disk is well, and the start failed: {exit}")),
        }
        self.tap.faults.plan(u64::MAX, Fault::PowerLoss);
        self.epoch = epoch;
        self.now += 1_000;
        self.record((t0, self.now), BrokerChange::Started { epoch: epoch.0 });
        self.post();
        Ok(())
    }

    fn open(&mut self) -> Result<Store<Folded>, OpenError> {
        let options = self.plan.options(&mut self.dice);
        Store::<Folded>::open(Arc::new(self.tap.clone()), options)
    }

    fn recovered(&mut self, store: &Store<Folded>) -> Result<(), String> {
        let report = &store.report;
        self.faults.torn_tails += u64::from(report.torn.is_some());
        let waits =
            store.state.0.waiting_rooms().any(|(id, _)| !store.state.0.needed(id).is_empty());
        self.faults.starts_with_waiting += u64::from(waits);
        if report.is_damaged() {
            return Err(format!("nothing damages the disk, and yet: {report:?}"));
        }
        if report.start_epoch <= self.epoch {
            return Err(format!("start epoch {} after {}", report.start_epoch, self.epoch));
        }
        if let Some(expected) = &self.expected {
            let mut found = Vec::new();
            store.state.encode(&mut found);
            if found != *expected {
                return Err(format!(
                    "killed, and the state is another: live={} recovered={} bytes, report {report:?}",
                    expected.len(),
                    found.len()
                ));
            }
        }
        let left = self.ledger.frames_left();
        self.ledger
            .audit(&store.state, &store.reader, left, false)
            .map_err(|broken| format!("after recovery: {broken}; report {report:?}"))
    }

    /// Dies right after recovery, and recovers again: the state must be the same.
    fn open_again(&mut self, store: Store<Folded>) -> Result<Option<Store<Folded>>, String> {
        let (epoch, last) = (store.report.start_epoch, store.report.last);
        let mut first = Vec::new();
        store.state.encode(&mut first);
        drop(store);
        let disk = if self.dice.percent(50) {
            self.tap.disk().kill()
        } else {
            self.tap.disk().crash(&mut self.dice)
        };
        self.tap = self.tap.onto(disk);
        let store = match self.open() {
            Ok(store) => store,
            Err(error) => return self.start_failed(&error).map(|()| None),
        };
        let mut second = Vec::new();
        store.state.encode(&mut second);
        if first != second || store.report.last != last || store.report.start_epoch <= epoch {
            return Err(format!("recovering twice is not once: {:?}", store.report));
        }
        Ok(Some(store))
    }

    fn start_failed(&mut self, error: &OpenError) -> Result<(), String> {
        if !self.has_trouble() {
            return Err(format!("the disk is well, and it cannot be opened: {error} ({error:?})"));
        }
        self.died_starting(&error.to_string())
    }

    /// Something stopped a start half-way.
    fn died_starting(&mut self, text: &str) -> Result<(), String> {
        self.note_hit(text);
        self.faults.kills_in_recovery += 1;
        // The epoch may have been used and become durable, or not.
        // What was written may have been promised by the life before this one.
        let death = if self.dice.percent(50) { Death::Kill } else { Death::PowerLoss };
        self.lose(death);
        if self.trouble.full_until.is_some() {
            // An operator makes room.
            self.trouble.full_until = None;
            self.tap.disk().set_capacity(u64::MAX);
        }
        // A start that got as far as its first frame has changed the state.
        self.expected = None;
        self.now += 1_000;
        self.restart_at = self.now + self.dice.between(1_000_000, 20_000_000);
        Ok(())
    }
}
