//! Topics, subscriptions and named producers: making, changing, deleting and describing them.
//!
//! Catalog changes are acknowledged when they are committed, whatever the topic's own durability:
//! the gate of every answer here is the last frame's commit.

pub(crate) mod producers;
pub(crate) mod subscriptions;
pub(crate) mod topics;

use posthouse_protocol::{Name, limits};

/// Most topics of a broker.
pub(crate) const TOPICS_MAX: usize = 200_000;
/// Most subscriptions of a topic.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1_000;

/// One page of a list of names: at most `limit`, and no more than fit in the head of a frame.
fn page(names: impl Iterator<Item = Name>, limit: u32) -> Vec<Name> {
    let limit = usize::try_from(limit.min(limits::LIST_ENTRIES_MAX)).unwrap_or(usize::MAX);
    let mut room = usize::try_from(limits::HEAD_BYTES_MAX / 2).unwrap_or(usize::MAX);
    let fits = |name: &Name| {
        let before = room;
        room = room.saturating_sub(name.as_str().len() + 4);
        before > room && room > 0
    };
    names.take(limit).take_while(fits).collect()
}
