//! What may not leave yet: outputs in the order in which they were decided, each with the frame
//! that must be committed before.

use posthouse_engine::Gate;
use posthouse_protocol::LogIndex;
use std::collections::VecDeque;

/// Outputs that wait for a commit.
#[derive(Debug)]
pub(crate) struct Gates<T> {
    written: LogIndex,
    committed: LogIndex,
    waiting: VecDeque<(LogIndex, T)>,
}

impl<T> Gates<T> {
    /// Nothing waits; everything up to `committed` has been committed.
    pub(crate) const fn new(committed: LogIndex) -> Self {
        Self { written: committed, committed, waiting: VecDeque::new() }
    }

    /// Takes note of how far the journal is written.
    pub(crate) fn wrote(&mut self, written: LogIndex) {
        debug_assert!(written >= self.written, "what is written stays written");
        self.written = written;
    }

    /// Gives `output` back if it may leave now, or keeps it until its gate opens.
    ///
    /// With `in_order`, it is also kept behind whatever waits already.
    pub(crate) fn pass(&mut self, gate: Gate, in_order: bool, output: T) -> Option<T> {
        let needs = match gate {
            Gate::Now => LogIndex::ZERO,
            Gate::Written(index) => {
                assert!(index <= self.written, "a reply before the write it depends on");
                LogIndex::ZERO
            }
            Gate::Committed(index) => index,
        };
        let behind = self.waiting.back().map(|(index, _)| *index);
        if needs <= self.committed && !(in_order && behind.is_some()) {
            return Some(output);
        }
        self.waiting.push_back((needs.max(behind.unwrap_or_default()), output));
        None
    }

    /// The frame that must be committed for everything that waits, if anything does.
    pub(crate) fn wanted(&self) -> Option<LogIndex> {
        self.waiting.back().map(|(index, _)| *index)
    }

    /// Takes note that frames up to `committed` are committed.
    pub(crate) fn commit(&mut self, committed: LogIndex) {
        debug_assert!(committed <= self.written, "committed before written");
        self.committed = self.committed.max(committed);
    }

    /// The next output whose gate has opened.
    pub(crate) fn next_open(&mut self) -> Option<T> {
        let committed = self.committed;
        self.waiting.pop_front_if(|(index, _)| *index <= committed).map(|(_, output)| output)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_waits_until_its_frame_is_committed() {
        let mut gates = Gates::new(LogIndex(3));
        gates.wrote(LogIndex(5));

        assert_eq!(gates.pass(Gate::Committed(LogIndex(5)), false, "a"), None);
        gates.commit(LogIndex(4));
        assert_eq!(gates.next_open(), None);
        gates.commit(LogIndex(5));
        assert_eq!(gates.next_open(), Some("a"));
        assert!(gates.is_empty());
    }

    #[test]
    fn an_output_in_order_stays_behind_what_waits_and_others_overtake() {
        let mut gates = Gates::new(LogIndex(3));
        gates.wrote(LogIndex(5));
        gates.pass(Gate::Committed(LogIndex(5)), true, "first");

        assert_eq!(gates.pass(Gate::Written(LogIndex(4)), true, "second"), None);
        assert_eq!(gates.pass(Gate::Written(LogIndex(4)), false, "other"), Some("other"));
        gates.commit(LogIndex(5));
        assert_eq!((gates.next_open(), gates.next_open()), (Some("first"), Some("second")));
    }

    #[test]
    #[should_panic(expected = "a reply before the write it depends on")]
    fn a_reply_before_its_write_is_a_programming_error() {
        let mut gates = Gates::new(LogIndex(3));
        gates.pass(Gate::Written(LogIndex(4)), false, ());
    }
}
