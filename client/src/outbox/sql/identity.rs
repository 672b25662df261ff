//! What tells an SQLite file from its copies.

use std::path::Path;

/// A file's path and inode and the machine's id, as text for `belongs_to`; empty for a database in
/// memory, which nobody can copy.
///
/// Reads the file's metadata and the machine's id.
#[must_use]
pub fn sqlite_identity(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return String::new();
    }
    // A system without such an id cannot tell its machines apart.
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let inode = inode(path).map_or_else(String::new, |inode| inode.to_string());
    format!("inode={inode} machine={} path={}", machine.trim(), path.display())
}

/// Whether a database that belongs to `belongs_to` may be worked where it is found in `found_in`.
///
/// Two of the three must be the same: inode and machine after a move on one disk, machine and path
/// after a backup was put in its place, inode and path after the disk was moved to another machine.
/// A copy beside it or on another machine has only one of them. What is not known is no difference.
#[must_use]
pub fn same_sqlite(belongs_to: &str, found_in: &str) -> bool {
    let (Some(belongs), Some(found)) = (Parts::of(belongs_to), Parts::of(found_in)) else {
        return belongs_to.is_empty() || found_in.is_empty();
    };
    let is_same_file = !belongs.inode.is_empty() && belongs.inode == found.inode;
    let same = [is_same_file, belongs.machine == found.machine, belongs.path == found.path];
    same.iter().filter(|same| **same).count() >= 2
}

struct Parts<'a> {
    inode: &'a str,
    machine: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (inode, rest) = text.strip_prefix("inode=")?.split_once(" machine=")?;
        let (machine, path) = rest.split_once(" path=")?;
        Some(Self { inode, machine, path })
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(not(unix))]
fn inode(_path: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "inode=7 machine=m path=/data/app.db";

    #[test]
    fn moved_or_restored_file_is_the_same_and_a_copy_is_not() {
        let cases = [
            (HERE, true),
            ("inode=7 machine=m path=/elsewhere/app.db", true),
            ("inode=8 machine=m path=/data/app.db", true),
            ("inode=8 machine=m path=/data/copy.db", false),
            ("inode=8 machine=other path=/data/app.db", false),
            ("inode=7 machine=other path=/data/app.db", true),
            ("inode=7 machine=other path=/data/copy.db", false),
            ("", true),
        ];

        for (found, is_same) in cases {
            assert_eq!(same_sqlite(HERE, found), is_same, "{found}");
        }
        assert!(same_sqlite("", HERE));
    }

    #[test]
    fn file_is_named_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a b.db", "copy.db"].map(|name| folder.path().join(name));
        std::fs::write(&first, "x").unwrap();
        std::fs::copy(&first, &second).unwrap();
        let before = sqlite_identity(&first);

        assert!(!same_sqlite(&before, &sqlite_identity(&second)));
        let moved = folder.path().join("moved.db");
        std::fs::rename(&first, &moved).unwrap();
        assert!(same_sqlite(&before, &sqlite_identity(&moved)));
        assert_eq!(sqlite_identity(Path::new("")), "");
    }
}
