//! Who has to be looked at when.

use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// At most one moment for each key, and the earliest at hand.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Replaces the moment of `key`.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// The earliest moment.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes a key whose moment has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, key) = self.by_time.first().copied()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn keys_come_in_the_order_of_their_last_moments() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut timers = Timers::new();
        timers.set('a', Some(at(1)));
        timers.set('b', Some(at(2)));
        timers.set('c', Some(at(3)));
        timers.set('a', Some(at(4)));
        timers.set('b', None);

        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop(at(3)), Some('c'));
        assert_eq!(timers.pop(at(3)), None);
        assert_eq!(timers.pop(at(4)), Some('a'));
        assert_eq!(timers.next(), None);
    }
}
