//! Deterministic simulation of everything: engine, shell and storage on a simulated disk, with
//! simulated clients, in virtual time.
//!
//! One thread, one seed: [`run`] carries out a [`Plan`], and the same plan gives the same
//! [`Run::trace`]. Connections are lost, processes killed, the power fails between and inside any
//! two operations of the disk, recovery included; syncs fail, the disk is full, the clock hops.
//! What clients were told is judged twice: after every recovery against what the broker would
//! serve, and at the end by the history checker.

#![forbid(unsafe_code)]

mod chance;
mod client;
mod faults;
mod host;
mod ledger;
mod net;
mod plan;
mod tap;
mod trace;
mod wire;
mod world;

pub use faults::Faults;
pub use plan::Plan;
pub use world::{Run, run};
