//! The guard against an empty run: what must have happened before "valid" means anything.

use std::fmt;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened in a history.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Every count with its name.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counts! {
    /// Publishes with a receipt.
    publishes_ok,
    /// Publishes with a definite error.
    publishes_failed,
    /// Publishes whose outcome stayed unknown.
    publishes_unknown,
    /// Receipts that called a publish a repeat.
    publishes_duplicate,
    /// Publishes with a receipt of messages that were to be delayed.
    publishes_delayed,
    /// Deliveries taken.
    deliveries,
    /// Deliveries taken of a message that the subscription had delivered before.
    redeliveries,
    /// Settlements accepted.
    settles_ok,
    /// Settlements refused.
    settles_refused,
    /// Settlements whose outcome stayed unknown.
    settles_unknown,
    /// Lease extensions accepted.
    extends_ok,
    /// Messages read by fetches.
    fetched,
    /// Cursors saved successfully.
    cursors_saved,
    /// Consumers opened.
    consumers_opened,
    /// Consumers whose connection was lost or whose process died.
    consumers_lost,
    /// Broker starts.
    starts,
    /// Broker deaths by kill.
    kills,
    /// Kills that hit a publish or settlement between its `t0` and its `t1`.
    kills_effective,
    /// Power losses.
    power_losses,
    /// Dead letters seen.
    dead_letters,
    /// Redrives carried out.
    redrives,
    /// Final looks, at topics and at subscriptions.
    finals,
}

/// What a suite requires of its history. All zero by [`Expectations::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// At least so many of each.
    pub at_least: Counts,
    /// At most so many percent of publishes and settlements may have an unknown outcome.
    pub unknown_percent_max: u8,
    /// Whether every topic with an acknowledged publish must have a [`crate::history::Final`] look:
    /// at each of its declared queue subscriptions, or at itself if it has none.
    pub final_looks: bool,
}

impl Expectations {
    /// Requires nothing: for hand-made histories.
    pub const NONE: Self =
        Self { at_least: NO_COUNTS, unknown_percent_max: 100, final_looks: false };

    /// What every suite should require, before it adds its own: a final look at everything, and at
    /// most 5 % unknown outcomes.
    pub const SUITE: Self = Self { at_least: NO_COUNTS, unknown_percent_max: 5, final_looks: true };
}

const NO_COUNTS: Counts = Counts {
    publishes_ok: 0,
    publishes_failed: 0,
    publishes_unknown: 0,
    publishes_duplicate: 0,
    publishes_delayed: 0,
    deliveries: 0,
    redeliveries: 0,
    settles_ok: 0,
    settles_refused: 0,
    settles_unknown: 0,
    extends_ok: 0,
    fetched: 0,
    cursors_saved: 0,
    consumers_opened: 0,
    consumers_lost: 0,
    starts: 0,
    kills: 0,
    kills_effective: 0,
    power_losses: 0,
    dead_letters: 0,
    redrives: 0,
    finals: 0,
};

/// An expectation that a history does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Too few of something.
    TooFew {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there should be.
        at_least: u64,
    },
    /// Too many outcomes are unknown.
    TooManyUnknown {
        /// How many.
        unknown: u64,
        /// Of how many.
        of: u64,
        /// Percent allowed.
        percent_max: u8,
    },
    /// Something was acknowledged that nobody looked for in the end.
    NoFinalLook {
        /// The topic.
        topic: String,
        /// The subscription that was not drained, if the topic has one.
        subscription: Option<String>,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { what, found, at_least } => {
                write!(f, "too few {what}: found={found} at_least={at_least}")
            }
            Self::TooManyUnknown { unknown, of, percent_max } => {
                write!(f, "too many unknown outcomes: {unknown} of {of} percent_max={percent_max}")
            }
            Self::NoFinalLook { topic, subscription: Some(subscription) } => {
                write!(f, "no final look: topic={topic} subscription={subscription}")
            }
            Self::NoFinalLook { topic, subscription: None } => {
                write!(f, "no final look: topic={topic}")
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.entries().into_iter().filter(|(_, count)| *count > 0);
        for (position, (name, count)) in shown.enumerate() {
            let gap = if position == 0 { "" } else { " " };
            write!(f, "{gap}{name}={count}")?;
        }
        Ok(())
    }
}
