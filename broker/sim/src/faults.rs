//! What was done to the broker, counted: a suite whose faults hit nothing proves nothing.

use std::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often each thing happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Faults {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Faults {
            /// Every count with its name.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Adds what happened elsewhere.
            pub const fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

faults! {
    /// The process died; the page cache survived.
    kills,
    /// Power was lost: any subset of what was unsynced is gone.
    power_losses,
    /// Crash points: disks as a power loss would have left them, recovered and judged.
    crash_points,
    /// Crash points with something unsynced.
    crash_points_unsynced,
    /// Recoveries that dropped an unacknowledged end of the journal.
    torn_tails,
    /// Deaths while a sync was under way.
    kills_during_sync,
    /// Deaths inside recovery.
    kills_in_recovery,
    /// Messages that a subscription got again.
    redeliveries,
    /// Syncs that failed; the broker ended.
    failed_syncs,
    /// Writes that failed.
    failed_writes,
    /// Times at which the disk was full.
    full_disks,
    /// Syncs on another thread.
    syncs_handed_over,
    /// Connections lost.
    lost_connections,
    /// Stops in good order.
    clean_stops,
    /// Hops of the clock, above 1 s.
    time_jumps,
    /// Checkpoints committed.
    checkpoints,
    /// Segments that became runs where they lie.
    adoptions,
    /// Crash points with such a segment.
    crash_points_with_adopted,
    /// Files recycled.
    recycled,
    /// Publishes refused for want of room.
    refused_publishes,
    /// Commits that were told to have happened.
    commits,
    /// Of these, those that were told so at a repeat.
    repeated_commits,
    /// Commits that were refused.
    refused_commits,
    /// Publishes that were told to have been delayed.
    delayed_publishes,
    /// Commits of which something was told to have been delayed.
    delayed_commits,
    /// Starts that found delayed messages waiting.
    starts_with_waiting,
    /// Crash points at which delayed messages waited.
    crash_points_with_waiting,
}

impl Faults {
    /// Names out of `wanted` that never happened.
    #[must_use]
    pub fn missing(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        let entries = self.entries();
        let hit = |name: &str| entries.iter().any(|(entry, count)| *entry == name && *count > 0);
        wanted.iter().copied().filter(|name| !hit(name)).collect()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faults:")?;
        self.entries().iter().try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}
