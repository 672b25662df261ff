//! A message a line: read by a thread of its own, submitted as room allows, receipts in order.

use super::Envelope;
use super::tally::Tally;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::lines::{LINE_END, LINE_END_NONE, Line, LineError, LineReader};
use crate::output::{Output, grouped, note, progress};
use posthouse_client::{Message, Pending, Publisher, TrySubmitError};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Groups of lines between the reading thread and us; each is what one read completed.
const GROUPS_AHEAD: usize = 4;
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Periods without a receipt after which it is said that the broker is awaited.
const STALLED_TICKS: u32 = 5;

/// Input as it arrives.
type Input = mpsc::Receiver<Result<Vec<Line>, LineError>>;

/// Opens a file, or standard input for `-`, and starts reading.
pub(super) fn open(path: &Path) -> Result<Input, Failure> {
    if path == Path::new("-") {
        return read_ahead(io::stdin());
    }
    let file = std::fs::File::open(path).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let code = if missing { Code::NotFound } else { Code::Disk };
        Failure::new(code, format_args!("cannot open {}: {error}", path.display()))
    })?;
    read_ahead(file)
}

/// A thread of its own: a read from a pipe may block for ever, and nothing can cancel it.
fn read_ahead(input: impl Read + Send + 'static) -> Result<Input, Failure> {
    let (groups, receiver) = mpsc::channel(GROUPS_AHEAD);
    let read_all = move || {
        let mut reader = LineReader::new(input);
        loop {
            let lines = reader.next_lines();
            let last = lines.as_ref().map_or(true, Vec::is_empty);
            if groups.blocking_send(lines).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("lines".to_owned())
        .spawn(read_all)
        .map_err(|error| Failure::refused(format_args!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

/// What publishing lines needs.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) envelope: &'a Envelope,
    pub(super) topic: &'a str,
}

/// What is under way.
#[derive(Debug, Default)]
struct State {
    /// Read and not submitted.
    lines: VecDeque<Line>,
    /// Submitted and without receipt, in order.
    waiting: VecDeque<Pending>,
    tally: Tally,
    submitted: u64,
    /// Nothing more will be read.
    ended: bool,
    failure: Option<Failure>,
    /// Accepted when progress was last shown, and for how often it has been the same.
    shown: u64,
    stalled_ticks: u32,
}

impl State {
    /// Reads and submits nothing more; what is submitted still gets its receipts.
    fn stop(&mut self, failure: Failure) {
        self.lines.clear();
        self.ended = true;
        self.failure.get_or_insert(failure);
    }

    fn is_done(&self) -> bool {
        self.ended && self.lines.is_empty() && self.waiting.is_empty()
    }

    fn wants_lines(&self) -> bool {
        !self.ended && self.lines.is_empty()
    }

    /// Waits for no further receipt.
    fn abandon(&mut self) {
        let left = grouped(self.waiting.len() as u64);
        let text = format!("stopped at once; {left} lines may or may not have been accepted");
        self.failure = Some(Failure::new(Code::Unknown, text));
    }

    /// Takes the receipts that are there, at least one, up to the first failure.
    async fn take_receipts(&mut self) -> Option<Failure> {
        poll_fn(|context| {
            let mut taken = false;
            while let Some(first) = self.waiting.front_mut() {
                match Pin::new(first).poll(context) {
                    Poll::Ready(Ok(receipt)) => self.tally.count(&receipt),
                    Poll::Ready(Err(error)) => {
                        self.waiting.pop_front();
                        let line = grouped(self.tally.accepted() + 1);
                        let failure = Failure::from(error).at(format_args!("line {line}"));
                        return Poll::Ready(Some(failure));
                    }
                    Poll::Pending if taken => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
                self.waiting.pop_front();
                taken = true;
            }
            if taken { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

impl Job<'_> {
    /// Publishes everything and says how much was accepted.
    pub(super) async fn run(&self, input: Input, output: &mut Output) -> Result<(), Failure> {
        let mut state = State::default();
        self.pump(input, &mut state).await?;
        let text = format!("{} to {}", state.tally.text(), self.topic);
        output.print(&state.tally.object(self.topic), text)?;
        match state.failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    async fn pump(&self, mut input: Input, state: &mut State) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let mut ticks = interval(PROGRESS_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let shown = io::stderr().is_terminal();
        loop {
            self.submit_lines(state);
            if state.is_done() {
                break;
            }
            tokio::select! {
                biased;
                _ = interrupt.next() => {
                    if state.ended {
                        state.abandon();
                        break;
                    }
                    note("interrupted: waiting for what was sent; once more stops at once");
                    state.stop(Failure::refused("interrupted before the end of the input"));
                }
                _ = ticks.tick(), if shown => show(state),
                refused = state.take_receipts(), if !state.waiting.is_empty() => {
                    if let Some(failure) = refused {
                        state.stop(failure);
                    }
                }
                read = input.recv(), if state.wants_lines() => match read {
                    Some(Ok(lines)) if !lines.is_empty() => state.lines.extend(lines),
                    Some(Ok(_)) | None => state.ended = true,
                    Some(Err(error)) => state.stop(unreadable(&error)),
                }
            }
        }
        if shown {
            progress("");
        }
        Ok(())
    }

    /// Submits as many lines as there is room for.
    fn submit_lines(&self, state: &mut State) {
        while let Some(line) = state.lines.pop_front() {
            match self.publisher.try_submit(self.message(&line)) {
                Ok(pending) => {
                    state.waiting.push_back(pending);
                    state.submitted += 1;
                }
                Err(TrySubmitError::Full(_)) => return state.lines.push_front(line),
                Err(TrySubmitError::Failed(error)) => {
                    let number = grouped(state.submitted + 1);
                    state.stop(Failure::from(error).at(format_args!("line {number}")));
                }
            }
        }
    }

    fn message(&self, line: &Line) -> Message {
        let message = self.envelope.around(line.body.clone());
        if line.ended { message } else { message.header(LINE_END, LINE_END_NONE) }
    }
}

fn unreadable(error: &LineError) -> Failure {
    match error {
        LineError::Io(_) => Failure::new(Code::Disk, error),
        LineError::TooLong { .. } => Failure::refused(error),
    }
}

fn show(state: &mut State) {
    let accepted = state.tally.accepted();
    let stalls = accepted == state.shown && !state.waiting.is_empty();
    state.stalled_ticks = if stalls { state.stalled_ticks + 1 } else { 0 };
    state.shown = accepted;
    let hint = if state.stalled_ticks < STALLED_TICKS { "" } else { ", waiting for the broker" };
    progress(format_args!(
        "{} accepted, {} sent{hint}",
        grouped(accepted),
        grouped(state.submitted)
    ));
}
