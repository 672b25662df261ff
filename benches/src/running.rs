//! A broker to be measured: in this process on its own threads, or a process that ends with this one.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use posthouse_broker::{Broker, Config, Exit};
use rustix::process::{Pid, Signal, kill_process_group};

/// Clock ticks of `/proc/<pid>/stat` in a second, on every Linux.
const TICKS: u64 = 100;
/// Which words of that file, after the command's name, hold the processor time.
const CPU_WORDS: std::ops::Range<usize> = 11..13;

/// A command for a program that the kernel kills when the thread that starts it ends, however it
/// does, and that is out of reach of the keyboard.
pub(crate) fn guarded(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([OsStr::new("--pdeathsig"), OsStr::new("KILL"), OsStr::new("--")]).arg(program);
    command.process_group(0);
    command
}

/// A process with what it has started; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    inner: process::Child,
}

impl Child {
    /// Starts a command made by [`guarded`].
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { inner: command.spawn()? })
    }

    pub(crate) fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.inner.try_wait()?.is_some())
    }

    /// Bytes of its own memory, the page cache left out.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = read(self.inner.id(), "status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("no RssAnon"))
    }

    /// Processor time used by all its threads; zero once it has ended.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.inner.id())
    }
}

fn read(process: u32, file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{process}/{file}"))
}

/// Whether a process of this number is of that name.
pub(crate) fn is_running(process: u32, name: &str) -> bool {
    read(process, "comm").is_ok_and(|found| found.trim() == name)
}

/// Processor time used by all threads of a process; zero once it has ended.
pub(crate) fn cpu_of(process: u32) -> Duration {
    let stat = read(process, "stat").unwrap_or_default();
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let words = words.skip(CPU_WORDS.start).take(CPU_WORDS.len());
    let ticks: u64 = words.filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

impl Drop for Child {
    fn drop(&mut self) {
        let group = i32::try_from(self.inner.id()).ok().and_then(Pid::from_raw);
        // A group of which nobody is left cannot be killed, and need not be.
        let _killed = group.map(|group| kill_process_group(group, Signal::KILL));
        drop(self.inner.wait());
    }
}

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
        let mut command = guarded(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        let mut child = Child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let mut line = String::new();
        if let Some(stdout) = child.inner.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("posthouse ready on ").map(str::to_owned);
        let address = address.ok_or_else(|| io::Error::other("the broker was not ready"))?;
        Ok(Self { child, address })
    }

    /// Bytes of its own memory, the page cache left out.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.child.memory()
    }

    /// Processor time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        self.child.cpu()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(self) {
        drop(self);
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
