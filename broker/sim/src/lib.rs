//! Simulation of the whole broker.
