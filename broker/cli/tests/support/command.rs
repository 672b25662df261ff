//! One run of the `posthouse` command.

use super::PATIENCE;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::sync_channel;

/// The binary under test.
pub(crate) const POSTHOUSE: &str = env!("CARGO_BIN_EXE_posthouse");

/// A command that has been started.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    shown: String,
}

/// A command that will talk to the broker at `server`, with nothing inherited that could change it.
pub(crate) fn command(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(POSTHOUSE);
    command.args(arguments).env("POSTHOUSE_SERVER", server);
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn run(server: &str, arguments: &[&str]) -> Output {
    start(command(server, arguments)).output()
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) fn run_with_input(server: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(server, arguments);
    command.stdin(Stdio::piped());
    let mut running = start(command);
    let mut stdin = running.child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        // A command that does not read all of it is no failure of the test.
        scope.spawn(move || drop(stdin.write_all(input)));
        running.output()
    })
}

/// Runs a command that must end with exit code 0, and gives its standard output.
#[track_caller]
pub(crate) fn ok(server: &str, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("the test's bodies are UTF-8")
}

/// The single JSON object that a command prints.
#[track_caller]
pub(crate) fn object(server: &str, arguments: &[&str]) -> serde_json::Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    serde_json::from_str(&ok(server, &arguments)).expect("an object")
}

/// What a command said on standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a command.
pub(crate) fn start(mut command: Command) -> Running {
    let shown = format!("{command:?}");
    let child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Running { child, shown }
}

impl Running {
    /// Its standard input.
    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("it is piped")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        send(&self.child, signal);
    }

    /// Waits for its end, and kills it if that takes too long.
    pub(crate) fn output(mut self) -> Output {
        let mut stdout = self.child.stdout.take().expect("it is piped");
        let mut stderr = self.child.stderr.take().expect("it is piped");
        let mut read = Output { status: ExitStatus::default(), stdout: vec![], stderr: vec![] };
        std::thread::scope(|scope| {
            scope.spawn(|| stdout.read_to_end(&mut read.stdout));
            scope.spawn(|| stderr.read_to_end(&mut read.stderr));
            read.status = wait(&mut self.child, &self.shown);
        });
        read
    }
}

/// Waits for the end of a child, and kills it if that takes too long.
#[track_caller]
pub(crate) fn wait(child: &mut Child, shown: &str) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(child);
    let (ended, end) = sync_channel::<()>(0);
    let (status, hung) = std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let hung =
                end.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if hung {
                let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                killed.expect("it has not been waited for");
            }
            hung
        });
        let status = child.wait().expect("it is a child");
        drop(ended);
        (status, watch.join().expect("the watch does not panic"))
    });
    assert!(!hung, "{shown} did not end within {PATIENCE:?}");
    status
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("it has not been waited for");
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
