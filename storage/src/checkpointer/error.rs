//! What can go wrong in the background.

use crate::checkpoint;
use crate::manifest::ManifestError;
use crate::names::{FileId, FileName};
use crate::run;
use posthouse_protocol::LogIndex;
use std::error::Error;
use std::{fmt, io};

/// A step of the checkpointer failed. Nothing that the manifest names was harmed.
#[derive(Debug)]
pub enum CheckpointError {
    /// The system refused, and not for want of room.
    Io {
        /// The file, or `None` for the directory.
        file: Option<FileName>,
        /// The cause.
        source: io::Error,
    },
    /// The manifest could not be committed.
    Manifest(ManifestError),
    /// A run does not read back as it was written.
    Run {
        /// The run.
        id: FileId,
        /// The cause.
        source: run::OpenError,
    },
    /// A checkpoint does not read back as it was written.
    Checkpoint {
        /// The checkpoint.
        id: FileId,
        /// The cause.
        source: checkpoint::ReadError,
    },
    /// A frame that was durable cannot be read any more. The journal is kept; a restart fences it.
    Journal {
        /// The segment.
        segment: FileId,
        /// The first frame that is missing.
        index: LogIndex,
    },
    /// The fold does not understand a frame that it understood when it was live.
    Apply {
        /// The frame.
        index: LogIndex,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl CheckpointError {
    /// Whether the process must end: what is on disk is unknown, or the state cannot be trusted.
    /// After the others the store goes on without folding, and says so.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Manifest(_) | Self::Apply { .. } => true,
            Self::Run { .. } | Self::Checkpoint { .. } | Self::Journal { .. } => false,
        }
    }

    pub(super) fn is_out_of_space(&self) -> bool {
        let kind = match self {
            Self::Io { source, .. }
            | Self::Run { source: run::OpenError::Io(source), .. }
            | Self::Checkpoint { source: checkpoint::ReadError::Io(source), .. } => source.kind(),
            Self::Manifest(_)
            | Self::Run { .. }
            | Self::Checkpoint { .. }
            | Self::Journal { .. }
            | Self::Apply { .. } => return false,
        };
        matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl From<ManifestError> for CheckpointError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { file: Some(file), source } => write!(f, "file={file}: {source}"),
            Self::Io { file: None, source } => write!(f, "data directory: {source}"),
            Self::Manifest(source) => source.fmt(f),
            Self::Run { id, source } => write!(f, "run={id}: {source}"),
            Self::Checkpoint { id, source } => write!(f, "checkpoint={id}: {source}"),
            Self::Journal { segment, index } => {
                write!(f, "durable frame cannot be read segment={segment} index={index}")
            }
            Self::Apply { index, source } => write!(f, "cannot apply frame={index}: {source}"),
        }
    }
}

impl Error for CheckpointError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Manifest(source) => Some(source),
            Self::Run { source, .. } => Some(source),
            Self::Checkpoint { source, .. } => Some(source),
            Self::Journal { .. } => None,
            Self::Apply { source, .. } => Some(&**source),
        }
    }
}
