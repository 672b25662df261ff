//! Outbox and inbox in PostgreSQL.

use crate::core::{Core, roll_back, rows};
use crate::crew;
use crate::desk::{Admitted, Desk, Seat};
use crate::driver::postgres::Pg;
use crate::error::Error;
use crate::inbox::inbox;
use crate::outbox::outbox;
use crate::sends::{Bell, Sends};
use posthouse_client::outbox::batches::{next_batch, save_at_broker};
use posthouse_client::outbox::{Lag, NewRow, Parked, Relay, RowId, Store};
use posthouse_client::{Client, Consumer, Delivery, Failure, Outgoing, Reader, Record, Retry};
use sqlx::{PgPool, Postgres, Transaction};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

outbox!(Pg, Postgres, PgPool);
inbox!(Pg, Postgres, PgPool);

impl Outbox {
    /// Lets [`Self::enqueue`] use a statement that stays prepared on each connection, which saves the
    /// server the parsing of the message.
    ///
    /// Only for a pool that connects to PostgreSQL itself, or by way of a proxy that lends a server
    /// connection for a whole session. Behind one that pools transactions an enqueue then fails, or runs
    /// somebody else's statement of the same name.
    #[must_use]
    pub fn connects_directly(mut self) -> Self {
        self.core.is_direct = true;
        self
    }
}
