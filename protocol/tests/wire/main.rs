//! The bytes of the protocol: golden files, round trips, damage of every kind, and the page.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a wrong index, cast or value fails the test, which is what a test is for"
)]

mod corpus;
mod document;
mod golden;
mod round_trip;
mod schema;
mod totality;
