//! A work queue: eight handlers at a time, failures back off. Ctrl-C lets those at work finish.

use posthouse_client::{Client, Delivery, Failure, Message};
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const JOBS: usize = 100;
static DONE: AtomicUsize = AtomicUsize::new(0);
static ALL_DONE: Notify = Notify::const_new();

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server(server()).name("work_queue").connect().await?;
    client.admin().ensure_topic("jobs").await?;
    client.admin().ensure_subscription("jobs", "workers").await?;

    let jobs = client.publisher("jobs").await?;
    let mut receipts = Vec::new();
    for number in 0..JOBS {
        receipts.push(jobs.submit(Message::new(number.to_string())).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    let workers = client.consumer("jobs", "workers").credit(64, 1 << 20).await?;
    let end = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = ALL_DONE.notified() => {}
        }
    };
    workers.run(8, work).until(end).await?;
    writeln!(std::io::stdout(), "{} jobs done", DONE.load(Ordering::Relaxed))?;
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
    if DONE.fetch_add(1, Ordering::Relaxed) + 1 == JOBS {
        ALL_DONE.notify_one();
    }
    Ok(())
}

/// `POSTHOUSE_SERVER`, as for the `posthouse` command.
fn server() -> String {
    std::env::var("POSTHOUSE_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned())
}
