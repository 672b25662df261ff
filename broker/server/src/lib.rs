//! The broker: listener, core thread, configuration.
