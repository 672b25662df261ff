//! The pure state machine of the broker.
//!
//! No clock, no files, no tasks, no randomness, no iteration over hashed maps.
//! [`Engine::handle`] takes one [`Input`] and appends [`Effect`]s, which the shell
//! carries out in their order; [`Engine::flush`] ends a round of inputs.
//! What must survive is in [`State`] and changes only by [`State::apply`] of an
//! [`Event`](event::Event): recovery, checkpoint and live running share that one function.
//! Leases, credit and connections are volatile and live beside it.

#![forbid(unsafe_code)]

pub mod effect;
pub mod event;
pub mod input;
pub mod ranges;
pub mod state;
pub mod time;

mod admission;
mod bugs;
mod catalog;
mod commit;
mod context;
mod cursor;
mod delay;
mod delivery;
mod engine;
mod fetch;
mod producers;
mod publish;
mod refusal;
mod retention;
mod sending;
mod visibility;

#[cfg(test)]
mod tests;

pub use effect::{Effect, Effects, Gate};
pub use engine::Engine;
pub use input::Input;
pub use state::State;
pub use time::{Now, Time};
