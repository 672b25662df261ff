//! The manifest: which files make up the store, and what is known about them.
//!
//! ```text
//! slot  magic 'PHMANIFT' | version u32 | crc u32 | len u32 | flags u32 (1 = clean stop)
//!       generation u64 | store 16 B | start_epoch u32 | reserved u32
//!       durable u64 | next_file u64 | journal_first u64
//!       journal      count u32, each: id u64 | salt 16 B | base u64 | last u64 | end u64
//!       checkpoints  count u32, each: id u64 | salt 16 B | index u64 | bytes u64
//!       runs         count u32, each: id u64 | salt 16 B | after u64 | upto u64 | bytes u64
//!                                     adopted u64
//!       spares       count u32, each: id u64
//!       retired      count u32, each: kind u8 | id u64
//!       fences       count u32, each: first u64 | last u64
//! ```
//!
//! There are two slots, each a file, written in turn and in place: the one with
//! the higher generation is the manifest, and the other one its predecessor.
//! `crc` is the CRC-32 of the first `len` bytes with that field zero. A slot is
//! durable when [`ManifestSlots::commit`] returns.

use crate::frame::Salt;
use crate::fs::{File, Fs};
use crate::names::{FileId, FileKind, FileName, MANIFEST};
use crate::segment::StoreId;
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::{DecodeError, LogIndex, StartEpoch};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Version of this layout.
pub const VERSION: u32 = 5;
/// Length to which an empty slot is filled with zeros, so that the usual commit grows no file.
const SLOT_BYTES: usize = 64 << 10;
/// A slot longer than this is not believed.
const SLOT_BYTES_MAX: u64 = 64 << 20;
const ENTRIES_MAX: u32 = 1 << 20;
const MAGIC: [u8; 8] = *b"PHMANIFT";
const CRC_AT: usize = 12;
const LEN_AT: usize = 16;
const FIXED_LEN: usize = 24;
const FLAG_CLEAN: u32 = 1;

/// What the store consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// One higher at each commit.
    pub generation: u64,
    /// Identity of the data directory.
    pub store: StoreId,
    /// The latest start.
    pub start_epoch: StartEpoch,
    /// Whether the journal was closed after its last frame was durable, and nothing happened since.
    pub clean: bool,
    /// Every frame up to here was durable at the time of the commit.
    pub durable: LogIndex,
    /// The next file gets this number.
    pub next_file: FileId,
    /// The first index that the journal still holds.
    pub journal_first: LogIndex,
    /// All segments, in the order of their ids, which is the order of the journal; the ready ones
    /// come last.
    pub journal: Vec<SegmentEntry>,
    /// The latest checkpoint last; at most two.
    pub checkpoints: Vec<CheckpointEntry>,
    /// The runs, in the order in which they are consulted.
    pub runs: Vec<RunEntry>,
    /// Files of the common size without content.
    pub spares: Vec<FileId>,
    /// Files that nothing refers to any more, to be recycled or unlinked.
    pub retired: Vec<FileName>,
    /// Frames known to be damaged, ascending.
    pub fences: Vec<Fence>,
}

/// A segment of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its number.
    pub id: FileId,
    /// Salt of its frames.
    pub salt: Salt,
    /// Index of its first frame, once it was known to be in use.
    pub base: Option<LogIndex>,
    /// Where it ends, once it was finished or fenced off.
    pub end: Option<SegmentEnd>,
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// The highest index in it, or that it would hold but for damage; one below its base if none.
    pub last: LogIndex,
    /// The byte after its last frame; what follows does not count, whatever it looks like.
    pub position: u64,
}

/// The state folded up to an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// Its number.
    pub id: FileId,
    /// Salt of the file.
    pub salt: Salt,
    /// The last frame folded in.
    pub index: LogIndex,
    /// Length of its content.
    pub bytes: u64,
}

