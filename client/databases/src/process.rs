//! One server process: started until it answers, stopped, killed, started again.

use crate::error::{Error, during};
use crate::site::{Account, Site, tail};
use crate::{Stop, install};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for a server to answer or to end. Far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a process.
const PAUSE: Duration = Duration::from_millis(5);

/// The shell writes down its number, which stays that of the server.
const LAUNCH: &str = r#"echo $$ >"$0" && exec "$@""#;

/// What is to run, and where.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) account: Account,
    pub(crate) arguments: Vec<String>,
    /// Ends it in good order.
    pub(crate) fast: Signal,
    /// Ends it as a crash would.
    pub(crate) immediate: Signal,
}

/// A server that may be running.
#[derive(Debug)]
pub(crate) struct Server {
    recipe: Recipe,
    child: Mutex<Option<Child>>,
    site: Site,
}

impl Server {
    pub(crate) const fn new(site: Site, recipe: Recipe) -> Self {
        Self { recipe, child: Mutex::new(None), site }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    pub(crate) const fn account(&self) -> &Account {
        &self.recipe.account
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it and waits until `answers` says so. Does nothing if it runs.
    ///
    /// A server that was killed may leave helpers behind for a moment, which hold its files; so a
    /// start that fails is tried again.
    pub(crate) fn start(&self, answers: impl Fn() -> bool) -> Result<(), Error> {
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && during("look at a server", running.try_wait())?.is_none()
        {
            return Ok(());
        }
        let began = now();
        loop {
            let mut started = self.spawn()?;
            while during("look at a server", started.try_wait())?.is_none() {
                if answers() {
                    *child = Some(started);
                    return Ok(());
                }
                if began.elapsed() > PATIENCE {
                    let _ = started.kill();
                    let _ = started.wait();
                    return Err(self.error("does not answer"));
                }
                pause();
            }
            if began.elapsed() > PATIENCE / 4 {
                return Err(self.error("does not start"));
            }
            pause();
        }
    }

    fn error(&self, what: &str) -> Error {
        let log = tail(&self.path("server.log"));
        Error::new(format!("{} {what}; its log ends:\n{log}", self.recipe.name))
    }

    fn spawn(&self) -> Result<Child, Error> {
        let log = std::fs::File::options().create(true).append(true).open(self.path("server.log"));
        let log = during("open a server's log", log)?;
        let errors = during("open a server's log", log.try_clone())?;
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCH]).arg(self.path("server.pid"));
        let program = install::program(self.recipe.name)?;
        command.args(self.recipe.account.command(&program)?).args(&self.recipe.arguments);
        command.env("LC_ALL", "C").env("HOME", self.path(".")).current_dir("/");
        // What ends a test from the keyboard leaves the server to the reaper.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        during(&format!("start {}", self.recipe.name), command.spawn())
    }

    /// Stops it and waits for its end. Does nothing if it does not run.
    pub(crate) fn stop(&self, stop: Stop) -> Result<(), Error> {
        self.end(match stop {
            Stop::Fast => self.recipe.fast,
            Stop::Immediate => self.recipe.immediate,
        })
    }

    /// Kills the process, as the system does when memory runs out.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        self.end(Signal::KILL)
    }

    fn end(&self, signal: Signal) -> Result<(), Error> {
        let mut held = self.child();
        let Some(child) = held.as_mut() else { return Ok(()) };
        if during("look at a server", child.try_wait())?.is_none() {
            during("signal a server", Ok(kill_process(Pid::from_child(child), signal)?))?;
            if wait(child)?.is_none() {
                return Err(self.error("does not end"));
            }
        }
        *held = None;
        during("forget a server", std::fs::remove_file(self.path("server.pid")))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child().is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The reaper, which goes last, takes care of a server that does not end.
        let _ = self.end(self.recipe.immediate);
    }
}

fn wait(child: &mut Child) -> Result<Option<ExitStatus>, Error> {
    let began = now();
    while began.elapsed() < PATIENCE {
        if let Some(status) = during("look at a server", child.try_wait())? {
            return Ok(Some(status));
        }
        pause();
    }
    Ok(None)
}

#[expect(clippy::disallowed_methods, reason = "waiting for another program's process")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "waiting for another program's process")]
fn pause() {
    std::thread::sleep(PAUSE);
}
