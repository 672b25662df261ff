//! The relay: hands what the outbox holds over to the broker, exactly once.
//!
//! Any number of relays may be started for one outbox, in any processes: one works, the others stand
//! by. It claims rows under a sequence number in the database before it sends them, so that whoever
//! goes on after a crash sends the same rows under the same number, and the broker, which keeps that
//! number with the messages, takes them once.

mod backoff;
mod error;
mod gaps;
mod handle;
mod machine;
#[cfg(test)]
mod model;
mod query;
mod reading;
mod sending;
mod shell;
mod sweep;
mod time;
mod window;

pub use error::{RelayError, RelayErrorKind};
pub use handle::{RelayHandle, RelayState, RelayStats};
pub use machine::OnPoison;

use super::Store;
use crate::Client;
use crate::ids::random;
use machine::{Doubt, Settings};
use shell::Shell;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Each row of a claim may be for a topic of its own, and a commit has no more operations.
const ROWS_LIMIT: u32 = posthouse_protocol::limits::LIST_ENTRIES_MAX;
/// More bytes in a claim would not fit into a frame with everything around them.
const BYTES_LIMIT: u64 = 8 << 20;
/// More claims under way would keep more in memory than they gain.
const DEPTH_LIMIT: usize = 64;
/// A shorter lease would be lost whenever the database pauses.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Shortest time for which late commits keep their order: what is found late has to be read yet.
const LATE_MIN: Duration = Duration::from_secs(1);
/// Shortest wait between looks.
const POLL_MIN: Duration = Duration::from_millis(1);

/// A relay being configured; [`Relay::spawn`] starts it.
#[derive(Debug)]
#[must_use = "a relay does nothing before it is spawned"]
pub struct Relay<S> {
    store: S,
    client: Client,
    name: String,
    settings: Settings,
    bell: Arc<Notify>,
}

impl<S: Store> Relay<S> {
    /// A relay from this database, over connections of its own, two while it works, to the broker of
    /// this client.
    pub fn new(store: S, client: Client) -> Self {
        let settings = settings();
        Self { store, client, name: "relay".to_owned(), settings, bell: Arc::default() }
    }

    /// How the holder of the lease is shown; a random part is added. `relay` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the lease lasts without being prolonged: so long after a relay was killed another
    /// one takes over. At least 1 s; 15 s unless set. A shutdown gives it back at once.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(LEASE_MIN);
        self
    }

    /// Most rows that are handed over in one commit: 1 to 4,096, 2,000 unless set. How many it is
    /// depends on how many wait.
    pub fn batch(mut self, rows: u32) -> Self {
        self.settings.rows_max = rows.clamp(1, ROWS_LIMIT);
        self
    }

    /// Most bytes that are handed over in one commit, unless one row has more: up to 8 MiB, 1 MiB
    /// unless set.
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.settings.bytes_max = bytes.clamp(1, BYTES_LIMIT);
        self
    }

    /// How many commits may be under way at a time: 1 to 64, 3 unless set.
    pub fn pipeline(mut self, commits: usize) -> Self {
        self.settings.depth = commits.clamp(1, DEPTH_LIMIT);
        self
    }

    /// What becomes of a row that the broker will never take: it is set aside unless set otherwise.
    pub fn on_poison(mut self, policy: OnPoison) -> Self {
        self.settings.on_poison = policy;
        self
    }

    /// How long the relay waits between looks while nothing comes, from the first wait to the
    /// longest: 20 ms to 1 s unless set, and 1 ms at least.
    pub fn poll(mut self, shortest: Duration, longest: Duration) -> Self {
        self.settings.poll_min = shortest.max(POLL_MIN);
        self.settings.poll_max = longest.max(self.settings.poll_min);
        self
    }

    /// For how long the order of a key holds: its messages come in the order of their transactions
    /// if none of these stays open for longer than this after its insert. 60 s unless set, and 1 s at
    /// least; for that time, each look asks for the numbers that rolled back transactions have left.
    pub fn late_commits(mut self, longest: Duration) -> Self {
        self.settings.gap_life = longest.max(LATE_MIN);
        self
    }

    /// Whoever commits a row in this process rings it; then the relay looks at once instead of
    /// waiting, see [`Self::poll`].
    pub fn bell(mut self, bell: Arc<Notify>) -> Self {
        self.bell = bell;
        self
    }

    /// Goes on with a broker that knows less than it has acknowledged, because it was restored from
    /// an older copy or replaced. What it has lost is not sent again: those rows are deleted.
    pub fn accept_restored_broker(mut self) -> Self {
        self.settings.broker_restored = Doubt::GoOn;
        self
    }

    /// Sends rows as they are now if somebody changed or deleted them after they were claimed and
    /// before they were handed over.
    pub fn accept_changed_rows(mut self) -> Self {
        self.settings.rows_changed = Doubt::GoOn;
        self
    }

    /// Makes a copied database an outbox of its own, under a new id. All rows in it are sent.
    pub fn adopt(mut self) -> Self {
        self.settings.copied = Doubt::GoOn;
        self
    }

    /// Starts it, as a task of its own. It ends by [`RelayHandle::shutdown`], or with an error that
    /// nobody but an operator can do something about; everything else it rides out.
    ///
    /// Must be called inside a tokio runtime with time enabled.
    ///
    /// # Panics
    ///
    /// Outside of one.
    pub fn spawn(self) -> RelayHandle {
        let owner = format!("{}-{:016x}", self.name, random());
        let (shell, stop, stats) =
            Shell::new(self.store, self.client, self.settings, (owner, self.bell));
        #[expect(clippy::disallowed_methods, reason = "`RelayHandle` awaits or aborts it")]
        let task = tokio::task::spawn(shell.run());
        RelayHandle::new(task, stop, stats)
    }
}

#[cfg(not(feature = "planted-bugs"))]
fn settings() -> Settings {
    Settings::default()
}

/// With the mistake that `POSTHOUSE_PLANTED_BUG` names, so that tests of whole processes show that
/// they find it.
#[cfg(feature = "planted-bugs")]
fn settings() -> Settings {
    use machine::Mistake;
    let name = std::env::var("POSTHOUSE_PLANTED_BUG").unwrap_or_default();
    let mistake = match name.as_str() {
        "cursor-without-gaps" => Some(Mistake::CursorWithoutGaps),
        "forget-claims" => Some(Mistake::ClaimsNotResumed),
        "row-id-as-sequence" => Some(Mistake::RowIdAsSequence),
        "park-without-fence" => Some(Mistake::ParkWithoutFence),
        _ => None,
    };
    Settings { mistake, ..Settings::default() }
}
