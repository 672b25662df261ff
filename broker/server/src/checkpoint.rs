//! The checkpointer's thread: steps while there is work, else waits.

use crate::clock::Clock;
use crate::exit::Exit;
use crate::fold::Folded;
use posthouse_engine::Time;
use posthouse_storage::checkpointer::{Checkpointer, Step};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// Longest time between two looks for work.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The core's side of the checkpointer.
#[derive(Debug)]
pub(crate) struct CheckpointThread {
    shared: Arc<Shared>,
    /// Gone once it was joined.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: Option<Stop>,
    failure: Option<Exit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Fold everything first.
    Finish,
    /// At once.
    Abandon,
}

impl CheckpointThread {
    /// Starts the thread; `wake` rings if it fails.
    pub(crate) fn start(
        mut checkpointer: Checkpointer<Folded>,
        clock: Clock,
        wake: Arc<Notify>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("posthouse-fold".to_owned()).spawn(move || {
                if let Err(exit) = work(&mut checkpointer, clock, &theirs) {
                    lock(&theirs.state).failure = Some(exit);
                    wake.notify_one();
                }
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Why the checkpointer gave up, if it did.
    pub(crate) fn failure(&self) -> Option<Exit> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return None;
        }
        let failure = lock(&self.shared.state).failure.clone();
        Some(failure.unwrap_or_else(|| Exit::Bug("the checkpointer panicked".to_owned())))
    }

    /// Folds what there is and ends.
    pub(crate) fn finish(mut self) -> Result<(), Exit> {
        self.end(Stop::Finish)
    }

    fn end(&mut self, stop: Stop) -> Result<(), Exit> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        lock(&self.shared.state).stop = Some(stop);
        self.shared.changed.notify_one();
        if thread.join().is_err() {
            return Err(Exit::Bug("the checkpointer panicked".to_owned()));
        }
        lock(&self.shared.state).failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for CheckpointThread {
    /// Ends it after the step under way, so that nobody holds the data directory any more.
    fn drop(&mut self) {
        if let Err(exit) = self.end(Stop::Abandon) {
            tracing::error!(%exit, "the checkpointer failed as well");
        }
    }
}

fn work(
    checkpointer: &mut Checkpointer<Folded>,
    clock: Clock,
    shared: &Shared,
) -> Result<(), Exit> {
    loop {
        let stop = lock(&shared.state).stop;
        if stop == Some(Stop::Abandon) {
            return Ok(());
        }
        if stop == Some(Stop::Finish) {
            checkpointer.hurry();
        }
        let now = clock.now().mono.since(Time::default());
        let step = match checkpointer.step(now) {
            Ok(step) => step,
            Err(error) if error.is_fatal() => return Err(Exit::Disk(error.to_string())),
            Err(error) => {
                tracing::error!(%error, "the checkpointer tries again");
                Step::Idle { until: now + LOOK_EVERY }
            }
        };
        for damaged in checkpointer.take_damaged() {
            tracing::error!(?damaged, "a stored batch is damaged and was left behind");
        }
        let until = match step {
            Step::Worked(_) => continue,
            Step::Idle { .. } | Step::OutOfSpace { .. } if stop.is_some() => return Ok(()),
            Step::Idle { until } | Step::OutOfSpace { until } => until,
        };
        let wait = until.saturating_sub(now).min(LOOK_EVERY);
        let state = lock(&shared.state);
        let waited = shared.changed.wait_timeout_while(state, wait, |state| state.stop.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
