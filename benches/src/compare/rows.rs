//! The rows of the comparison: what is measured, how, and who takes part.

use crate::peers::{Durability, Kind};

/// What a turn consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Connections, and publishes in flight on each.
    Publish { connections: usize, window: usize },
    /// Takes a backlog of at most so many messages, each acknowledged.
    Queue { messages: u64 },
    /// Reads a backlog.
    Replay { messages: u64 },
    /// One publishes with a window while one consumes.
    Together { window: usize },
    /// Publish to delivery at so many messages a second.
    Paced { rate: u32 },
}

/// How somebody is driven; the peers always are with bare sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Bare frames, one message in each publish.
    Bare,
    /// Bare frames, so many messages in each publish, in so many topics in turn.
    Batches(usize),
    /// Bare frames, one message in each publish, in so many topics in turn.
    Topics(usize),
    /// The client crate, which batches what waits.
    Library,
    /// The client crate, which lends many messages at a time.
    Records,
}

impl Style {
    /// The same with so little work that it only shows that it works.
    pub(crate) fn small(self) -> Self {
        match self {
            Self::Topics(count) => Self::Topics(count.min(20)),
            Self::Batches(count) => Self::Batches(count.min(20)),
            Self::Bare | Self::Library | Self::Records => self,
        }
    }
}

/// Who takes a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) kind: Kind,
    pub(crate) style: Style,
}

impl Party {
    pub(crate) fn name(self) -> String {
        let name = self.kind.name();
        match self.style {
            Style::Bare => name.to_owned(),
            Style::Batches(count) => format!("{name}, batches of {count}"),
            Style::Topics(count) => format!("{name}, {count} topics"),
            Style::Library => format!("{name}, client crate"),
            Style::Records => format!("{name}, client crate, records"),
        }
    }

    pub(crate) const fn batch(self) -> usize {
        if let Style::Batches(count) = self.style { count } else { 1 }
    }

    pub(crate) const fn topics(self) -> usize {
        if let Style::Topics(count) = self.style { count } else { 1 }
    }
}

/// What the best possible is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The bare loop with the same connections and windows.
    BareLoop,
    /// Bytes a second that the disk takes with syncs.
    Disk,
    /// Bytes a second of one loopback stream.
    Loopback,
    Unknown,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What the project wants of it.
    pub(crate) target: &'static str,
    pub(crate) durability: Durability,
    pub(crate) work: Work,
    pub(crate) body: usize,
    pub(crate) limit: Limit,
    /// How Posthouse takes part; the first is the one that is compared.
    pub(crate) ours: &'static [Style],
    /// Whether peers take part at all.
    pub(crate) peers: bool,
}

impl Row {
    /// Whether less is better.
    pub(crate) const fn by_latency(&self) -> bool {
        matches!(self.work, Work::Paced { .. } | Work::Publish { connections: 1, window: 1 })
    }

    /// The same with so little work that it only shows that it works.
    pub(crate) fn small(&self) -> Self {
        let work = match self.work {
            Work::Publish { connections, window } => {
                Work::Publish { connections: connections.min(4), window: window.min(20) }
            }
            Work::Queue { messages } => Work::Queue { messages: messages.min(FEW) },
            Work::Replay { messages } => Work::Replay { messages: messages.min(FEW) },
            Work::Together { window } => Work::Together { window: window.min(20) },
            paced @ Work::Paced { .. } => paced,
        };
        Self { work, ..self.clone() }
    }

    pub(crate) fn parties(&self, peers: &[Kind], laden: bool) -> Vec<Party> {
        let ours = self.ours.iter().map(|style| Party { kind: Kind::Posthouse, style: *style });
        let laden = self.ours.first().filter(|_| laden);
        let laden = laden.map(|style| Party { kind: Kind::Laden, style: *style });
        let peers = peers.iter().copied().filter(|kind| self.peers && self.fits(*kind));
        let party = |kind| self.styles(kind).into_iter().map(move |style| Party { kind, style });
        ours.chain(laden).chain(peers.flat_map(party)).collect()
    }

