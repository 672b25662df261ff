//! The ack floors that deliveries have brought, and when they were last put to use.

use posthouse_client::outbox::sql::Floor;
use posthouse_client::{Fence, Offset};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Floors {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    floors: BTreeMap<String, Floor>,
    collected_at: Option<Instant>,
}

impl Floors {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a delivery says. The latest hand-out knows best: after the broker was restored
    /// from a copy its floor may be lower.
    pub(super) fn note(&self, source: &str, place: Offset, fence: Fence) {
        let mut seen = self.lock();
        match seen.floors.get_mut(source) {
            Some(floor) if floor.fence < fence => *floor = Floor { place, fence },
            Some(_) => {}
            None => {
                seen.floors.insert(source.to_owned(), Floor { place, fence });
            }
        }
    }

    pub(super) fn seen(&self) -> Vec<(String, Floor)> {
        self.lock().floors.iter().map(|(source, floor)| (source.clone(), *floor)).collect()
    }

    /// Whether it is time to collect; if so, the next time is `every` from now.
    pub(super) fn is_due(&self, now: Instant, every: Duration) -> bool {
        let mut seen = self.lock();
        let due = seen.collected_at.is_none_or(|at| now.duration_since(at) >= every);
        if due {
            seen.collected_at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::StartEpoch;

    #[test]
    fn the_latest_hand_out_knows_the_floor() {
        let floors = Floors::default();
        let fence = |counter| Fence { epoch: StartEpoch(1), counter };
        floors.note("a.b", Offset(5), fence(50));
        floors.note("a.b", Offset(3), fence(30));
        assert_eq!(
            floors.seen(),
            [("a.b".to_owned(), Floor { place: Offset(5), fence: fence(50) })]
        );
        floors.note("a.b", Offset(7), fence(70));
        assert_eq!(floors.seen()[0].1.place, Offset(7));
    }

    #[tokio::test(start_paused = true)]
    async fn collecting_is_due_at_first_and_then_hourly() {
        let floors = Floors::default();
        let hour = Duration::from_secs(3600);
        let start = Instant::now();
        assert!(floors.is_due(start, hour));
        assert!(!floors.is_due(start + hour / 2, hour));
        assert!(floors.is_due(start + hour, hour));
    }
}
