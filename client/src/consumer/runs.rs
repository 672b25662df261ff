//! Deliveries gathered into runs of consecutive offsets and fences, in whatever order they come.
//!
//! Pure. Each offset is there at most once: a refusal names offsets only, so with two hand-outs of
//! one message it could not be told which of them it means.

use posthouse_protocol::message::DeliveryRun;
use posthouse_protocol::{Fence, Offset};
use std::collections::BTreeMap;

/// A set of deliveries.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// By their first offset, without overlaps.
    closed: BTreeMap<Offset, DeliveryRun>,
    /// The run that was added to last, which the next delivery most often continues.
    open: Option<DeliveryRun>,
    /// The first offset behind the open run that is in `closed`.
    limit: Offset,
}

impl Runs {
    /// Adds a delivery; `false`, and nothing is added, if a hand-out of its message is there.
    pub(super) fn add(&mut self, offset: Offset, fence: Fence) -> bool {
        if let Some(open) = &mut self.open
            && offset < self.limit
            && continues(open, offset, fence)
        {
            open.count += 1;
            return true;
        }
        self.closed.extend(self.open.take().map(|open| (open.first, open)));
        let before = self.closed.range(..=offset).next_back().map(|(_, run)| run.clone());
        if before.as_ref().is_some_and(|run| covers(run, offset)) {
            return false;
        }
        self.limit = self.closed.range(offset..).next().map_or(Offset::MAX, |(first, _)| *first);
        let open = match before {
            Some(mut run) if continues(&run, offset, fence) => {
                self.closed.remove(&run.first);
                run.count += 1;
                run
            }
            _ => DeliveryRun { first: offset, fence, count: 1 },
        };
        self.open = Some(open);
        true
    }

    /// The runs in the order of their offsets, as long as can be.
    pub(super) fn finish(mut self) -> Vec<DeliveryRun> {
        self.closed.extend(self.open.take().map(|open| (open.first, open)));
        let mut runs: Vec<DeliveryRun> = self.closed.into_values().collect();
        runs.dedup_by(|next, run| {
            let joins = continues(run, next.first, next.fence);
            run.count += if joins { next.count } else { 0 };
            joins
        });
        runs
    }
}

/// Cuts runs into lists of at most `limit` deliveries.
pub(super) fn chunks(runs: Vec<DeliveryRun>, limit: u32) -> Vec<Vec<DeliveryRun>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut room = limit;
    for mut run in runs {
        while run.count > 0 {
            let count = run.count.min(room);
            chunk.push(DeliveryRun { first: run.first, fence: run.fence, count });
            run.first = run.first.plus(u64::from(count));
            run.fence = run.fence.plus(u64::from(count));
            run.count -= count;
            room -= count;
            if room == 0 {
                chunks.push(std::mem::take(&mut chunk));
                room = limit;
            }
        }
    }
    chunks.extend((!chunk.is_empty()).then_some(chunk));
    chunks
}

/// Whether a delivery follows a run directly.
fn continues(run: &DeliveryRun, offset: Offset, fence: Fence) -> bool {
    let count = u64::from(run.count);
    run.first.plus(count) == offset && run.fence.plus(count) == fence
}

fn covers(run: &DeliveryRun, offset: Offset) -> bool {
    offset >= run.first && offset.distance_from(run.first) < u64::from(run.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::StartEpoch;
    use std::collections::BTreeMap;

    #[test]
    fn any_order_becomes_the_longest_runs() {
        let runs = gather([3, 1, 2, 5, 4, 9].map(|offset| (offset, offset + 100)));

        assert_eq!(runs, [(1, 101, 5), (9, 109, 1)]);
    }

    #[test]
    fn run_ends_where_offsets_or_fences_jump() {
        let runs = gather([(1, 1), (2, 2), (4, 3), (5, 5)]);

        assert_eq!(runs, [(1, 1, 2), (4, 3, 1), (5, 5, 1)]);
    }

    #[test]
    fn second_hand_out_of_a_message_is_not_added() {
        let mut runs = Runs::default();
        assert!(runs.add(Offset(10), fence(50)));
        assert!(runs.add(Offset(8), fence(20)));
        assert!(runs.add(Offset(9), fence(21)));

        assert!(!runs.add(Offset(10), fence(22)), "it would continue the run before");
        assert!(!runs.add(Offset(9), fence(90)));
        assert_eq!(runs.finish().len(), 2);
    }

    #[test]
    fn chunks_cut_runs_where_a_list_is_full() {
        let run = |first, count| DeliveryRun { first: Offset(first), fence: fence(first), count };

        assert_eq!(
            chunks(vec![run(0, 3), run(10, 6), run(20, 1)], 4),
            [vec![run(0, 3), run(10, 1)], vec![run(11, 4)], vec![run(15, 1), run(20, 1)]]
        );
        assert_eq!(chunks(Vec::new(), 4), Vec::<Vec<_>>::new());
    }

    #[test]
    fn random_deliveries_come_out_as_they_went_in() {
        let mut state = 1_u64;
        let mut random = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(12345);
            (state >> 33) % limit
        };
        for _ in 0..300 {
            let mut runs = Runs::default();
            let mut model = BTreeMap::new();
            for _ in 0..random(60) {
                let offset = random(40);
                let counter = if random(8) == 0 { random(1000) } else { offset + 100 };
                let is_new = !model.contains_key(&offset);
                assert_eq!(runs.add(Offset(offset), fence(counter)), is_new);
                model.entry(offset).or_insert(counter);
            }
            let found: BTreeMap<_, _> = runs
                .finish()
                .iter()
                .flat_map(|run| {
                    let (first, counter) = (run.first.0, run.fence.counter);
                    (0..u64::from(run.count)).map(move |at| (first + at, counter + at))
                })
                .collect();
            assert_eq!(found, model);
        }
    }

    fn gather<const N: usize>(deliveries: [(u64, u64); N]) -> Vec<(u64, u64, u32)> {
        let mut runs = Runs::default();
        for (offset, counter) in deliveries {
            assert!(runs.add(Offset(offset), fence(counter)));
        }
        let runs = runs.finish();
        runs.iter().map(|run| (run.first.0, run.fence.counter, run.count)).collect()
    }

    fn fence(counter: u64) -> Fence {
        Fence { epoch: StartEpoch(1), counter }
    }
}
