//! The pure state machine of the broker.