/// Batches sorted by partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunEntry {
    /// Its number.
    pub id: FileId,
    /// Salt of the file.
    pub salt: Salt,
    /// Its batches come from frames after this one
    pub after: LogIndex,
    /// and up to this one.
    pub upto: LogIndex,
    /// Length of its content.
    pub bytes: u64,
    /// The segment that holds the batches, if the run is only an index over it.
    pub adopted: Option<FileId>,
}

/// Frames that recovery found damaged at or below the durable mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The first damaged frame.
    pub first: LogIndex,
    /// The last damaged frame.
    pub last: LogIndex,
}

impl Manifest {
    /// Takes the number for a new file. The number counts as given once the manifest is committed;
    /// until then the file must not be part of the store.
    pub const fn take_file_id(&mut self) -> FileId {
        let id = self.next_file;
        self.next_file = id.next();
        id
    }

    /// Whether the store consists of `name`, retired files included.
    #[must_use]
    pub fn names(&self, name: FileName) -> bool {
        let id = name.id;
        if self.retired.contains(&name) {
            return true;
        }
        !name.temporary
            && match name.kind {
                FileKind::Segment => self.uses_segment(id),
                FileKind::Run => self.runs.iter().any(|entry| entry.id == id),
                FileKind::Checkpoint => self.checkpoints.iter().any(|entry| entry.id == id),
                FileKind::Spare => self.spares.contains(&id),
            }
    }

    /// Whether the segment is part of the journal, or holds the batches of a run.
    #[must_use]
    pub fn uses_segment(&self, id: FileId) -> bool {
        self.journal.iter().any(|entry| entry.id == id) || self.is_adopted(id)
    }

    /// Whether the segment holds the batches of a run.
    #[must_use]
    pub fn is_adopted(&self, id: FileId) -> bool {
        self.runs.iter().any(|entry| entry.adopted == Some(id))
    }

