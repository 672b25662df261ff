//! Posthouse outbox and inbox for sqlx: PostgreSQL, MariaDB and MySQL, SQLite.

#![forbid(unsafe_code)]

mod driver;
mod error;
mod store;
mod unbroken;

pub use error::Error;
