//! What an operator or a test may choose about the store.

use std::time::Duration;

/// How the store lays itself out. Every field has a default but the seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fresh randomness for salts and the store's identity: from the system in
    /// a server, from the run's seed in a simulation. A salt that can be guessed
    /// lets a message body pass for a frame when damage is being repaired.
    pub seed: [u8; 16],
    /// Size of every segment and spare, a multiple of 4 KiB, at most 2 GiB. The
    /// largest frame is an eighth of it. Changing it affects new files only.
    pub segment_bytes: u64,
    /// Zeroed, headed and synced segments to keep ready for the next rolls.
    pub segments_ready: usize,
    /// Unfolded journal at which the checkpointer folds, at least, and how much of it at a time.
    pub fold_bytes: u64,
    /// The checkpointer folds what there is after this long without an append; less than a 64th of
    /// a segment is left.
    pub fold_idle: Duration,
    /// Folded journal kept as history; freed beyond it, and first when space is short.
    pub journal_keep_bytes: u64,
    /// Age up to which folded journal is kept as history.
    pub journal_keep_age: Duration,
    /// The ring: unfolded journal at which publishes are refused.
    pub unfolded_bytes_max: u64,
    /// Memory for the index of unfolded batches at which publishes are refused.
    pub index_bytes_max: u64,
    /// The journal's newest bytes that are taken to be in the page cache.
    pub hot_bytes: u64,
    /// How long a retired file waits for its last reader before it is unlinked instead of recycled.
    pub recycle_patience: Duration,
}

/// Default of [`Options::segment_bytes`].
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Default of [`Options::segments_ready`].
pub const SEGMENTS_READY_DEFAULT: usize = 2;
/// Default of [`Options::fold_bytes`].
pub const FOLD_BYTES_DEFAULT: u64 = 64 << 20;
/// Default of [`Options::fold_idle`].
pub const FOLD_IDLE_DEFAULT: Duration = Duration::from_secs(1);
/// Default of [`Options::journal_keep_bytes`].
pub const JOURNAL_KEEP_BYTES_DEFAULT: u64 = 1 << 30;
/// Default of [`Options::journal_keep_age`].
pub const JOURNAL_KEEP_AGE_DEFAULT: Duration = Duration::from_secs(3600);
/// Default of [`Options::unfolded_bytes_max`].
pub const UNFOLDED_BYTES_MAX_DEFAULT: u64 = 1 << 30;
/// Default of [`Options::index_bytes_max`].
pub const INDEX_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Default of [`Options::hot_bytes`].
pub const HOT_BYTES_DEFAULT: u64 = 32 << 20;
/// Default of [`Options::recycle_patience`].
pub const RECYCLE_PATIENCE_DEFAULT: Duration = Duration::from_secs(10);

impl Options {
    /// The defaults.
    #[must_use]
    pub const fn new(seed: [u8; 16]) -> Self {
        Self {
            seed,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            segments_ready: SEGMENTS_READY_DEFAULT,
            fold_bytes: FOLD_BYTES_DEFAULT,
            fold_idle: FOLD_IDLE_DEFAULT,
            journal_keep_bytes: JOURNAL_KEEP_BYTES_DEFAULT,
            journal_keep_age: JOURNAL_KEEP_AGE_DEFAULT,
            unfolded_bytes_max: UNFOLDED_BYTES_MAX_DEFAULT,
            index_bytes_max: INDEX_BYTES_MAX_DEFAULT,
            hot_bytes: HOT_BYTES_DEFAULT,
            recycle_patience: RECYCLE_PATIENCE_DEFAULT,
        }
    }

    /// The largest frame, in bytes: an eighth of a segment.
    #[must_use]
    pub const fn frame_bytes_max(&self) -> u64 {
        self.segment_bytes / 8
    }
}
