//! Client of the Posthouse message broker.
