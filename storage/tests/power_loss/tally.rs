//! What the runs went through. A suite whose faults never hit proves nothing.

use posthouse_storage::fs::faults::Operation;
use posthouse_storage::recover::{Origin, RecoveryReport};

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) losses: u64,
    pub(crate) at_writes: u64,
    pub(crate) at_syncs: u64,
    pub(crate) at_entries: u64,
    pub(crate) at_directory_syncs: u64,
    pub(crate) inside_recovery: u64,
    pub(crate) failed_syncs: u64,
    pub(crate) killed_with_cache: u64,
    pub(crate) torn_tails: u64,
    pub(crate) frames_dropped: u64,
    pub(crate) frames_lost: u64,
    pub(crate) torn_manifest_slots: u64,
    pub(crate) clean_stops: u64,
    pub(crate) rolls: u64,
    pub(crate) created_again: u64,
    pub(crate) frames_recovered: u64,
}

impl Tally {
    pub(crate) const fn count_operation(&mut self, operation: Operation) {
        match operation {
            Operation::Write => self.at_writes += 1,
            Operation::Sync => self.at_syncs += 1,
            Operation::Entry => self.at_entries += 1,
            Operation::SyncDirectory => self.at_directory_syncs += 1,
        }
    }

    pub(crate) fn count_report(&mut self, report: &RecoveryReport) {
        if let Some(torn) = report.torn {
            self.torn_tails += 1;
            self.frames_dropped += torn.frames_dropped;
        }
        self.torn_manifest_slots += u64::from(report.manifest_damaged.is_some());
        self.clean_stops += u64::from(report.clean && report.origin == Origin::Found);
        self.created_again += u64::from(report.origin == Origin::Created);
        self.frames_recovered += report.replayed_frames;
    }

    pub(crate) fn assert_everything_was_hit(&self) {
        let counts = [
            ("at writes", self.at_writes),
            ("at syncs", self.at_syncs),
            ("at entries", self.at_entries),
            ("at directory syncs", self.at_directory_syncs),
            ("inside recovery", self.inside_recovery),
            ("failed syncs", self.failed_syncs),
            ("killed with cache", self.killed_with_cache),
            ("torn tails", self.torn_tails),
            ("frames dropped", self.frames_dropped),
            ("frames lost", self.frames_lost),
            ("torn manifest slots", self.torn_manifest_slots),
            ("clean stops", self.clean_stops),
            ("rolls", self.rolls),
            ("created again", self.created_again),
            ("frames recovered", self.frames_recovered),
        ];
        for (what, count) in counts {
            assert!(count > 0, "the runs never met: {what}");
        }
    }
}
