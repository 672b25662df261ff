//! Real `posthouse serve` processes.

use crate::exit::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A temporary directory with a broker's data.
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

    fn command(&self, log: &PathBuf) -> std::io::Result<Command> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--data-dir").arg(self.home.path().join("data"));
        command.arg("--listen").arg(self.address.as_deref().unwrap_or("127.0.0.1:0"));
        // The demo is the same wherever it is told.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTHOUSE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        Ok(command)
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
