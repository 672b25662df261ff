//! Scenarios and properties of delivery, through the whole engine and a virtual clock.

#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test names the numbers and the variants that it expects"
)]

mod dead_letters;
mod leases;
mod lost_consumers;
mod properties;
mod spreading;
mod world;
