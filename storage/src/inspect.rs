//! A description of a data directory, for people: files, frames, partitions, damage.
//!
//! Reads and does nothing else: no lock, no write, no map, no recovery. A store
//! that is open elsewhere may change underneath, so what looks like damage in its
//! newest segment can be a frame being written.

mod content;

pub use content::{CheckpointContent, Content, RunContent, SegmentContent};

use crate::fs::{File, Fs};
use crate::manifest::{Manifest, SlotLoss};
use crate::names::{FileId, FileKind, FileName, LOCK, MANIFEST};
use posthouse_protocol::{Offset, PartitionId};
use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, io};

/// What lies in a data directory.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The newest sound manifest.
    pub manifest: Option<Manifest>,
    /// Slots that cannot be read, and why.
    pub slots_damaged: Vec<(String, SlotLoss)>,
    /// Every file, by name.
    pub files: Vec<FileDescription>,
    /// What is stored of each partition, in journal and runs; a batch in both counts twice.
    pub partitions: BTreeMap<PartitionId, PartitionDescription>,
    /// Files that the manifest names and that are not there.
    pub missing: Vec<FileName>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct FileDescription {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What the manifest makes of it.
    pub standing: Standing,
    /// What is in it.
    pub content: Content,
}

/// What the manifest makes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The manifest itself, or the lock.
    Own,
    /// Part of the store.
    Named,
    /// To be recycled or removed.
    Retired,
    /// Ours, but not part of the store: work that a crash interrupted.
    Leftover,
    /// Not ours.
    Foreign,
}

/// What is stored of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Batches.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// The lowest offset.
    pub first: Offset,
    /// The offset behind the highest.
    pub end: Offset,
    /// Messages that cannot be read.
    pub damaged: u64,
}

/// Describes the data directory `fs`.
///
/// # Errors
///
/// The directory cannot be listed, or a file in it cannot be read. Damage is no error.
pub fn inspect(fs: &dyn Fs) -> io::Result<Description> {
    let mut description = Description::default();
    read_manifest(fs, &mut description)?;
    for name in fs.list()? {
        // A file can go while a store is open elsewhere.
        match describe(fs, &name, &mut description) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            described => description.files.push(described?),
        }
    }
    description.missing = missing(&description);
    Ok(description)
}

impl Description {
    /// Everything that is wrong, one line each; empty for a sound store.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        let slots = self.slots_damaged.iter();
        let mut lines: Vec<String> =
            slots.map(|(name, error)| format!("{name}: {error}")).collect();
        if self.manifest.is_none() {
            lines.push(String::from("no sound manifest"));
        }
        lines.extend(self.missing.iter().map(|name| format!("{name}: missing")));
        for file in self.files.iter().filter(|file| file.standing == Standing::Named) {
            lines.extend(file.content.damage().map(|line| format!("{}: {line}", file.name)));
        }
        lines
    }
}

fn read_manifest(fs: &dyn Fs, description: &mut Description) -> io::Result<()> {
    let mut missing = Vec::new();
    for name in MANIFEST {
        let bytes = match fs.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push((name.to_owned(), SlotLoss::Missing));
                continue;
            }
            file => read(&*file?),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let loss = SlotLoss::Unreadable { error: error.to_string() };
                description.slots_damaged.push((name.to_owned(), loss));
                continue;
            }
        };
        match Manifest::decode(&bytes) {
            Ok(found) => {
                let best = description.manifest.as_ref().map_or(0, |best| best.generation);
                if found.generation >= best {
                    description.manifest = Some(found);
                }
            }
            // A slot that was never written is no damage.
            Err(_) if bytes.iter().all(|byte| *byte == 0) => {}
            Err(error) => {
                description.slots_damaged.push((name.to_owned(), SlotLoss::Damaged(error)));
            }
        }
    }
    // Where there is no slot at all there is no store, and one in the making has only the first.
    if description.manifest.as_ref().is_some_and(|manifest| manifest.generation > 0) {
        description.slots_damaged.append(&mut missing);
    }
    Ok(())
}

fn describe(fs: &dyn Fs, name: &str, whole: &mut Description) -> io::Result<FileDescription> {
    let file = fs.open(name)?;
    let bytes = file.size()?;
    let manifest = whole.manifest.as_ref();
    let (standing, parsed) = standing(name, manifest);
    let content = match parsed.filter(|_| standing != Standing::Own) {
        Some(FileName { kind: FileKind::Segment, id, .. }) => {
            let entry =
                manifest.and_then(|manifest| manifest.journal.iter().find(|entry| entry.id == id));
            let runs = || manifest.into_iter().flat_map(|manifest| &manifest.runs);
            match runs().find(|run| entry.is_none() && run.adopted == Some(id)) {
                // What is in it, and whether that is damaged, is for the run to say.
                Some(run) => Content::Adopted(run.id),
                None => content::segment(read(&*file)?, entry.copied().as_ref(), manifest),
            }
        }
        Some(FileName { kind: FileKind::Run, .. }) => content::run(fs, read(&*file)?)?,
        Some(FileName { kind: FileKind::Checkpoint, .. }) => content::checkpoint(&*file),
        Some(FileName { kind: FileKind::Spare, .. }) | None => Content::Nothing,
    };
    if standing == Standing::Named {
        content.count(&mut whole.partitions);
    }
    Ok(FileDescription { name: name.to_owned(), bytes, standing, content })
}

fn standing(name: &str, manifest: Option<&Manifest>) -> (Standing, Option<FileName>) {
    if name == LOCK || MANIFEST.contains(&name) {
        return (Standing::Own, None);
    }
    let Some(parsed) = FileName::parse(name) else {
        return (Standing::Foreign, None);
    };
    let standing = match manifest {
        Some(manifest) if manifest.retired.contains(&parsed) => Standing::Retired,
        Some(manifest) if manifest.names(parsed) => Standing::Named,
        Some(_) | None => Standing::Leftover,
    };
    (standing, Some(parsed))
}

fn missing(description: &Description) -> Vec<FileName> {
    let Some(manifest) = &description.manifest else {
        return Vec::new();
    };
    let journal = manifest.journal.iter().map(|entry| entry.id);
    let adopted = manifest.runs.iter().filter_map(|entry| entry.adopted);
    let segments: BTreeSet<FileId> = journal.chain(adopted).collect();
    let segments = segments.into_iter().map(|id| (FileKind::Segment, id));
    let runs = manifest.runs.iter().map(|entry| (FileKind::Run, entry.id));
    let checkpoints = manifest.checkpoints.iter().map(|entry| (FileKind::Checkpoint, entry.id));
    let names = segments.chain(runs).chain(checkpoints);
    let is_there = |name: &FileName| {
        let name = name.to_string();
        description.files.iter().any(|file| file.name == name)
    };
    names.map(|(kind, id)| FileName::new(kind, id)).filter(|name| !is_there(name)).collect()
}

fn read(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; size];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Named => "named",
            Self::Retired => "retired",
            Self::Leftover => "leftover",
            Self::Foreign => "foreign",
        })
    }
}
