//! The only place that reads the wall clock. Deadlines use `tokio::time`, which tests can pause.

use posthouse_protocol::Timestamp;
use std::time::{Duration, SystemTime};

/// Now, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the client's one reading of the wall clock")]
pub(crate) fn wall_clock() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(millis(since_1970.unwrap_or_default()))
}

/// A duration as the wire carries it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
