//! What the machine wants done, and what it is told.

use super::super::time::Time;
use super::super::window::Sending;
use crate::outbox::{Claim, RowId, RowRange, Standing};
use std::time::Duration;

/// Something that the shell does for the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Ask the database; one at a time.
    Query(Query),
    /// Ask the database for rows ([`Query::Scan`]) or a count ([`Query::Lag`]), over another
    /// connection, while a query may be under way; one at a time.
    Look(Query),
    /// Ask the broker about the outbox's producer.
    Call(Call),
    /// Send a claim. One that is sent again has the same rows and so the same bytes.
    Send {
        /// The epoch to send it under.
        epoch: u64,
        /// Which one.
        sending: Sending,
    },
    /// Nothing to do, only to be told and counted.
    Note(Note),
}

/// A question to the database, or an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    Describe,
    Acquire,
    RaiseEpoch {
        from: u64,
        to: u64,
    },
    Adopt {
        epoch: u64,
    },
    Claims,
    /// Read the rows of a claim of an earlier holder of the lease.
    Load {
        sequence: u64,
        rows: Vec<RowId>,
    },
    Scan {
        gaps: Vec<RowRange>,
        after: RowId,
        rows_max: u32,
        bytes_max: u64,
    },
    Sweep {
        from: RowId,
        through: RowId,
        limit: u32,
    },
    Step {
        from: Standing,
        acked: u64,
        done: Vec<RowId>,
        claim: Option<Draft>,
    },
    Park {
        from: Standing,
        rows: Vec<(RowId, String)>,
        claims: Vec<Draft>,
    },
    Release {
        epoch: u64,
    },
    /// How much waits; the machine does not care, the application may.
    Lag,
}

/// A claim to be encoded and recorded; without rows it is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Draft {
    pub(crate) sequence: u64,
    pub(crate) rows: Vec<RowId>,
    /// What the rows weigh together.
    pub(crate) bytes: u64,
}

/// A question to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    /// Where does the producer stand?
    Describe {
        /// The machine's epoch, to tell a late answer.
        epoch: u64,
    },
    /// Fence all lower epochs.
    Open {
        /// The epoch to open.
        epoch: u64,
    },
}

impl Query {
    /// The claims that it records, those without rows left out.
    pub(crate) fn drafts(&self) -> impl Iterator<Item = &Draft> {
        let drafts: &[Draft] = if let Self::Step { claim, .. } = self {
            claim.as_slice()
        } else if let Self::Park { claims, .. } = self {
            claims
        } else {
            &[]
        };
        drafts.iter().filter(|draft| !draft.rows.is_empty())
    }
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Only that it has become later.
    Time,
    /// Somebody has committed a row.
    Wake,
    /// The database's answer to the query under way.
    Database(Result<Answer, DatabaseFault>),
    /// The database's answer to the look under way.
    Looked(Result<Answer, DatabaseFault>),
    /// The broker's answer to a call.
    Broker(Call, Result<Producer, BrokerFault>),
    /// The broker's answer to a claim that was sent.
    Sent {
        /// The epoch that it was sent under.
        epoch: u64,
        /// Which one.
        sequence: u64,
        /// The answer.
        outcome: Sent,
    },
    /// Finish what is under way, release the lease and end; by then at the latest.
    Shutdown {
        /// The latest.
        by: Time,
    },
}

/// What the database says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Described {
        schema_version: u32,
        is_copied: bool,
    },
    Acquired(Option<Standing>),
    /// Whether the epoch was still the one of the query.
    Done(bool),
    Claims(Vec<Claim>),
    /// The digest of the rows of a claim; `None` if they cannot be sent as they are now.
    Loaded {
        digest: Option<u32>,
        bytes: u64,
    },
    Scanned(Vec<Candidate>),
    Swept(Vec<RowId>),
    Released,
    Lag,
}

/// A row that was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    pub(crate) id: RowId,
    pub(crate) bytes: u64,
    /// Why no broker would take it.
    pub(crate) fault: Option<String>,
}

/// Why the database gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatabaseFault {
    /// It may have been done or not; try again.
    Transient,
    NotInstalled,
    Permanent,
}

/// Where the broker has the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Producer {
    /// There is none.
    Unknown,
    Known {
        epoch: u64,
        last: u64,
    },
}

/// Why the broker gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BrokerFault {
    /// Somebody has opened a higher epoch.
    Fenced,
    /// Try again, perhaps after this time.
    Retry(Option<Duration>),
    /// The application has closed the client.
    Closed,
}

/// What became of a claim that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sent {
    /// The broker has it, now or since an earlier try.
    Accepted,
    /// Not now, or no answer at all.
    Retry(Option<Duration>),
    /// The one before it is not the last that the broker took.
    OutOfSequence,
    /// Somebody has opened a higher epoch.
    Fenced,
    /// The broker does not know the producer.
    UnknownProducer,
    /// The broker has another commit with this number.
    Reused,
    /// The broker will never take these rows.
    Poison {
        /// The rows.
        rows: Vec<RowId>,
        /// Its words.
        reason: String,
    },
    /// The broker takes no commit of this size.
    TooLarge {
        /// Its words.
        reason: String,
    },
    /// The application has closed the client.
    Closed,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Note {
    /// Another relay has the lease.
    StandingBy,
    /// The lease is this relay's and the broker agrees.
    Active { epoch: u64 },
    /// The lease went to somebody else, or may have.
    Inactive,
    /// A claim was taken by the broker.
    HandedOver { sequence: u64, rows: usize },
    /// Rows were set aside.
    Parked { rows: Vec<(RowId, String)> },
    /// The database is older than what the broker knows of it; the claims in it are made anew.
    DatabaseRestored,
    /// It ends.
    Ended(End),
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// It was asked to.
    Shutdown,
    /// The tables are missing or of a version that is not understood.
    NotInstalled { found: Option<u32> },
    /// The database is a copy of the one that the outbox belongs to.
    Copied,
    /// The broker knows less of the producer than it has acknowledged.
    BrokerRestored { acked: u64, last: u64 },
    /// Rows of a claim were changed or deleted.
    RowsChanged { sequence: u64 },
    /// The broker has another commit under the number of this claim.
    Reused { sequence: u64 },
    /// A row that no broker or not this broker will ever take, and the policy is to halt.
    Poison { row: RowId, reason: String },
    /// Somebody keeps opening the outbox's producer.
    Contested,
    /// The lease has been taken more often than a producer's epoch can count.
    EpochsExhausted,
    /// The database says that trying again is no use.
    Database,
    /// The application has closed the client.
    ClientClosed,
}
