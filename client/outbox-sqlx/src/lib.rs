//! Posthouse outbox and inbox for sqlx: PostgreSQL, MariaDB and MySQL, SQLite.

#![forbid(unsafe_code)]

mod core;
mod crew;
mod desk;
mod driver;
mod error;
mod inbox;
#[cfg(feature = "mysql")]
pub mod mysql;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod sends;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod store;
mod unbroken;

pub use error::Error;
pub use posthouse_client::outbox::{Lag, Parked, Row, RowId};
pub use sends::{Bell, Sends};
