//! What the journal, the readers and the checkpointer share.
//!
//! The journal fills segments and says where each ends. The checkpointer takes
//! finished segments whose frames are durable, folds them, makes ready the next
//! ones, and is the only one that removes any. Readers see one [`View`]: it is
//! changed under one lock in one step, so that a lookup never pairs a location
//! with the wrong file.
//!
//! Lock order: `preparing`, `slots`, `ready`, `view`. The core thread takes `slots` only when
//! it starts, stops, or finds no segment ready.

use crate::frame::{FrameKey, Salt};
use crate::fs::{File, Fs, Map};
use crate::index::UnfoldedIndex;
use crate::manifest::{Manifest, ManifestError, ManifestSlots, SegmentEnd, SegmentEntry};
use crate::names::FileId;
use crate::options::Options;
use crate::reader::Cold;
use crate::salt::derive_salt;
use crate::segment::StoreId;
use posthouse_protocol::LogIndex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

/// The parts of an open store that several threads use.
#[derive(Debug)]
pub struct Shared {
    /// The data directory.
    pub fs: Arc<dyn Fs>,
    /// As given when the store was opened.
    pub options: Options,
    /// Identity of the data directory.
    pub store: StoreId,
    slots: Mutex<ManifestSlots>,
    /// How many spares the manifest names.
    spares: AtomicUsize,
    ready: Mutex<VecDeque<Arc<Segment>>>,
    /// Held while a segment is made ready, so that segments are ready in the order of their ids.
    preparing: Mutex<()>,
    view: RwLock<View>,
    positions: Positions,
    roll_requested: AtomicBool,
}

/// How far the journal is; only the journal moves these.
#[derive(Debug, Default)]
struct Positions {
    durable: AtomicU64,
    written: AtomicU64,
    /// Journal bytes written since the store was opened, replayed ones included.
    written_bytes: AtomicU64,
    /// What a sync of the last segment covered on average; 0 before one has ended.
    sync_bytes: AtomicU64,
}

/// Everything that readers consult, changed in one step.
#[derive(Debug)]
pub struct View {
    /// Segments in use or finished, by id; those only kept as history included.
    pub segments: BTreeMap<FileId, Arc<Segment>>,
    /// Batches that are only in the journal.
    pub unfolded: UnfoldedIndex,
    /// The runs.
    pub runs: Arc<dyn Cold>,
}

/// A segment file of the store.
#[derive(Debug)]
pub struct Segment {
    /// Its number.
    pub id: FileId,
    /// Salt of its frames.
    pub salt: Salt,
    /// What that does to its frames.
    pub key: FrameKey,
    /// Length of the file.
    pub size: u64,
    /// The file.
    pub file: Arc<dyn File>,
    /// The whole file, for reading.
    pub map: Map,
    start: OnceLock<SegmentStart>,
    end: OnceLock<SegmentEnd>,
}

/// When a segment came into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStart {
    /// Index of its first frame.
    pub base: LogIndex,
    /// Journal bytes written before it, since the store was opened.
    pub bytes_before: u64,
}

impl Segment {
    /// A segment that is ready for use. `file` has its header, is synced, and is named by the manifest.
    #[must_use]
    pub fn new(id: FileId, salt: Salt, file: Arc<dyn File>, size: u64, map: Map) -> Self {
        let key = FrameKey::new(&salt);
        let (start, end) = (OnceLock::new(), OnceLock::new());
        Self { id, salt, key, size, file, map, start, end }
    }

    /// Set once the journal writes to it.
    #[must_use]
    pub fn start(&self) -> Option<SegmentStart> {
        self.start.get().copied()
    }

    /// Set once the journal has left it.
    #[must_use]
    pub fn end(&self) -> Option<SegmentEnd> {
        self.end.get().copied()
    }

    pub(crate) fn begin(&self, start: SegmentStart) {
        let _: Result<(), SegmentStart> = self.start.set(start);
    }

    pub(crate) fn finish(&self, end: SegmentEnd) {
        let _: Result<(), SegmentEnd> = self.end.set(end);
    }

    /// What the manifest says about it.
    #[must_use]
    pub fn entry(&self) -> SegmentEntry {
        let base = self.start().map(|start| start.base);
        SegmentEntry { id: self.id, salt: self.salt, base, end: self.end() }
    }
}

