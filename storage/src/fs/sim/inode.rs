//! One simulated file: what readers see, what is on disk, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What a disk writes in one go, more or less.
pub const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// What a crash makes of something unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As before it was written.
    Lost,
    /// As one of the versions it had since the last sync; 0 is the oldest.
    Kept {
        /// Which.
        version: usize,
    },
    /// The front of a version, and the old bytes behind it.
    Torn {
        /// Which.
        version: usize,
        /// Length of the front.
        bytes: usize,
    },
}

/// A file's content and history since the last sync.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What reads see. Shared with copies until written to: crashes of a large disk are cheap.
    content: Arc<Vec<u8>>,
    /// What is on disk for certain.
    durable: Arc<Vec<u8>>,
    /// Every version that a dirty sector had since the last sync.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Every length since the last sync.
    lengths: Vec<usize>,
    /// Sectors that a failed sync called clean: reads show what the disk does not hold.
    ghosts: BTreeSet<usize>,
    unreadable: Vec<Range<u64>>,
    sync_fails: bool,
}

impl Inode {
    pub(super) fn durable(content: Vec<u8>) -> Self {
        Self::shared(Arc::new(content))
    }

    fn shared(content: Arc<Vec<u8>>) -> Self {
        Self { durable: Arc::clone(&content), content, ..Self::default() }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    pub(super) fn len(&self) -> u64 {
        self.content.len() as u64
    }

    pub(super) fn unsynced(&self) -> usize {
        self.dirty.len() + usize::from(!self.lengths.is_empty())
    }

    pub(super) const fn fail_next_sync(&mut self) {
        self.sync_fails = true;
    }

    pub(super) fn fail_reads(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if bytes.is_empty() {
            return;
        }
        if end > self.content.len() {
            Arc::make_mut(&mut self.content).resize(end, 0);
            self.lengths.push(end);
        }
        if let Some(target) = Arc::make_mut(&mut self.content).get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
        for at in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let version = sector(&self.content, at);
            self.ghosts.remove(&at);
            self.dirty.entry(at).or_default().push(version);
        }
    }

    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = position + buffer.len() as u64;
        if self.unreadable.iter().any(|range| range.start < end && position < range.end) {
            return Err(io::Error::other("simulated read error"));
        }
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let bytes = self.content.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn drop_cache(&mut self) {
        for at in std::mem::take(&mut self.ghosts) {
            let held = sector(&self.durable, at);
            let content: &mut Vec<u8> = Arc::make_mut(&mut self.content);
            put_sector(content, at, &held);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let old = self.content.len();
        Arc::make_mut(&mut self.content).resize(len, 0);
        self.lengths.push(len);
        // What lies behind the new end is gone for good once the length is synced.
        for at in len.min(old) / SECTOR_BYTES..old.max(len).div_ceil(SECTOR_BYTES) {
            let version = sector(&self.content, at);
            self.ghosts.remove(&at);
            self.dirty.entry(at).or_default().push(version);
        }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.sync_fails) {
            self.ghosts.extend(dirty.into_keys());
            return Err(io::Error::other("simulated sync error"));
        }
        self.lengths.clear();
        if dirty.is_empty() && self.durable.len() == self.content.len() {
            return Ok(());
        }
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(self.content.len(), 0);
        for at in dirty.into_keys() {
            let version = sector(&self.content, at);
            put_sector(durable, at, &version);
        }
        Ok(())
    }

