//! Labelled places at which a test may end the process.
//!
//! Without the feature `failpoints` they are nothing at all. With it, `POSTHOUSE_FAILPOINT=label` or
//! `label:n` aborts the process the first or the n-th time that the place is reached; `label:n:stop`
//! stops it there instead, as SIGSTOP does, so that it comes back as a zombie with SIGCONT. If
//! `POSTHOUSE_FAILPOINT_LOG` names a file, each place that fires is appended to it as a line.

/// Ends or stops the process here if a test wants that.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn failpoint(_label: &str) {}

/// Ends or stops the process here if a test wants that.
#[cfg(feature = "failpoints")]
pub fn failpoint(label: &str) {
    armed::reached(label);
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        label: String,
        /// Stops there instead of aborting.
        stops: bool,
        /// How often the place must still be reached.
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed() -> Option<Armed> {
        let text = std::env::var("POSTHOUSE_FAILPOINT").ok()?;
        let mut parts = text.split(':');
        let label = parts.next().unwrap_or_default().to_owned();
        let count = parts.next().map_or(Ok(1), str::parse);
        let left =
            AtomicU64::new(count.expect("POSTHOUSE_FAILPOINT is LABEL, LABEL:N or LABEL:N:stop"));
        Some(Armed { label, stops: parts.next() == Some("stop"), left })
    }

    pub(super) fn reached(label: &str) {
        let Some(armed) = ARMED.get_or_init(armed) else { return };
        if armed.label != label || armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        if let Some(path) = std::env::var_os("POSTHOUSE_FAILPOINT_LOG") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // The test that armed the place fails if this line is missing.
            let _ = file.and_then(|mut file| writeln!(file, "{label}"));
        }
        if !armed.stops {
            std::process::abort();
        }
        let stopped = std::process::Command::new("sh").args(["-c", "kill -s STOP $PPID"]).status();
        assert!(stopped.is_ok_and(|status| status.success()), "cannot stop at {label}");
    }
}
