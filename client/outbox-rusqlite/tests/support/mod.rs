//! A shop with a real database file, and a broker in this process.

#![allow(dead_code, reason = "every test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use posthouse_broker::{Broker, Config};
use posthouse_client::outbox::Store as _;
use posthouse_client::{Client, TopicSettings};
use posthouse_outbox_rusqlite::{Outbox, Row, RowId};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;

/// A database with a table `orders (number)` and an outbox.
pub(crate) struct Shop {
    folder: tempfile::TempDir,
    pub(crate) outbox: Outbox,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let outbox = Outbox::new(&path);
        outbox.install().unwrap();
        let shop = Self { folder, outbox };
        shop.connect().execute_batch("CREATE TABLE orders (number INTEGER, text TEXT)").unwrap();
        shop
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    pub(crate) fn orders(&self) -> Vec<i64> {
        let connection = self.connect();
        let mut select = connection.prepare("SELECT number FROM orders ORDER BY rowid").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// What the outbox holds, as a relay would read it.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.outbox.store().scan(&[], RowId(0), 1000, u64::MAX >> 1)).unwrap()
    }

    pub(crate) fn waiting(&self) -> Vec<String> {
        let body = |row: &Row| String::from_utf8(row.body.to_vec()).unwrap();
        self.rows().iter().map(body).collect()
    }
}

/// A broker with a topic `orders`, its subscription `billing`, and a topic `audit`.
pub(crate) async fn broker() -> (Broker, Client) {
    let broker = Broker::start(Config::temporary().unwrap()).await.unwrap();
    let client = connect(&broker).await;
    for topic in ["orders", "audit"] {
        client.admin().create_topic(topic, TopicSettings::default()).await.unwrap();
    }
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    (broker, client)
}

pub(crate) async fn connect(broker: &Broker) -> Client {
    Client::builder().connector(broker.connector()).connect().await.unwrap()
}
