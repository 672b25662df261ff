//! Labelled places at which a test may end the process.
//!
//! Without the feature `failpoints` they are nothing at all. With it, `POSTHOUSE_FAILPOINT=label` or
//! `label:n` aborts the process the first or the n-th time that the place is reached; `label:n:stop`
//! stops it there instead, as SIGSTOP does, so that it comes back as a zombie with SIGCONT. If
//! `POSTHOUSE_FAILPOINT_LOG` names a file, each place that fires is appended to it as a line.
//!
//! A place can be in the midst of something that others carry out, a commit for example: then n says
//! how far into it, too, and if it was over before that, the next time counts.

#[cfg(not(feature = "failpoints"))]
use std::future::Future;

/// Ends or stops the process here if a test wants that.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn failpoint(_label: &str) {}

/// Ends or stops the process in the midst of `work` if a test wants that: it is on its way, and what
/// comes of it is not known yet.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn amid<F: Future>(_label: Option<&str>, work: F) -> F {
    work
}

/// The same for work that blocks.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn during<T>(_label: &str, work: impl FnOnce() -> T) -> T {
    work()
}

/// Ends or stops the process here if a test wants that.
#[cfg(feature = "failpoints")]
pub fn failpoint(label: &str) {
    armed::reached(label);
}

#[cfg(feature = "failpoints")]
pub use armed::{amid, during};

#[cfg(feature = "failpoints")]
mod armed {
    use crate::lock::lock;
    use std::future::{Future, poll_fn};
    use std::io::Write as _;
    use std::pin::pin;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, OnceLock};

    /// Turns of a loop per count that a place in the midst of something is away from its begin.
    const TURNS: u64 = 500;

    /// Comes back once the process is stopped: until then this thread would go on beyond the place.
    const STOP: &str = "kill -s STOP $PPID; for i in $(seq 500); do \
         grep -q '^State:.T' /proc/$PPID/status && exit; sleep 0.01; done";

    struct Armed {
        label: String,
        /// Stops there instead of aborting.
        stops: bool,
        /// How often the place must still be reached; zero if it has fired.
        left: AtomicU64,
        /// See [`TURNS`].
        turns: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed(label: &str) -> Option<&'static Armed> {
        ARMED.get_or_init(read).as_ref().filter(|armed| armed.label == label)
    }

    fn read() -> Option<Armed> {
        let text = std::env::var("POSTHOUSE_FAILPOINT").ok()?;
        let mut parts = text.split(':');
        let label = parts.next().unwrap_or_default().to_owned();
        let count = parts.next().map_or(Ok(1), str::parse);
        let count = count.expect("POSTHOUSE_FAILPOINT is LABEL, LABEL:N or LABEL:N:stop");
        let (left, turns) = (AtomicU64::new(count), AtomicU64::new(TURNS * count));
        Some(Armed { label, stops: parts.next() == Some("stop"), left, turns })
    }

    pub(super) fn reached(label: &str) {
        let Some(armed) = armed(label) else { return };
        if armed.is_due() {
            armed.fire();
        }
    }

    /// Ends or stops the process in the midst of `work` if a test wants that: it is on its way, and
    /// what comes of it is not known yet.
    pub async fn amid<T>(label: Option<&str>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut armed = label.and_then(armed);
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            let Some(armed) = armed.take_if(|_| polled.is_pending()) else { return polled };
            if !armed.is_due() {
                return polled;
            }
            armed.turn();
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() {
                armed.fire();
            } else {
                armed.come_sooner();
            }
            polled
        })
        .await
    }

    /// The same for work that blocks.
    pub fn during<T>(label: &str, work: impl FnOnce() -> T) -> T {
        let Some(armed) = armed(label).filter(|armed| armed.is_due()) else { return work() };
        let is_over = Arc::new(Mutex::new(false));
        let watched = Arc::clone(&is_over);
        std::thread::spawn(move || {
            armed.turn();
            // Held while it fires, so that whoever works learns nothing any more.
            let is_over = lock(&watched);
            if *is_over { armed.come_sooner() } else { armed.fire() }
        });
        let done = work();
        *lock(&is_over) = true;
        done
    }

    impl Armed {
        /// Counts that the place is reached; whether it is to fire.
        fn is_due(&self) -> bool {
            let earlier = |left: u64| (left > 1).then(|| left - 1);
            let counted = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, earlier);
            counted == Err(1)
        }

        fn turn(&self) {
            for _ in 0..self.turns.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        }

        fn come_sooner(&self) {
            let half = |turns: u64| Some(turns / 2);
            let _halved = self.turns.fetch_update(Ordering::SeqCst, Ordering::SeqCst, half);
        }

        /// Once.
        fn fire(&self) {
            if self.left.swap(0, Ordering::SeqCst) == 0 {
                return;
            }
            let label = &self.label;
            if let Some(path) = std::env::var_os("POSTHOUSE_FAILPOINT_LOG") {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                // The test that armed the place fails if this line is missing.
                let _ = file.and_then(|mut file| writeln!(file, "{label}"));
            }
            if !self.stops {
                std::process::abort();
            }
            let stopped = std::process::Command::new("sh").args(["-c", STOP]).status();
            assert!(stopped.is_ok_and(|status| status.success()), "cannot stop at {label}");
        }
    }
}
