//! What lies ahead: messages not looked at yet, in the order of their offsets, with their sizes.
//!
//! Holds at most a few thousand messages however deep the backlog is. It does not say which of them
//! may be handed out: that is asked of the durable state when they leave.

use super::span::{Span, Stretch};
use posthouse_protocol::Offset;
use std::collections::VecDeque;

/// Messages that a window holds at most.
pub(super) const MESSAGES_MAX: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    spans: VecDeque<Span>,
    messages: u64,
    /// Everything below was looked at, is in `spans`, or is not stored.
    next: Offset,
    /// Where the load that is under way starts.
    loading: Option<Offset>,
}

impl Window {
    /// Nothing yet; starts at `next`.
    pub(super) const fn new(next: Offset) -> Self {
        Self { spans: VecDeque::new(), messages: 0, next, loading: None }
    }

    /// The lowest offset that it holds or will hold.
    pub(super) fn front(&self) -> Offset {
        self.spans.front().map_or(self.next, Stretch::first)
    }

    /// Where to go on filling it.
    pub(super) const fn next(&self) -> Offset {
        self.next
    }

    /// How many messages may be added, once there is room for a worthwhile number; else 0.
    pub(super) const fn wanted(&self) -> u64 {
        if self.messages > MESSAGES_MAX / 2 { 0 } else { MESSAGES_MAX - self.messages }
    }

    /// Whether a load is under way.
    pub(super) const fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Takes note that a load starting at `from` was asked for.
    pub(super) const fn begin_load(&mut self, from: Offset) {
        self.next = from;
        self.loading = Some(from);
    }

    /// Whether this is the answer to the load that is under way; ends it if so.
    pub(super) fn end_load(&mut self, from: Offset) -> bool {
        let asked = self.loading == Some(from);
        if asked {
            self.loading = None;
        }
        asked
    }

    /// Appends messages that lie at or above [`Self::next`].
    pub(super) fn push(&mut self, span: Span) {
        debug_assert!(span.first() >= self.next, "a window only grows at its end");
        self.next = span.end();
        self.messages += span.messages();
        if !self.spans.back_mut().is_some_and(|last| last.try_extend(&span)) {
            self.spans.push_back(span);
        }
    }

    /// Nothing more is stored below `next`.
    pub(super) fn advance(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// Takes the lowest messages.
    pub(super) fn pop_front(&mut self) -> Option<Span> {
        let span = self.spans.pop_front()?;
        self.messages -= span.messages();
        Some(span)
    }

    /// Puts back what was taken by [`Self::pop_front`], or the rest of it.
    pub(super) fn push_front(&mut self, span: Span) {
        self.messages += span.messages();
        self.spans.push_front(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_asks_for_more_when_it_is_half_empty() {
        let mut window = Window::new(Offset(5));
        assert_eq!(window.wanted(), MESSAGES_MAX);
        window.push(Span::uniform(Offset(5), 4000, 1));
        assert_eq!((window.wanted(), window.next()), (0, Offset(4005)));
        let mut front = window.pop_front().unwrap();
        front.split_before(Offset(3000));
        window.push_front(front);
        assert_eq!((window.wanted(), window.front()), (MESSAGES_MAX - 1005, Offset(3000)));
    }

    #[test]
    fn answer_to_an_older_question_is_not_taken() {
        let mut window = Window::new(Offset(5));
        window.begin_load(Offset(5));
        assert!(!window.end_load(Offset(4)));
        assert!(window.is_loading());
        assert!(window.end_load(Offset(5)));
        assert!(!window.end_load(Offset(5)), "nor the same answer twice");
    }
}
