//! Sending through an outbox: what it costs the sender's transaction, how fast a relay drains it,
//! how late a message arrives, and what the inbox costs a consumer. On real databases, started here.

mod business;
mod drain;
mod inbox;
mod latency;
mod rivals;
mod servers;
mod tax;

use std::fmt;
use std::io;

use clap::{Args, ValueEnum};

use crate::Common;

/// Which databases, and how long.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// On these databases.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Database::ALL)]
    databases: Vec<Database>,
    /// Seconds of each slice.
    #[arg(long, default_value_t = 2.0)]
    slice: f64,
    /// Slices of each kind, in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Rows for a relay to drain.
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Seconds that each latency is measured for, and that transactions are held open for.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Messages a second while latency is measured.
    #[arg(long, default_value_t = 200)]
    rate: u64,
}

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    Sqlite,
    Postgres,
    Mariadb,
}

impl Database {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Mariadb];
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
        })
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What an enqueue costs the user's transaction.
pub(crate) fn tax(options: &Options) -> io::Result<()> {
    run(tax::run(options))
}

/// A relay beside a loop that only selects and deletes.
pub(crate) fn drain(options: &Options) -> io::Result<()> {
    run(drain::run(options))
}

/// From commit to consumer, with and without transactions held open, beside other relays.
pub(crate) fn latency(options: &Options) -> io::Result<()> {
    run(latency::run(options))
}

/// What the inbox costs a consumer's transaction.
pub(crate) fn inbox(options: &Options) -> io::Result<()> {
    run(inbox::run(options))
}

fn run(work: impl Future<Output = Result<(), Failed>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error| io::Error::other(error.to_string()))
}
