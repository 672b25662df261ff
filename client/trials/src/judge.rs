//! The judge: compares what the sender committed, what the broker's log holds, what the receiver
//! did, and what the reader of the log as a stream saw. It knows nothing of outboxes, relays and inboxes.

use crate::op::Op;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is known at the end, when nothing moves any more.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What stands in the sender's table.
    pub committed: Vec<Op>,
    /// What stood there once, before the database was put back to an older state.
    pub forgotten: Vec<Op>,
    /// What stands in the receiver's table, in the order in which it was done.
    pub effects: Vec<Op>,
    /// What stands in the table of the streams' reader, in the order in which it was read; `None` if
    /// there was none.
    pub viewed: Option<Vec<Op>>,
    /// The broker's topics, each in the order of its offsets.
    pub log: Vec<Entry>,
    /// What stood in the log before the broker was put back to an older state: no view made since can
    /// have it.
    pub lost: BTreeSet<Op>,
    /// Messages that may stand in the log more than once: they stood there when the sender's database
    /// was put back to an older state, which may not know that they were sent.
    pub may_repeat: BTreeSet<[u8; 16]>,
}

/// A message in the broker's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub message: [u8; 16],
    /// What it says.
    pub op: Op,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Committed, and no effect.
    Missing(Op),
    /// More than one effect.
    Doubled(Op),
    /// An effect of something that was never committed, or that says otherwise.
    Ghost(Op),
    /// Committed, and not in the view.
    MissingInView(Op),
    /// More often in the view than in the log.
    DoubledInView(Op),
    /// In the view, and never committed like this.
    GhostInView(Op),
    /// A later version of the key came into the view before it.
    OutOfOrderInView(Op),
    /// A message in the log of something that was never committed.
    GhostInLog(Op),
    /// A message more than once in the log.
    DoubledInLog(Op),
    /// The message of a later version of the key came before it.
    OutOfOrderInLog(Op),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op, what) = match self {
            Self::Missing(op) => (op, "was committed and has no effect"),
            Self::Doubled(op) => (op, "has more than one effect"),
            Self::Ghost(op) => (op, "has an effect and was never committed like this"),
            Self::MissingInView(op) => (op, "was committed and is not in the view"),
            Self::DoubledInView(op) => (op, "is in the view more often than in the log"),
            Self::GhostInView(op) => (op, "is in the view and was never committed like this"),
            Self::OutOfOrderInView(op) => (op, "is in the view after a later version of its key"),
            Self::GhostInLog(op) => (op, "was sent and was never committed like this"),
            Self::DoubledInLog(op) => (op, "is more than once in the broker's log"),
            Self::OutOfOrderInLog(op) => (op, "is in the log after a later version of its key"),
        };
        write!(f, "{op} {what}")
    }
}

impl Evidence {
    /// Everything that is wrong with it.
    #[must_use]
    pub fn judge(&self) -> Vec<Violation> {
        let real: BTreeSet<Op> = self.committed.iter().chain(&self.forgotten).copied().collect();
        let mut wrong = Vec::new();
        self.judge_effects(&real, &mut wrong);
        self.judge_log(&real, &mut wrong);
        if let Some(viewed) = &self.viewed {
            self.judge_view(viewed, &real, &mut wrong);
        }
        wrong
    }

    fn judge_effects(&self, real: &BTreeSet<Op>, wrong: &mut Vec<Violation>) {
        let mut seen = BTreeSet::new();
        for effect in &self.effects {
            if !real.contains(effect) {
                wrong.push(Violation::Ghost(*effect));
            }
            if !seen.insert(effect.id) {
                wrong.push(Violation::Doubled(*effect));
            }
        }
        let missing = self.committed.iter().filter(|op| !seen.contains(&op.id));
        wrong.extend(missing.copied().map(Violation::Missing));
    }

    fn judge_log(&self, real: &BTreeSet<Op>, wrong: &mut Vec<Violation>) {
        let (mut messages, mut ops) = (BTreeSet::new(), BTreeSet::new());
        let mut firsts = Vec::new();
        for entry in &self.log {
            if !real.contains(&entry.op) {
                wrong.push(Violation::GhostInLog(entry.op));
            }
            // What is sent again is the same message, and no operation has two.
            match (messages.insert(entry.message), ops.insert(entry.op.id)) {
                (true, true) => firsts.push(entry.op),
                (false, false) if self.may_repeat.contains(&entry.message) => {}
                _ => wrong.push(Violation::DoubledInLog(entry.op)),
            }
        }
        wrong.extend(out_of_order(&firsts).map(Violation::OutOfOrderInLog));
    }

