//! Which runs are worth rewriting: those less than half needed, and many small ones.
//!
//! After each fold every run is looked at once, one a step. A run is a victim of
//! compaction by itself, or together with others of about its size, so that the
//! number of runs grows with the logarithm of what is stored.

use super::fold::retain_needed;
use super::job::Job;
use super::rewrite::{Rewrite, own_file_bytes};
use super::source::{Found, Source};
use super::{Checkpointer, Task, Work};
use crate::fold::{Fold, overlaps};
use crate::names::FileId;
use crate::run::{Partition, Run};
use posthouse_protocol::{DecodeError, Offset, PartitionId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Runs of about the same size that are merged into one.
const MERGE_RUNS: usize = 8;
/// Runs of at least a partition's own file that are merged into one.
const MERGE_LARGER_RUNS: usize = 4;
/// Sizes belong to one tier if they differ by less than this factor; a power of 2.
const TIER_BITS: u32 = 3;
/// A compaction notes at most about this many batches, to bound its memory.
const BATCHES_MAX: u64 = 1 << 18;

/// What is known about the runs at the present fold.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Bytes of batches that are needed.
    needed: BTreeMap<FileId, u64>,
    is_complete: bool,
    /// The disk was full: no compaction before the next fold.
    is_blocked: bool,
}

impl Survey {
    /// The state has moved: every run is looked at again.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Compaction has to wait for the next fold.
    pub(super) const fn block(&mut self) {
        self.is_blocked = true;
    }

    /// Runs of which nothing is needed.
    pub(super) fn dead(&self) -> Vec<FileId> {
        self.needed.iter().filter(|(_, needed)| **needed == 0).map(|(id, _)| *id).collect()
    }

    pub(super) fn forget(&mut self, runs: &[FileId]) {
        self.needed.retain(|id, _| !runs.contains(id));
    }
}

impl<F: Fold> Checkpointer<F> {
    /// Looks at one run; says whether there was one left.
    pub(super) fn survey_one(&mut self) -> bool {
        if self.survey.is_complete {
            return false;
        }
        let known = &self.survey.needed;
        let next = self.runs.all().iter().find(|run| !known.contains_key(&run.identity().id));
        let Some(run) = next else {
            self.survey.is_complete = true;
            return false;
        };
        self.task = Task::Survey;
        let needed = needed_bytes(run, &self.folded.state);
        self.survey.needed.insert(run.identity().id, needed);
        true
    }

    /// Starts rewriting runs if that is worth it; says whether it did.
    pub(super) fn start_compaction(&mut self) -> bool {
        if self.survey.is_blocked {
            return false;
        }
        let victims = self.victims();
        if victims.is_empty() {
            return false;
        }
        self.task = Task::Gather;
        let mut sources = Vec::new();
        let mut batches = Vec::new();
        let mut replaced = Vec::new();
        for run in &victims {
            // A run whose index is damaged stays as it is: what can be read of it, is.
            let bytes = run.batch_file_bytes();
            let bytes = bytes.filter(|_| gather(run, sources.len(), &mut batches).is_ok());
            if let Some(bytes) = bytes {
                sources.push(Source { bytes, segment: None });
                replaced.push(run.identity().id);
            } else {
                self.survey.needed.insert(run.identity().id, u64::MAX);
            }
        }
        let after = victims.iter().map(|run| run.identity().after).min();
        let through = victims.iter().map(|run| run.identity().through).max();
        let (Some(after), Some(through)) = (after, through) else {
            return false;
        };
        if replaced.is_empty() {
            return true;
        }
        retain_needed(&mut batches, &self.folded.state);
        let rewrite = Rewrite::new(after, through, sources, batches);
        self.work = Work::Writing(Box::new(Job::compact(rewrite, replaced)));
        true
    }

    fn victims(&self) -> Vec<Arc<Run>> {
        let needed = |run: &Run| self.survey.needed.get(&run.identity().id).copied();
        let sparse = self.runs.all().iter().find(|run| {
            needed(run).is_some_and(|needed| needed > 0 && needed < held_bytes(run) / 2)
        });
        if let Some(run) = sparse {
            return vec![Arc::clone(run)];
        }
        let limit = self.shared.options.segment_bytes;
        let own_file_bytes = own_file_bytes(&self.shared);
        // An adopted segment is as large as a merger may become.
        let known = |run: &&Arc<Run>| {
            run.adopted().is_none() && needed(run).is_some_and(|needed| needed != u64::MAX)
        };
        let mut known: Vec<&Arc<Run>> = self.runs.all().iter().filter(known).collect();
        known.sort_unstable_by_key(|run| (run.len(), run.identity().id));
        // A partition's own file would come out of a merger with others as it went in.
        let (small, larger): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|run| run.len() < own_file_bytes);
        let merged = tiers(limit).find_map(|tier| mergeable(&small, tier, limit));
        merged.or_else(|| mergeable_larger(&larger, limit)).unwrap_or_default()
    }
}

