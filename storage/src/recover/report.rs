//! What a start tells its operator, and why a store cannot be opened.

use super::damage::{CorruptRange, TornTail};
use crate::journal::AppendError;
use crate::manifest::{ManifestError, SlotLoss};
use crate::names::FileId;
use crate::run::SetError;
use crate::spare::SpareError;
use posthouse_protocol::{LogIndex, StartEpoch};
use std::error::Error;
use std::fmt;
use std::io;

/// Where the manifest came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    #[default]
    Found,
    /// There was nothing, and a new store was made.
    Created,
    /// No slot was left; the list of segments was made from their headers.
    Rebuilt,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Of this start; durable.
    pub start_epoch: StartEpoch,
    /// Where the manifest came from.
    pub origin: Origin,
    /// Whether the store was closed cleanly before.
    pub clean: bool,
    /// Why a manifest slot could not be read: a power loss during a commit leaves that, and so does
    /// damage. The other slot, and the files, were enough.
    pub manifest_damaged: Option<SlotLoss>,
    /// The frame up to which a checkpoint was used; 0 if none was.
    pub checkpoint: LogIndex,
    /// Checkpoints that the manifest names and that cannot be used.
    pub checkpoint_damaged: Vec<FileId>,
    /// The journal's last frame.
    pub last: LogIndex,
    /// The durable mark: every frame up to here was known to be durable before the stop.
    pub mark: LogIndex,
    /// The unacknowledged end that was dropped, if there was one.
    pub torn: Option<TornTail>,
    /// What was durable and is damaged. Fenced, never cut off.
    pub corrupt: Vec<CorruptRange>,
    /// Data frames applied to the state.
    pub replayed_frames: u64,
    /// Their length.
    pub replayed_bytes: u64,
    /// Segments whose header is damaged; their frames were found by the manifest's salt.
    pub damaged_headers: Vec<FileId>,
    /// Segments that the manifest names and that are not there.
    pub missing: Vec<FileId>,
    /// What is wrong with runs that cannot be used; their batches cannot be read.
    pub runs_damaged: Vec<String>,
    /// Files that nobody understands, as renamed.
    pub orphans: Vec<String>,
}

impl RecoveryReport {
    /// Whether frames may be missing of which the fold was not told: nothing says any more how far the
    /// journal reached.
    #[must_use]
    pub const fn may_lack_frames(&self) -> bool {
        matches!(self.origin, Origin::Rebuilt)
            || self.manifest_damaged.is_some()
            || !self.missing.is_empty()
    }

    /// Whether anything that was durable is damaged or missing. A single damaged manifest slot does
    /// not count, as it cannot be told from one that was just being written; one that is missing or
    /// unreadable does.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        matches!(self.origin, Origin::Rebuilt)
            || matches!(
                self.manifest_damaged,
                Some(SlotLoss::Missing | SlotLoss::Unreadable { .. })
            )
            || !self.checkpoint_damaged.is_empty()
            || !self.corrupt.is_empty()
            || !self.damaged_headers.is_empty()
            || !self.missing.is_empty()
            || !self.runs_damaged.is_empty()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Found => "opened",
            Origin::Created => "created",
            Origin::Rebuilt => "rebuilt from segment headers",
        };
        write!(f, "store {origin} start_epoch={} clean={}", self.start_epoch, self.clean)?;
        write!(f, " last={} mark={} checkpoint={}", self.last, self.mark, self.checkpoint)?;
        write!(
            f,
            " replayed_frames={} replayed_bytes={}",
            self.replayed_frames, self.replayed_bytes
        )?;
        if let Some(torn) = &self.torn {
            write!(f, "; {torn}")?;
        }
        if let Some(error) = &self.manifest_damaged {
            write!(f, "; a manifest slot is lost: {error}")?;
        }
        for range in &self.corrupt {
            write!(f, "; {range}")?;
        }
        for (what, ids) in [
            ("damaged checkpoint", &self.checkpoint_damaged),
            ("damaged segment header", &self.damaged_headers),
            ("missing segment", &self.missing),
        ] {
            ids.iter().try_for_each(|id| write!(f, "; {what} file={id}"))?;
        }
        self.runs_damaged.iter().try_for_each(|run| write!(f, "; {run}"))?;
        self.orphans.iter().try_for_each(|name| write!(f, "; moved aside file={name}"))
    }
}

/// The store cannot be opened. Until the journal was read and understood nothing was changed;
/// what can still fail then is the disk, and by then nothing went but files that are not part of the
/// store. So a later attempt finds the same.
#[derive(Debug)]
pub enum OpenError {
    /// A file or the directory cannot be used.
    Io {
        /// While doing what.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The store was written by a newer version.
    Version(SlotLoss),
    /// Both manifest slots are damaged, and there are runs or checkpoints that only a manifest can
    /// name. Restore a slot from a backup.
    ManifestLost(SlotLoss),
    /// The journal begins after the frame from which it is needed, and no older checkpoint verifies.
    /// Restore a checkpoint from a backup.
    JournalShort {
        /// The first frame needed.
        needed: LogIndex,
        /// The first frame there is.
        first: LogIndex,
    },
    /// A checkpoint is not understood.
    Checkpoint {
        /// The checkpoint.
        id: FileId,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The events of a sound frame are not understood.
    Events {
        /// The frame.
        index: LogIndex,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No segment to go on in could be made.
    Spare(SpareError),
    /// The system refuses a run that may be sound: files are too many, or not ours. Served without it,
    /// its messages would be taken for damaged.
    Run(SetError),
    /// The manifest could not be committed.
    Manifest(ManifestError),
    /// The journal could not be started.
    Journal(AppendError),
}

impl OpenError {
    pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "store not opened, {doing}: {source}"),
            Self::Version(source) => write!(f, "store is of another version: {source}"),
            Self::ManifestLost(source) => {
                write!(f, "both manifest slots are damaged, restore one from a backup: {source}")
            }
            Self::JournalShort { needed, first } => write!(
                f,
                "no checkpoint verifies and the journal is too short needed={needed} first={first}"
            ),
            Self::Checkpoint { id, source } => {
                write!(f, "checkpoint not understood file={id}: {source}")
            }
            Self::Events { index, source } => {
                write!(f, "events not understood frame={index}: {source}")
            }
            Self::Spare(source) => source.fmt(f),
            Self::Run(source) => {
                write!(
                    f,
                    "{source}: allow more open files, or give back the rights, and start again"
                )
            }
            Self::Manifest(source) => source.fmt(f),
            Self::Journal(source) => source.fmt(f),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Version(source) | Self::ManifestLost(source) => Some(source),
            Self::JournalShort { .. } => None,
            Self::Checkpoint { source, .. } | Self::Events { source, .. } => Some(&**source),
            Self::Spare(source) => Some(source),
            Self::Run(source) => Some(source),
            Self::Manifest(source) => Some(source),
            Self::Journal(source) => Some(source),
        }
    }
}
