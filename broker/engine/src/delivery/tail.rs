//! What was published lately into partitions that somebody consumes, so that a window which has
//! caught up is filled without asking the shell, once for all subscriptions.

use super::span::{Span, Stretch};
use super::window::Window;
use crate::input::WindowEntry;
use posthouse_protocol::Offset;
use std::collections::VecDeque;

/// Messages that a tail holds at most.
const MESSAGES_MAX: u64 = 4096;

/// The last messages of one partition, up to its end, without a gap.
#[derive(Debug)]
pub(super) struct Tail {
    spans: VecDeque<Span>,
    messages: u64,
    /// The first offset held, or `end` if none is.
    start: Offset,
    end: Offset,
}

impl Tail {
    /// Nothing yet; the next message will be at `end`.
    pub(super) const fn new(end: Offset) -> Self {
        Self { spans: VecDeque::new(), messages: 0, start: end, end }
    }

    /// Everything from here on can be pulled.
    pub(super) const fn start(&self) -> Offset {
        self.start
    }

    /// Appends a publish. `sizes` is scratch space.
    pub(super) fn push(&mut self, entries: &[WindowEntry], sizes: &mut Vec<u32>) {
        let Some(first) = entries.first() else { return };
        if first.offset != self.end {
            // Offsets were skipped: an unclean stop of a `written` topic.
            *self = Self::new(first.offset);
        }
        sizes.clear();
        sizes.extend(entries.iter().map(|entry| entry.bytes));
        let Some(span) = Span::from_sizes(first.offset, sizes) else { return };
        self.end = span.end();
        self.messages += span.messages();
        if !self.spans.back_mut().is_some_and(|last| last.try_extend(&span)) {
            self.spans.push_back(span);
        }
        while self.messages > MESSAGES_MAX {
            let over = self.messages - MESSAGES_MAX;
            self.forget_below(self.start.plus(over));
        }
    }

    /// Forgets what lies below `offset`.
    pub(super) fn forget_below(&mut self, offset: Offset) {
        let offset = offset.clamp(self.start, self.end);
        while let Some(front) = self.spans.front_mut().filter(|front| front.first() < offset) {
            if front.end() > offset {
                front.split_before(offset);
                break;
            }
            self.spans.pop_front();
        }
        self.messages -= offset.distance_from(self.start);
        self.start = offset;
    }

    /// Appends to a window that has got as far as this tail reaches back.
    pub(super) fn pull(&self, window: &mut Window) {
        if window.is_loading() || window.next() < self.start || window.next() >= self.end {
            return;
        }
        let mut index = self.spans.partition_point(|span| span.end() <= window.next());
        let mut wanted = window.wanted();
        while let Some(span) = self.spans.get(index).filter(|_| wanted > 0) {
            let mut span = span.clone();
            if span.first() < window.next() {
                span.split_before(window.next());
            }
            if span.messages() > wanted {
                let cut = span.first().plus(wanted);
                span = span.split_before(cut);
            }
            wanted -= span.messages();
            window.push(span);
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_that_has_caught_up_pulls_what_follows() {
        let mut tail = Tail::new(Offset(10));
        push(&mut tail, 10, &[1, 2, 3]);
        push(&mut tail, 13, &[4]);
        let mut window = Window::new(Offset(11));
        tail.pull(&mut window);
        tail.pull(&mut window);
        assert_eq!(window.next(), Offset(14));
        assert_eq!(window.pop_front().unwrap().bytes(), 5);
        assert_eq!(window.pop_front().unwrap().bytes(), 4);
        assert!(window.pop_front().is_none());
    }

    #[test]
    fn window_that_lags_pulls_nothing() {
        let mut tail = Tail::new(Offset(10));
        push(&mut tail, 10, &[1, 2, 3]);
        let mut window = Window::new(Offset(9));
        tail.pull(&mut window);
        assert_eq!(window.next(), Offset(9));
    }

    #[test]
    fn tail_forgets_from_the_front() {
        let mut tail = Tail::new(Offset(0));
        for first in 0..5_000 {
            push(&mut tail, first * 2, &[1, 2]);
        }
        assert_eq!((tail.messages, tail.start()), (MESSAGES_MAX, Offset(10_000 - MESSAGES_MAX)));
        tail.forget_below(Offset(9_999));
        assert_eq!((tail.messages, tail.spans.len()), (1, 1));
        tail.forget_below(Offset(20_000));
        assert_eq!((tail.messages, tail.start()), (0, Offset(10_000)));
    }

    #[test]
    fn window_takes_no_more_than_it_has_room_for() {
        let mut tail = Tail::new(Offset(0));
        push(&mut tail, 0, &[1; 4096]);
        let mut window = Window::new(Offset(0));
        window.push(Span::uniform(Offset(0), 10, 1));
        tail.pull(&mut window);
        assert_eq!(window.wanted(), 0);
        assert_eq!(window.next(), Offset(4096));
    }

    fn push(tail: &mut Tail, first: u64, sizes: &[u32]) {
        let entries: Vec<_> = (first..)
            .zip(sizes)
            .map(|(offset, bytes)| WindowEntry {
                offset: Offset(offset),
                bytes: *bytes,
                damaged: false,
            })
            .collect();
        tail.push(&entries, &mut Vec::new());
    }
}
