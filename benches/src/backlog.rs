//! A deep backlog: memory beside the page cache, start after `kill -9`, and whether a consumer is
//! served at once. Ends with an error if the memory is above its limit or a message is missing.

use std::io;
use std::time::Duration;

use clap::Args;
use posthouse_client::{Client, Message};

use crate::record::Record;
use crate::running::{self, Process};
use crate::{Common, clock, report};

/// Memory that a broker may take for a backlog of any depth.
const MEMORY_MAX: u64 = 200 << 20;

/// How deep.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Bytes waiting, in MiB.
    #[arg(long, default_value_t = 5120)]
    mib: u64,
    /// Bytes of each body.
    #[arg(long, default_value_t = 1024)]
    body: u64,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let binary = running::binary()?;
    let mib = if options.common.smoke { 64 } else { options.mib };
    let messages = (mib << 20) / options.body;
    let data_dir = dir.path().join("data");
    let broker = Process::start(&binary, &data_dir)?;
    let start = clock::now();
    fill(&broker.address, messages, options.body)?;
    let filled = start.elapsed();
    let before = broker.memory()?;
    broker.kill();
    let start = clock::now();
    let broker = Process::start(&binary, &data_dir)?;
    let started = start.elapsed();
    let first = run_async(first_message(&broker.address, messages))?;
    let after = broker.memory()?;
    report::line(format_args!(
        "backlog of {mib} MiB, {messages} messages, synced\n\
         filled at                {:>9.1} MB/s\n\
         memory while waiting     {:>9.1} MB\n\
         start after kill -9      {:>9.3} s\n\
         first message after that {:>9.3} s\n\
         memory after that        {:>9.1} MB",
        (messages * options.body) as f64 / 1e6 / filled.as_secs_f64(),
        before as f64 / 1e6,
        started.as_secs_f64(),
        first.as_secs_f64(),
        after as f64 / 1e6,
    ));
    Record::new("backlog", "backlog", "posthouse")
        .durability(false)
        .parameter("body", options.body)
        .parameter("messages", messages)
        .figure("filled", (messages * options.body) as f64 / filled.as_secs_f64(), "bytes/s")
        .figure("memory", before.max(after) as f64, "bytes")
        .figure("restart", started.as_secs_f64(), "s")
        .figure("first", first.as_secs_f64(), "s")
        .keep();
    broker.kill();
    if before.max(after) > MEMORY_MAX {
        return Err(io::Error::other("the memory is above 200 MB"));
    }
    Ok(())
}

type Failed = Box<dyn std::error::Error>;

fn run_async<T>(work: impl Future<Output = Result<T, Failed>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error| io::Error::other(error.to_string()))
}

/// Publishes so many messages, synced, into the topic `backlog`, which keeps them.
pub(crate) fn fill(server: &str, messages: u64, body: u64) -> io::Result<()> {
    run_async(publish(server, messages, body))
}

async fn publish(server: &str, messages: u64, body: u64) -> Result<(), Failed> {
    let client = Client::builder().server(server).name("backlog").connect().await?;
    client.admin().ensure_topic("backlog").await?;
    client.admin().ensure_subscription("backlog", "all").await?;
    let publisher = client.publisher("backlog").await?;
    let body = bytes::Bytes::from(vec![b'x'; usize::try_from(body)?]);
    let mut last = None;
    for _ in 0..messages {
        last = Some(publisher.submit(Message::new(body.clone())).await?);
    }
    publisher.flush().await?;
    if let Some(last) = last {
        last.await?;
    }
    client.close(Duration::from_secs(30)).await;
    Ok(())
}

/// How long a consumer waits for the first message; checks that all of them are still there.
async fn first_message(server: &str, messages: u64) -> Result<Duration, Failed> {
    let start = clock::now();
    let client = Client::builder().server(server).name("backlog").connect().await?;
    let mut consumer = client.consumer("backlog", "all").await?;
    let first = consumer.next().await.ok_or("no message")??;
    let took = start.elapsed();
    first.ack().await?;
    drop(consumer);
    let info = client.admin().describe_subscription("backlog", "all").await?;
    client.close(Duration::from_secs(5)).await;
    if info.backlog + 1 != messages {
        return Err(format!("{} of {messages} messages wait", info.backlog + 1).into());
    }
    Ok(took)
}
