//! Files in the three states that a journal segment can be in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// As the journal's segments are filled (decision 0012).
const CHUNK: usize = 64 << 10;

/// A file whose blocks are all written: what a recycled segment is.
pub(crate) fn zero_filled(path: &Path, size: u64) -> io::Result<File> {
    let file = growing(path)?;
    let zeros = vec![0; CHUNK];
    for start in (0..size).step_by(CHUNK) {
        let rest = usize::try_from(size - start).unwrap_or(CHUNK).min(CHUNK);
        file.write_all_at(zeros.get(..rest).unwrap_or(&zeros), start)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A file whose blocks are reserved and were never written.
pub(crate) fn allocated(path: &Path, size: u64) -> io::Result<File> {
    let file = growing(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, size)?;
    file.sync_all()?;
    Ok(file)
}

/// An empty file, to be appended to.
pub(crate) fn growing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}
