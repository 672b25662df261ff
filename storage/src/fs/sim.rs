//! A simulated disk, at least as nasty as ext4 and xfs.
//!
//! Reads see what was written. What a crash leaves is another matter: of every
//! 512-byte sector written since the last sync any version, or the old one, or a
//! torn mixture; of every length since then any; of every creation, renaming and
//! removal since the last directory sync any subset. A failed sync forgets what
//! was to be written, calls it clean, and still shows it to readers until the
//! cache is dropped. The disk can be full, and ranges of it unreadable.
//!
//! [`SimFs::crash`] gives the disk as the next start finds it; the old one lives
//! on for whoever still has it, and is of no consequence.

mod inode;

use super::dice::Dice;
use super::{File, Fs, Map};
use crate::names::ORPHANS;
use inode::Inode;
pub use inode::{Fate, SECTOR_BYTES};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A simulated data directory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimFs {
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    directory: Mutex<Directory>,
    capacity: AtomicU64,
    /// Said to be free at least.
    claimed: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    names: BTreeMap<String, Arc<SimFile>>,
    /// As of the last directory sync.
    durable: BTreeMap<String, Arc<SimFile>>,
    /// Since then.
    changes: Vec<Change>,
}

/// A change to the directory.
#[derive(Clone, Debug)]
enum Change {
    Create { name: String, file: Arc<SimFile> },
    Rename { from: String, to: String, file: Arc<SimFile> },
    Remove { name: String },
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Arc<SimFile>>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), Arc::clone(file));
            }
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), Arc::clone(file));
            }
            Self::Remove { name } => {
                names.remove(name);
            }
        }
    }
}

/// Something that was not synced, whose fate a crash decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A creation, renaming or removal; survives as version 1 or not at all.
    Entry,
    /// A file's length.
    Length,
    /// A sector.
    Sector,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Directory::default(), u64::MAX)
    }

    fn with(directory: Directory, capacity: u64) -> Self {
        let (capacity, claimed) = (AtomicU64::new(capacity), AtomicU64::new(0));
        let disk = Disk { directory: Mutex::new(directory), capacity, claimed };
        Self { disk: Arc::new(disk) }
    }

    /// Limits what all files together may take.
    pub fn set_capacity(&self, bytes: u64) {
        self.disk.capacity.store(bytes, Ordering::Relaxed);
    }

    /// Says from now on that at least so much is free, as file systems with quotas do.
    pub fn claim_free(&self, bytes: u64) {
        self.disk.claimed.store(bytes, Ordering::Relaxed);
    }

    fn room(&self) -> u64 {
        self.disk.capacity.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    /// The disk after a power loss, everything unsynced left to `dice`.
    ///
    /// A throw decides first how the disk was: whether it kept nothing, everything, or how much.
    #[must_use]
    pub fn crash(&self, dice: &mut Dice) -> Self {
        let kept = match dice.below(6) {
            0 => 0,
            1 => 100,
            2 => 50,
            3 => 90,
            4 => 10,
            _ => dice.below(101),
        };
        self.crash_with(&mut |what, versions| {
            if !dice.percent(kept) {
                return Fate::Lost;
            }
            let version = usize::try_from(dice.below(versions as u64)).unwrap_or(0);
            if what == Unsynced::Sector && dice.percent(5) {
                let bytes = usize::try_from(dice.below(SECTOR_BYTES as u64)).unwrap_or(0);
                return Fate::Torn { version, bytes };
            }
            Fate::Kept { version }
        })
    }

    /// The disk after a power loss. `choose` is asked for everything unsynced, in a fixed order,
    /// and told how many versions there are.
    #[must_use]
    pub fn crash_with(&self, choose: &mut dyn FnMut(Unsynced, usize) -> Fate) -> Self {
        let directory = self.lock();
        let mut names = directory.durable.clone();
        for change in &directory.changes {
            if choose(Unsynced::Entry, 1) != Fate::Lost {
                change.apply(&mut names);
            }
        }
        let mut copies: BTreeMap<*const SimFile, Arc<SimFile>> = BTreeMap::new();
        let names: BTreeMap<String, Arc<SimFile>> = names
            .into_iter()
            .map(|(name, file)| {
                let copy = copies
                    .entry(Arc::as_ptr(&file))
                    .or_insert_with(|| Arc::new(SimFile(Mutex::new(file.lock().crash(choose)))));
                (name, Arc::clone(copy))
            })
            .collect();
        let after = Directory { durable: names.clone(), names, changes: Vec::new() };
        Self::with(after, self.disk.capacity.load(Ordering::Relaxed))
    }

    /// The disk after the process was killed and the system lives on: nothing is lost.
    #[must_use]
    pub fn kill(&self) -> Self {
        let directory = self.lock().clone();
        Self::with(directory, self.disk.capacity.load(Ordering::Relaxed))
    }

    /// How many things are unsynced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let directory = self.lock();
        let sectors: usize = directory.names.values().map(|file| file.lock().unsynced()).sum();
        directory.changes.len() + sectors
    }

    /// Lets the next sync of the file `name` fail, as a disk does that lost the write.
    pub fn fail_next_sync(&self, name: &str) {
        if let Some(file) = self.lock().names.get(name) {
            file.lock().fail_next_sync();
        }
    }

    /// Makes reads that touch `range` of the file `name` fail.
    pub fn fail_reads(&self, name: &str, range: std::ops::Range<u64>) {
        if let Some(file) = self.lock().names.get(name) {
            file.lock().fail_reads(range);
        }
    }

    /// What the disk holds of the file `name`, for damaging and inspecting it.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().names.get(name).map(|file| file.lock().content().to_vec())
    }

    /// Replaces what the disk holds of the file `name`, making it if there is none.
    pub fn overwrite(&self, name: &str, content: Vec<u8>) {
        let file = Arc::new(SimFile(Mutex::new(Inode::durable(content))));
        let mut directory = self.lock();
        directory.names.insert(name.to_owned(), Arc::clone(&file));
        directory.durable.insert(name.to_owned(), file);
    }

    /// Takes the file `name` away, durably.
    pub fn lose(&self, name: &str) {
        let mut directory = self.lock();
        directory.names.remove(name);
        directory.durable.remove(name);
    }

    /// Names of all files, those in `orphan/` included.
    #[must_use]
    pub fn all_names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        self.disk.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> u64 {
        self.lock().names.values().map(|file| file.lock().len()).sum()
    }

    fn handle(&self, file: &Arc<SimFile>) -> Arc<Handle> {
        Arc::new(Handle { fs: self.clone(), file: Arc::clone(file) })
    }

    pub(super) fn create_handle(&self, name: &str) -> io::Result<Arc<Handle>> {
        let mut directory = self.lock();
        if directory.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(SimFile::default());
        let change = Change::Create { name: name.to_owned(), file: Arc::clone(&file) };
        change.apply(&mut directory.names);
        directory.changes.push(change);
        Ok(self.handle(&file))
    }

    pub(super) fn open_handle(&self, name: &str) -> io::Result<Arc<Handle>> {
        let directory = self.lock();
        let file = directory.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(file))
    }
}

