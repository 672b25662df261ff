//! The manifest to begin with: read, rebuilt from segment headers, or new.

use super::files;
use super::report::{OpenError, Origin};
use crate::fs::Fs;
use crate::manifest::{Found, Manifest, ManifestSlots, SegmentEntry};
use crate::names::{FileId, FileKind, FileName};
use crate::options::Options;
use crate::segment::StoreId;
use posthouse_protocol::{DecodeError, LogIndex};

/// The manifest, and how it was come by.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) slots: ManifestSlots,
    /// Why a slot could not be read.
    pub(super) lost: Option<DecodeError>,
    pub(super) origin: Origin,
}

pub(super) fn load(fs: &dyn Fs, options: &Options) -> Result<Start, OpenError> {
    let found = ManifestSlots::load(fs).map_err(OpenError::io("reading the manifest"))?;
    let lost = match found {
        Found::Sound { slots, damaged } => {
            refuse_other_version(damaged)?;
            return Ok(Start { slots: *slots, lost: damaged, origin: Origin::Found });
        }
        Found::Damaged(error) => {
            refuse_other_version(Some(error))?;
            Some(error)
        }
        Found::Nothing => None,
    };
    let manifest = rebuild(fs, lost)?;
    let rebuilt = manifest.is_some();
    let manifest = manifest.unwrap_or_else(|| new_manifest(options));
    let io = OpenError::io("creating the manifest");
    let slots = ManifestSlots::create(fs, manifest).map_err(&io)?;
    fs.sync_dir().map_err(&io)?;
    // Slots without a single segment are what a crash leaves that came before the first start.
    let origin = if rebuilt { Origin::Rebuilt } else { Origin::Created };
    Ok(Start { slots, lost: lost.filter(|_| rebuilt), origin })
}

const fn refuse_other_version(damaged: Option<DecodeError>) -> Result<(), OpenError> {
    match damaged {
        Some(error @ DecodeError::Invalid { field, .. })
            if matches!(field.as_bytes(), b"manifest.version") =>
        {
            Err(OpenError::Version(error))
        }
        Some(_) | None => Ok(()),
    }
}

fn new_manifest(options: &Options) -> Manifest {
    Manifest {
        store: StoreId(options.seed),
        next_file: FileId(1),
        journal_first: LogIndex(1),
        clean: true,
        ..Manifest::default()
    }
}

/// The manifest that the segments' headers describe; `None` if there are none.
fn rebuild(fs: &dyn Fs, lost: Option<DecodeError>) -> Result<Option<Manifest>, OpenError> {
    let io = OpenError::io("reading segment headers");
    let headers = files::segment_headers(fs).map_err(&io)?;
    let names = fs.list().map_err(&io)?;
    let folded = names
        .iter()
        .filter_map(|name| FileName::parse(name))
        .any(|name| !name.temporary && matches!(name.kind, FileKind::Run | FileKind::Checkpoint));
    if folded {
        let error = lost.unwrap_or(DecodeError::Truncated { field: "manifest" });
        return Err(OpenError::ManifestLost(error));
    }
    let Some(first) = headers.first() else {
        return Ok(None);
    };
    let store = first.store;
    let mut manifest =
        Manifest { store, journal_first: LogIndex(1), next_file: FileId(1), ..Manifest::default() };
    for header in headers.iter().filter(|header| header.store == store) {
        let entry = SegmentEntry { id: header.id, salt: header.salt, base: None, end: None };
        manifest.journal.push(entry);
        manifest.next_file = manifest.next_file.max(header.id.next());
    }
    Ok(Some(manifest))
}
