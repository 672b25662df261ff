//! Reads that may touch the disk, on a thread of their own, so that the core never waits for one.

use crate::due::{Due, read_due};
use crate::read;
use crate::shell::Job;
use bytes::Bytes;
use posthouse_engine::Input;
use posthouse_engine::effect::Fetch;
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::{CorrelationId, Reply};
use posthouse_storage::reader::Reader;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// What was read.
#[derive(Debug)]
pub enum Loaded {
    /// For the engine.
    Input(Input),
    /// For a client.
    Reply {
        /// Whose request it answers.
        connection: ConnectionId,
        /// Which.
        correlation: CorrelationId,
        /// The answer.
        reply: Reply,
        /// Its tail, in parts.
        tail: Vec<Bytes>,
    },
}

/// The core's side of the loader.
#[derive(Debug)]
pub(crate) struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wanted: Condvar,
    done: Mutex<Vec<Loaded>>,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopping: bool,
}

impl Loader {
    /// Starts the thread; `wake` rings when something has been read.
    pub(crate) fn start(reader: &Reader, wake: Arc<Notify>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wanted: Condvar::new(),
            done: Mutex::default(),
            wake,
        });
        let (theirs, reader) = (Arc::clone(&shared), reader.clone());
        let thread = std::thread::Builder::new()
            .name("posthouse-load".to_owned())
            .spawn(move || work(&theirs, &reader))?;
        Ok(Self { shared, threads: vec![thread] })
    }

    /// Asks for a read. Bounded by what asks: one window a subscription, 16 dead letters, 16 messages of
    /// a redrive, due messages of 16 topics, and requests unanswered.
    pub(crate) fn ask(&self, job: Job) {
        lock(&self.shared.queue).jobs.push_back(job);
        self.shared.wanted.notify_one();
    }

    /// Takes what has been read.
    pub(crate) fn take(&self, into: &mut Vec<Loaded>) {
        into.append(&mut lock(&self.shared.done));
    }

    /// Whether a thread has died of a bug.
    pub(crate) fn is_dead(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        lock(&self.shared.queue).stopping = true;
        self.shared.wanted.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the loader thread died of a bug");
            }
        }
    }
}

fn work(shared: &Shared, reader: &Reader) {
    while let Some(job) = next_job(shared) {
        let loaded = perform(reader, job);
        lock(&shared.done).push(loaded);
        shared.wake.notify_one();
    }
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut queue = lock(&shared.queue);
    loop {
        if queue.stopping {
            return None;
        }
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        queue = shared.wanted.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Carries out one read.
pub fn perform(reader: &Reader, job: Job) -> Loaded {
    match job {
        Job::Window { subscription, partition, from, end, entries_max } => {
            let (entries, next) = read::window(reader, partition, from, end, entries_max);
            Loaded::Input(Input::WindowLoaded { subscription, from, entries, next })
        }
        Job::Message { purpose, partition, offset, headers } => {
            let batch = read::message(reader, partition, offset, purpose, headers);
            Loaded::Input(Input::MessageLoaded { purpose, batch })
        }
        Job::Due { partition, offsets, bytes_max, told } => {
            let due = read_due(reader, partition, &offsets, bytes_max);
            let Due { offsets, damaged, unreadable, batch } = due;
            if let Some((first, error)) = unreadable.first().filter(|_| !told) {
                let count = unreadable.len();
                tracing::error!(%partition, %first, count, %error, "due messages cannot be read now");
            }
            let unreadable = unreadable.into_iter().map(|(offset, _)| offset).collect();
            for offset in &damaged {
                tracing::error!(%partition, %offset, "a delayed message is damaged, and dropped");
            }
            Loaded::Input(Input::DueLoaded { partition, offsets, damaged, unreadable, batch })
        }
        Job::Fetch(fetch) => {
            let (reply, tail) = read::fetch(reader, &fetch);
            let Fetch { connection, correlation, .. } = fetch;
            Loaded::Reply { connection, correlation, reply, tail }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks: they guard single pushes and swaps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
