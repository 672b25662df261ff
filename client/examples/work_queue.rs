//! A work queue: eight handlers at a time, failures back off, hopeless ones become dead letters.
//! Ctrl-C lets the handlers at work finish and gives the rest back.

use posthouse_client::{Client, Delivery, Failure, Message};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server("127.0.0.1:7400").name("work_queue").connect().await?;
    client.admin().ensure_topic("jobs").await?;
    client.admin().ensure_subscription("jobs", "workers").await?;

    let jobs = client.publisher("jobs").await?;
    let mut receipts = Vec::new();
    for number in 0..100 {
        // Waits for room only; what waits travels together.
        receipts.push(jobs.submit(Message::new(number.to_string())).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }

    let workers = client.consumer("jobs", "workers").credit(64, 1 << 20).await?;
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    workers.run(8, work).until(ctrl_c).await?;

    client.close(Duration::from_secs(5)).await;
    Ok(())
}

/// `Ok` acks; an error nacks, and its text is the reason.
async fn work(job: Arc<Delivery>) -> Result<(), Failure> {
    let text = std::str::from_utf8(job.body()).map_err(|_| Failure::reject("not a number"))?;
    let number: u64 = text.parse().map_err(|_| Failure::reject("not a number"))?;
    if number % 10 == 3 && job.attempt().0 == 0 {
        return Err(Failure::from("works at the second attempt"));
    }
    tokio::time::sleep(Duration::from_millis(number)).await;
    Ok(())
}
