//! Tests of the engine as a whole, driven through inputs and effects.

mod catalog;
mod commits;
mod delays;
mod fetches;
mod laws;
mod producers;
mod publishes;
mod retention;
pub(crate) mod shell;
mod started;
