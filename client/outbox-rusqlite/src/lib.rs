//! Posthouse outbox and inbox for rusqlite.
