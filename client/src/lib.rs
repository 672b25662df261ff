//! Client of the Posthouse message broker.
//!
//! ```no_run
//! use posthouse_client::{Client, Message, Retry};
//! # async fn bill(body: &[u8]) -> Result<(), std::io::Error> { let _ = body; Ok(()) }
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().server("127.0.0.1:7400").name("app").connect().await?;
//!
//! let orders = client.publisher("orders").await?;
//! let receipt = orders.publish(Message::new("hello").key("c-17")).await?; // On disk.
//! let pending = orders.submit(Message::new("world")).await?; // Waits for room only.
//! let receipt = pending.await?;
//!
//! let mut billing = client.consumer("orders", "billing").await?;
//! while let Some(delivery) = billing.next().await {
//!     let delivery = delivery?;
//!     match bill(delivery.body()).await {
//!         Ok(()) => delivery.ack(),
//!         Err(_) => delivery.nack(Retry::Backoff),
//!     };
//! }
//!
//! // All of it or nothing, through any crash; `Consumer::transform` does so for every delivery.
//! if let Some(order) = billing.next().await.transpose()? {
//!     client.commit().publish("bills", "bill").publish("audit", "billed").ack(order).await?;
//! }
//! client.close(std::time::Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! One connection for each client, driven by one task. It reconnects for ever; what was submitted is
//! sent again under the same sequence numbers, so that nothing is lost or doubled; settlements are
//! sent again too. Everything that waits is bounded in bytes.
//!
//! Every error says through `outcome()` whether the thing can still have happened.

#![forbid(unsafe_code)]

mod admin;
mod builder;
mod call;
mod client;
mod clock;
mod commit;
mod completion;
mod connector;
mod consumer;
mod core;
mod driver;
mod error;
#[doc(hidden)]
pub mod failpoint;
mod ids;
mod limits;
mod lock;
mod mailbox;
mod message;
mod options;
#[cfg(feature = "outbox")]
pub mod outbox;
mod publisher;
mod reader;
mod record;
mod records;

pub use admin::Admin;
pub use builder::ClientBuilder;
pub use client::Client;
pub use commit::{Commit, Committed, Cursor, OpenProducer, Producer};
pub use connector::{Connecting, Connector, Pipe};
pub use consumer::{
    Consumer, Delivery, Extension, Failure, OpenConsumer, Retry, Run, Settlement, Transform,
};
pub use error::{
    CommitError, CommitErrorKind, CommitPart, ConnectError, ConsumeError, PublishError, ReadError,
    Refusal, RequestError, SettleError, TrySubmitError,
};
pub use mailbox::CloseReport;
pub use message::{Message, Outgoing};
pub use publisher::{OpenPublisher, Pending, Publisher, Receipt};
pub use reader::{OpenReader, Position, Reader};
pub use record::Record;
pub use records::{RecordRef, Records, RecordsIter};

/// The fields of a message, for packages that store them one by one.
#[doc(hidden)]
pub use posthouse_protocol::batch::Message as Content;
pub use posthouse_protocol::batch::Priority;
pub use posthouse_protocol::message::{ProducerInfo, SubscriptionInfo, TopicInfo};
/// Where a new subscription starts.
pub use posthouse_protocol::settings::Position as Start;
pub use posthouse_protocol::settings::{
    Durability, Mode, Order, Overflow, Retention, SubscriptionSettings, TopicSettings,
};
pub use posthouse_protocol::{
    Attempt, ErrorCode, Fence, InvalidName, MessageId, Name, Offset, Outcome, Timestamp,
};
