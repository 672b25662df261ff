//! The broker: listener, core thread, configuration.
//!
//! [`Broker::start`] recovers a data directory and serves it; the `posthouse` command wraps it, and
//! a program can carry one inside itself: `Broker::start(Config::temporary()?)` and
//! [`Broker::connector`].
//!
//! All decisions are the engine's; here are the clock, the sockets, the files and the threads.

#![forbid(unsafe_code)]

mod broker;
mod bugs;
mod checkpoint;
mod clock;
mod commits;
pub mod config;
mod connection;
mod core;
mod deliver;
mod due;
mod exit;
mod fold;
mod gates;
mod inbox;
mod listener;
mod loader;
mod outbox;
mod read;
pub mod shell;
mod slices;
mod socket;
mod spin;
mod syncer;
mod unanswered;
mod watch;

pub use broker::{Broker, Connector, StartError};
pub use config::{Config, ConfigError};
pub use deliver::read_delivery;
pub use exit::Exit;
pub use fold::{FoldError, Folded};
pub use loader::{Loaded, perform};
