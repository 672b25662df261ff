//! The programs: where they are, and how they come from Debian's packages.

#![expect(clippy::print_stderr, reason = "an installation that takes a minute says so")]

use crate::error::{Error, during};
use rustix::fs::FlockOperation;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The packages that have all of it.
const PACKAGES: [&str; 3] = ["postgresql", "mariadb-server", "pgbouncer"];
/// A program of each server.
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "mariadbd", "mariadb-install-db", "pgbouncer"];
/// Where Debian puts servers that are not for everyone's `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"];
/// Debian keeps each version of PostgreSQL in a folder of its own below this one.
const POSTGRES_FOLDER: &str = "/usr/lib/postgresql";
/// Asked by installations whether they may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs PostgreSQL, MariaDB and pgbouncer from Debian's packages if they are missing. Their
/// system services are not started.
///
/// # Errors
///
/// If they are missing and this process is not root, or the installation fails; the text says what
/// to install by hand.
pub fn ensure_installed() -> Result<(), Error> {
    if missing().is_none() {
        return Ok(());
    }
    // Several test binaries may find the same thing missing at once.
    let path = std::env::temp_dir().join("posthouse-databases.lock");
    let lock = during("open the lock file of installations", std::fs::File::create(&path))?;
    during("lock installations", Ok(rustix::fs::flock(&lock, FlockOperation::LockExclusive)?))?;
    let Some(program) = missing() else { return Ok(()) };
    let by_hand = format!("run as root: apt-get install {}", PACKAGES.join(" "));
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(format!("{program} is not installed; {by_hand}")));
    }
    eprintln!("posthouse-databases: {program} is missing, installing {}", PACKAGES.join(" "));
    let policy = Policy::forbid()?;
    let installed = apt_install() || (apt(&["update", "-q"]) && apt_install());
    drop(policy);
    match missing() {
        None if installed => Ok(()),
        _ => Err(Error::new(format!("the installation failed, see above; {by_hand}"))),
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::new(format!("the system refused: {errno}"))
    }
}

fn missing() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| find(program).is_none())
}

fn apt_install() -> bool {
    let options = ["install", "-y", "-q", "--no-install-recommends"];
    apt(&options.into_iter().chain(PACKAGES).collect::<Vec<_>>())
}

fn apt(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    // What it prints is progress; standard output is the test's.
    let errors = std::io::stderr();
    let output = std::os::fd::AsFd::as_fd(&errors).try_clone_to_owned();
    command.stdout(output.map_or_else(|_| Stdio::null(), Stdio::from));
    command.status().is_ok_and(|status| status.success())
}

/// While it lives, packages do not start their services. A policy that the machine has already is
/// left as it is.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid() -> Result<Self, Error> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            let what = "forbid packages to start their services";
            during(what, std::fs::write(POLICY, "#!/bin/sh\nexit 101\n"))?;
            let executable = std::fs::Permissions::from_mode(0o755);
            during(what, std::fs::set_permissions(POLICY, executable))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!("posthouse-databases: remove {POLICY} by hand: {error}");
        }
    }
}

/// The program of this name, installed if it is missing.
pub(crate) fn program(name: &str) -> Result<PathBuf, Error> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    ensure_installed()?;
    find(name).ok_or_else(|| Error::new(format!("{name} is not in the installed packages")))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = postgres_folders().into_iter().chain(std::env::split_paths(&path));
    let mut folders = folders.chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()))
}

/// The newest version first.
fn postgres_folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(POSTGRES_FOLDER).into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}
