//! A real directory.
//!
//! Owner-only modes, no symbolic links followed, nothing inherited by children.
//! The `lock` file is held for as long as the [`RealFs`] lives and says who
//! holds it; the lock itself is the kernel's, so that nothing is left behind by
//! a killed process.

use super::{Aligned, BLOCK, File, Fs, Map, mmap, read_up_to};
use crate::names::{LOCK, ORPHANS};
use rustix::fs::{Advice, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: u32 = 0o700;
/// Slices that one `pwritev` takes.
const PARTS_MAX: usize = 1024;

/// A data directory on a real file system, locked against other processes.
#[derive(Debug)]
pub struct RealFs {
    path: PathBuf,
    dir: std::fs::File,
    access: OFlags,
    _lock: Option<std::fs::File>,
}

impl RealFs {
    /// Opens the directory, creating it and those above it if there is none, and takes its lock.
    /// Its name is durable then.
    ///
    /// # Errors
    ///
    /// [`LockError`] if another process has it, or the directory cannot be used.
    pub fn open(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        make_directory(path, &mut sync_directory).map_err(io)?;
        let dir = std::fs::File::open(path).map_err(io)?;
        let lock = take_lock(path)?;
        Ok(Self { path: path.to_owned(), dir, access: OFlags::RDWR, _lock: Some(lock) })
    }

    /// Opens an existing directory for looking at it only, whether or not a process has it. Nothing
    /// can be written through it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn look(path: &Path) -> io::Result<Self> {
        let dir = std::fs::File::open(path)?;
        Ok(Self { path: path.to_owned(), dir, access: OFlags::RDONLY, _lock: None })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<Arc<dyn File>> {
        let flags = flags | self.access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, name, flags, FILE_MODE)?;
        Ok(Arc::new(RealFile::new(fd.into())))
    }
}

/// Creates a directory, and those above it, if there is none. `sync` is called for every directory
/// that a name was put into, before anything is put into the new one.
fn make_directory(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let create = || std::fs::DirBuilder::new().mode(DIR_MODE).create(path);
    let above = above(path);
    let created = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && above != path => {
            make_directory(above, sync)?;
            create()
        }
        created => created,
    };
    match created {
        Ok(()) => sync(above),
        Err(_) if path.is_dir() => match sync(above) {
            // An earlier start may have been killed between the two; else it is somebody else's, and
            // need not be for us to open.
            Err(error) if is_refused(&error) => Ok(()),
            synced => synced,
        },
        Err(error) => Err(error),
    }
}

/// Whether a directory cannot be synced by this user, or not at all.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    [InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported].contains(&error.kind())
}

/// Where the name of `path` stands.
fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

fn take_lock(path: &Path) -> Result<std::fs::File, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd =
        rustix::fs::open(path.join(LOCK), flags, FILE_MODE).map_err(|errno| io(errno.into()))?;
    let mut lock = std::fs::File::from(fd);
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _: Result<usize, io::Error> = (&lock).take(64).read_to_string(&mut holder);
            let holder = holder.trim().parse().ok();
            return Err(LockError::Held { path: path.to_owned(), holder });
        }
        Err(errno) => return Err(io(errno.into())),
    }
    // Who holds it is for people only: a full disk must not keep the broker from starting.
    let _: io::Result<()> = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

