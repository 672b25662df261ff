//! Posthouse outbox and inbox for sqlx: PostgreSQL, MariaDB and MySQL, SQLite.
//!
//! A message sent through an `Outbox` is a row in the application's own database: committed with the
//! business data, or rolled back with it. A relay hands it to the broker exactly once. At the other
//! end an `Inbox` commits the effect of a message together with a note that it was handled: together
//! that is *effectively once* from one database into another. Each of the modules `postgres`, `mysql`
//! and `sqlite` has both, behind the feature of its name.
//!
#![cfg_attr(feature = "postgres", doc = "```no_run")]
#![cfg_attr(not(feature = "postgres"), doc = "```ignore")]
//! use posthouse_client::{Client, Message};
//! use posthouse_outbox_sqlx::Error;
//! use posthouse_outbox_sqlx::postgres::{Inbox, Outbox};
//! # async fn demo(pool: sqlx::PgPool, other: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().server("127.0.0.1:7400").connect().await?;
//! let outbox = Outbox::new(pool.clone());
//! outbox.install().await?; // Or put the text of `ddl()` into your migrations.
//! let relay = outbox.relay(&client).spawn();
//!
//! let order = outbox
//!     .transaction(async |tx, out| {
//!         let insert = "INSERT INTO orders (article) VALUES ('lamp') RETURNING id";
//!         let order: i64 = sqlx::query_scalar(insert).fetch_one(&mut **tx).await?;
//!         out.send(Message::new(format!("order {order}")).key("lamp").to("orders"));
//!         Ok::<_, Error>(order)
//!     })
//!     .await?;
//!
//! let mut tx = pool.begin().await?; // Or in a transaction of your own.
//! let bell = outbox.enqueue(&mut tx, Message::new("restocked").to("orders")).await?;
//! tx.commit().await?;
//! bell.ring();
//!
//! let inbox = Inbox::new(other, "billing");
//! let consumer = client.consumer("orders", "billing").await?;
//! let run = inbox.run(consumer, 16, async |tx, delivery| {
//!     let bill = sqlx::query("INSERT INTO bills (text) VALUES ($1)").bind(&delivery.body()[..]);
//!     bill.execute(&mut **tx).await.map(|_| ())
//! });
//! run.until(async { let _ = tokio::signal::ctrl_c().await; }).await?;
//! relay.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! SQL alone sends, too, from a trigger for example:
//! `INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'a lamp')`, and in PostgreSQL and
//! MariaDB `posthouse_enqueue`.
//!
//! # Order
//!
//! *Per key*: if transaction T2 on key K inserted its outbox row after T1 (same K) committed, K's
//! messages reach the broker T1 then T2, unless T1 stayed open for more than 60 s after its insert
//! (less while more than 4,096 numbers are missing).
//! That holds when the business transaction locks what the key stands for (`UPDATE`,
//! `SELECT FOR UPDATE`) **before** enqueueing, and for every transaction in SQLite. Transactions on
//! one key that lock nothing have no order to preserve. *Inside one transaction*: insertion order.
//! *Across keys*: none. A message that is parked, because the broker will never take it, is passed
//! by those behind it.
//!
//! # What it takes
//!
//! - Rust 1.95, as all of Posthouse; sqlx 0.9 itself asks for 1.94.
//! - A tokio runtime. What begins and commits runs in tasks of its own, so that dropping a future of
//!   this package never leaves a pooled connection in a transaction.
//! - With MariaDB and MySQL, handlers and closures that are not dropped while they run a query with
//!   bound values for the first time on a connection: sqlx 0.9 loses that connection to its pool if it
//!   is preparing then. The statements of this package are not prepared there, but for what is
//!   enqueued at once and has more than a mebibyte.
//! - PostgreSQL 13, MariaDB 10.6, MySQL 8.0.29 or SQLite 3.37, or newer. Tested with PostgreSQL 15,
//!   MariaDB 10.11, and the SQLite that sqlx brings; MySQL gets the same SQL and is not tested.
//! - Behind a proxy that pools transactions (pgbouncer) nothing else. Your own queries with bound
//!   values need `persistent(false)` there, unless the proxy knows prepared statements (pgbouncer 1.21
//!   with `max_prepared_statements`); `statement_cache_capacity(0)` alone leaves them their names.

#![forbid(unsafe_code)]
#![cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]

mod core;
mod crew;
mod desk;
mod driver;
mod error;
mod inbox;
#[cfg(feature = "mysql")]
pub mod mysql;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod rows;
mod sends;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod store;
mod unbroken;

pub use error::Error;
pub use posthouse_client::outbox::{Lag, Parked, Row, RowId};
pub use sends::{Bell, Sends};
