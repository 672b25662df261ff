//! What the trials ask of a database, whatever the driver.

use crate::Failure;
use crate::op::{Op, Plan};
use posthouse_client::outbox::{Relay, RelayHandle, Store};
use posthouse_client::{Client, Consumer, Reader};
use std::future::Future;
use std::time::Duration;

/// The drivers under trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Driver {
    /// PostgreSQL via sqlx.
    Postgres,
    /// MariaDB via sqlx.
    Mariadb,
    /// SQLite via sqlx.
    Sqlite,
    /// SQLite via rusqlite.
    Rusqlite,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Committed,
    /// Rolled back, on purpose.
    RolledBack,
}

/// How a consumer handles messages.
#[derive(Clone, Debug)]
pub struct Handling {
    /// At a time.
    pub concurrency: usize,
    /// How long the transaction stays open after the effect.
    pub hold: Duration,
    /// Called in the transaction, before it is held open.
    pub holding: fn(&Op),
}

/// How a relay works.
#[derive(Clone, Debug)]
pub struct Relaying {
    /// Its name.
    pub name: String,
    /// How long it may be silent before another takes over.
    pub lease: Duration,
    /// Rows at a time.
    pub batch: u32,
    /// Goes on although the broker knows less than it acknowledged.
    pub accept_restored_broker: bool,
    /// Takes over an outbox that was copied from another database.
    pub adopt: bool,
}

impl Handling {
    /// The operation that a message tells of.
    pub(crate) fn read(&self, body: &[u8]) -> Result<Op, Failure> {
        Ok(std::str::from_utf8(body)?.parse()?)
    }
}

impl Relaying {
    /// A relay that works like this.
    pub(crate) fn configure<S: Store>(&self, relay: Relay<S>) -> Relay<S> {
        let mut relay = relay.name(self.name.as_str()).lease(self.lease).batch(self.batch);
        if self.accept_restored_broker {
            relay = relay.accept_restored_broker();
        }
        if self.adopt {
            relay = relay.adopt();
        }
        relay
    }
}

/// A sender's or a receiver's database.
pub trait Database: Clone + Send + Sync + 'static {
    /// The database there; connects when it is used.
    ///
    /// # Errors
    ///
    /// If the address is wrong.
    fn new(url: &str) -> Result<Self, Failure>;

    /// Makes the sender's tables and the outbox.
    fn install_sender(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes the receiver's tables and the inbox.
    fn install_receiver(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does one operation in one transaction.
    fn operate(&self, plan: &Plan) -> impl Future<Output = Result<Outcome, Failure>> + Send;

    /// Starts a relay.
    fn relay(&self, client: &Client, how: &Relaying) -> RelayHandle;

    /// Consumes until `shutdown` is done.
    fn consume(
        &self,
        consumer: Consumer,
        how: Handling,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads a stream that follows its topic, until another reader has overtaken this one.
    fn view(
        &self,
        reader: Reader,
        how: Handling,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The operations that stand in the sender's table.
    fn committed(&self) -> impl Future<Output = Result<Vec<Op>, Failure>> + Send;

    /// The operations that the receiver did, in order.
    fn effects(&self) -> impl Future<Output = Result<Vec<Op>, Failure>> + Send;

    /// The operations that the streams' reader saw, in order.
    fn viewed(&self) -> impl Future<Output = Result<Vec<Op>, Failure>> + Send;

    /// Forgets the view and its cursors, so that it is made anew.
    fn forget_view(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Rows in the outbox, and rows parked.
    fn waiting(&self) -> impl Future<Output = Result<(u64, u64), Failure>> + Send;

    /// Puts all parked rows back; returns how many.
    fn redrive(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// Runs `$body` with `$database` bound to the database at `$url`, opened by `$driver`.
#[macro_export]
macro_rules! with_database {
    ($driver:expr, $url:expr, $database:ident => $body:expr) => {
        match $driver {
            $crate::Driver::Postgres => {
                let $database = <$crate::Postgres as $crate::Database>::new($url)?;
                $body
            }
            $crate::Driver::Mariadb => {
                let $database = <$crate::MariaDb as $crate::Database>::new($url)?;
                $body
            }
            $crate::Driver::Sqlite => {
                let $database = <$crate::Sqlite as $crate::Database>::new($url)?;
                $body
            }
            $crate::Driver::Rusqlite => {
                let $database = <$crate::Rusqlite as $crate::Database>::new($url)?;
                $body
            }
        }
    };
}