/// Sixteen bytes from the system's random source, for [`Options::seed`](crate::Options::seed).
///
/// # Errors
///
/// The system's.
pub fn random_seed() -> io::Result<[u8; 16]> {
    let mut seed = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

impl Fs for RealFs {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(name, OFlags::empty())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to.starts_with(ORPHANS) {
            match rustix::fs::mkdirat(&self.dir, ORPHANS, Mode::RWXU) {
                Ok(()) => self.dir.sync_all()?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        rustix::fs::renameat(&self.dir, from, &self.dir, to)?;
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        rustix::fs::unlinkat(&self.dir, name, rustix::fs::AtFlags::empty())?;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != ORPHANS
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        // First where files were moved to, so that they are nowhere missing in between.
        match std::fs::File::open(self.path.join(ORPHANS)) {
            Ok(orphans) => orphans.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: std::fs::File,
    /// The same file opened so that the disk reads and writes our memory itself; `None` where that is
    /// not possible. Opened when it is first wanted.
    direct: OnceLock<Option<std::fs::File>>,
}

impl RealFile {
    const fn new(file: std::fs::File) -> Self {
        Self { file, direct: OnceLock::new() }
    }

    fn direct(&self) -> Option<&std::fs::File> {
        let open = || {
            // By its number, for it may have got another name since.
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).ok().map(std::fs::File::from)
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Writes `parts` with as few calls as there can be; a short write is continued.
    fn write_parts(&self, mut position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        // How much of the first part is written already.
        let mut done = 0;
        while let Some(first) = rest.first() {
            let remaining = first.get(done..).unwrap_or_default();
            let written = if done == 0 {
                let parts = rest.get(..rest.len().min(PARTS_MAX)).unwrap_or(rest);
                retry(|| rustix::io::pwritev(&self.file, parts, position))?
            } else {
                retry(|| rustix::io::pwrite(&self.file, remaining, position))?
            };
            position += written as u64;
            done += written;
            while let Some(first) = rest.first().filter(|first| first.len() <= done) {
                done -= first.len();
                rest = rest.get(1..).unwrap_or_default();
            }
            if written == 0 && !rest.is_empty() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// Whether the file system cannot do without its cache, or wants larger blocks than ours.
fn is_impossible(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

/// Reads whole blocks until the buffer is full or the file ends.
fn read_full(file: &std::fs::File, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = retry(|| rustix::io::pread(file, &mut *rest, position + filled as u64))?;
        filled += count;
        // What is no whole block is the end of the file: nothing can be read behind it.
        if count == 0 || !filled.is_multiple_of(BLOCK) {
            break;
        }
    }
    Ok(filled)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

impl File for RealFile {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.write_parts(position, parts)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, position)
    }

    fn write_past_cache(&self, position: u64, blocks: &Aligned) -> io::Result<()> {
        let direct = self.direct().map(|direct| direct.write_all_at(blocks.filled(), position));
        match direct {
            Some(Err(error)) if !is_impossible(&error) => Err(error),
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.write_parts(position, &[IoSlice::new(blocks.filled())]),
        }
    }

    fn read_past_cache(&self, position: u64, into: &mut Aligned) -> io::Result<usize> {
        let direct = self.direct().map(|direct| read_full(direct, position, into.whole()));
        match direct {
            Some(Err(error)) if !is_impossible(&error) => Err(error),
            Some(Ok(len)) => Ok(len),
            Some(Err(_)) | None => read_up_to(self, position, into.whole()),
        }
    }

    fn drop_cache(&self) -> io::Result<()> {
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    fn drop_cache_of_first(&self, len: u64) -> io::Result<()> {
        rustix::fs::fadvise(&self.file, 0, std::num::NonZeroU64::new(len), Advice::DontNeed)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // Never retried after an error: it may have been reported and forgotten. (An interrupted call
        // has reported none; std makes it again.)
        self.file.sync_data()?;
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let none = FallocateFlags::empty();
        retry(|| match rustix::fs::fallocate(&self.file, none, 0, len) {
            Err(Errno::OPNOTSUPP) => Err(Errno::NOSYS),
            done => done,
        })
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        mmap::map(&self.file, len)
    }
}

/// The data directory could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it open.
    Held {
        /// The directory.
        path: PathBuf,
        /// The other process, if it left its id.
        holder: Option<u32>,
    },
    /// The directory or its lock file cannot be used.
    Io {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, holder: Some(pid) } => {
                write!(f, "data directory is in use path={} pid={pid}", path.display())
            }
            Self::Held { path, holder: None } => {
                write!(f, "data directory is in use path={}", path.display())
            }
            Self::Io { path, source } => {
                write!(f, "data directory cannot be used path={}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Held { .. } => None,
            Self::Io { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What was synced, and what was there by then.
    fn make(path: &Path, below: &Path) -> io::Result<Vec<(PathBuf, Vec<PathBuf>)>> {
        let mut synced = Vec::new();
        make_directory(path, &mut |directory| {
            let listed = std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
            let relative = |path: &Path| path.strip_prefix(below).unwrap().to_owned();
            let listed: io::Result<Vec<PathBuf>> = listed.collect();
            let listed = listed?.iter().map(|path| relative(path)).collect();
            synced.push((relative(directory), listed));
            Ok(())
        })?;
        Ok(synced)
    }

    #[test]
    fn every_directory_that_gets_a_name_is_synced_before_the_next_one_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path();

        let synced = make(&below.join("a/b/c"), below).unwrap();

        let step = |into: &str, name: &str| (PathBuf::from(into), vec![PathBuf::from(name)]);
        assert_eq!(synced, [step("", "a"), step("a", "a/b"), step("a/b", "a/b/c")]);
        for path in ["a", "a/b", "a/b/c"] {
            let mode = std::fs::metadata(below.join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{path}");
        }
    }

    #[test]
    fn name_of_a_directory_that_is_there_is_synced_for_whoever_was_killed_before() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();

        let synced = make(&dir.path().join("a"), dir.path()).unwrap();

        assert_eq!(synced, [(PathBuf::new(), vec![PathBuf::from("a")])]);
    }

    #[test]
    fn failed_sync_of_the_name_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for _ in ["made", "there"] {
            make_directory(&path, &mut |_| Err(io::Error::other("disk"))).unwrap_err();
        }
    }

    #[test]
    fn directory_above_that_cannot_be_opened_is_somebody_elses() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [
            ("a", io::ErrorKind::PermissionDenied),
            ("b", io::ErrorKind::ReadOnlyFilesystem),
            ("c", io::ErrorKind::InvalidInput),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            make_directory(&path, &mut |_| Err(kind.into())).unwrap();
        }
    }

    #[test]
    fn file_in_the_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();

        make_directory(&path, &mut |_| Ok(())).unwrap_err();
        make_directory(&path.join("b"), &mut |_| Ok(())).unwrap_err();
    }

    #[test]
    fn relative_names_and_roots_have_a_directory_above() {
        let above = |path: &str| above(Path::new(path)).to_owned();
        assert_eq!(above("data"), Path::new("."));
        assert_eq!(above("a/data"), Path::new("a"));
        assert_eq!(above("/"), Path::new("/"));
    }
}
