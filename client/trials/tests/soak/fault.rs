//! The kinds of faults, and how often each has hit.

use posthouse_trials::Driver;
use std::collections::BTreeMap;
use std::fmt;

/// What befalls a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillApp,
    KillRelay,
    KillBroker,
    KillConsumer,
    KillView,
    /// A relay is stopped, replaced, and comes back.
    ZombieRelay,
    /// A consumer is stopped for longer than its leases, and comes back.
    ZombieConsumer,
    /// A reader of streams is stopped while another one reads with its name, and comes back.
    ZombieView,
    CutConnections,
    /// What was sent arrives late, or never.
    StallConnections,
    CrashSender,
    CrashReceiver,
    /// The sender's database is put back to an older state.
    RestoreSender,
    /// A relay on a copy of the sender's database must refuse.
    CloneSender,
    /// The broker is put back to an older state: the relay must halt, and go on when told.
    RestoreBroker,
}

impl Fault {
    /// Those that strike while an application works.
    pub(crate) const PLAIN: [Self; 12] = [
        Self::KillBroker,
        Self::KillRelay,
        Self::CrashSender,
        Self::ZombieRelay,
        Self::KillConsumer,
        Self::ZombieView,
        Self::CutConnections,
        Self::CrashReceiver,
        Self::ZombieConsumer,
        Self::KillApp,
        Self::KillView,
        Self::StallConnections,
    ];

    /// Those that take a cycle of their own.
    pub(crate) const SPECIAL: [Self; 3] =
        [Self::RestoreSender, Self::RestoreBroker, Self::CloneSender];

    /// Whether it can hit with this driver: a file has no server that could crash.
    pub(crate) const fn befalls(self, driver: Driver) -> bool {
        let is_server = matches!(driver, Driver::Postgres | Driver::Mariadb);
        is_server || !matches!(self, Self::CrashSender | Self::CrashReceiver)
    }
}

/// How often each kind has hit.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<Fault, u64>);

impl Seen {
    pub(crate) fn hit(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }

    /// Fails if one of these kinds has not hit.
    pub(crate) fn check(&self, is_due: impl Fn(Fault) -> bool) {
        let kinds = Fault::PLAIN.iter().chain(&Fault::SPECIAL).filter(|fault| is_due(**fault));
        let missing: Vec<&Fault> = kinds.filter(|fault| !self.0.contains_key(fault)).collect();
        assert!(missing.is_empty(), "never hit: {missing:?}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> =
            self.0.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        f.write_str(&counts.join(", "))
    }
}