    /// Appends the slot to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put(&MAGIC);
        out.put_u32(VERSION);
        out.put_u32(0);
        out.put_u32(0);
        out.put_u32(if self.clean { FLAG_CLEAN } else { 0 });
        out.put_u64(self.generation);
        out.put(&self.store.0);
        out.put_u32(self.start_epoch.0);
        out.put_u32(0);
        out.put_u64(self.durable.0);
        out.put_u64(self.next_file.0);
        out.put_u64(self.journal_first.0);
        self.encode_lists(out);
        let slot = out.get_mut(start..).unwrap_or_default();
        let len = u32::try_from(slot.len()).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(field) = slot.get_mut(LEN_AT..LEN_AT + 4) {
            field.copy_from_slice(&len);
        }
        let crc = crc32fast::hash(slot).to_le_bytes();
        if let Some(field) = slot.get_mut(CRC_AT..CRC_AT + 4) {
            field.copy_from_slice(&crc);
        }
    }

    fn encode_lists(&self, out: &mut Vec<u8>) {
        out.put_count(self.journal.len());
        for segment in &self.journal {
            out.put_u64(segment.id.0);
            out.put(&segment.salt.0);
            out.put_u64(segment.base.unwrap_or_default().0);
            out.put_u64(segment.end.map_or(0, |end| end.last.0));
            out.put_u64(segment.end.map_or(0, |end| end.position));
        }
        out.put_count(self.checkpoints.len());
        for checkpoint in &self.checkpoints {
            out.put_u64(checkpoint.id.0);
            out.put(&checkpoint.salt.0);
            out.put_u64(checkpoint.index.0);
            out.put_u64(checkpoint.bytes);
        }
        out.put_count(self.runs.len());
        for run in &self.runs {
            out.put_u64(run.id.0);
            out.put(&run.salt.0);
            out.put_u64(run.after.0);
            out.put_u64(run.upto.0);
            out.put_u64(run.bytes);
            out.put_u64(run.adopted.unwrap_or_default().0);
        }
        out.put_count(self.spares.len());
        for id in &self.spares {
            out.put_u64(id.0);
        }
        out.put_count(self.retired.len());
        for name in &self.retired {
            out.put_u8(kind_code(name.kind));
            out.put_u64(name.id.0);
        }
        out.put_count(self.fences.len());
        for fence in &self.fences {
            out.put_u64(fence.first.0);
            out.put_u64(fence.last.0);
        }
    }

    /// Reads a slot; bytes after it do not matter.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] naming the first field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let slot = checked_slot(bytes)?;
        let mut source = Source::new(slot);
        source.bytes(MAGIC.len(), "manifest.magic")?;
        let version = source.u32("manifest.version")?;
        if version != VERSION {
            let found = u64::from(version);
            return Err(DecodeError::Invalid { field: "manifest.version", found });
        }
        source.u64("manifest.crc")?;
        let flags = source.u32("manifest.flags")?;
        let mut manifest = Self {
            generation: source.u64("manifest.generation")?,
            store: StoreId(source.bytes16("manifest.store")?),
            start_epoch: StartEpoch(source.u32("manifest.start_epoch")?),
            clean: flags & FLAG_CLEAN != 0,
            ..Self::default()
        };
        source.u32("manifest.reserved")?;
        manifest.durable = LogIndex(source.u64("manifest.durable")?);
        manifest.next_file = FileId(source.u64("manifest.next_file")?);
        manifest.journal_first = LogIndex(source.u64("manifest.journal_first")?);
        manifest.decode_lists(&mut source)?;
        source.end()?;
        Ok(manifest)
    }

    fn decode_lists(&mut self, source: &mut Source<'_>) -> Result<(), DecodeError> {
        self.journal = list(source, 48, "manifest.journal", decode_segment)?;
        self.checkpoints = list(source, 40, "manifest.checkpoints", |source| {
            Ok(CheckpointEntry {
                id: FileId(source.u64("checkpoint.id")?),
                salt: Salt(source.bytes16("checkpoint.salt")?),
                index: LogIndex(source.u64("checkpoint.index")?),
                bytes: source.u64("checkpoint.bytes")?,
            })
        })?;
        self.runs = list(source, 56, "manifest.runs", |source| {
            Ok(RunEntry {
                id: FileId(source.u64("run.id")?),
                salt: Salt(source.bytes16("run.salt")?),
                after: LogIndex(source.u64("run.after")?),
                upto: LogIndex(source.u64("run.upto")?),
                bytes: source.u64("run.bytes")?,
                adopted: Some(FileId(source.u64("run.adopted")?)).filter(|id| id.0 != 0),
            })
        })?;
        self.spares =
            list(source, 8, "manifest.spares", |source| source.u64("spare.id").map(FileId))?;
        self.retired = list(source, 9, "manifest.retired", |source| {
            let kind = kind_from_code(source.u8("retired.kind")?)?;
            Ok(FileName::new(kind, FileId(source.u64("retired.id")?)))
        })?;
        self.fences = list(source, 16, "manifest.fences", |source| {
            Ok(Fence {
                first: LogIndex(source.u64("fence.first")?),
                last: LogIndex(source.u64("fence.last")?),
            })
        })?;
        Ok(())
    }
}