impl Shared {
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        options: Options,
        slots: ManifestSlots,
        runs: Arc<dyn Cold>,
    ) -> Self {
        let store = slots.current().store;
        let view = View { segments: BTreeMap::new(), unfolded: UnfoldedIndex::default(), runs };
        Self {
            fs,
            options,
            store,
            spares: AtomicUsize::new(slots.current().spares.len()),
            slots: Mutex::new(slots),
            ready: Mutex::new(VecDeque::new()),
            preparing: Mutex::new(()),
            view: RwLock::new(view),
            positions: Positions::default(),
            roll_requested: AtomicBool::new(false),
        }
    }

    /// A copy of the manifest as last committed.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        self.lock_slots().current().clone()
    }

    /// Commits the manifest as changed by `edit`; durable when it returns. What the journal knows
    /// about its segments, and the durable position, are entered before `edit` sees it.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]; the store must then stop.
    pub fn commit<T>(&self, edit: impl FnOnce(&mut Manifest) -> T) -> Result<T, ManifestError> {
        let mut slots = self.lock_slots();
        // In this order: no frame of a segment with an end names a durable position above `durable`,
        // which recovery relies on.
        let known: Vec<SegmentEntry> =
            self.view().segments.values().map(|segment| segment.entry()).collect();
        let durable = self.durable();
        let mut result = None;
        slots.commit(|manifest| {
            for entry in &mut manifest.journal {
                if let Ok(at) = known.binary_search_by_key(&entry.id, |segment| segment.id) {
                    *entry = known.get(at).copied().unwrap_or(*entry);
                }
            }
            manifest.durable = manifest.durable.max(durable);
            result = Some(edit(manifest));
        })?;
        self.spares.store(slots.current().spares.len(), Ordering::Relaxed);
        result.ok_or(ManifestError::Failed)
    }

    /// Commits twice, so that both slots agree; the second one is `edit` applied again, which must
    /// change nothing more.
    ///
    /// # Errors
    ///
    /// As [`Self::commit`].
    pub fn commit_both(&self, edit: impl Fn(&mut Manifest)) -> Result<(), ManifestError> {
        self.commit(&edit)?;
        self.commit(&edit)
    }

    /// What readers see now.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what readers see, in one step. Keep it short: the core thread waits.
    pub fn change_view(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every frame up to here is durable.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        LogIndex(self.positions.durable.load(Ordering::Acquire))
    }

    /// Every frame up to here is in the page cache.
    #[must_use]
    pub fn written(&self) -> LogIndex {
        LogIndex(self.positions.written.load(Ordering::Acquire))
    }

    /// Journal bytes written since the store was opened, replayed ones included.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.positions.written_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn advance_durable(&self, index: LogIndex) {
        self.positions.durable.fetch_max(index.0, Ordering::AcqRel);
    }

    pub(crate) fn advance_written(&self, index: LogIndex, bytes: u64) {
        self.positions.written_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.positions.written.fetch_max(index.0, Ordering::AcqRel);
    }

    /// How many bytes a sync of the last finished segment covered on average; 0 before there is one.
    pub(crate) fn sync_bytes(&self) -> u64 {
        self.positions.sync_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_sync_bytes(&self, bytes: u64) {
        self.positions.sync_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Finished segments with frames after `folded`, oldest first, all of whose frames are durable.
    #[must_use]
    pub fn finished_after(&self, folded: LogIndex) -> Vec<Arc<Segment>> {
        let durable = self.durable();
        let view = self.view();
        let unfolded = |segment: &&Arc<Segment>| {
            segment.end().is_some_and(|end| end.last > folded && end.last <= durable)
        };
        view.segments.values().filter(unfolded).cloned().collect()
    }

    /// How many segments are ready for the next rolls.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.lock_ready().len()
    }

    /// How many files there are to make segments of.
    #[must_use]
    pub fn spare_count(&self) -> usize {
        self.spares.load(Ordering::Relaxed)
    }

    /// Hands a segment to the journal: headed, synced and named by the manifest.
    pub fn push_ready(&self, segment: Arc<Segment>) {
        self.lock_ready().push_back(segment);
    }

    pub(crate) fn take_ready(&self) -> Option<Arc<Segment>> {
        self.lock_ready().pop_front()
    }

    /// Takes the number for a new file. It is durable with the next commit; until then the file
    /// must not be part of the store.
    pub fn take_file_id(&self) -> FileId {
        self.lock_slots().take_file_id()
    }

    /// A salt for a new use of the file `id`.
    pub fn fresh_salt(&self, id: FileId) -> Salt {
        let epoch = self.lock_slots().current().start_epoch;
        derive_salt(&self.options.seed, epoch, id)
    }

    /// Asks the journal to end its active segment, so that what is in it can be folded.
    pub fn request_roll(&self) {
        self.roll_requested.store(true, Ordering::Release);
    }

    pub(crate) fn take_roll_request(&self) -> bool {
        self.roll_requested.load(Ordering::Relaxed)
            && self.roll_requested.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn lock_preparing(&self) -> MutexGuard<'_, ()> {
        self.preparing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_slots(&self) -> MutexGuard<'_, ManifestSlots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ready(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
