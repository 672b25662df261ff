//! A file system that fails, or loses power, at a chosen operation.
//!
//! Counts everything that changes the disk: creations, renamings, removals,
//! writes, changes of length and syncs. Reads are not counted, so that a count
//! taken in one run means the same place in the next.

use super::sim::{Handle, SimFs};
use super::{File, Fs, Map};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It and all later ones fail, and change nothing: the power is gone.
    PowerLoss,
    /// It fails, and later ones do not. A failed sync of a simulated file loses its writes.
    Error,
    /// It fails for want of space, and later ones do not.
    Full,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bytes or a length are written.
    Write,
    /// A file is synced.
    Sync,
    /// A name is made, changed or removed.
    Entry,
    /// The directory is synced.
    SyncDirectory,
}

/// A simulated disk with a fault to come. Clones share the count.
#[derive(Clone, Debug)]
pub struct FaultFs {
    sim: SimFs,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    done: AtomicU64,
    at: AtomicU64,
    fault: Mutex<Fault>,
    hit: Mutex<Option<Operation>>,
}

impl FaultFs {
    /// No fault on `sim` yet.
    #[must_use]
    pub fn new(sim: SimFs) -> Self {
        let plan = Plan {
            done: AtomicU64::new(0),
            at: AtomicU64::new(u64::MAX),
            fault: Mutex::new(Fault::PowerLoss),
            hit: Mutex::new(None),
        };
        Self { sim, plan: Arc::new(plan) }
    }

    /// Plans `fault` for the operation that comes after `operations` more.
    pub fn plan(&self, operations: u64, fault: Fault) {
        *self.plan.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        let at = self.plan.done.load(Ordering::Relaxed).saturating_add(operations);
        self.plan.at.store(at, Ordering::Relaxed);
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.plan.done.load(Ordering::Relaxed)
    }

    /// What the fault hit, if it came.
    #[must_use]
    pub fn hit(&self) -> Option<Operation> {
        *self.plan.hit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk under it.
    #[must_use]
    pub const fn disk(&self) -> &SimFs {
        &self.sim
    }
}

impl Plan {
    /// Counts an operation; `Err` is the fault that it meets.
    fn count(&self, operation: Operation) -> Result<(), Fault> {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        let at = self.at.load(Ordering::Relaxed);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if number == at {
            *self.hit.lock().unwrap_or_else(PoisonError::into_inner) = Some(operation);
        }
        if number == at || (number > at && fault == Fault::PowerLoss) {
            return Err(fault);
        }
        Ok(())
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        self.count(operation).map_err(error_of)
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::PowerLoss => io::Error::other("simulated power loss"),
        Fault::Error => io::Error::other("simulated error"),
        Fault::Full => io::ErrorKind::StorageFull.into(),
    }
}

impl FaultFs {
    fn wrap(&self, file: Arc<Handle>) -> Arc<dyn File> {
        Arc::new(FaultFile { plan: Arc::clone(&self.plan), file })
    }
}

impl Fs for FaultFs {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.plan.check(Operation::Entry)?;
        Ok(self.wrap(self.sim.create_handle(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.sim.open_handle(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plan.check(Operation::Entry)?;
        self.sim.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.plan.check(Operation::Entry)?;
        self.sim.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.sim.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.plan.check(Operation::SyncDirectory)?;
        self.sim.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.sim.free_bytes()
    }
}

#[derive(Debug)]
struct FaultFile {
    plan: Arc<Plan>,
    file: Arc<Handle>,
}

impl File for FaultFile {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.plan.check(Operation::Write)?;
        self.file.write_at(position, parts)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(position, buffer)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn sync(&self) -> io::Result<()> {
        match self.plan.count(Operation::Sync) {
            Ok(()) => self.file.sync(),
            Err(Fault::Error) => {
                self.file.fail_next_sync();
                self.file.sync()
            }
            Err(fault @ (Fault::PowerLoss | Fault::Full)) => Err(error_of(fault)),
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.plan.check(Operation::Write)?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.plan.check(Operation::Write)?;
        self.file.allocate(len)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.file.map(len)
    }
}