/// The tiers of runs that may be merged: a result never outgrows one file by much.
fn tiers(limit: u64) -> impl Iterator<Item = u32> {
    (0..tier(limit)).map(|number| number + 1)
}

const fn tier(bytes: u64) -> u32 {
    (u64::BITS - bytes.leading_zeros()).div_ceil(TIER_BITS)
}

/// The runs of `tier` and below, if there are enough of them to be merged into one of at most
/// `limit` bytes.
fn mergeable(runs: &[&Arc<Run>], up_to: u32, limit: u64) -> Option<Vec<Arc<Run>>> {
    let small = runs.partition_point(|run| tier(run.len()) <= up_to);
    let chosen = fitting(runs.get(..small).unwrap_or_default(), limit);
    (chosen.len() >= MERGE_RUNS).then_some(chosen)
}

/// Larger runs, each less than a quarter of a file, if there are enough of them to be merged into
/// one of at most `limit` bytes: files of one partition's own, or files of several partitions,
/// whose own files come out of it.
fn mergeable_larger(runs: &[&Arc<Run>], limit: u64) -> Option<Vec<Arc<Run>>> {
    let mut groups = BTreeMap::<Option<PartitionId>, Vec<&Arc<Run>>>::new();
    for run in runs.iter().filter(|run| run.len() < limit / 4) {
        let group = run.only_partition().map(|only| only.id);
        groups.entry(group).or_default().push(run);
    }
    let mut chosen = groups.into_values().map(|runs| fitting(&runs, limit));
    chosen.find(|chosen| chosen.len() >= MERGE_LARGER_RUNS)
}

/// As many of `runs` as make one file of at most `limit` bytes.
fn fitting(runs: &[&Arc<Run>], limit: u64) -> Vec<Arc<Run>> {
    let mut bytes = 0;
    let mut entries = 0;
    let fitting = runs.iter().take_while(|run| {
        bytes += run.len();
        entries += run.entries();
        bytes <= limit && entries <= BATCHES_MAX
    });
    fitting.map(|run| Arc::clone(run)).collect()
}

/// What the run's batches keep from being freed: themselves, or the whole segment that it adopted.
fn held_bytes(run: &Run) -> u64 {
    let batches = || run.partitions().map(|partition| partition.bytes).sum();
    run.adopted().map_or_else(batches, |segment| segment.size)
}

/// How many bytes of the run's batches are needed; at least 1 if a notice of a lost batch is, or
/// if nobody can tell.
fn needed_bytes<F: Fold>(run: &Run, state: &F) -> u64 {
    let of_partition = |partition: Partition| {
        let needed = state.needed(partition.id, partition.start..partition.end);
        if !overlaps(&needed, partition.start, partition.end) {
            return 0;
        }
        if covers(&needed, partition.start, partition.end) {
            return partition.bytes.max(1);
        }
        run.batches(&partition).map_or_else(
            |_| partition.bytes.max(1),
            |entries| {
                let needed = entries.filter(|entry| overlaps(&needed, entry.base, entry.end()));
                needed.map(|entry| u64::from(entry.len).max(1)).sum()
            },
        )
    };
    run.partitions().map(of_partition).sum()
}

fn covers(needed: &[Range<Offset>], start: Offset, end: Offset) -> bool {
    needed.iter().any(|range| range.start <= start && end <= range.end)
}

fn gather(run: &Run, source: usize, batches: &mut Vec<Found>) -> Result<(), DecodeError> {
    let before = batches.len();
    let source = u32::try_from(source).unwrap_or(u32::MAX);
    for partition in run.partitions() {
        let entries = run.batches(&partition).inspect_err(|_| batches.truncate(before))?;
        batches.extend(entries.map(|entry| Found {
            partition: entry.partition,
            count: entry.count,
            base: entry.base,
            position: entry.position,
            len: entry.len,
            crc: entry.crc,
            source,
        }));
    }
    Ok(())
}
