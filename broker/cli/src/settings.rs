//! What topics and subscriptions can be told on the command line. What is not said stays as it is.

use clap::{Args, ValueEnum};
use posthouse_broker::config::{ByteSize, Period};
use posthouse_client::{
    Durability, Mode, Order, Overflow, Retention, SubscriptionSettings, TopicSettings,
};
use std::time::Duration;

/// Settings of a topic.
#[derive(Debug, Default, Args)]
pub(crate) struct TopicOptions {
    /// What a publish waits for: on disk, or in the page cache [of a new topic: synced]
    #[arg(long, value_enum)]
    durability: Option<Durable>,

    /// When messages are forgotten: once every subscription has settled them, or by the limits
    /// alone [of a new topic: settled]
    #[arg(long, value_enum)]
    retention: Option<Retain>,

    /// What happens to a publish that exceeds a limit [of a new topic: refuse]
    #[arg(long, value_enum)]
    overflow: Option<Overflowing>,

    /// Forget messages older than this; 0 for no limit [of a new topic: 0]
    #[arg(long, value_name = "PERIOD")]
    age_max: Option<Period>,

    /// Keep at most so many bytes of messages; 0 for no limit [of a new topic: 0]
    #[arg(long, value_name = "SIZE")]
    bytes_max: Option<ByteSize>,

    /// Keep at most so many messages; 0 for no limit [of a new topic: 0]
    #[arg(long, value_name = "N")]
    messages_max: Option<u64>,

    /// Refuse messages with larger bodies [of a new topic: 1 MiB]
    #[arg(long, value_name = "SIZE")]
    message_bytes_max: Option<ByteSize>,
}

/// Settings of a subscription.
#[derive(Debug, Default, Args)]
pub(crate) struct SubscriptionOptions {
    /// Competing consumers that settle each message, or a cursor that is saved [default: queue]
    #[arg(long, value_enum)]
    mode: Option<Reading>,

    /// Hand out by offset; by key is not built yet and refused [default: offset]
    #[arg(long, value_enum)]
    order: Option<Ordering>,

    /// How long a consumer may hold a message without extending [default: 30s]
    #[arg(long, value_name = "PERIOD")]
    lease: Option<Period>,

    /// How long it may hold one in all [default: 10m]
    #[arg(long, value_name = "PERIOD")]
    lease_max: Option<Period>,

    /// Failures after which a message goes to the dead letters [default: 10]
    #[arg(long, value_name = "N")]
    attempts_max: Option<u32>,

    /// Wait after the first failure; doubles with each [default: 1s]
    #[arg(long, value_name = "PERIOD")]
    backoff: Option<Period>,

    /// Longest wait after a failure [default: 5m]
    #[arg(long, value_name = "PERIOD")]
    backoff_max: Option<Period>,

    /// Drop messages that are out of attempts instead of keeping them
    #[arg(long)]
    no_dead_letter: bool,
}

macro_rules! choice {
    ($($(#[$doc:meta])* $name:ident stands for $meaning:ident { $($(#[$of:meta])* $variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, ValueEnum)]
        enum $name { $($(#[$of])* $variant,)* }

        impl From<$name> for $meaning {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => Self::$variant,)* }
            }
        }
    )*};
}

choice! {
    Durable stands for Durability { Synced, Written, }
    Retain stands for Retention { Settled, Limits, }
    Overflowing stands for Overflow { Refuse, DropOldest, }
    Reading stands for Mode { Queue, Stream, }
    Ordering stands for Order { Offset, Key, }
}

impl TopicOptions {
    /// `settings` with what was said on the command line.
    pub(crate) fn over(&self, settings: &TopicSettings) -> TopicSettings {
        let body = self.message_bytes_max.map(|ByteSize(bytes)| bytes);
        TopicSettings {
            durability: self.durability.map_or(settings.durability, Into::into),
            retention: self.retention.map_or(settings.retention, Into::into),
            overflow: self.overflow.map_or(settings.overflow, Into::into),
            age_ms_max: self.age_max.map_or(settings.age_ms_max, millis),
            bytes_max: self.bytes_max.map_or(settings.bytes_max, |ByteSize(bytes)| bytes),
            messages_max: self.messages_max.unwrap_or(settings.messages_max),
            message_bytes_max: body.map_or(settings.message_bytes_max, |bytes| {
                u32::try_from(bytes).unwrap_or(u32::MAX)
            }),
        }
    }
}

impl SubscriptionOptions {
    /// The defaults with what was said on the command line.
    pub(crate) fn settings(&self) -> SubscriptionSettings {
        let settings = SubscriptionSettings::default();
        SubscriptionSettings {
            mode: self.mode.map_or(settings.mode, Into::into),
            order: self.order.map_or(settings.order, Into::into),
            lease_ms: self.lease.map_or(settings.lease_ms, millis),
            lease_ms_max: self.lease_max.map_or(settings.lease_ms_max, millis),
            attempts_max: self.attempts_max.unwrap_or(settings.attempts_max),
            backoff_ms_first: self.backoff.map_or(settings.backoff_ms_first, millis),
            backoff_ms_max: self.backoff_max.map_or(settings.backoff_ms_max, millis),
            dead_letter: !self.no_dead_letter,
        }
    }
}

fn millis(Period(period): Period) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// `millis` as it is written on the command line.
pub(crate) fn period(millis: u64) -> Period {
    Period(Duration::from_millis(millis))
}

/// The word for a durability.
pub(crate) const fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "synced",
        Durability::Written => "written",
    }
}

/// The word for a retention.
pub(crate) const fn retention_word(retention: Retention) -> &'static str {
    match retention {
        Retention::Settled => "settled",
        Retention::Limits => "limits",
    }
}

/// The word for an overflow.
pub(crate) const fn overflow_word(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Refuse => "refuse",
        Overflow::DropOldest => "drop-oldest",
    }
}

/// The word for a mode.
pub(crate) const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Queue => "queue",
        Mode::Stream => "stream",
    }
}

/// The word for an order.
pub(crate) const fn order_word(order: Order) -> &'static str {
    match order {
        Order::Offset => "offset",
        Order::Key => "key",
    }
}