    /// Whoever has batches takes part in whatever way Posthouse does with bare frames.
    fn styles(&self, peer: Kind) -> Vec<Style> {
        if !peer.has_batches() {
            return vec![Style::Bare];
        }
        let bare = |style: &Style| matches!(style, Style::Bare | Style::Batches(_));
        self.ours.iter().copied().filter(bare).collect()
    }

    fn fits(&self, kind: Kind) -> bool {
        let can_read_again = !matches!(kind, Kind::Beanstalkd | Kind::RabbitmqQuorum);
        let can_ack_each = !matches!(kind, Kind::RabbitmqStream | Kind::Iggy | Kind::Kafka);
        kind.can(self.durability)
            && match self.work {
                Work::Replay { .. } => can_read_again,
                Work::Queue { .. } => can_ack_each,
                Work::Publish { .. } | Work::Together { .. } | Work::Paced { .. } => true,
            }
    }
}

const fn publish(connections: usize, window: usize) -> Work {
    Work::Publish { connections, window }
}

const PLAIN: Row = Row {
    name: "",
    title: "",
    target: "",
    durability: Durability::Synced,
    work: publish(1, 1),
    body: 100,
    limit: Limit::BareLoop,
    ours: &[Style::Bare],
    peers: true,
};

/// Messages of a backlog that only shows that it works.
const FEW: u64 = 200;
const KIB: usize = 1024;
const THOUSAND: Style = Style::Batches(1000);