fn checked_slot(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let mut source = Source::new(bytes);
    if source.bytes(MAGIC.len(), "manifest.magic")? != MAGIC {
        return Err(DecodeError::Invalid { field: "manifest.magic", found: 0 });
    }
    source.u32("manifest.version")?;
    let stored = source.u32("manifest.crc")?;
    let len = usize::try_from(source.u32("manifest.len")?).unwrap_or(usize::MAX);
    if len < FIXED_LEN {
        return Err(DecodeError::Invalid { field: "manifest.len", found: len as u64 });
    }
    let slot = bytes.get(..len).ok_or(DecodeError::Truncated { field: "manifest" })?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(slot.get(..CRC_AT).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(slot.get(CRC_AT + 4..).unwrap_or_default());
    let computed = hasher.finalize();
    if stored == computed {
        Ok(slot)
    } else {
        Err(DecodeError::Checksum { field: "manifest", stored, computed })
    }
}

fn decode_segment(source: &mut Source<'_>) -> Result<SegmentEntry, DecodeError> {
    let id = FileId(source.u64("segment.id")?);
    let salt = Salt(source.bytes16("segment.salt")?);
    let base = LogIndex(source.u64("segment.base")?);
    let last = LogIndex(source.u64("segment.last")?);
    let position = source.u64("segment.end")?;
    Ok(SegmentEntry {
        id,
        salt,
        base: (base != LogIndex::ZERO).then_some(base),
        end: (position != 0).then_some(SegmentEnd { last, position }),
    })
}

fn list<T>(
    source: &mut Source<'_>,
    entry_bytes: usize,
    field: &'static str,
    mut entry: impl FnMut(&mut Source<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = source.count(ENTRIES_MAX, entry_bytes, field)?;
    (0..count).map(|_| entry(source)).collect()
}

const fn kind_code(kind: FileKind) -> u8 {
    match kind {
        FileKind::Segment => 1,
        FileKind::Run => 2,
        FileKind::Checkpoint => 3,
        FileKind::Spare => 4,
    }
}

const fn kind_from_code(code: u8) -> Result<FileKind, DecodeError> {
    match code {
        1 => Ok(FileKind::Segment),
        2 => Ok(FileKind::Run),
        3 => Ok(FileKind::Checkpoint),
        4 => Ok(FileKind::Spare),
        0 | 5..=u8::MAX => Err(DecodeError::Invalid { field: "retired.kind", found: code as u64 }),
    }
}

/// The two slots of an open store.
#[derive(Debug)]
pub struct ManifestSlots {
    /// `None`: not there yet.
    files: [Option<Arc<dyn File>>; 2],
    current: Manifest,
    /// The slot that the next commit overwrites.
    next_slot: usize,
    buffer: Vec<u8>,
    /// After a failed write or sync nobody knows what a slot holds.
    failed: bool,
    /// No slot holds `current` yet.
    unwritten: bool,
}

/// What was found in the slots of a data directory.
#[derive(Debug)]
pub enum Found {
    /// Neither slot exists: a new directory, or one that lost both.
    Nothing,
    /// At least one slot is sound.
    Sound {
        /// The slots.
        slots: Box<ManifestSlots>,
        /// Why the other slot could not be read, if it could not. It may have been the newest.
        lost: Option<SlotLoss>,
    },
    /// There are slots, and none is sound.
    Lost(SlotLoss),
}

/// Why a slot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotLoss {
    /// The bytes are not as they were written: damaged, or just being written when the power went.
    Damaged(DecodeError),
    /// There is no such file.
    Missing,
    /// The system refuses to give the bytes.
    Unreadable {
        /// What it says.
        error: String,
    },
}

impl SlotLoss {
    /// Whether a sound slot of a version that this build does not know is behind it.
    #[must_use]
    pub const fn is_other_version(&self) -> bool {
        matches!(self, Self::Damaged(DecodeError::Invalid { field, .. })
            if matches!(field.as_bytes(), b"manifest.version"))
    }

    /// The one of two that matters more: another version, then what may be read later.
    fn graver(self, other: Self) -> Self {
        let rank = |loss: &Self| match loss {
            Self::Missing => 0,
            Self::Damaged(_) if loss.is_other_version() => 3,
            Self::Damaged(_) => 1,
            Self::Unreadable { .. } => 2,
        };
        if rank(&self) < rank(&other) { other } else { self }
    }
}

impl fmt::Display for SlotLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(error) => error.fmt(f),
            Self::Missing => write!(f, "it is not there"),
            Self::Unreadable { error } => write!(f, "reading it failed: {error}"),
        }
    }
}

impl std::error::Error for SlotLoss {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Damaged(error) => Some(error),
            Self::Missing | Self::Unreadable { .. } => None,
        }
    }
}

impl ManifestSlots {
    /// Both slots with `manifest` in the first, as [`Self::new`] and [`Self::complete`].
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn create(fs: &dyn Fs, manifest: Manifest) -> io::Result<Self> {
        let mut slots = Self::new(manifest);
        slots.complete(fs)?;
        Ok(slots)
    }

