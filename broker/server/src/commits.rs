//! The places at which a test may end the broker while a commit is under way. Only commits count, so
//! that what prepares a test triggers nothing. Without the feature `failpoints` they do nothing.

use posthouse_client::failpoint::failpoint;
use posthouse_engine::effect::Append;
use posthouse_engine::event::Event;
use posthouse_protocol::LogIndex;

/// Commits between their frame and its sync.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// The group at hand has one.
    in_group: bool,
    /// The last frame with one that may not be synced.
    unsynced: Option<LogIndex>,
}

impl Commits {
    /// A frame joins the group that is about to be written.
    pub(crate) fn joined(&mut self, frame: &Append) {
        let is_commit = || matches!(frame.events.last(), Some(Event::Committed(_)));
        self.in_group |= cfg!(feature = "failpoints") && is_commit();
    }

    /// The group is complete, and nothing of it is written.
    pub(crate) fn before_write(&self) {
        if self.in_group {
            failpoint("broker.before-write");
        }
    }

    /// The group is written up to the frame `last`.
    pub(crate) fn after_write(&mut self, last: LogIndex) {
        if std::mem::take(&mut self.in_group) {
            failpoint("broker.after-write");
            self.unsynced = Some(last);
        }
    }

    /// Everything up to `durable` is synced, and nothing that depends on it has left.
    pub(crate) fn after_sync(&mut self, durable: LogIndex) {
        if self.unsynced.take_if(|last| *last <= durable).is_some() {
            failpoint("broker.after-sync");
        }
    }
}

/// The answer to a commit has been given to the system.
pub(crate) fn after_reply() {
    failpoint("broker.after-reply");
}
