//! Posthouse outbox and inbox for rusqlite.
//!
//! A message sent through an [`Outbox`] is a row in the application's own SQLite database: committed
//! with the business data, or rolled back with it. A relay hands it to the broker exactly once. At the
//! other end an [`Inbox`] commits the effect of a message together with a note that it was handled.
//!
//! ```no_run
//! use posthouse_client::{Client, Delivery, Message};
//! use posthouse_outbox_rusqlite::{Inbox, Outbox};
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().server("127.0.0.1:7400").connect().await?;
//! let outbox = Outbox::new("shop.db");
//! outbox.install()?;
//! let relay = outbox.relay(&client).spawn();
//!
//! let mut db = rusqlite::Connection::open("shop.db")?;
//! outbox.transaction(&mut db, |tx, out| {
//!     tx.execute("INSERT INTO orders (article) VALUES ('lamp')", [])?;
//!     out.send(Message::new(format!("order {}", tx.last_insert_rowid())).to("orders"));
//!     Ok::<_, rusqlite::Error>(())
//! })?;
//!
//! let inbox = Inbox::new("billing.db", "billing");
//! inbox.install()?;
//! let bill = |tx: &rusqlite::Transaction<'_>, delivery: &Delivery| {
//!     tx.execute("INSERT INTO bills (text) VALUES (?1)", [&delivery.body()[..]]).map(|_| ())
//! };
//! inbox.run(client.consumer("orders", "billing").await?, 16, bill).await?;
//! relay.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! SQL alone sends, too, from a trigger for example:
//! `INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'a lamp')`.

#![forbid(unsafe_code)]

mod database;
mod error;
mod inbox;
mod outbox;
mod store;
mod tables;
mod worker;

pub use error::{Error, ErrorKind};
pub use inbox::{Handling, Inbox};
pub use outbox::{Bell, Outbox, Sends};
pub use posthouse_client::outbox::{Lag, Parked, Row, RowId};
pub use store::SqliteStore;
