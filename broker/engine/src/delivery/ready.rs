//! Messages that were handed out before and can be handed out again: those given back, at once,
//! and those that failed, when their wait is over.
//!
//! All of them lie before the window, so the lowest of them is the lowest of all.

use super::disjoint::Disjoint;
use super::span::{Span, Stretch};
use crate::time::Time;
use posthouse_protocol::{Attempt, Offset};
use std::collections::BTreeSet;
use std::ops::Range;

/// Messages to hand out, with how often each has failed.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Which.
    pub span: Span,
    /// How often.
    pub attempt: Attempt,
}

impl Stretch for Waiting {
    fn first(&self) -> Offset {
        self.span.first()
    }

    fn end(&self) -> Offset {
        self.span.end()
    }

    fn split_before(&mut self, at: Offset) -> Self {
        Self { span: self.span.split_before(at), attempt: self.attempt }
    }
}

/// A failed message and the end of its wait.
#[derive(Debug)]
struct Delayed {
    waiting: Waiting,
    due: Time,
}

impl Stretch for Delayed {
    fn first(&self) -> Offset {
        self.waiting.first()
    }

    fn end(&self) -> Offset {
        self.waiting.end()
    }

    fn split_before(&mut self, at: Offset) -> Self {
        Self { waiting: self.waiting.split_before(at), due: self.due }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ready {
    now: Disjoint<Waiting>,
    later: Disjoint<Delayed>,
    /// One entry per message in `later`.
    due: BTreeSet<(Time, Offset)>,
}

impl Ready {
    /// Makes messages available at once.
    pub(super) fn give_back(&mut self, waiting: Waiting) {
        let messages = waiting.messages();
        let merged = self.now.ending_at(waiting.first()).is_some_and(|before| {
            before.attempt == waiting.attempt && before.span.try_extend(&waiting.span)
        });
        if merged {
            self.now.extended_by(messages);
        } else {
            self.now.insert(waiting);
        }
    }

    /// Makes one message available at `due`.
    pub(super) fn delay(&mut self, waiting: Waiting, due: Time) {
        debug_assert_eq!(waiting.span.count(), 1, "each failed message waits for itself");
        self.due.insert((due, waiting.first()));
        self.later.insert(Delayed { waiting, due });
    }

    /// Makes everything available whose wait is over.
    pub(super) fn advance(&mut self, now: Time) {
        while let Some((_, offset)) = self.due.first().filter(|(due, _)| *due <= now).copied() {
            self.take_later(
                offset..offset.next(),
                &mut |waiting, ready: &mut Disjoint<Waiting>| {
                    ready.insert(waiting);
                },
            );
        }
    }

    /// When [`Self::advance`] next has something to do.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the lowest available messages.
    pub(super) fn pop_first(&mut self) -> Option<Waiting> {
        self.now.pop_first()
    }

    /// Takes out what lies in `range`, available or not.
    pub(super) fn take(&mut self, range: Range<Offset>, mut sink: impl FnMut(Waiting)) {
        self.now.take(range.clone(), &mut sink);
        self.take_later(range, &mut |waiting, _: &mut Disjoint<Waiting>| sink(waiting));
    }

    /// Whether everything lies below `offset`.
    pub(super) fn ends_below(&self, offset: Offset) -> bool {
        self.now.end().into_iter().chain(self.later.end()).all(|end| end <= offset)
    }

    /// Messages that wait for their time.
    pub(super) const fn delayed(&self) -> u64 {
        self.later.messages()
    }

    /// What is available, and what waits.
    #[cfg(test)]
    pub(super) fn ranges(&self) -> (Vec<Range<Offset>>, Vec<Range<Offset>>) {
        let now = self.now.iter().map(|waiting| waiting.span.offsets());
        (now.collect(), self.later.iter().map(|delayed| delayed.waiting.span.offsets()).collect())
    }

    fn take_later(
        &mut self,
        range: Range<Offset>,
        sink: &mut impl FnMut(Waiting, &mut Disjoint<Waiting>),
    ) {
        let Self { now, later, due } = self;
        later.take(range, |delayed| {
            due.remove(&(delayed.due, delayed.first()));
            sink(delayed.waiting, now);
        });
        debug_assert_eq!(later.messages(), due.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_message_is_available_when_its_wait_is_over_and_not_before() {
        let mut ready = Ready::default();
        ready.delay(waiting(7, 1, 1), Time(100));
        ready.advance(Time(99));
        assert!(ready.pop_first().is_none());
        assert_eq!(ready.next_due(), Some(Time(100)));
        ready.advance(Time(100));
        ready.advance(Time(100));
        assert_eq!(ready.pop_first().map(|w| w.first()), Some(Offset(7)));
        assert_eq!((ready.next_due(), ready.delayed()), (None, 0));
    }

    #[test]
    fn lowest_comes_first() {
        let mut ready = Ready::default();
        ready.give_back(waiting(8, 2, 0));
        ready.delay(waiting(3, 1, 1), Time(0));
        ready.give_back(waiting(10, 2, 0));
        ready.advance(Time(0));
        let order: Vec<_> = std::iter::from_fn(|| ready.pop_first()).collect();
        let order: Vec<_> = order.iter().map(|w| (w.first().0, w.messages())).collect();
        assert_eq!(order, [(3, 1), (8, 4)]);
    }

    #[test]
    fn settled_message_waits_no_longer() {
        let mut ready = Ready::default();
        ready.give_back(waiting(1, 3, 0));
        ready.delay(waiting(5, 1, 1), Time(9));
        let mut out = Vec::new();
        ready.take(Offset(2)..Offset(9), |w| out.push((w.first().0, w.messages())));
        assert_eq!(out, [(2, 2), (5, 1)]);
        assert_eq!((ready.next_due(), ready.ranges().0), (None, vec![Offset(1)..Offset(2)]));
    }

    fn waiting(first: u64, count: u32, attempt: u32) -> Waiting {
        Waiting { span: Span::uniform(Offset(first), count, 1), attempt: Attempt(attempt) }
    }
}
