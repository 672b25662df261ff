//! Consume, transform, produce: bills are made of orders, once each, whatever crashes. Then a commit
//! put together by hand.

use posthouse_client::{Client, Failure, Message};
use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const ORDERS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server(server()).name("commit").connect().await?;
    for topic in ["orders", "bills", "audit"] {
        client.admin().ensure_topic(topic).await?;
    }
    client.admin().ensure_subscription("orders", "billing").await?;
    client.admin().ensure_subscription("bills", "posting").await?;
    let orders = client.publisher("orders").await?;
    for number in 0..ORDERS {
        orders.publish(number.to_string()).await?;
    }

    // What the handler returns is published in the commit that acks the order.
    let (billed, all_billed) = (AtomicUsize::new(0), Notify::new());
    let billing = client.consumer("orders", "billing").await?;
    let transform = billing.transform(8, async |order| {
        let number: usize = std::str::from_utf8(order.body())?.parse()?;
        if billed.fetch_add(1, Ordering::Relaxed) + 1 == ORDERS {
            all_billed.notify_one();
        }
        Ok::<_, Failure>(vec![Message::new(format!("bill {number}")).to("bills")])
    });
    transform.until(all_billed.notified()).await?;

    // By hand: two topics and an ack, all of it or nothing.
    let mut posting = client.consumer("bills", "posting").await?;
    if let Some(bill) = posting.next().await.transpose()? {
        let entry = Message::new(bill.body().clone()).key("ledger");
        let commit = client.commit().publish("audit", entry).publish("audit", "posted").ack(bill);
        let committed = commit.await?;
        writeln!(std::io::stdout(), "committed {} messages", committed.receipts.len())?;
    }

    drop(posting);
    client.close(Duration::from_secs(5)).await;
    Ok(())
}

/// `POSTHOUSE_SERVER`, as for the `posthouse` command.
fn server() -> String {
    std::env::var("POSTHOUSE_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned())
}
