//! What a relay needs of the sender's database; each driver package implements it.
//!
//! A store is one connection of its own (never one of a transaction in progress), and only the relay
//! that drives it uses it; one more, made by [`Store::beside`], reads rows while the first records a
//! claim. Every method is one transaction, and none of them needs state of the session, so that a
//! proxy which pools transactions may stand between. After an error the next call
//! starts with a fresh connection if the old one is no good; the relay waits between attempts.
//!
//! A transaction whose outcome is unknown is never repeated as it is: the relay acquires the lease
//! again, which raises the epoch, so that a late copy of it changes nothing.

use super::row::{Row, RowId};
use posthouse_protocol::{MessageId, Timestamp};
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The outbox tables of one database, as a relay sees them.
///
/// Time is the database's clock throughout.
pub trait Store: Send + Sized + 'static {
    /// The same tables over another connection, which is made when it is first needed.
    #[must_use]
    fn beside(&self) -> Self;

    /// Closes the connection; the next call makes a new one. It does not fail, and takes no more
    /// than about a second.
    ///
    /// # Cancellation
    ///
    /// Dropped, the database notices by itself that the connection is gone.
    fn close(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells what the outbox is and who works it.
    fn describe(&mut self) -> impl Future<Output = Result<Description, StoreError>> + Send;

    /// Takes the lease, if nobody has it or `owner` has it already, and raises the epoch by one.
    ///
    /// `None` if another relay has it.
    fn acquire(
        &mut self,
        owner: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Standing>, StoreError>> + Send;

    /// Raises the epoch from `from` to `to`. False if it is not `from` any more.
    fn raise_epoch(
        &mut self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Remembers the database as the one that the outbox belongs to, in place of the one that it
    /// was copied from, with a new outbox id and its sequences at zero: both numbers of
    /// [`Standing`] become zero and all claims are removed; their rows stay and are claimed anew.
    /// False, with nothing changed, if the epoch is not `epoch` any more.
    fn adopt(&mut self, epoch: u64) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The claims that are not known to be acknowledged, ascending by sequence.
    fn claims(&mut self) -> impl Future<Output = Result<Vec<Claim>, StoreError>> + Send;

    /// The rows of these ids that are there, ascending.
    fn rows(&mut self, ids: &[RowId]) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// The rows whose ids are in `gaps`, and those above `after`, ascending; at most `rows_max`
    /// together and roughly `bytes_max` bytes, but at least one if there is one. What did not fit
    /// is left out at the upper end.
    ///
    /// All from one snapshot of the database (one statement), so that no row is seen without those
    /// that were committed before it was inserted: the order of messages rests on that.
    fn scan(
        &mut self,
        gaps: &[RowRange],
        after: RowId,
        rows_max: u32,
        bytes_max: u64,
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// The ids of rows in `from..=through`, ascending, at most `limit`.
    fn sweep(
        &mut self,
        from: RowId,
        through: RowId,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<RowId>, StoreError>> + Send;

    /// In one transaction, durable when it returns: prolongs the lease, notes what has been
    /// acknowledged, deletes those rows and claims, and records a new claim.
    ///
    /// False, with nothing changed, if the outbox does not stand where `step` says.
    fn step(&mut self, step: &Step) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// In one transaction, durable when it returns: moves rows aside with the reasons and changes
    /// claims.
    ///
    /// False, with nothing changed, if the outbox does not stand where `park` says.
    fn park(&mut self, park: &Park) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Gives the lease back, so that another relay need not wait for its end.
    fn release(&mut self, epoch: u64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How much waits, and what is parked.
    fn lag(&mut self) -> impl Future<Output = Result<Lag, StoreError>> + Send;

    /// Parked rows without their bodies, oldest first, at most `limit`, above the id `after`.
    fn parked(
        &mut self,
        after: RowId,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Parked>, StoreError>> + Send;

    /// Puts parked rows back at the end of the outbox, with their message ids, or new ones for those
    /// that are not 16 bytes long; returns how many.
    fn redrive(&mut self, ids: &[RowId]) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Deletes parked rows; returns how many.
    fn discard(&mut self, ids: &[RowId]) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// The versions of the tables that this program works with. Newer ones are left to newer programs.
pub const SCHEMA_VERSIONS: RangeInclusive<u32> = 1..=2;

/// What an outbox is and who works it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The outbox; names its producer at the broker.
    pub outbox: OutboxId,
    /// Version of the tables, see [`SCHEMA_VERSIONS`].
    pub schema_version: u32,
    /// The database that the outbox belongs to, as noted when it was installed or adopted; empty if
    /// this kind of database cannot tell.
    pub belongs_to: String,
    /// The database that it is in.
    pub found_in: String,
    /// The relay that has the lease, if one has.
    pub owner: Option<String>,
    /// What may be lost in a crash of this database although it said that it was committed, as a
    /// sentence for the user; `None` if nothing.
    pub durability_warning: Option<String>,
}

/// A 16-byte id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub [u8; 16]);

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where an outbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The lease's epoch: whoever has a higher one has replaced this relay.
    pub epoch: u64,
    /// The highest sequence claimed.
    pub claimed: u64,
    /// The highest sequence known to be acknowledged.
    pub acked: u64,
}

/// Rows that belong to one commit at the broker. What stands in a claim is what is sent, however
/// often.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The producer's sequence number of the commit.
    pub sequence: u64,
    /// The rows, ascending.
    pub rows: Vec<RowId>,
    /// CRC-32 of the encoded commit, to notice rows that were changed after they were claimed.
    pub digest: u32,
}

/// Consecutive ids, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowRange {
    /// The lowest.
    pub first: RowId,
    /// The highest.
    pub last: RowId,
}

/// See [`Store::step`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Where the outbox stands, as far as the relay knows. A database that was set back under a lease
    /// has the epoch of that lease all the same, but not its numbers.
    pub from: Standing,
    /// The lease lasts so long from now.
    pub lease: Duration,
    /// Everything up to this sequence is acknowledged.
    pub acked: u64,
    /// The rows of the claims that became acknowledged.
    pub done: Vec<RowId>,
    /// The new claim, if there is one; its sequence becomes the highest claimed.
    pub claim: Option<Claim>,
}

/// See [`Store::park`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Park {
    /// Where the outbox stands, as in [`Step::from`].
    pub from: Standing,
    /// Rows that move from the outbox to the parked ones, and why. Perhaps none.
    pub rows: Vec<(RowId, String)>,
    /// Each takes the place of the claim with its sequence; one without rows removes that claim.
    /// Rows that no claim names any more, and that are not parked, stay in the outbox. Perhaps none.
    pub claims: Vec<Claim>,
}

/// How much an outbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Rows that have not been handed over; [`Lag::COUNTED_MAX`] means that many or more.
    pub rows: u64,
    /// Age of the oldest.
    pub oldest: Option<Duration>,
    /// Rows parked; [`Lag::COUNTED_MAX`] means that many or more.
    pub parked: u64,
}

impl Lag {
    /// How far rows are counted: in a deep backlog counting them all would take longer than a lease.
    pub const COUNTED_MAX: u64 = 100_001;
}

/// A row that the broker will never take as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its number.
    pub id: RowId,
    /// The message's id; `None` if what is stored is not 16 bytes long.
    pub message_id: Option<MessageId>,
    /// The name of the topic, as the sender wrote it.
    pub topic: String,
    /// Bytes of the body, which stays where it is.
    pub body_bytes: u64,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// Why.
    pub reason: String,
    /// When it was set aside, in milliseconds since 1970.
    pub parked_at: u64,
}

/// Why a database could not do what a relay asked.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What can be done about a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Try again: connection lost, database locked, serialization failure. A transaction may or may
    /// not have been committed.
    Transient,
    /// The tables are not there, or of another version.
    NotInstalled,
    /// Anything else: wrong password, missing rights, a broken database.
    Permanent,
}

impl StoreError {
    /// An error of this kind.
    pub fn new(
        kind: StoreErrorKind,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, source: source.into() }
    }

    /// What can be done about it.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbox database: {}", self.source)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
