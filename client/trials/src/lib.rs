//! Sending under fire: outbox, relay, broker and inbox in real processes on real databases.