    pub(super) fn crash(&self, choose: &mut dyn FnMut(super::Unsynced, usize) -> Fate) -> Self {
        if self.lengths.is_empty() && self.dirty.is_empty() {
            let unreadable = self.unreadable.clone();
            return Self { unreadable, ..Self::shared(Arc::clone(&self.durable)) };
        }
        let mut content = self.durable.to_vec();
        if !self.lengths.is_empty() {
            match choose(super::Unsynced::Length, self.lengths.len()) {
                Fate::Lost => {}
                Fate::Kept { version } | Fate::Torn { version, .. } => {
                    let len = self.lengths.get(version).copied().unwrap_or(content.len());
                    content.resize(len, 0);
                }
            }
        }
        for (at, versions) in &self.dirty {
            let (version, bytes) = match choose(super::Unsynced::Sector, versions.len()) {
                Fate::Lost => continue,
                Fate::Kept { version } => (version, SECTOR_BYTES),
                Fate::Torn { version, bytes } => (version, bytes),
            };
            let Some(new) = versions.get(version) else { continue };
            let mut mixed = sector(&content, *at);
            for (target, byte) in mixed.iter_mut().zip(new).take(bytes) {
                *target = *byte;
            }
            put_sector(&mut content, *at, &mixed);
        }
        let unreadable = self.unreadable.clone();
        Self { unreadable, ..Self::durable(content) }
    }
}

/// A sector's bytes, zeros where the file has ended.
fn sector(content: &[u8], at: usize) -> Sector {
    let mut sector = [0; SECTOR_BYTES];
    let start = at * SECTOR_BYTES;
    let held = content.get(start..content.len().min(start + SECTOR_BYTES)).unwrap_or_default();
    if let Some(target) = sector.get_mut(..held.len()) {
        target.copy_from_slice(held);
    }
    sector
}

/// Puts back as much of a sector as the file reaches.
fn put_sector(content: &mut [u8], at: usize, sector: &Sector) {
    let start = at * SECTOR_BYTES;
    let end = content.len().min(start + SECTOR_BYTES);
    if let Some(target) = content.get_mut(start..end)
        && let Some(source) = sector.get(..target.len())
    {
        target.copy_from_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unsynced;
    use super::*;

    #[test]
    fn crash_keeps_any_version_of_a_sector_since_the_last_sync() {
        let mut file = Inode::default();
        file.write(0, &[1; 1024]);
        file.sync().unwrap();
        file.write(0, &[2; 512]);
        file.write(0, &[3; 10]);

        let after = |fate| file.crash(&mut |_, _| fate).content()[..12].to_vec();

        assert_eq!(after(Fate::Lost), [1; 12]);
        assert_eq!(after(Fate::Kept { version: 0 }), [2; 12]);
        assert_eq!(after(Fate::Kept { version: 1 }), [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2]);
        let torn = after(Fate::Torn { version: 1, bytes: 2 });
        assert_eq!(torn, [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn failed_sync_shows_bytes_that_the_disk_does_not_hold() {
        let mut file = Inode::durable(vec![1; 512]);
        file.write(0, &[2; 512]);
        file.fail_next_sync();

        assert!(file.sync().is_err());
        assert!(file.sync().is_ok(), "the second one has nothing to do");

        assert_eq!(file.content()[0], 2);
        assert_eq!(file.crash(&mut |_, _| Fate::Kept { version: 0 }).content()[0], 1);
        file.drop_cache();
        assert_eq!(file.content()[0], 1);
    }

    #[test]
    fn length_is_lost_apart_from_bytes() {
        let mut file = Inode::default();
        file.write(0, &[7; 600]);

        let bytes_only = file.crash(&mut |what, _| match what {
            Unsynced::Sector => Fate::Kept { version: 0 },
            Unsynced::Length | Unsynced::Entry => Fate::Lost,
        });
        let length_only = file.crash(&mut |what, _| match what {
            Unsynced::Length => Fate::Kept { version: 0 },
            Unsynced::Sector | Unsynced::Entry => Fate::Lost,
        });

        assert!(bytes_only.content().is_empty());
        assert_eq!(length_only.content(), [0; 600]);
    }

    #[test]
    fn reads_of_bad_ranges_fail() {
        let mut file = Inode::durable(vec![1; 1024]);
        file.fail_reads(600..601);

        assert!(file.read(0, &mut [0; 600]).is_ok());
        assert!(file.read(512, &mut [0; 512]).is_err());
        assert!(file.read(1024, &mut [0; 1]).is_err());
    }
}
