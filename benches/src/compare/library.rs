//! Posthouse through its client crate, which batches what waits.

use std::collections::VecDeque;
use std::hint;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use posthouse_client::{Client, Message, Position};

use super::turn::{Outcome, histogram};
use crate::clock;
use crate::peers::Service;

/// Receipts that may be outstanding.
const OUTSTANDING: usize = 20_000;
/// Submits between two looks at the clock.
const STRIDE: usize = 64;
const CREDIT: u32 = 4096;
const CLOSE: Duration = Duration::from_secs(5);

type Failed = Box<dyn std::error::Error>;

fn run(
    service: &Service,
    work: impl AsyncFnOnce(&Client) -> Result<Outcome, Failed>,
) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let address = service.address.to_string();
        let client = Client::builder().server(&address).name("compare").connect().await?;
        let outcome = work(&client).await;
        client.close(CLOSE).await;
        outcome
    });
    outcome.map_err(|error| io::Error::other(error.to_string()))
}

/// Submits one by one, each message with its own receipt, which is awaited.
pub(super) fn publish(
    service: &Service,
    queue: &str,
    body: usize,
    measured: Duration,
) -> io::Result<Outcome> {
    run(service, async |client| {
        let publisher = client.publisher(queue).await?;
        let body = Bytes::from(vec![b'x'; body]);
        let from = clock::now() + measured / 10;
        let until = from + measured;
        let mut pending = VecDeque::with_capacity(OUTSTANDING);
        let (mut messages, mut all) = (0, 0);
        let mut now = clock::now();
        while now < until || !pending.is_empty() {
            for _ in 0..STRIDE {
                if now < until {
                    pending.push_back(publisher.submit(Message::new(body.clone())).await?);
                }
                if (pending.len() >= OUTSTANDING || now >= until)
                    && let Some(oldest) = pending.pop_front()
                {
                    oldest.await?;
                    all += 1;
                    messages += u64::from(now >= from && now < until);
                }
            }
            now = clock::now();
        }
        Ok(Outcome { latency: histogram(), messages, elapsed: measured, all })
    })
}

/// Takes a backlog, acknowledging each message.
pub(super) fn queue(service: &Service, queue: &str, messages: u64) -> io::Result<Outcome> {
    run(service, async |client| {
        let start = clock::now();
        let mut consumer = client.consumer(queue, "all").credit(CREDIT, 8 << 20).await?;
        let mut last = None;
        for _ in 0..messages {
            let delivery = consumer.next().await.ok_or("the consumer has ended")??;
            last = Some(delivery.ack());
        }
        // Settlements are answered in order, so the last one's answer is everybody's.
        if let Some(last) = last {
            last.await?;
        }
        Ok(Outcome { latency: histogram(), messages, elapsed: start.elapsed(), all: messages })
    })
}

/// Reads everything without consuming it.
pub(super) fn replay(service: &Service, queue: &str, messages: u64) -> io::Result<Outcome> {
    run(service, async |client| {
        let start = clock::now();
        let mut reader = client.reader(queue, Position::Earliest).await?;
        for count in 0..messages {
            if reader.next().await?.is_none() {
                return Err(format!("read {count} of {messages} messages").into());
            }
        }
        Ok(Outcome { latency: histogram(), messages, elapsed: start.elapsed(), all: messages })
    })
}

/// The same, many messages at a time; each is looked at.
pub(super) fn replay_records(service: &Service, queue: &str, messages: u64) -> io::Result<Outcome> {
    run(service, async |client| {
        let start = clock::now();
        let mut reader = client.reader(queue, Position::Earliest).await?;
        let (mut count, mut bytes) = (0, 0);
        while count < messages {
            let Some(records) = reader.next_records().await? else {
                return Err(format!("read {count} of {messages} messages").into());
            };
            count += records.len() as u64;
            bytes += records.iter().map(|record| record.body().len()).sum::<usize>();
        }
        hint::black_box(bytes);
        Ok(Outcome { latency: histogram(), messages: count, elapsed: start.elapsed(), all: count })
    })
}
