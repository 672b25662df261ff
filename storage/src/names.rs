//! The names of files in a data directory: formatted and parsed here, nowhere else.
//!
//! A name is made of a kind and a number that is never given twice, whatever the
//! kind. Names of topics never become names of files. A name that does not parse
//! is not ours, and is left alone.

use std::fmt;

/// The lock file, held while a process has the directory open.
pub const LOCK: &str = "lock";
/// The two slots of the manifest.
pub const MANIFEST: [&str; 2] = ["manifest-0", "manifest-1"];
/// The folder for files that nobody understands.
pub const ORPHANS: &str = "orphan";

const TEMPORARY: &str = ".tmp";

/// Numbers a file; ascending and never reused, across all kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

impl FileId {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a numbered file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A piece of the journal, in use or ready for use.
    Segment,
    /// Batches sorted by partition.
    Run,
    /// The folded state at a journal position.
    Checkpoint,
    /// A file of the common size without content, to be recycled.
    Spare,
}

impl FileKind {
    const ALL: [Self; 4] = [Self::Segment, Self::Run, Self::Checkpoint, Self::Spare];

    const fn word(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Run => "run",
            Self::Checkpoint => "checkpoint",
            Self::Spare => "spare",
        }
    }
}

/// The name of a numbered file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// What it holds.
    pub kind: FileKind,
    /// Its number.
    pub id: FileId,
    /// Whether it is still being made. Such a file is named by no manifest and
    /// may be removed after a restart.
    pub temporary: bool,
}

impl FileName {
    /// The name of a finished file.
    #[must_use]
    pub const fn new(kind: FileKind, id: FileId) -> Self {
        Self { kind, id, temporary: false }
    }

    /// The name of the same file while it is being made.
    #[must_use]
    pub const fn temporary(self) -> Self {
        Self { temporary: true, ..self }
    }

    /// Reads a name; `None` if it is not one that [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, temporary) = match name.strip_suffix(TEMPORARY) {
            Some(stem) => (stem, true),
            None => (name, false),
        };
        let (word, digits) = stem.split_once('-')?;
        let kind = FileKind::ALL.into_iter().find(|kind| kind.word() == word)?;
        let id = FileId(u64::from_str_radix(digits, 16).ok()?);
        let parsed = Self { kind, id, temporary };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.temporary { TEMPORARY } else { "" };
        write!(f, "{}-{:016x}{end}", self.kind.word(), self.id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for kind in FileKind::ALL {
            for name in [FileName::new(kind, FileId(0)), FileName::new(kind, FileId(u64::MAX))] {
                assert_eq!(FileName::parse(&name.to_string()), Some(name));
                let temporary = name.temporary();
                assert_eq!(FileName::parse(&temporary.to_string()), Some(temporary));
            }
        }
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in ["", "lock", "segment-", "segment-1", "segment-000000000000000G", "run", "x-1"]
        {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        assert_eq!(FileName::parse("segment-00000000000000AB"), None);
        assert_eq!(FileName::parse("segment-+0000000000000ab"), None);
    }
}
