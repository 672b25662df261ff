//! Sending under fire: outbox, relay, broker and inbox in real processes on real databases.
//!
//! The binary `posthouse-trial` has the processes; `tests/` kills, stops and cuts them off, and the
//! [`judge`] says whether what was committed was done, once each and in order. This library is what
//! the two share.

#![forbid(unsafe_code)]

mod by_rusqlite;
mod by_sqlx;
mod chance;
mod database;
pub mod judge;
mod op;

pub use by_rusqlite::Rusqlite;
pub use by_sqlx::{MariaDb, Postgres, Sqlite};
pub use chance::Chance;
pub use database::{Database, Driver, Handling, Outcome, Relaying};
pub use op::{KEYS, NOWHERE, NotAnOp, Op, POISON_KEYS, Plan, SUBSCRIPTION, Style, TOPICS, WITNESS};

/// Whatever went wrong; a trial only shows it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
