//! Judging the disks that power losses would have left.

use super::World;
use crate::tap::CrashPoint;
use posthouse_broker::Folded;
use posthouse_storage::fs::faults::{Fault, FaultFs};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::{Fold, Store};
use std::sync::Arc;

impl World {
    /// Recovers and judges every crash point that was taken.
    pub(super) fn judge_crash_points(&mut self) -> Result<(), String> {
        for point in self.tap.take_points() {
            self.faults.crash_points += 1;
            self.faults.crash_points_unsynced += u64::from(point.is_unsynced);
            self.judge(&point)?;
        }
        Ok(())
    }

    fn judge(&mut self, point: &CrashPoint) -> Result<(), String> {
        // If the disk was full, an operator makes room.
        point.disk.set_capacity(u64::MAX);
        let disk =
            if self.dice.percent(25) { self.crash_in_recovery(point)? } else { point.disk.clone() };
        let store = self.recover(&disk, point)?;
        if !self.dice.percent(15) {
            return Ok(());
        }
        let (last, epoch) = (store.report.last, store.report.start_epoch);
        let mut first = Vec::new();
        store.state.encode(&mut first);
        drop(store);
        self.faults.crash_points += 1;
        let disk = disk.crash(&mut self.dice);
        let again = self.recover(&disk, point)?;
        let mut second = Vec::new();
        again.state.encode(&mut second);
        if first != second || again.report.last != last || again.report.start_epoch <= epoch {
            return Err(format!("recovering twice is not once: {:?}", again.report));
        }
        Ok(())
    }

    /// The power fails again in the middle of recovery.
    fn crash_in_recovery(&mut self, point: &CrashPoint) -> Result<SimFs, String> {
        let faults = FaultFs::new(point.disk.clone());
        faults.plan(self.dice.below(25), Fault::PowerLoss);
        let options = self.plan.options(&mut self.dice);
        match Store::<Folded>::open(Arc::new(faults.clone()), options) {
            Ok(_) => {}
            Err(_) if faults.hit().is_some() => {
                self.faults.kills_in_recovery += 1;
                self.faults.crash_points += 1;
            }
            Err(error) => return Err(format!("a crash point cannot be opened: {error}")),
        }
        Ok(faults.disk().crash(&mut self.dice))
    }

    fn recover(&mut self, disk: &SimFs, point: &CrashPoint) -> Result<Store<Folded>, String> {
        let options = self.plan.options(&mut self.dice);
        let store = Store::<Folded>::open(Arc::new(disk.clone()), options)
            .map_err(|error| format!("a crash point cannot be opened: {error} ({error:?})"))?;
        self.faults.torn_tails += u64::from(store.report.torn.is_some());
        let waits =
            store.state.0.waiting_rooms().any(|(id, _)| !store.state.0.needed(id).is_empty());
        self.faults.crash_points_with_waiting += u64::from(waits);
        let adopts = store.shared.manifest().runs.iter().any(|run| run.adopted.is_some());
        self.faults.crash_points_with_adopted += u64::from(adopts);
        if store.report.is_damaged() {
            return Err(format!("a crash point is damaged: {:?}", store.report));
        }
        self.ledger
            .audit(&store.state, &store.reader, point.left, true)
            .map_err(|broken| format!("at a crash point: {broken}; report {:?}", store.report))?;
        Ok(store)
    }
}
