//! Watches every write of a store: nothing that the newest manifest names is overwritten.
//!
//! Sits between the store and its disk. It reads the manifest as it is written
//! and refuses, by panicking, what must not happen: a write to a run or a
//! checkpoint that is part of the store or to a segment that a run has adopted, a
//! write to a journal segment below what was written before, and a removal or a rename of anything that either slot
//! still names as alive.

use posthouse_storage::fs::{Aligned, File, Fs, Map};
use posthouse_storage::manifest::Manifest;
use posthouse_storage::names::{FileKind, FileName, MANIFEST};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Guard {
    below: Arc<dyn Fs>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    slots: BTreeMap<String, Manifest>,
    /// How far each segment was written since it came to be.
    written: BTreeMap<String, u64>,
}

impl Guard {
    pub(crate) fn new(below: Arc<dyn Fs>) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let guard = Self { below, known };
        for name in MANIFEST {
            if let Ok(file) = guard.below.open(name) {
                // After a failed sync the cache can show a slot that never reached the disk.
                file.drop_cache().unwrap();
                guard.known.lock().unwrap().read_slot(name, &*file);
            }
        }
        guard
    }

    fn wrap(&self, name: &str, below: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(GuardedFile {
            name: Mutex::new(name.to_owned()),
            below,
            known: Arc::clone(&self.known),
        })
    }
}

impl Known {
    fn read_slot(&mut self, name: &str, file: &dyn File) {
        let mut bytes = vec![0; usize::try_from(file.size().unwrap_or(0)).unwrap()];
        if file.read_at(0, &mut bytes).is_err() {
            return;
        }
        match Manifest::decode(&bytes) {
            Ok(manifest) => self.slots.insert(name.to_owned(), manifest),
            Err(_) => self.slots.remove(name),
        };
    }

    fn newest(&self) -> Option<&Manifest> {
        self.slots.values().max_by_key(|manifest| manifest.generation)
    }

    fn is_alive(&self, name: &str) -> bool {
        let Some(name) = FileName::parse(name).filter(|name| !name.temporary) else {
            return false;
        };
        self.slots.values().any(|manifest| is_alive(manifest, name))
    }

    fn check_write(&self, name: &str, position: u64) {
        let Some(parsed) = FileName::parse(name).filter(|name| !name.temporary) else {
            return;
        };
        let is_in_newest = self.newest().is_some_and(|manifest| is_alive(manifest, parsed));
        match parsed.kind {
            FileKind::Run | FileKind::Checkpoint => {
                assert!(!is_in_newest, "write to {name}, which the manifest names");
            }
            FileKind::Segment if is_in_newest => {
                let is_adopted = self.newest().is_some_and(|slot| slot.is_adopted(parsed.id));
                assert!(!is_adopted, "write to {name}, which a run has adopted");
                let written = self.written.get(name).copied().unwrap_or(0);
                assert!(position >= written, "segment {name} is overwritten at {position}");
            }
            FileKind::Segment | FileKind::Spare => {}
        }
    }
}

fn is_alive(manifest: &Manifest, name: FileName) -> bool {
    let id = name.id;
    match name.kind {
        FileKind::Segment => manifest.uses_segment(id),
        FileKind::Run => manifest.runs.iter().any(|entry| entry.id == id),
        FileKind::Checkpoint => manifest.checkpoints.iter().any(|entry| entry.id == id),
        FileKind::Spare => false,
    }
}

impl Fs for Guard {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.known.lock().unwrap().written.remove(name);
        Ok(self.wrap(name, self.below.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(name, self.below.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !to.starts_with("orphan") {
            let known = self.known.lock().unwrap();
            assert!(!known.is_alive(from), "{from} is renamed and a manifest names it");
            assert!(!known.is_alive(to), "{to} is replaced and a manifest names it");
        }
        self.below.rename(from, to)?;
        self.known.lock().unwrap().written.remove(to);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        assert!(
            !self.known.lock().unwrap().is_alive(name),
            "{name} is removed and a manifest names it"
        );
        self.below.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.below.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.below.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.below.free_bytes()
    }
}

/// An open file and the name it was opened by, which a rename of a temporary file finishes.
#[derive(Debug)]
struct GuardedFile {
    name: Mutex<String>,
    below: Arc<dyn File>,
    known: Arc<Mutex<Known>>,
}

impl GuardedFile {
    /// The name once it is final: handles outlive the rename of what was temporary.
    fn final_name(&self) -> String {
        let name = self.name.lock().unwrap().clone();
        let parsed = FileName::parse(&name).map(|name| FileName { temporary: false, ..name });
        let finished = parsed.map(|name| name.to_string());
        let is_alive = |name: &String| self.known.lock().unwrap().is_alive(name);
        finished.filter(is_alive).unwrap_or(name)
    }
}

impl File for GuardedFile {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let name = self.final_name();
        self.known.lock().unwrap().check_write(&name, position);
        let written = self.below.write_at(position, parts);
        let mut known = self.known.lock().unwrap();
        if MANIFEST.contains(&name.as_str()) {
            known.read_slot(&name, &*self.below);
        } else if position > 0 {
            let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
            known.written.insert(name, position + len);
        }
        written
    }

    fn write_past_cache(&self, position: u64, blocks: &Aligned) -> io::Result<()> {
        let name = self.final_name();
        self.known.lock().unwrap().check_write(&name, position);
        self.below.write_past_cache(position, blocks)
    }

    fn read_past_cache(&self, position: u64, into: &mut Aligned) -> io::Result<usize> {
        self.below.read_past_cache(position, into)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.below.read_at(position, buffer)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.below.drop_cache()
    }

    fn sync(&self) -> io::Result<()> {
        self.below.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.below.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let name = self.final_name();
        let is_cut = len < self.below.size()?;
        assert!(
            !is_cut || !self.known.lock().unwrap().is_alive(&name) || name.starts_with("segment"),
            "{name} is cut and a manifest names it"
        );
        self.below.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.below.map(len)
    }
}