    /// Slots that are still to be made, or to be made anew, by [`Self::complete`].
    #[must_use]
    pub const fn new(manifest: Manifest) -> Self {
        Self {
            files: [None, None],
            current: manifest,
            next_slot: 0,
            buffer: Vec::new(),
            failed: false,
            unwritten: true,
        }
    }

    /// Makes the slots that are not there. Durable after the caller syncs the directory, which must
    /// be before the next commit.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn complete(&mut self, fs: &dyn Fs) -> io::Result<()> {
        for (slot, name) in self.files.iter_mut().zip(MANIFEST) {
            if slot.is_none() {
                let file = open_or_create(fs, name)?;
                file.write_at(0, &[IoSlice::new(&vec![0; SLOT_BYTES])])?;
                file.sync()?;
                *slot = Some(file);
            }
        }
        if std::mem::take(&mut self.unwritten) {
            self.write()?;
        }
        Ok(())
    }

    /// Reads both slots past the cache. A slot that cannot be read counts as damaged; changes
    /// nothing, so that [`Self::complete`] is still to come.
    ///
    /// # Errors
    ///
    /// The file system's, but for a missing file and for reads.
    pub fn load(fs: &dyn Fs) -> io::Result<Found> {
        let mut sound: Option<(usize, Manifest)> = None;
        let mut lost: Option<SlotLoss> = None;
        let mut files = [None, None];
        for ((slot, name), opened) in MANIFEST.into_iter().enumerate().zip(&mut files) {
            *opened = open_if_there(fs, name)?;
            match opened.as_deref().map_or(Err(SlotLoss::Missing), read_slot) {
                Err(loss) => {
                    lost = Some(match lost {
                        Some(other) => other.graver(loss),
                        None => loss,
                    });
                }
                Ok(found) => {
                    let newer = |(_, best): &(usize, Manifest)| best.generation < found.generation;
                    sound =
                        if sound.as_ref().is_none_or(newer) { Some((slot, found)) } else { sound };
                }
            }
        }
        let Some((slot, current)) = sound else {
            let gone = lost.filter(|loss| *loss != SlotLoss::Missing);
            return Ok(gone.map_or(Found::Nothing, Found::Lost));
        };
        // After a kill the newest slot may be in the page cache only. The next commit overwrites the
        // other one, which may be all that the disk has.
        if let Some(Some(file)) = files.get(slot) {
            file.sync()?;
        }
        let slots =
            Box::new(Self { files, next_slot: 1 - slot, unwritten: false, ..Self::new(current) });
        Ok(Found::Sound { slots, lost })
    }

    /// The manifest as last committed.
    #[must_use]
    pub const fn current(&self) -> &Manifest {
        &self.current
    }

    /// Takes the number for a new file; durable with the next commit.
    pub(crate) const fn take_file_id(&mut self) -> FileId {
        self.current.take_file_id()
    }

    /// Writes the next generation, as changed by `edit`, into the older slot and syncs it.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]. What is on disk is then unknown and every later commit is refused.
    pub fn commit(&mut self, edit: impl FnOnce(&mut Manifest)) -> Result<(), ManifestError> {
        if self.failed {
            return Err(ManifestError::Failed);
        }
        let mut next = self.current.clone();
        edit(&mut next);
        next.generation += 1;
        self.current = next;
        self.write().map_err(|source| {
            self.failed = true;
            ManifestError::Write { generation: self.current.generation, source }
        })
    }

    fn write(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.current.encode(&mut self.buffer);
        let Some(Some(file)) = self.files.get(self.next_slot) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.write_at(0, &[IoSlice::new(&self.buffer)])?;
        file.sync()?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn open_or_create(fs: &dyn Fs, name: &str) -> io::Result<Arc<dyn File>> {
    match fs.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(name),
        opened => opened,
    }
}

