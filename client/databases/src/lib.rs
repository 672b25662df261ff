//! Real database servers for tests: installed from packages, started, stopped and killed by the tests.
//!
//! A server lives in a temporary directory of its own and listens on a Unix socket there, so that
//! servers never meet on a port. It writes as durably as it can: what is tested is what users run.
//! A *reaper* process ends the server and removes the directory when the value is dropped, and also
//! when the test process is killed.
//!
//! A test binary shares one server ([`Postgres::shared`]) and gives every test a database of its own
//! ([`Postgres::create_database`]).

#![forbid(unsafe_code)]

mod error;
mod install;
mod mariadb;
mod pgbouncer;
mod postgres;
mod process;
mod site;

pub use error::Error;
pub use install::ensure_installed;
pub use mariadb::MariaDb;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use site::Backup;

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions end, everything is written, the next start has nothing to recover.
    Fast,
    /// At once, as in a crash: the next start recovers.
    Immediate,
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    name: String,
    url: String,
}

impl Database {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a client connects to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}
