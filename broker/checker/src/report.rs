//! What the checker found: violations, what it counted, and the verdict.

use crate::expect::{Counts, Shortfall};
use crate::history::{Fence, MessageId, Time};
use std::fmt;

/// A rule of the checker; each has good and bad histories under `tests/histories`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// What was seen had been published, and not before it was.
    Unexpected,
    /// What was refused with a definite error is never seen.
    Aborted,
    /// A delayed message is not seen before it is due.
    Early,
    /// A topic's offset has one message with one content, for ever.
    Agreement,
    /// What was acknowledged is settled, or is found in the final look.
    Lost,
    /// What was seen once is in every later read of its offset, until it may be released.
    Vanished,
    /// A message published through an idempotent producer has one offset.
    Duplicate,
    /// A producer's messages have offsets in the order of its sequences.
    Order,
    /// A batch is there as a whole, at adjacent offsets, or not at all.
    Torn,
    /// A commit is there in every topic that it published to, or in none.
    Half,
    /// What was acked or rejected successfully is not delivered again.
    Undone,
    /// Nobody gets a message that somebody else certainly holds.
    Exclusive,
    /// Every further delivery has a reason.
    Unexplained,
    /// Fences rise with every hand-out of a message and none is given twice.
    Fence,
    /// The attempt counter counts failures, all of them and nothing else.
    Attempt,
    /// A dead letter has a cause and exists once.
    DeadLetter,
    /// A cursor that was saved stays where it was put.
    Cursor,
    /// Every start has a higher epoch than those before.
    Epoch,
}

impl Rule {
    /// Every rule.
    pub const ALL: &[Self] = &[
        Self::Unexpected,
        Self::Aborted,
        Self::Early,
        Self::Agreement,
        Self::Lost,
        Self::Vanished,
        Self::Duplicate,
        Self::Order,
        Self::Torn,
        Self::Half,
        Self::Undone,
        Self::Exclusive,
        Self::Unexplained,
        Self::Fence,
        Self::Attempt,
        Self::DeadLetter,
        Self::Cursor,
        Self::Epoch,
    ];

    /// Its name in reports and of its histories.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unexpected => "unexpected",
            Self::Aborted => "aborted",
            Self::Early => "early",
            Self::Agreement => "agreement",
            Self::Lost => "lost",
            Self::Vanished => "vanished",
            Self::Duplicate => "duplicate",
            Self::Order => "order",
            Self::Torn => "torn",
            Self::Half => "half",
            Self::Undone => "undone",
            Self::Exclusive => "exclusive",
            Self::Unexplained => "unexplained",
            Self::Fence => "fence",
            Self::Attempt => "attempt",
            Self::DeadLetter => "dead-letter",
            Self::Cursor => "cursor",
            Self::Epoch => "epoch",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Where it was broken.
    pub subject: Subject,
    /// What is wrong, in one line.
    pub text: String,
    /// The events that show it: positions in the history, from 0.
    pub events: Vec<usize>,
}

/// Where a rule was broken.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The topic.
    pub topic: Option<String>,
    /// The subscription.
    pub subscription: Option<String>,
    /// The message's offset.
    pub offset: Option<u64>,
    /// The message.
    pub id: Option<MessageId>,
    /// The hand-out.
    pub fence: Option<Fence>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        let mut field = |f: &mut fmt::Formatter<'_>, name: &str, value: Option<String>| {
            let Some(value) = value else { return Ok(()) };
            write!(f, "{gap}{name}={value}")?;
            gap = " ";
            Ok(())
        };
        field(f, "topic", self.topic.clone())?;
        field(f, "subscription", self.subscription.clone())?;
        field(f, "offset", self.offset.map(|offset| offset.to_string()))?;
        field(f, "id", self.id.map(|id| id.to_string()))?;
        field(f, "fence", self.fence.map(|fence| fence.to_string()))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} events={:?}", self.rule, self.subject, self.text, self.events)
    }
}

/// What a history is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No rule is broken, and enough happened to say so.
    Valid,
    /// A rule is broken.
    Invalid,
    /// No rule is broken, but too little happened to say anything. A failure.
    Unknown,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every broken rule, by rule and then by place. At most [`VIOLATIONS_PER_RULE_MAX`] a rule.
    pub violations: Vec<Violation>,
    /// How many were found in all.
    pub violations_found: usize,
    /// What happened in the history.
    pub counts: Counts,
    /// Expectations that the history does not meet.
    pub shortfalls: Vec<Shortfall>,
}

/// Violations of one rule that a report lists.
pub const VIOLATIONS_PER_RULE_MAX: usize = 100;

impl Report {
    /// The verdict.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        if self.violations_found > 0 {
            Verdict::Invalid
        } else if self.shortfalls.is_empty() {
            Verdict::Valid
        } else {
            Verdict::Unknown
        }
    }

    /// Whether [`Self::verdict`] is [`Verdict::Valid`].
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        matches!(self.verdict(), Verdict::Valid)
    }
}

impl fmt::Display for Report {
    /// One line a violation and a shortfall, then the counts, then the verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "violation {violation}")?;
        }
        let left_out = self.violations_found - self.violations.len();
        if left_out > 0 {
            writeln!(f, "violations left out: {left_out}")?;
        }
        for shortfall in &self.shortfalls {
            writeln!(f, "shortfall {shortfall}")?;
        }
        writeln!(f, "counts {}", self.counts)?;
        write!(f, "verdict {}", self.verdict())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        })
    }
}

/// Collects violations, keeping the first ones of each rule.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    kept: Vec<Violation>,
    kept_of: [usize; Rule::ALL.len()],
    found: usize,
}

impl Violations {
    pub(crate) fn add(&mut self, violation: Violation) {
        self.found += 1;
        let position = Rule::ALL.iter().position(|rule| *rule == violation.rule);
        let Some(kept) = position.and_then(|at| self.kept_of.get_mut(at)) else { return };
        if *kept < VIOLATIONS_PER_RULE_MAX {
            *kept += 1;
            self.kept.push(violation);
        }
    }

    pub(crate) fn into_sorted(mut self) -> (Vec<Violation>, usize) {
        self.kept.sort();
        (self.kept, self.found)
    }
}

/// A span of time that an event is known to lie in; used in texts.
pub(crate) fn seconds(time: Time) -> String {
    let (whole, nanos) = (time.0 / 1_000_000_000, time.0 % 1_000_000_000);
    format!("{whole}.{nanos:09}s")
}