fn open_if_there(fs: &dyn Fs, name: &str) -> io::Result<Option<Arc<dyn File>>> {
    match fs.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn read_slot(file: &dyn File) -> Result<Manifest, SlotLoss> {
    let read = || {
        file.drop_cache()?;
        let size = file.size()?.min(SLOT_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes =
        read().map_err(|error: io::Error| SlotLoss::Unreadable { error: error.to_string() })?;
    Manifest::decode(&bytes).map_err(SlotLoss::Damaged)
}

/// The manifest could not be committed.
#[derive(Debug)]
pub enum ManifestError {
    /// An earlier commit failed.
    Failed,
    /// Writing or syncing failed.
    Write {
        /// The generation being written.
        generation: u64,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => write!(f, "an earlier manifest commit failed"),
            Self::Write { generation, source } => {
                write!(f, "manifest not written generation={generation}: {source}")
            }
        }
    }
}

impl std::error::Error for ManifestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed => None,
            Self::Write { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::faults::{Fault, FaultFs};
    use crate::fs::sim::{Fate, SimFs};

    #[test]
    fn commit_leaves_the_newest_slot_alone() {
        let disk = SimFs::new();
        let mut slots = ManifestSlots::create(&disk, Manifest::default()).unwrap();
        for generation in 1..6 {
            slots.commit(|manifest| manifest.durable = LogIndex(generation * 10)).unwrap();

            let read = |name| read_slot(&*disk.open(name).unwrap()).unwrap().generation;
            let mut found = MANIFEST.map(read);
            found.sort_unstable();
            assert_eq!(found, [generation - 1, generation]);
        }
        let Found::Sound { slots, lost } = ManifestSlots::load(&disk).unwrap() else {
            panic!("both slots are sound");
        };
        assert_eq!(slots.current().durable, LogIndex(50));
        assert_eq!(lost, None);
    }

    #[test]
    fn slot_that_a_killed_process_left_unsynced_is_synced_before_the_other_is_overwritten() {
        let disk = SimFs::new();
        ManifestSlots::create(&disk, Manifest::default()).unwrap();
        disk.sync_dir().unwrap();
        let unsynced = FaultFs::new(disk.clone());
        let Found::Sound { mut slots, .. } = ManifestSlots::load(&unsynced).unwrap() else {
            panic!("a new store is sound");
        };
        unsynced.plan(1, Fault::PowerLoss);
        slots.commit(|_| ()).unwrap_err();

        let Found::Sound { mut slots, .. } = ManifestSlots::load(&disk).unwrap() else {
            panic!("nothing was lost");
        };
        slots.commit(|_| ()).unwrap();

        let kept = |name| disk.crash_with(&mut |_, _| Fate::Lost).contents(name).unwrap();
        assert_eq!(MANIFEST.map(kept), MANIFEST.map(|name| disk.contents(name).unwrap()));
    }

    #[test]
    fn slot_that_outgrows_its_file_reads_back() {
        let disk = SimFs::new();
        let mut slots = ManifestSlots::create(&disk, Manifest::default()).unwrap();
        let entry = SegmentEntry { id: FileId(7), salt: Salt([9; 16]), base: None, end: None };
        slots.commit(|manifest| manifest.journal = vec![entry; 5_000]).unwrap();
        slots.commit(|manifest| manifest.durable = LogIndex(3)).unwrap();

        let Found::Sound { slots, .. } = ManifestSlots::load(&disk).unwrap() else {
            panic!("both slots are sound");
        };

        assert_eq!(slots.current().journal.len(), 5_000);
        assert_eq!(slots.current().durable, LogIndex(3));
    }

    #[test]
    fn nothing_is_committed_after_a_failed_commit() {
        let disk = SimFs::new();
        let mut slots = ManifestSlots::create(&disk, Manifest::default()).unwrap();
        disk.fail_next_sync("manifest-1");

        assert!(matches!(slots.commit(|_| ()), Err(ManifestError::Write { .. })));
        assert!(matches!(slots.commit(|_| ()), Err(ManifestError::Failed)));
    }
}
