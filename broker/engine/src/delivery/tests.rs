//! Scenarios and properties of delivery, through the whole engine and a virtual clock.

mod dead_letters;
mod leases;
mod lost_consumers;
mod properties;
mod spreading;
mod world;
