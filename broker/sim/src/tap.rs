//! The disk under a simulated broker: faults on order, and copies of what a power loss would leave.
//!
//! After an operation that changes the disk, and before a sync, the tap may take crash points: what the next start
//! would find if the power failed at that moment, with any subset of the unsynced sectors. They are
//! recovered and judged apart, while the run goes on as if nothing had happened.

use crate::chance::Chance;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::faults::FaultFs;
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::fs::{File, Fs, Map};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The disk as a power loss at one moment leaves it.
#[derive(Debug)]
pub(crate) struct CrashPoint {
    pub(crate) disk: SimFs,
    /// How many frames had left the broker.
    pub(crate) left: u64,
    /// Whether something was written and not synced.
    pub(crate) is_unsynced: bool,
}

/// How often crash points are taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampling {
    /// In how many of a thousand operations.
    pub(crate) per_mille: u64,
    /// Copies with different fates at each.
    pub(crate) variants: u64,
}

/// A disk with faults to come. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    pub(crate) faults: FaultFs,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct Watch {
    sampling: Sampling,
    /// Frames that have left the broker.
    left: AtomicU64,
    taking: Mutex<Taking>,
}

#[derive(Debug)]
struct Taking {
    dice: Dice,
    points: Vec<CrashPoint>,
}

impl Tap {
    pub(crate) fn new(disk: SimFs, sampling: Sampling, dice: &mut Dice) -> Self {
        let taking = Taking { dice: dice.split(), points: Vec::new() };
        let watch = Watch { sampling, left: AtomicU64::new(0), taking: Mutex::new(taking) };
        Self { faults: FaultFs::new(disk), watch: Arc::new(watch) }
    }

    /// The same tap with another disk under it, as a restart finds it.
    pub(crate) fn onto(&self, disk: SimFs) -> Self {
        Self { faults: FaultFs::new(disk), watch: Arc::clone(&self.watch) }
    }

    pub(crate) fn disk(&self) -> &SimFs {
        self.faults.disk()
    }

    /// Takes note of a frame that leaves the broker.
    pub(crate) fn frame_left(&self) {
        self.watch.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the crash points taken since the last call.
    pub(crate) fn take_points(&self) -> Vec<CrashPoint> {
        std::mem::take(&mut self.lock().points)
    }

    fn lock(&self) -> MutexGuard<'_, Taking> {
        self.watch.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation was done.
    fn changed<T>(&self, done: io::Result<T>) -> io::Result<T> {
        self.sample();
        done
    }

    /// A sync is about to begin: what has left the broker since the last write counts.
    fn syncing(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.sample();
        self.changed(sync())
    }

    fn sample(&self) {
        let Sampling { per_mille, variants } = self.watch.sampling;
        if per_mille == 0 {
            return;
        }
        let mut taking = self.lock();
        if taking.dice.below(1000) < per_mille {
            let left = self.watch.left.load(Ordering::Relaxed);
            let is_unsynced = self.disk().unsynced() > 0;
            // Without anything unsynced all copies are the same.
            for _ in 0..if is_unsynced { variants } else { 1 } {
                let disk = self.disk().crash(&mut taking.dice);
                taking.points.push(CrashPoint { disk, left, is_unsynced });
            }
        }
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TapFile { tap: self.clone(), file })
    }
}

impl Fs for Tap {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.changed(self.faults.create(name)).map(|file| self.wrap(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.faults.open(name).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.changed(self.faults.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.changed(self.faults.remove(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.faults.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.syncing(|| self.faults.sync_dir())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.faults.free_bytes()
    }
}

#[derive(Debug)]
struct TapFile {
    tap: Tap,
    file: Arc<dyn File>,
}

impl File for TapFile {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.tap.changed(self.file.write_at(position, parts))
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(position, buffer)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn sync(&self) -> io::Result<()> {
        self.tap.syncing(|| self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tap.changed(self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tap.changed(self.file.allocate(len))
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.file.map(len)
    }
}
