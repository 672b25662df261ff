//! The shop and the office of the demo: what an application does, each as a process of its own.

use super::evidence::{Files, is_rolled_back, open, text};
use super::{CLOSE_TIMEOUT, SUBSCRIPTION, TOPIC, connect};
use crate::exit::Failure;
use posthouse_client::{Delivery, Message};
use posthouse_outbox_rusqlite::{Inbox, Outbox};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::io::Read;
use std::time::Duration;
use tokio::time::sleep;

/// So long after the shop was killed its successor hands over.
const LEASE: Duration = Duration::from_secs(1);
/// Messages that wait for their turn at the office.
const CONCURRENCY: usize = 16;
/// Between two looks whether everything is handed over.
const LOOK: Duration = Duration::from_millis(10);

/// Sells what is not sold yet, and ends when everything is handed over.
pub(super) async fn shop(server: &str, files: &Files, sales: u64) -> Result<(), Failure> {
    let client = connect(server).await?;
    let outbox = Outbox::new(&files.shop);
    let relay = outbox.relay(&client).lease(LEASE).spawn();
    let (sending, mut db) = (outbox.clone(), open(&files.shop)?);
    let selling = tokio::task::spawn_blocking(move || sell(&sending, &mut db, sales));
    let sold = selling.await.map_err(Failure::refused)?;
    sold.map_err(Failure::refused)?;
    while outbox.lag().map_err(Failure::refused)?.rows > 0 {
        sleep(LOOK).await;
    }
    relay.shutdown().await.map_err(Failure::refused)?;
    client.close(CLOSE_TIMEOUT).await;
    Ok(())
}

fn sell(
    outbox: &Outbox,
    db: &mut Connection,
    sales: u64,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let next = "SELECT coalesce(max(number) + 1, 0) FROM sales";
    let next: i64 = db.query_row(next, [], |row| row.get(0))?;
    for number in next.cast_unsigned()..sales {
        let text = text(number);
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let sale = (number.cast_signed(), &text);
        tx.execute("INSERT INTO sales (number, text) VALUES (?1, ?2)", sale)?;
        let message = Message::new(text).header("number", number.to_string()).to(TOPIC);
        let bell = outbox.enqueue(&tx, message)?;
        if is_rolled_back(number) {
            tx.rollback()?;
        } else {
            tx.commit()?;
            bell.ring();
        }
    }
    Ok(())
}

/// Books each message once, until standard input ends.
pub(super) async fn office(server: &str, files: &Files) -> Result<(), Failure> {
    let client = connect(server).await?;
    let inbox = Inbox::new(&files.office, "office");
    let consumer = client.consumer(TOPIC, SUBSCRIPTION).await?;
    let stop = tokio::task::spawn_blocking(|| {
        // Whoever started this has gone, or wants it to end.
        let _ended: std::io::Result<usize> = std::io::stdin().read(&mut [0]);
    });
    let stopped = async { drop(stop.await) };
    inbox.run(consumer, CONCURRENCY, book).until(stopped).await?;
    client.close(CLOSE_TIMEOUT).await;
    Ok(())
}

fn book(tx: &Transaction<'_>, delivery: &Delivery) -> rusqlite::Result<()> {
    let number = delivery.header("number").unwrap_or_default();
    let number: i64 = String::from_utf8_lossy(number).parse().unwrap_or(-1);
    let booking = (number, &delivery.body()[..]);
    tx.execute("INSERT INTO bookings (number, text) VALUES (?1, ?2)", booking).map(|_| ())
}