impl Fs for SimFs {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.create_handle(name)?)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.open_handle(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut directory = self.lock();
        let file = directory.names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        let change = Change::Rename { from: from.to_owned(), to: to.to_owned(), file };
        change.apply(&mut directory.names);
        directory.changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut directory = self.lock();
        if !directory.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = Change::Remove { name: name.to_owned() };
        change.apply(&mut directory.names);
        directory.changes.push(change);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.all_names().into_iter();
        Ok(names.filter(|name| !name.starts_with(ORPHANS)).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut directory = self.lock();
        directory.durable = directory.names.clone();
        directory.changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.room().max(self.disk.claimed.load(Ordering::Relaxed)))
    }
}

#[derive(Debug, Default)]
struct SimFile(Mutex<Inode>);

impl SimFile {
    fn lock(&self) -> MutexGuard<'_, Inode> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file of a disk.
#[derive(Debug)]
pub(super) struct Handle {
    fs: SimFs,
    file: Arc<SimFile>,
}

impl Handle {
    pub(super) fn fail_next_sync(&self) {
        self.file.lock().fail_next_sync();
    }

    /// Refuses a length that the disk has no room for.
    fn check_room(&self, end: u64) -> io::Result<()> {
        let growth = end.saturating_sub(self.file.lock().len());
        if growth > 0 && growth > self.fs.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl File for Handle {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut position = position;
        for part in parts {
            // Part by part: a full disk stops in the middle of a write.
            self.check_room(position + part.len() as u64)?;
            self.file.lock().write(position, part);
            position += part.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.lock().read(position, buffer)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.lock().drop_cache();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.lock().sync()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.lock().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_room(len)?;
        self.file.lock().set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        if len > self.file.lock().len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Map(Arc::new(SimMap { file: Arc::clone(&self.file), len })))
    }
}

#[derive(Debug)]
struct SimMap {
    file: Arc<SimFile>,
    len: u64,
}

impl super::Mapped for SimMap {
    fn slice(self: Arc<Self>, range: std::ops::Range<u64>) -> Option<bytes::Bytes> {
        if range.end > self.len {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        let mut copy = vec![0; end.checked_sub(start)?];
        self.file.lock().read(range.start, &mut copy).ok()?;
        Some(bytes::Bytes::from_owner(Slice { copy, _map: self }))
    }
}

/// A copy that counts as a user of its map, as a slice of a real one does.
struct Slice {
    copy: Vec<u8>,
    _map: Arc<SimMap>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.copy
    }
}
