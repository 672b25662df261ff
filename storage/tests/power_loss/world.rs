//! One run: a store on a simulated disk, and a model of what it must remember.

use super::tally::Tally;
use crate::support::{Ledger, frame, options};
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::frame::FrameDraft;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::{Fault, FaultFs, Operation};
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::journal::SyncJob;
use posthouse_storage::{Options, Store, spare};
use std::collections::BTreeMap;
use std::sync::Arc;

const PARTITIONS: u64 = 3;
const SEGMENT_BYTES: u64 = 32 << 10;
/// Longer than any run stays without a fault.
const STEPS_MAX: usize = 10_000;

pub(crate) struct World {
    seed: u64,
    dice: Dice,
    fs: FaultFs,
    store: Option<Store<Ledger>>,
    job: Option<SyncJob>,
    model: Model,
}

/// What was appended, in order, and how much of it a sync covered.
#[derive(Default)]
struct Model {
    frames: Vec<(StartEpoch, FrameDraft)>,
    acknowledged: usize,
    /// The highest start epoch seen.
    epoch: StartEpoch,
    next_offsets: BTreeMap<PartitionId, u64>,
}

/// The store said no, as it should after a fault.
struct Stopped;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice::new(seed),
            fs: FaultFs::new(SimFs::new()),
            store: None,
            job: None,
            model: Model::default(),
        }
    }

    /// Works until the planned fault has hit.
    pub(crate) fn live_until_a_fault(&mut self, tally: &mut Tally) {
        let fault = if self.dice.percent(25) { Fault::Error } else { Fault::PowerLoss };
        let operations = match self.dice.below(3) {
            0 => self.dice.below(12),
            1 => self.dice.below(60),
            _ => self.dice.below(300),
        };
        self.fs.plan(operations, fault);
        for _ in 0..STEPS_MAX {
            let outcome = if self.store.is_some() { self.step(tally) } else { self.open(tally) };
            if outcome.is_err() {
                let hit = self.fs.hit().expect("only the fault makes the store say no");
                tally.count_operation(hit);
                tally.failed_syncs += u64::from(fault == Fault::Error && hit == Operation::Sync);
                return;
            }
        }
        panic!("the fault never came");
    }

    /// Loses power or the process, and starts again until that works.
    pub(crate) fn come_back(&mut self, tally: &mut Tally) {
        self.store = None;
        self.job = None;
        tally.losses += 1;
        let unsynced = self.fs.disk().unsynced();
        let disk = if self.dice.percent(20) {
            tally.killed_with_cache += u64::from(unsynced > 0);
            self.fs.disk().kill()
        } else {
            self.fs.disk().crash(&mut self.dice)
        };
        self.fs = FaultFs::new(disk);
        while self.dice.percent(30) {
            let operations = self.dice.below(14);
            self.fs.plan(operations, Fault::PowerLoss);
            if self.open(tally).is_ok() {
                self.store = None;
            } else {
                tally.inside_recovery += 1;
            }
            tally.losses += 1;
            self.fs = FaultFs::new(self.fs.disk().crash(&mut self.dice));
        }
        self.check_twice(tally);
    }

    /// What one start recovered, the next one must recover, even if it finds only what is durable.
    fn check_twice(&mut self, tally: &mut Tally) {
        assert!(self.open(tally).is_ok(), "no fault is planned");
        let first = self.store.take().map(|store| (store.report.last, store.state));
        tally.losses += 1;
        self.fs = FaultFs::new(self.fs.disk().crash(&mut self.dice));
        assert!(self.open(tally).is_ok(), "no fault is planned");
        let second = self.store.as_ref().map(|store| (store.report.last, store.state.clone()));
        assert_eq!(first, second, "recovering twice is recovering once");
    }

    fn open(&mut self, tally: &mut Tally) -> Result<(), Stopped> {
        let options =
            Options { segment_bytes: SEGMENT_BYTES, ..options(self.seed.to_le_bytes()[0]) };
        let opened = Store::<Ledger>::open(Arc::new(self.fs.clone()), options);
        let store = opened.map_err(|error| self.explained(&error))?;
        tally.count_report(&store.report);
        tally.frames_lost += (self.model.frames.len() as u64).saturating_sub(store.report.last.0);
        self.model.check(&store);
        self.store = Some(store);
        Ok(())
    }

    /// An error is fine once the fault was hit, and only then.
    fn explained(&self, error: &dyn std::error::Error) -> Stopped {
        assert!(self.fs.hit().is_some(), "no fault was hit: {error}");
        Stopped
    }

    fn step(&mut self, tally: &mut Tally) -> Result<(), Stopped> {
        match self.dice.below(100) {
            0..=49 => self.append(tally),
            50..=67 => self.sync(),
            68..=75 => self.begin_sync(),
            76..=83 => self.finish_sync(),
            84..=88 => self.mark(),
            89..=91 => self.roll(tally),
            92..=97 => self.prepare(),
            _ => self.close(),
        }
    }

    fn store(&mut self) -> &mut Store<Ledger> {
        self.store.as_mut().expect("the store is open")
    }

    fn append(&mut self, tally: &mut Tally) -> Result<(), Stopped> {
        let frames: Vec<FrameDraft> = (0..=self.dice.below(4)).map(|_| self.draft()).collect();
        let before = self.store().shared.view().segments.len();
        let epoch = self.store().report.start_epoch;
        self.model.frames.extend(frames.iter().map(|frame| (epoch, frame.clone())));
        let appended = self.store().journal.append(&frames);
        let last = appended.map_err(|error| self.explained(&error))?;
        assert_eq!(last.0, self.model.frames.len() as u64, "frames are numbered densely");
        tally.rolls += (self.store().shared.view().segments.len() - before) as u64;
        Ok(())
    }

    fn draft(&mut self) -> FrameDraft {
        let partition = PartitionId(u32::try_from(self.dice.below(PARTITIONS)).unwrap());
        let count = u32::try_from(1 + self.dice.below(3)).unwrap();
        let bytes = match self.dice.below(4) {
            0 => self.dice.below(16),
            1 => self.dice.below(200),
            2 => self.dice.below(600),
            _ => 1200,
        };
        let next = self.model.next_offsets.entry(partition).or_default();
        let base = *next;
        *next += u64::from(count) + self.dice.below(2);
        frame(partition, base, count, usize::try_from(bytes).unwrap())
    }

    fn sync(&mut self) -> Result<(), Stopped> {
        let synced = self.store().journal.sync();
        let durable = synced.map_err(|error| self.explained(&error))?;
        assert_eq!(durable.0, self.model.frames.len() as u64);
        self.model.acknowledge(durable);
        Ok(())
    }

    fn begin_sync(&mut self) -> Result<(), Stopped> {
        if self.job.is_none() {
            self.job = self.store().journal.begin_sync();
        }
        Ok(())
    }

    fn finish_sync(&mut self) -> Result<(), Stopped> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let finished = self.store().journal.finish_sync(job.run());
        let durable = finished.map_err(|error| self.explained(&error))?;
        self.model.acknowledge(durable);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Stopped> {
        let marked = self.store().journal.mark(Timestamp(1));
        marked.map(|_| ()).map_err(|error| self.explained(&error))
    }

    fn roll(&mut self, tally: &mut Tally) -> Result<(), Stopped> {
        self.store().shared.request_roll();
        let rolled = self.store().journal.roll_if_requested();
        tally.rolls += u64::from(rolled.map_err(|error| self.explained(&error))?);
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Stopped> {
        let prepared = spare::prepare(&self.store().shared);
        prepared.map(|_| ()).map_err(|error| self.explained(&error))
    }

    fn close(&mut self) -> Result<(), Stopped> {
        self.job = None;
        let Some(Store { journal, .. }) = self.store.take() else { return Ok(()) };
        journal.close().map_err(|error| self.explained(&error))?;
        self.model.acknowledged = self.model.frames.len();
        Ok(())
    }
}

