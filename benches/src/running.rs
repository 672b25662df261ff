//! A broker to be measured: in this process on its own threads, or the real binary.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use posthouse_broker::{Broker, Config, Exit};

/// A broker in this process, stopped at the end.
pub(crate) struct InProcess {
    runtime: tokio::runtime::Runtime,
    broker: Broker,
    pub(crate) address: SocketAddr,
}

impl InProcess {
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let listen = "127.0.0.1:0".parse().map_err(io::Error::other)?;
        let mut config = Config::default();
        config.listen = vec![listen];
        config.data_dir = dir.join("data");
        let broker = runtime.block_on(Broker::start(config)).map_err(io::Error::other)?;
        let address = broker.addresses().first().and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| io::Error::other("the broker has no address"))?;
        Ok(Self { runtime, broker, address })
    }

    pub(crate) fn stop(self) -> io::Result<()> {
        match self.runtime.block_on(self.broker.shutdown()) {
            Exit::Clean => Ok(()),
            exit @ (Exit::Refused(_) | Exit::Disk(_) | Exit::Bug(_)) => {
                Err(io::Error::other(exit.to_string()))
            }
        }
    }
}

/// A `posthouse serve` process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
}

impl Process {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(binary: &Path, data_dir: &Path) -> io::Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("posthouse ready on ").map(str::to_owned);
        let address = address.ok_or_else(|| io::Error::other("the broker was not ready"))?;
        Ok(Self { child, address })
    }

    /// Bytes of its own memory, the page cache left out.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("no RssAnon"))
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// The `posthouse` binary beside this one.
pub(crate) fn binary() -> io::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("posthouse");
    if binary.is_file() {
        return Ok(binary);
    }
    Err(io::Error::other("build it first: cargo build --release -p posthouse"))
}
