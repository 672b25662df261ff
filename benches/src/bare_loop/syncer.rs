//! A thread that does nothing but sync what the core has written.

use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{clock, place};

/// Called on the sync thread after each sync.
pub(crate) type OnDurable = Box<dyn Fn() + Send>;

/// The core's handle of the sync thread.
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    requested: u64,
    thread: JoinHandle<Duration>,
}

impl fmt::Debug for Syncer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Syncer").field("requested", &self.requested).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    goal: Mutex<Goal>,
    changed: Condvar,
    durable: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Default)]
struct Goal {
    position: u64,
    stop: bool,
}

/// What the thread did in its life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) syncs: u64,
    pub(crate) cpu: Duration,
}

impl Syncer {
    pub(crate) fn start(file: Arc<File>, on_durable: OnDurable) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            place::roam().expect("a thread may run where its process may");
            theirs.sync_until_stopped(&file, &on_durable);
            clock::thread_cpu()
        });
        Self { shared, requested: 0, thread }
    }

    /// Asks for everything up to `position`, which must be written already.
    pub(crate) fn request(&mut self, position: u64) {
        self.requested = position;
        self.shared.goal.lock().expect("no holder panics").position = position;
        self.shared.changed.notify_one();
    }

    pub(crate) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.durable() >= self.requested
    }

    pub(crate) fn stop(self) -> Work {
        self.shared.goal.lock().expect("no holder panics").stop = true;
        self.shared.changed.notify_one();
        let cpu = self.thread.join().expect("a failed sync ends the bench");
        Work { syncs: self.shared.syncs.load(Ordering::Relaxed), cpu }
    }
}

impl Shared {
    fn sync_until_stopped(&self, file: &File, on_durable: &OnDurable) {
        let mut durable = 0;
        while let Some(position) = self.next_goal(durable) {
            file.sync_data().expect("a failed sync ends the bench");
            durable = position;
            self.syncs.fetch_add(1, Ordering::Relaxed);
            self.durable.store(durable, Ordering::Release);
            on_durable();
        }
    }

    fn next_goal(&self, durable: u64) -> Option<u64> {
        let goal = self.goal.lock().expect("no holder panics");
        let idle = |goal: &mut Goal| goal.position <= durable && !goal.stop;
        let goal = self.changed.wait_while(goal, idle).expect("no holder panics");
        (goal.position > durable).then_some(goal.position)
    }
}
