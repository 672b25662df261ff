//! What the disk has of some files when the power fails.

use posthouse_trials::Chance;
use std::collections::BTreeMap;
use std::path::Path;

/// Files, as processes see them and as the disk has them.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<String, File>,
    /// What each process is syncing, and how many changes of it that covers.
    syncing: BTreeMap<u32, (String, usize)>,
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    /// Later changes, in their order.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Bytes { at: usize, bytes: Vec<u8> },
    Len(usize),
}

impl Disk {
    /// With a file that is durable.
    pub(crate) fn with(path: &Path) -> Self {
        let file = File { durable: std::fs::read(path).unwrap(), changes: Vec::new() };
        Self { files: [(path.display().to_string(), file)].into(), ..Self::default() }
    }

    pub(crate) fn write(&mut self, path: &str, at: usize, bytes: Vec<u8>) {
        self.change(path, Change::Bytes { at, bytes });
    }

    pub(crate) fn cut(&mut self, path: &str, len: usize) {
        self.change(path, Change::Len(len));
    }

    fn change(&mut self, path: &str, change: Change) {
        self.files.entry(path.to_owned()).or_default().changes.push(change);
    }

    pub(crate) fn begin_sync(&mut self, process: u32, path: &str) {
        let changes = self.files.get(path).map_or(0, |file| file.changes.len());
        self.syncing.insert(process, (path.to_owned(), changes));
    }

    /// Gives the file that is durable now, up to the changes before its sync began, and how many
    /// changes that were.
    pub(crate) fn end_sync(&mut self, process: u32) -> (String, usize) {
        let (path, count) = self.syncing.remove(&process).unwrap();
        let Some(file) = self.files.get_mut(&path) else { return (path, 0) };
        // Another process may have synced some of them meanwhile.
        let count = count.min(file.changes.len());
        let changes: Vec<_> = file.changes.drain(..count).collect();
        changes.iter().for_each(|change| change.apply(&mut file.durable));
        for (other, left) in self.syncing.values_mut() {
            if *other == path {
                *left = left.saturating_sub(count);
            }
        }
        (path, count)
    }

    /// Puts into `folder` what there is after the power fails now: everything durable, and of what is
    /// not each change with a chance of so many percent.
    pub(crate) fn after_power_loss(&self, folder: &Path, kept: u64, chance: &mut Chance) {
        for (path, file) in &self.files {
            let mut bytes = file.durable.clone();
            for change in &file.changes {
                if chance.percent(kept) {
                    change.apply(&mut bytes);
                }
            }
            let name = Path::new(path).file_name().unwrap();
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Bytes { at, bytes } => {
                let end = at + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*at..end].copy_from_slice(bytes);
            }
            Self::Len(len) => file.resize(*len, 0),
        }
    }
}

#[test]
fn only_what_was_there_when_its_sync_began_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::default();
    disk.write("/a", 2, vec![1, 1]);
    disk.begin_sync(7, "/a");
    disk.write("/a", 0, vec![2]);
    assert_eq!(disk.end_sync(7), ("/a".to_owned(), 1));

    let lost = |kept| {
        disk.after_power_loss(folder.path(), kept, &mut Chance::new(1));
        std::fs::read(folder.path().join("a")).unwrap()
    };
    assert_eq!(lost(0), [0, 0, 1, 1]);
    assert_eq!(lost(100), [2, 0, 1, 1]);
}