impl Model {
    fn acknowledge(&mut self, durable: LogIndex) {
        self.acknowledged = self.acknowledged.max(usize::try_from(durable.0).unwrap());
    }

    /// Compares what was recovered with what was appended, and forgets what was lost rightly.
    fn check(&mut self, store: &Store<Ledger>) {
        let report = &store.report;
        assert!(!report.is_damaged(), "a power loss is no damage: {report:#?}");
        assert!(report.orphans.is_empty(), "every file is understood: {:?}", report.orphans);
        assert!(report.start_epoch > self.epoch, "a start epoch is never given twice");
        self.epoch = report.start_epoch;

        let last = usize::try_from(report.last.0).unwrap();
        let (acknowledged, appended) = (self.acknowledged, self.frames.len());
        assert!(last >= acknowledged, "acknowledged={acknowledged} recovered={last}");
        assert!(last <= appended, "appended={appended} recovered={last}");
        self.frames.truncate(last);
        self.acknowledged = last;

        let mut expected = Ledger::default();
        let mut batches: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
        for (index, (term, frame)) in (1..).zip(&self.frames) {
            expected.seen.push((LogIndex(index), *term, frame.events.to_vec()));
            for batch in &frame.batches {
                batches.entry(batch.partition).or_default().push((batch.base, batch.bytes.clone()));
            }
        }
        assert_eq!(store.state, expected, "the state is that of the prefix");
        for partition in (0..3).map(PartitionId) {
            let read = store.reader.read(partition, Offset(0), usize::MAX).unwrap();
            let found: Vec<_> = read.into_iter().map(|batch| (batch.base, batch.bytes)).collect();
            let expected = batches.remove(&partition).unwrap_or_default();
            assert!(found == expected, "batches of partition={partition} are those appended");
        }
    }
}