    /// A stream has no inbox: what is in the log again is read again.
    fn judge_view(&self, viewed: &[Op], real: &BTreeSet<Op>, wrong: &mut Vec<Violation>) {
        let mut times: BTreeMap<i64, usize> = BTreeMap::new();
        for entry in &self.log {
            *times.entry(entry.op.id).or_default() += 1;
        }
        let mut seen = BTreeSet::new();
        let mut firsts = Vec::new();
        for op in viewed {
            if !real.contains(op) {
                wrong.push(Violation::GhostInView(*op));
            }
            let left = times.entry(op.id).or_default();
            if *left == 0 {
                wrong.push(Violation::DoubledInView(*op));
            }
            *left = left.saturating_sub(1);
            if seen.insert(op.id) {
                firsts.push(*op);
            }
        }
        let is_missing = |op: &&Op| !seen.contains(&op.id) && !self.lost.contains(op);
        let missing = self.committed.iter().filter(is_missing);
        wrong.extend(missing.copied().map(Violation::MissingInView));
        wrong.extend(out_of_order(&firsts).map(Violation::OutOfOrderInView));
    }
}

/// Those that stand behind a later version of their key in the same era.
fn out_of_order(ops: &[Op]) -> impl Iterator<Item = Op> {
    let mut newest: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    ops.iter().copied().filter(move |op| {
        let newest = newest.entry((op.era, op.key)).or_insert(op.version);
        *newest = (*newest).max(op.version);
        op.version < *newest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(id: i64) -> Op {
        Op { id, key: id % 2, version: id, era: 1 }
    }

    fn entry(number: u8) -> Entry {
        Entry { message: [number; 16], op: op(i64::from(number)) }
    }

    fn clean() -> Evidence {
        Evidence {
            committed: vec![op(1), op(2), op(3)],
            forgotten: Vec::new(),
            effects: vec![op(2), op(1), op(3)],
            viewed: Some(vec![op(1), op(2), op(3)]),
            log: vec![entry(1), entry(2), entry(3)],
            lost: BTreeSet::new(),
            may_repeat: BTreeSet::new(),
        }
    }

    #[test]
    fn what_fits_together_is_not_complained_about() {
        assert_eq!(clean().judge(), []);
        let forgotten =
            Evidence { committed: vec![op(1)], forgotten: vec![op(2), op(3)], ..clean() };
        assert_eq!(forgotten.judge(), []);
    }

    #[test]
    fn every_violation_is_named() {
        let mut missing = clean();
        missing.effects.pop();
        assert_eq!(missing.judge(), [Violation::Missing(op(3))]);

        let mut doubled = clean();
        doubled.effects.push(op(3));
        assert_eq!(doubled.judge(), [Violation::Doubled(op(3))]);

        let mut ghost = clean();
        ghost.effects.push(op(4));
        ghost.log.push(entry(4));
        assert_eq!(ghost.judge(), [Violation::Ghost(op(4)), Violation::GhostInLog(op(4))]);

        let altered = Op { version: 9, ..op(3) };
        let mut wrong = clean();
        wrong.effects[2] = altered;
        assert_eq!(wrong.judge(), [Violation::Ghost(altered)]);

        let mut repeated = clean();
        repeated.log.push(entry(3));
        assert_eq!(repeated.judge(), [Violation::DoubledInLog(op(3))]);
        repeated.may_repeat.insert([3; 16]);
        assert_eq!(repeated.judge(), []);
        // Not even then under another id.
        repeated.log.push(Entry { message: [9; 16], op: op(3) });
        assert_eq!(repeated.judge(), [Violation::DoubledInLog(op(3))]);

        let mut inverted = clean();
        inverted.log.swap(0, 2);
        assert_eq!(inverted.judge(), [Violation::OutOfOrderInLog(op(1))]);
        // A message that failed comes after later ones: the order of effects is not promised.
        let mut failed = clean();
        failed.effects.swap(1, 2);
        assert_eq!(failed.judge(), []);
    }

    #[test]
    fn view_holds_what_was_committed_once_and_in_order() {
        let viewed = |ops: &[i64]| Evidence {
            viewed: Some(ops.iter().map(|id| op(*id)).collect()),
            ..clean()
        };
        assert_eq!(viewed(&[2, 1, 3]).judge(), [], "two keys have no order");
        assert_eq!(viewed(&[1, 2]).judge(), [Violation::MissingInView(op(3))]);
        let lost = Evidence { lost: BTreeSet::from([op(3)]), ..viewed(&[1, 2]) };
        assert_eq!(lost.judge(), [], "the broker has lost it, too");
        assert_eq!(viewed(&[1, 2, 3, 3]).judge(), [Violation::DoubledInView(op(3))]);
        assert_eq!(viewed(&[3, 1, 2]).judge(), [Violation::OutOfOrderInView(op(1))]);
        let both = [Violation::GhostInView(op(4)), Violation::DoubledInView(op(4))];
        assert_eq!(viewed(&[1, 2, 3, 4]).judge(), both);

        let mut again = viewed(&[1, 2, 3, 1]);
        again.log.push(entry(1));
        again.may_repeat.insert([1; 16]);
        assert_eq!(again.judge(), [], "it was in the log twice");
        assert_eq!(Evidence { viewed: None, ..clean() }.judge(), []);
    }
}
