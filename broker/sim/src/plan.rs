//! What a run does, drawn from its seed.

use crate::chance::Chance;
use crate::client::admin::Wanted;
use crate::tap::Sampling;
use posthouse_protocol::settings::{Durability, Mode, SubscriptionSettings, TopicSettings};
use posthouse_storage::Options;
use posthouse_storage::fs::dice::Dice;
use std::time::Duration;

/// Lease of queue subscriptions.
const LEASE_MS: u64 = 400;
/// Longest lease.
const LEASE_MS_MAX: u64 = 1_500;
/// Failures until a message is a dead letter.
const ATTEMPTS_MAX: u32 = 4;

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Moves of the world under load.
    pub(crate) steps: u64,
    /// Faults in ten thousand moves.
    pub(crate) faults: u64,
    pub(crate) sampling: Sampling,
    pub(crate) segment_bytes: u64,
    /// Whether batches are as large as they may be.
    pub(crate) is_heavy: bool,
    /// Whether dead letters are given back.
    pub(crate) can_redrive: bool,
}

impl Plan {
    /// A run with all faults, to be judged by the history checker.
    #[must_use]
    pub fn simulation(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let is_heavy = dice.percent(30);
        let light = [128 << 10, 256 << 10, 512 << 10];
        let light = light.get(dice.index(light.len())).copied().unwrap_or(1 << 20);
        Self {
            seed,
            steps: dice.between(4_000, 12_000),
            faults: dice.between(20, 120),
            sampling: Sampling::default(),
            segment_bytes: if is_heavy { 1 << 20 } else { light },
            is_heavy,
            can_redrive: dice.percent(50),
        }
    }

    /// A run over which crash points are strewn; few messages and small files make them cheap.
    #[must_use]
    pub fn power_loss(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            seed,
            steps: dice.between(1_500, 4_000),
            faults: dice.between(20, 100),
            sampling: Sampling { per_mille: 120, variants: 2 },
            segment_bytes: 64 << 10,
            // Else hardly a segment is full enough to be adopted.
            is_heavy: dice.percent(40),
            can_redrive: false,
        }
    }

    pub(crate) fn options(&self, dice: &mut Dice) -> Options {
        let mut seed = [0; 16];
        seed.iter_mut().zip(dice.throw().to_le_bytes()).for_each(|(to, from)| *to = from);
        Options {
            segment_bytes: self.segment_bytes,
            segments_ready: 2,
            fold_bytes: self.segment_bytes / 2,
            fold_idle: Duration::from_millis(300),
            journal_keep_bytes: self.segment_bytes,
            journal_keep_age: Duration::from_secs(2),
            unfolded_bytes_max: self.segment_bytes * 4,
            hot_bytes: self.segment_bytes,
            recycle_patience: Duration::from_millis(200),
            ..Options::new(seed)
        }
    }

    /// Largest body and largest batch that senders make.
    pub(crate) fn sizes(&self) -> (u64, usize) {
        if !self.is_heavy {
            return (1_500, 5 << 10);
        }
        // 60 and 100 KiB of a segment of 1 MiB.
        let part = self.segment_bytes / 256;
        (15 * part, usize::try_from(25 * part).unwrap_or(usize::MAX))
    }

    /// The topics of a run.
    pub(crate) fn topics() -> Vec<Wanted> {
        let topic = TopicSettings::default;
        let written = TopicSettings { durability: Durability::Written, ..topic() };
        let small = TopicSettings { messages_max: 30, ..topic() };
        let queue = || SubscriptionSettings {
            lease_ms: LEASE_MS,
            lease_ms_max: LEASE_MS_MAX,
            attempts_max: ATTEMPTS_MAX,
            backoff_ms_first: 40,
            backoff_ms_max: 500,
            ..SubscriptionSettings::default()
        };
        let stream =
            || SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
        let wanted = |topic, settings, subscriptions| Wanted { topic, settings, subscriptions };
        vec![
            wanted("orders", topic(), vec![("billing", queue())]),
            wanted("fast", written, vec![("work", queue())]),
            wanted("audit", topic(), vec![("mail", queue()), ("trail", stream())]),
            wanted("feed", topic(), vec![("cursor", stream())]),
            wanted("small", small, vec![("drip", queue())]),
        ]
    }
}
