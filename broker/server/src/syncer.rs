//! The sync thread: makes one group durable while the core gathers the next.

use posthouse_storage::journal::{SyncDone, SyncJob};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// The core's side of the sync thread. At most one sync is under way.
#[derive(Debug)]
pub(crate) struct Syncer {
    jobs: Option<SyncSender<SyncJob>>,
    done: Arc<Mutex<Option<SyncDone>>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread; `wake` rings when a sync has ended.
    pub(crate) fn start(wake: Arc<Notify>) -> std::io::Result<Self> {
        let (jobs, theirs) = sync_channel(1);
        let done = Arc::new(Mutex::new(None));
        let result = Arc::clone(&done);
        let thread = std::thread::Builder::new()
            .name("posthouse-sync".to_owned())
            .spawn(move || work(&theirs, &result, &wake))?;
        Ok(Self { jobs: Some(jobs), done, busy: false, thread: Some(thread) })
    }

    /// Hands a sync over.
    pub(crate) fn begin(&mut self, job: SyncJob) {
        debug_assert!(!self.busy, "one sync at a time");
        self.busy = true;
        let sent = self.jobs.as_ref().map(|jobs| jobs.try_send(job));
        assert!(matches!(sent, Some(Ok(()))), "the sync thread is alive and idle");
    }

    /// The sync that has ended, if one has.
    pub(crate) fn take_done(&mut self) -> Option<SyncDone> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy &= done.is_none();
        done
    }

    /// Whether the thread has died of a bug.
    pub(crate) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

fn work(jobs: &Receiver<SyncJob>, result: &Mutex<Option<SyncDone>>, wake: &Notify) {
    while let Ok(job) = jobs.recv() {
        let done = job.run();
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        wake.notify_one();
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the sync thread died of a bug");
        }
    }
}
