//! A `posthouse serve` process.

use super::PATIENCE;
use super::command::{command, send, wait};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::sync_channel;

/// Where a broker keeps its things, and how it is started again and again.
#[derive(Debug)]
pub(crate) struct Site {
    home: tempfile::TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Once known, so that clients find the next broker where the last one was.
    address: Option<String>,
}

/// A broker that runs.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Site {
    /// A place of its own, on a free port of the first start.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("posthouse-test-").tempdir().unwrap();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { home, arguments, environment: Vec::new(), address: None }
    }

    /// Gives the brokers started from now on a variable.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A directory for the test's own files; goes with the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The broker's directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The command that starts a broker here.
    pub(crate) fn serve(&self) -> std::process::Command {
        let data_dir = self.data_dir();
        let listen = self.address.as_deref().unwrap_or("127.0.0.1:0");
        let data_dir = data_dir.to_str().expect("temporary paths are UTF-8");
        let mut command =
            command("nowhere:1", &["serve", "--data-dir", data_dir, "--listen", listen]);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command
    }

    /// Lets the next broker take a free port again.
    pub(crate) fn forget_address(&mut self) {
        self.address = None;
    }

    /// Starts a broker and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Broker {
        let log = self.path("broker.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = self.serve().stderr(file).spawn().expect("the binary was built");
        let stdout = child.stdout.take().expect("it is piped");
        let Some(line) = first_line(stdout) else {
            let _ = child.kill();
            let status = wait(&mut child, "posthouse serve");
            panic!("the broker was not ready ({status}):\n{}", tail(&log));
        };
        let address = line.trim().strip_prefix("posthouse ready on ").unwrap_or_else(|| {
            panic!("not a ready line: {line:?}");
        });
        self.address = address.split(", ").next().map(str::to_owned);
        Broker { child, address: address.to_owned(), log }
    }
}

impl Broker {
    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) fn kill(self) {
        self.end(Signal::KILL);
    }

    /// Asks it to stop, and gives its exit code.
    pub(crate) fn stop(self) -> Option<i32> {
        self.end(Signal::TERM)
    }

    /// Waits until it ends by itself, and gives its exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        wait(&mut self.child, "posthouse serve").code()
    }

    /// Sends it a signal and waits until it is gone.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        send(&self.child, signal);
        wait(&mut self.child, "posthouse serve").code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the broker's log ends:\n{}", tail(&self.log));
        }
    }
}

/// The first line that a process prints, if it does so in time. What follows is read and dropped.
fn first_line(stdout: impl std::io::Read + Send + 'static) -> Option<String> {
    let (found, line) = sync_channel(1);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        if let Some(first) = lines.next() {
            let _ = found.send(first);
        }
        lines.for_each(drop);
    });
    line.recv_timeout(PATIENCE).ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
