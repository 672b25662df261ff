//! What happens to the broker while everybody works.

use super::World;
use super::lives::Death;
use crate::chance::Chance;
use posthouse_checker::history::BrokerChange;
use posthouse_engine::Input;
use posthouse_storage::fs::Fs;
use posthouse_storage::fs::faults::Fault;

impl World {
    /// One fault.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        if self.host.is_none() {
            return Ok(());
        }
        match self.dice.below(100) {
            0..35 => self.cut(),
            35..45 => self.die(Death::Kill),
            45..55 => self.die(Death::PowerLoss),
            55..67 => self.plan_fault(Fault::PowerLoss),
            67..72 => self.plan_fault(Fault::Error),
            72..77 => self.plan_fault(Fault::Full),
            77..82 => self.fail_syncs(),
            82..87 => self.fill_up(),
            87..95 => self.jump(),
            _ => return self.stop(),
        }
        Ok(())
    }

    fn cut(&mut self) {
        let open = self.net.open();
        let Some((client, connection)) = open.get(self.dice.index(open.len().max(1))).copied()
        else {
            return;
        };
        self.faults.lost_connections += 1;
        self.net.cut(connection, &mut self.dice);
        self.with_client(client, |client, around| client.lost(around));
    }

    fn plan_fault(&mut self, fault: Fault) {
        if !self.trouble.is_planned {
            self.trouble.is_planned = true;
            let operations = self.dice.below(60);
            self.tap.faults.plan(operations, fault);
        }
    }

    /// The next sync of every segment fails, as a disk does that has lost a write.
    fn fail_syncs(&mut self) {
        self.trouble.syncs_fail = true;
        for name in self.tap.disk().all_names() {
            if name.starts_with("segment-") {
                self.tap.disk().fail_next_sync(&name);
            }
        }
    }

    fn fill_up(&mut self) {
        let free = self.tap.disk().free_bytes().unwrap_or(u64::MAX);
        let used = u64::MAX - free;
        if self.trouble.full_until.is_some() {
            return;
        }
        self.faults.full_disks += 1;
        let room = self.dice.below(8 * self.plan.segment_bytes);
        self.tap.disk().set_capacity(used + room);
        self.trouble.full_until = Some(self.now + self.dice.between(1_000_000, 800_000_000));
    }

    fn jump(&mut self) {
        self.faults.time_jumps += 1;
        if self.dice.percent(30) {
            self.wall_ahead += self.dice.between(1, 60_000);
            self.record_clock();
        } else {
            self.now += self.dice.between(1_000_000_000, 5_000_000_000);
        }
    }

    /// A stop in good order.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        if self.trouble.is_planned || self.has_disk_trouble() {
            return Ok(());
        }
        let t0 = self.now;
        if let Some(host) = &mut self.host {
            host.push(Input::Drain);
        }
        for _ in 0..10_000 {
            self.now += 20_000;
            self.round()?;
            self.load()?;
            self.sync()?;
            if self.host.as_mut().is_none_or(super::Host::is_drained) {
                break;
            }
        }
        self.post();
        let (now, born) = (self.now, self.born);
        let Some(host) = self.host.take() else { return Ok(()) };
        let mut live = Vec::new();
        host.state().encode(&mut live);
        host.close(std::time::Duration::from_nanos(now - born))
            .map_err(|exit| format!("a clean stop failed: {exit}"))?;
        self.faults.clean_stops += 1;
        self.part();
        self.expected = Some(live);
        self.tap = self.tap.onto(self.tap.disk().kill());
        self.record((t0, self.now), BrokerChange::Stopped);
        self.now += 1_000;
        self.restart_at = self.now + self.dice.between(1_000_000, 20_000_000);
        Ok(())
    }

    const fn has_disk_trouble(&self) -> bool {
        self.trouble.syncs_fail || self.trouble.full_until.is_some()
    }
}
