//! Outbox and inbox in SQLite.

use crate::core::{Core, roll_back, rows};
use crate::crew;
use crate::desk::{Admitted, Desk, Seat};
use crate::driver::sqlite::Lite;
use crate::error::Error;
use crate::inbox::inbox;
use crate::outbox::outbox;
use crate::sends::{Bell, Sends};
use posthouse_client::outbox::batches::{next_batch, save_at_broker};
use posthouse_client::outbox::{Lag, NewRow, Parked, Relay, RowId, Store};
use posthouse_client::{Client, Consumer, Delivery, Failure, Outgoing, Reader, Record, Retry};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

outbox!(Lite, Sqlite, SqlitePool);
inbox!(Lite, Sqlite, SqlitePool);
