//! Message brokers to be measured side by side: started here, each at the durability in question, or
//! given by address, and driven by equally good clients.

mod amqp;
mod beanstalkd;
mod bytes;
mod iggy;
mod install;
mod kafka;
pub(crate) mod link;
mod nats;
mod posthouse;
mod records;
mod redis;
mod server;
mod stream;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use self::install::{install, version};
pub(crate) use self::link::{Link, Seen};
pub(crate) use self::server::Service;

/// What a receipt promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// On disk before it is acknowledged.
    Synced,
    /// In the page cache, or weaker.
    Written,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Synced { "synced" } else { "written" })
    }
}

/// A broker, in the way in which it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    #[value(skip)]
    Posthouse,
    /// Posthouse with thousands of topics and a deep backlog in it.
    #[value(skip)]
    Laden,
    /// NATS `JetStream`, file storage.
    Nats,
    /// Redis streams, append-only file.
    Redis,
    /// `RabbitMQ`, quorum queues.
    RabbitmqQuorum,
    /// `RabbitMQ`, streams.
    RabbitmqStream,
    /// beanstalkd with its log.
    Beanstalkd,
    /// Apache Iggy, given by address.
    #[value(skip)]
    Iggy,
    /// Kafka, given by address.
    #[value(skip)]
    Kafka,
}

impl Kind {
    /// Those that are started here.
    pub(crate) const PEERS: [Self; 5] =
        [Self::Nats, Self::Redis, Self::RabbitmqQuorum, Self::RabbitmqStream, Self::Beanstalkd];

    /// Whether it can promise exactly this much.
    pub(crate) fn can(self, durability: Durability) -> bool {
        match self {
            Self::Posthouse
            | Self::Laden
            | Self::Nats
            | Self::Redis
            | Self::Beanstalkd
            | Self::Iggy
            | Self::Kafka => true,
            Self::RabbitmqQuorum => durability == Durability::Synced,
            Self::RabbitmqStream => durability == Durability::Written,
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Posthouse | Self::Laden)
    }

    /// Whether one request of it can publish many messages.
    pub(crate) const fn has_batches(self) -> bool {
        matches!(self, Self::Posthouse | Self::Laden | Self::Iggy | Self::Kafka)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Posthouse => "posthouse",
            Self::Laden => "posthouse laden",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::RabbitmqQuorum => "rabbitmq quorum",
            Self::RabbitmqStream => "rabbitmq stream",
            Self::Beanstalkd => "beanstalkd",
            Self::Iggy => "iggy",
            Self::Kafka => "kafka",
        }
    }

    /// How it is made to be as durable as it should be.
    pub(crate) const fn configuration(self, durability: Durability) -> &'static str {
        match (self, durability) {
            (Self::Posthouse | Self::Laden, Durability::Synced) => "topics synced",
            (Self::Posthouse | Self::Laden, Durability::Written) => "topics written",
            (Self::Nats, Durability::Synced) => "sync_interval always",
            (Self::Nats, Durability::Written) => "sync_interval 2m",
            (Self::Redis, Durability::Synced) => "appendfsync always",
            (Self::Redis, Durability::Written) => "appendfsync everysec",
            (Self::RabbitmqQuorum, _) => "quorum queue, confirms",
            (Self::RabbitmqStream, _) => "stream protocol, confirms",
            (Self::Beanstalkd, Durability::Synced) => "-f 0",
            (Self::Beanstalkd, Durability::Written) => "-f 50",
            (Self::Iggy, Durability::Synced) => "as given: enforce_fsync, each batch saved",
            (Self::Iggy, Durability::Written) => "as given: each batch saved",
            (Self::Kafka, Durability::Synced) => "flush.messages 1, acks all",
            (Self::Kafka, Durability::Written) => "flush.messages never, acks all",
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Duty {
    /// `batch` messages in one publish, which not everybody knows ([`Kind::has_batches`]), and topics
    /// in turn, which only Posthouse does.
    Publish {
        batch: usize,
        topics: usize,
    },
    Consume(Take),
}

/// How to consume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take {
    /// Each message is acknowledged; otherwise they are only read.
    pub(crate) acked: bool,
    /// How many there are, if nothing is published meanwhile.
    pub(crate) expected: Option<u64>,
}

/// What a server that is not of this run only calls the stream or topic of a turn.
fn named(queue: &str) -> String {
    format!("posthouse-compare-{queue}")
}
