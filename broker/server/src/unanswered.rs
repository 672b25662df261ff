//! The requests of one connection that have no answer yet, and what memory each takes.
//!
//! Clients count their requests up and are mostly answered in that order, so this is a queue: a
//! request is added behind the last and found near the front. One whose number is not above all
//! before it goes into a map beside the queue.

use posthouse_protocol::CorrelationId;
use std::collections::{BTreeMap, VecDeque};

/// Answered ones in the queue that are let be, behind one that is not answered for long.
const ANSWERED_MIN: usize = 64;

/// Requests without an answer.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    /// Ascending; `None` is answered.
    queue: VecDeque<(CorrelationId, Option<usize>)>,
    /// How many of those have no answer.
    queued: usize,
    others: BTreeMap<CorrelationId, usize>,
}

impl Unanswered {
    /// A request came that takes so much memory. Two with one number count as one.
    pub(crate) fn insert(&mut self, correlation: CorrelationId, bytes: usize) {
        if self.queue.back().is_none_or(|(last, _)| *last < correlation) {
            let bytes = bytes + self.others.remove(&correlation).unwrap_or(0);
            self.queue.push_back((correlation, Some(bytes)));
            self.queued += 1;
        } else if let Some(Some(held)) = self.queued(correlation) {
            *held += bytes;
        } else {
            *self.others.entry(correlation).or_default() += bytes;
        }
    }

    /// A request is answered; gives the memory that it took, if it waited for that.
    pub(crate) fn remove(&mut self, correlation: CorrelationId) -> Option<usize> {
        let Some(bytes) = self.queued(correlation).and_then(Option::take) else {
            return self.others.remove(&correlation);
        };
        self.queued -= 1;
        while self.queue.pop_front_if(|(_, bytes)| bytes.is_none()).is_some() {}
        if self.queue.len() > 2 * self.queued + ANSWERED_MIN {
            self.queue.retain(|(_, bytes)| bytes.is_some());
        }
        Some(bytes)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.queued + self.others.len()
    }

    fn queued(&mut self, correlation: CorrelationId) -> Option<&mut Option<usize>> {
        let place = match self.queue.front() {
            Some((first, _)) if *first == correlation => 0,
            _ => self.queue.binary_search_by_key(&correlation, |(number, _)| *number).ok()?,
        };
        self.queue.get_mut(place).map(|(_, bytes)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_a_map_would_whatever_the_order() {
        let mut unanswered = Unanswered::default();
        let mut expected = BTreeMap::new();
        let (mut random, mut next) = (1_u32, 0);
        for step in 0..50_000_usize {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let recent = next - (random >> 16) % (next + 1).min(300);
            match (random >> 8) % 5 {
                0 | 1 => {
                    next += 1;
                    unanswered.insert(CorrelationId(next), step);
                    *expected.entry(next).or_default() += step;
                }
                2 if step % 3 == 0 => {
                    unanswered.insert(CorrelationId(recent), step);
                    *expected.entry(recent).or_default() += step;
                }
                _ => {
                    let held = unanswered.remove(CorrelationId(recent));
                    assert_eq!(held, expected.remove(&recent), "step {step}");
                }
            }
            assert_eq!(unanswered.len(), expected.len());
            let bound = 2 * unanswered.len() + ANSWERED_MIN + 1;
            assert!(unanswered.queue.len() <= bound, "step {step}");
        }
        assert!(expected.len() > 100);
    }

    #[test]
    fn number_that_was_beside_the_queue_and_comes_again_counts_as_one() {
        let mut unanswered = Unanswered::default();
        unanswered.insert(CorrelationId(5), 1);
        unanswered.insert(CorrelationId(3), 10);
        assert_eq!(unanswered.remove(CorrelationId(5)), Some(1));
        unanswered.insert(CorrelationId(3), 100);

        assert_eq!(unanswered.remove(CorrelationId(3)), Some(110));
        assert_eq!(unanswered.len(), 0);
    }

    #[test]
    fn one_without_an_answer_does_not_keep_those_behind_it() {
        let mut unanswered = Unanswered::default();
        unanswered.insert(CorrelationId(1), 10);
        for number in 2..10_000 {
            unanswered.insert(CorrelationId(number), 1);
            assert_eq!(unanswered.remove(CorrelationId(number)), Some(1));
            assert!(unanswered.queue.len() <= ANSWERED_MIN + 3);
        }
        assert_eq!(unanswered.remove(CorrelationId(1)), Some(10));
        assert_eq!((unanswered.len(), unanswered.queue.len()), (0, 0));
    }
}
