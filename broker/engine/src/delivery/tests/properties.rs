//! The laws, under random histories.
