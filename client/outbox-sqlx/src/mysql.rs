//! Outbox and inbox in MariaDB and MySQL.

use crate::core::{Core, roll_back, rows};
use crate::crew;
use crate::desk::{Admitted, Desk, Seat};
use crate::driver::mysql::Maria;
use crate::error::Error;
use crate::inbox::inbox;
use crate::outbox::outbox;
use crate::sends::{Bell, Sends};
use posthouse_client::outbox::batches::{next_batch, save_at_broker};
use posthouse_client::outbox::{Lag, NewRow, Parked, Relay, RowId, Store};
use posthouse_client::{Client, Consumer, Delivery, Failure, Outgoing, Reader, Record, Retry};
use sqlx::{MySql, MySqlPool, Transaction};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

outbox!(Maria, MySql, MySqlPool);
inbox!(Maria, MySql, MySqlPool);
