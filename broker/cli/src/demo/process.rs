//! Real processes: the broker, the shop, the office.

use super::Part;
use crate::exit::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A temporary directory with everybody's data.
#[derive(Debug)]
pub(super) struct Site {
    home: TempDir,
    /// The first broker's, so that clients find the next ones.
    address: Option<String>,
}

/// A broker that runs. Killed when dropped.
#[derive(Debug)]
pub(super) struct BrokerProcess {
    child: Child,
    address: String,
    /// Kept open: a broker that cannot print would be disturbed.
    _stdout: BufReader<ChildStdout>,
}

impl Site {
    pub(super) fn new() -> Result<Self, Failure> {
        let home = tempfile::Builder::new().prefix("posthouse-demo-").tempdir();
        let home = home.map_err(|error| failed("make a temporary directory", &error))?;
        Ok(Self { home, address: None })
    }

    pub(super) fn folder(&self) -> &Path {
        self.home.path()
    }

    /// Starts the shop or the office.
    pub(super) fn play(&self, part: Part, messages: u64) -> Result<PartProcess, Failure> {
        let name = match part {
            Part::Shop => "shop",
            Part::Office => "office",
        };
        let log = self.home.path().join(name).with_extension("log");
        let start = || -> std::io::Result<Child> {
            let mut command = plain(&log)?;
            command.args(["demo", "--part", name, "--messages", &messages.to_string(), "--folder"]);
            command.arg(self.home.path()).arg("--server");
            command.arg(self.address.as_deref().unwrap_or_default());
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()
        };
        let mut child = start().map_err(|error| failed("start a process", &error))?;
        let stdin = child.stdin.take();
        Ok(PartProcess { child, stdin, name, log })
    }

    /// Starts a broker and waits until it is ready.
    pub(super) fn start(&mut self) -> Result<BrokerProcess, Failure> {
        let log = self.home.path().join("broker.log");
        let mut command = self.command(&log).map_err(|error| failed("prepare a broker", &error))?;
        let mut child = command.spawn().map_err(|error| failed("start a broker", &error))?;
        let mut line = String::new();
        let stdout = child.stdout.take().map(BufReader::new);
        let read = stdout.map(|mut stdout| (stdout.read_line(&mut line), stdout));
        let address = line.trim_end().strip_prefix("posthouse ready on ");
        let (Some((Ok(_), stdout)), Some(address)) = (read, address) else {
            let _: std::io::Result<()> = child.kill();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::refused(format_args!("the broker did not start:\n{said}")));
        };
        self.address = Some(address.to_owned());
        Ok(BrokerProcess { child, address: address.to_owned(), _stdout: stdout })
    }

    fn command(&self, log: &Path) -> std::io::Result<Command> {
        let mut command = plain(log)?;
        command.arg("serve").arg("--data-dir").arg(self.home.path().join("data"));
        command.arg("--listen").arg(self.address.as_deref().unwrap_or("127.0.0.1:0"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }
}

/// This program, with its log in a file, and the same wherever the demo is told.
fn plain(log: &Path) -> std::io::Result<Command> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHOUSE_") {
            command.env_remove(name);
        }
    }
    command.stderr(log);
    Ok(command)
}

/// The shop or the office. Killed when dropped.
#[derive(Debug)]
pub(super) struct PartProcess {
    child: Child,
    /// Closed, the office ends.
    stdin: Option<ChildStdin>,
    name: &'static str,
    log: PathBuf,
}

impl PartProcess {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| failed("kill a process", &error))
    }

    /// Whether it has ended by itself, as it should in the end.
    pub(super) fn has_ended(&mut self) -> Result<bool, Failure> {
        match self.child.try_wait().map_err(|error| failed("wait for a process", &error))? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => {
                let (name, said) = (self.name, std::fs::read_to_string(&self.log));
                let said = said.unwrap_or_default();
                Err(Failure::refused(format_args!("the {name} ended with {status}:\n{said}")))
            }
        }
    }

    /// Says so if it has ended although it should not have.
    pub(super) fn expect_alive(&mut self) -> Result<(), Failure> {
        if self.has_ended()? {
            return Err(Failure::refused(format_args!("the {} ended too early", self.name)));
        }
        Ok(())
    }

    /// Asks it to end, and waits for that.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.stdin = None;
        self.child.wait().map_err(|error| failed("stop a process", &error))?;
        self.has_ended().map(drop)
    }
}

impl Drop for PartProcess {
    fn drop(&mut self) {
        // Ended already, both fail, and nothing is left to do.
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

impl BrokerProcess {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| failed("kill the broker", &error))
    }

    /// Asks it to stop, and gives its exit code.
    pub(super) fn stop(mut self) -> Result<i32, Failure> {
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let ended = asked.map_err(std::io::Error::from).and_then(|()| self.child.wait());
        let status = ended.map_err(|error| failed("stop the broker", &error))?;
        status.code().ok_or_else(|| Failure::refused(format_args!("the broker died: {status}")))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // Ended already, both fail, and nothing is left to do.
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

fn failed(doing: &str, error: &std::io::Error) -> Failure {
    Failure::refused(format_args!("cannot {doing}: {error}"))
}