/// All of them, the most important of each durability first.
pub(crate) const ROWS: [Row; 22] = [
    Row {
        name: "synced-1x1",
        title: "synced, one in flight",
        target: "1.15 / 1.2 x bare loop, below every peer",
        ..PLAIN
    },
    Row {
        name: "synced-16x1",
        title: "synced, 16 connections, one in flight each",
        target: "1.0 x bare loop",
        work: publish(16, 1),
        ..PLAIN
    },
    Row {
        name: "synced-32x1",
        title: "synced, 32 connections, one in flight each",
        target: "100 k/s",
        work: publish(32, 1),
        ..PLAIN
    },
    Row {
        name: "synced-256x1",
        title: "synced, 256 connections, one in flight each",
        work: publish(256, 1),
        ..PLAIN
    },
    Row {
        name: "synced-one-by-one",
        title: "synced, 1 connection, each send with its own receipt",
        target: "1.5 M/s; 3 M/s in batches",
        work: publish(1, 1000),
        ours: &[Style::Library, Style::Bare, THOUSAND],
        ..PLAIN
    },
    Row {
        name: "synced-queue",
        title: "queue, each message acked",
        target: "1 M/s, acks synced",
        work: Work::Queue { messages: 300_000 },
        limit: Limit::Unknown,
        ours: &[Style::Library, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "synced-10000-topics",
        title: "synced, 10,000 topics in turn",
        target: "0.8 of one topic",
        work: publish(1, 512),
        limit: Limit::Unknown,
        ours: &[Style::Topics(10_000), Style::Topics(100), Style::Bare],
        peers: false,
        ..PLAIN
    },
    Row {
        name: "synced-16-batches",
        title: "synced, 16 connections, batches",
        target: "5 M/s",
        work: publish(16, 200),
        ours: &[THOUSAND, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "synced-1KiB-1",
        title: "synced, 1 KiB, 1 connection",
        target: "1.5 GB/s",
        work: publish(1, 500),
        body: KIB,
        limit: Limit::Disk,
        ours: &[Style::Batches(500), Style::Library],
        ..PLAIN
    },
    Row {
        name: "synced-1KiB-16",
        title: "synced, 1 KiB, 16 connections",
        target: "2.2 GB/s",
        work: publish(16, 100),
        body: KIB,
        limit: Limit::Disk,
        ours: &[Style::Batches(500), Style::Bare],
        ..PLAIN
    },
    Row {
        name: "synced-64KiB",
        title: "synced, 64 KiB",
        target: "1.8 GB/s",
        work: publish(1, 32),
        body: 64 * KIB,
        limit: Limit::Disk,
        ours: &[Style::Batches(16), Style::Bare],
        ..PLAIN
    },
    Row {
        name: "synced-1MiB",
        title: "synced, 1 MiB",
        work: publish(1, 8),
        body: 1 << 20,
        limit: Limit::Disk,
        ..PLAIN
    },
    Row {
        name: "synced-together",
        title: "publish and consume together, synced",
        target: "1.5 M/s",
        work: Work::Together { window: 1000 },
        limit: Limit::Unknown,
        ours: &[THOUSAND, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "synced-delivery",
        title: "publish to delivery, synced at 2,000/s",
        target: "130 / 200 / 600 us",
        work: Work::Paced { rate: 2000 },
        limit: Limit::Unknown,
        ..PLAIN
    },
    Row {
        name: "written-1x1",
        title: "written, one in flight",
        target: "26 / 40 us",
        durability: Durability::Written,
        ..PLAIN
    },
    Row {
        name: "written-16x1",
        title: "written, 16 connections, one in flight each",
        durability: Durability::Written,
        work: publish(16, 1),
        ..PLAIN
    },
    Row {
        name: "written-1-batches",
        title: "written, 1 connection, batches",
        target: "5 M/s",
        durability: Durability::Written,
        work: publish(1, 1000),
        ours: &[THOUSAND, Style::Library, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "written-16-batches",
        title: "written, 16 connections, batches",
        target: "8 M/s",
        durability: Durability::Written,
        work: publish(16, 200),
        ours: &[THOUSAND, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "written-64KiB",
        title: "written, 64 KiB",
        durability: Durability::Written,
        work: publish(1, 32),
        body: 64 * KIB,
        limit: Limit::Loopback,
        ours: &[Style::Batches(16), Style::Bare],
        ..PLAIN
    },
    Row {
        name: "replay",
        title: "replay, 1 consumer",
        target: "12 M/s",
        durability: Durability::Written,
        work: Work::Replay { messages: 8_000_000 },
        limit: Limit::Loopback,
        ours: &[Style::Library, Style::Records, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "written-together",
        title: "publish and consume together, written",
        durability: Durability::Written,
        work: Work::Together { window: 1000 },
        limit: Limit::Unknown,
        ours: &[THOUSAND, Style::Bare],
        ..PLAIN
    },
    Row {
        name: "written-delivery",
        title: "publish to delivery, written at 5,000/s",
        target: "50 / 85 / 400 us",
        durability: Durability::Written,
        work: Work::Paced { rate: 5000 },
        limit: Limit::Unknown,
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::{Party, ROWS, Row};
    use crate::peers::Kind;

    const GIVEN: [Kind; 2] = [Kind::Iggy, Kind::Kafka];

    fn peers_of(name: &str) -> Vec<String> {
        let row: &Row = ROWS.iter().find(|row| row.name == name).unwrap();
        let peers = [Kind::Nats, Kind::Iggy];
        let parties = row.parties(&peers, false).into_iter();
        parties.filter(|party| party.kind != Kind::Posthouse).map(Party::name).collect()
    }

    #[test]
    fn iggy_has_batches_where_posthouse_has_them() {
        assert_eq!(peers_of("synced-1x1"), ["nats", "iggy"]);
        assert_eq!(peers_of("written-1-batches"), ["nats", "iggy, batches of 1000", "iggy"]);
        assert_eq!(peers_of("synced-1KiB-1"), ["nats", "iggy, batches of 500"]);
        assert_eq!(peers_of("replay"), ["nats", "iggy"]);
    }

    #[test]
    fn logs_take_part_in_all_but_acknowledging_each_message() {
        for row in ROWS.iter().filter(|row| row.peers) {
            let parties = row.parties(&GIVEN, false);
            let takes_part = |kind| parties.iter().any(|party| party.kind == kind);
            assert_eq!(GIVEN.map(takes_part), [row.name != "synced-queue"; 2], "{}", row.name);
        }
    }

    #[test]
    fn laden_posthouse_does_what_the_first_one_does() {
        for row in &ROWS {
            let first = Party { kind: Kind::Laden, ..row.parties(&[], false)[0] };
            assert_eq!(row.parties(&[], true)[row.ours.len()..], [first], "{}", row.name);
        }
    }
}
