//! What a client can be told, with the defaults.

use posthouse_protocol::limits;
use std::time::Duration;

/// Settings of one client.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Told to the broker, for its logs.
    pub(crate) name: String,
    /// How long `connect` tries.
    pub(crate) connect_timeout: Duration,
    /// How long a request may take, reconnecting included.
    pub(crate) operation_timeout: Duration,
    /// How long a message may wait for its receipt.
    pub(crate) publish_timeout: Duration,
    /// Bytes that a publisher may hold, waiting or in flight.
    pub(crate) publish_bytes: u32,
    /// Messages that a consumer may hold unsettled.
    pub(crate) credit_messages: u32,
    /// Bytes that a consumer may hold unsettled.
    pub(crate) credit_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: String::new(),
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(30),
            publish_bytes: 8 << 20,
            credit_messages: limits::CREDIT_MESSAGES_DEFAULT,
            credit_bytes: limits::CREDIT_BYTES_DEFAULT,
        }
    }
}
