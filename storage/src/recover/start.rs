//! The manifest to begin with: read, rebuilt from segment headers, or new.
//!
//! Nothing is written here: a manifest that is not on disk yet gets there once the journal was read.

use super::files;
use super::report::{OpenError, Origin};
use crate::fs::Fs;
use crate::manifest::{Found, Manifest, ManifestSlots, SegmentEntry, SlotLoss};
use crate::names::{FileId, FileKind, FileName};
use crate::options::Options;
use crate::salt::derive_store;
use posthouse_protocol::LogIndex;
use std::io;

/// The manifest, and how it was come by.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) slots: ManifestSlots,
    /// Why a slot could not be read. It may have been the newest.
    pub(super) lost: Option<SlotLoss>,
    pub(super) origin: Origin,
}

pub(super) fn load(fs: &dyn Fs, options: &Options) -> Result<Start, OpenError> {
    let io = OpenError::io("reading the manifest");
    let lost = match ManifestSlots::load(fs).map_err(&io)? {
        Found::Sound { slots, lost } => {
            let lost = refuse_other_version(lost)?;
            let making =
                lost == Some(SlotLoss::Missing) && is_being_made(fs, &slots).map_err(&io)?;
            let lost = lost.filter(|_| !making);
            return Ok(Start { slots: *slots, lost, origin: Origin::Found });
        }
        Found::Lost(loss) => refuse_other_version(Some(loss))?,
        Found::Nothing => None,
    };
    if let Some(SlotLoss::Unreadable { error }) = lost {
        // A rebuild overwrites both, and what cannot be read now may be read later.
        return Err(io(io::Error::other(error)));
    }
    let manifest = rebuild(fs, lost.as_ref())?;
    let rebuilt = manifest.is_some();
    let slots = ManifestSlots::new(manifest.unwrap_or_else(|| new_manifest(options)));
    // Slots without a single segment are what a crash leaves that came before the first start.
    let origin = if rebuilt { Origin::Rebuilt } else { Origin::Created };
    Ok(Start { slots, lost: rebuilt.then(|| lost.unwrap_or(SlotLoss::Missing)), origin })
}

fn refuse_other_version(lost: Option<SlotLoss>) -> Result<Option<SlotLoss>, OpenError> {
    match lost {
        Some(loss) if loss.is_other_version() => Err(OpenError::Version(loss)),
        lost => Ok(lost),
    }
}

/// Whether this is a store whose making was interrupted between the two slots: nothing was committed
/// yet, for the first commit makes a segment before.
fn is_being_made(fs: &dyn Fs, slots: &ManifestSlots) -> io::Result<bool> {
    let manifest = slots.current();
    let has_files = || {
        let names = fs.list()?;
        let mut numbered = names.iter().filter_map(|name| FileName::parse(name));
        io::Result::Ok(numbered.any(|name| !name.temporary))
    };
    Ok(manifest.generation == 0 && !has_files()?)
}

fn new_manifest(options: &Options) -> Manifest {
    Manifest {
        store: derive_store(&options.seed),
        next_file: FileId(1),
        journal_first: LogIndex(1),
        clean: true,
        ..Manifest::default()
    }
}

/// The manifest that the segments' headers describe; `None` if there are none.
fn rebuild(fs: &dyn Fs, lost: Option<&SlotLoss>) -> Result<Option<Manifest>, OpenError> {
    let io = OpenError::io("reading segment headers");
    let headers = files::segment_headers(fs).map_err(&io)?;
    let names = fs.list().map_err(&io)?;
    let folded = names
        .iter()
        .filter_map(|name| FileName::parse(name))
        .any(|name| !name.temporary && matches!(name.kind, FileKind::Run | FileKind::Checkpoint));
    if folded {
        return Err(OpenError::ManifestLost(lost.cloned().unwrap_or(SlotLoss::Missing)));
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
