//! One `posthouse-trial` process: what it says, and its end.

use super::PATIENCE;
use rustix::process::{Pid, Signal, WaitIdOptions, kill_process};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The binary that does everything.
pub(crate) const TRIAL: &str = env!("CARGO_BIN_EXE_posthouse-trial");

/// A process that was started and not waited for.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    said: Arc<Said>,
    log: PathBuf,
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Process {
    /// Starts `posthouse-trial` with these arguments; `failpoint` is the place at which it is to die.
    pub(crate) fn start(
        name: &str,
        arguments: &[String],
        failpoint: Option<&str>,
        folder: &Path,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(TRIAL);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        command.env("POSTHOUSE_FAILPOINT_LOG", folder.join("failpoints"));
        command.env_remove("POSTHOUSE_FAILPOINT");
        if let Some(failpoint) = failpoint {
            command.env("POSTHOUSE_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Said::default());
        let (output, hearing) = (child.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                hearing.lines.lock().unwrap().0.push(line);
                hearing.more.notify_all();
            }
            hearing.lines.lock().unwrap().1 = true;
            hearing.more.notify_all();
        });
        Self { name: name.to_owned(), child, said, log }
    }

    /// Waits until it has said a line that begins like this, and gives the rest of it.
    #[track_caller]
    pub(crate) fn hear(&self, start: &str) -> String {
        let heard = self.hear_within(start, PATIENCE);
        heard.unwrap_or_else(|| panic!("{} does not say {start:?}:\n{}", self.name, self.told()))
    }

    /// As [`Self::hear`]; `None` if it ends, or takes longer than `patience`, before it says so.
    pub(crate) fn hear_within(&self, start: &str, patience: Duration) -> Option<String> {
        let find = |lines: &[String]| {
            lines.iter().rev().find_map(|line| line.strip_prefix(start).map(str::to_owned))
        };
        let lines = self.said.lines.lock().unwrap();
        let silent = |(lines, ended): &mut (Vec<String>, bool)| find(lines).is_none() && !*ended;
        let (lines, _) = self.said.more.wait_timeout_while(lines, patience, silent).unwrap();
        find(&lines.0)
    }

    /// Waits until it says another line that begins like this, and comes back at once; for so long at
    /// most, or until it ends.
    pub(crate) fn hear_next(&self, start: &str, patience: Duration) {
        let count = |lines: &[String]| lines.iter().filter(|line| line.starts_with(start)).count();
        let lines = self.said.lines.lock().unwrap();
        let before = count(&lines.0);
        let silent = |(lines, ended): &mut (Vec<String>, bool)| count(lines) == before && !*ended;
        drop(self.said.more.wait_timeout_while(lines, patience, silent).unwrap());
    }

    /// How often it has said a line that begins like this.
    pub(crate) fn count(&self, start: &str) -> usize {
        let lines = self.said.lines.lock().unwrap();
        lines.0.iter().filter(|line| line.starts_with(start)).count()
    }

    /// Whether this relay has the lease, as far as it has said.
    pub(crate) fn is_active(&self) -> bool {
        let lines = self.said.lines.lock().unwrap();
        let is_state = |line: &&String| line.as_str() == "active" || line.starts_with("passive");
        lines.0.iter().rev().find(is_state).is_some_and(|line| line == "active")
    }

    /// Whether it has logged this.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap_or_default().contains(text)
    }

    /// What it said and logged last.
    pub(crate) fn told(&self) -> String {
        let lines = self.said.lines.lock().unwrap();
        let last = |lines: &[String]| lines[lines.len().saturating_sub(12)..].join("\n  ");
        let log =
            String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let log: Vec<String> = log.lines().map(str::to_owned).collect();
        format!("{} said:\n  {}\nand logged:\n  {}", self.name, last(&lines.0), last(&log))
    }

    /// What the kernel says it is doing: asleep, stopped, gone.
    fn state(&self) -> String {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.unwrap_or("gone").trim().to_owned()
    }

    /// Whether it was stopped, by [`Self::freeze`] or at its failpoint. One that only says that its
    /// failpoint fired is not yet: resumed then, it would be stopped afterwards, for good.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state().starts_with('T')
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been waited for");
    }

    /// Stops it in its tracks; it goes on by [`Self::resume`].
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let id = rustix::process::WaitId::Pid(pid);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_or_tell(String::new)
    }

    /// As [`Self::wait`]; who waits in vain is told more.
    #[track_caller]
    pub(crate) fn wait_or_tell(&mut self, more: impl FnOnce() -> String) -> ExitStatus {
        let lines = self.said.lines.lock().unwrap();
        let going_on = |(_, ended): &mut (Vec<String>, bool)| !*ended;
        let (waited, _) = self.said.more.wait_timeout_while(lines, PATIENCE, going_on).unwrap();
        let ended = waited.1;
        drop(waited);
        let told = |more| format!("is {}: {}\n{more}", self.state(), self.told());
        assert!(ended, "{} does not end, and {}", self.name, told(more()));
        self.child.wait().unwrap()
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.told());
    }

    /// Waits until it has died of its failpoint.
    #[track_caller]
    pub(crate) fn abort(mut self) {
        let status = self.wait();
        let aborted = status.signal() == Some(Signal::ABORT.as_raw());
        assert!(aborted, "{} ended with {status}: {}", self.name, self.told());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
