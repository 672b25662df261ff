//! Many messages that wait until they are due: memory beside the page cache, the checkpoint, start
//! after `kill -9`, and how fast they come once they are due. Ends with an error if the memory is
//! above its limit or a message is missing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use posthouse_client::{Client, Message, Publisher, Timestamp};

use crate::record::Record;
use crate::running::{self, Process};
use crate::{Common, clock, report};

/// Memory that a broker may take for ten million of them.
const MEMORY_MAX: u64 = 512 << 20;
/// The times of those that are not due here are spread over so many milliseconds.
const SPREAD_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Publishers that each wait for the receipt of one message, with `--one-by-one`.
const ONE_BY_ONE: u64 = 256;
/// Messages between two looks at the memory.
const LOOK_EVERY: u64 = 100_000;

/// How many.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Messages that wait.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// One of so many becomes due while it is watched; the others are due within a month.
    #[arg(long, default_value_t = 10)]
    due_of: u64,
    /// Seconds from the start until these are due. Everything must have been published by then.
    #[arg(long, default_value_t = 120)]
    due_in: u64,
    /// Bytes of each body.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Each message is a batch of its own.
    #[arg(long)]
    one_by_one: bool,
}

/// What all messages have in common, and what was seen while they were published.
struct Load {
    messages: u64,
    due_of: u64,
    due_at: u64,
    body: bytes::Bytes,
    next: AtomicU64,
    memory: AtomicU64,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let (binary, data_dir) = (running::binary()?, dir.path().join("data"));
    let smoke = options.common.smoke;
    let (messages, due_in) = if smoke { (20_000, 4) } else { (options.messages, options.due_in) };
    let load = Arc::new(Load {
        messages,
        due_of: options.due_of.max(1),
        due_at: (clock::seconds() + due_in) * 1000,
        body: vec![b'x'; options.body].into(),
        next: AtomicU64::new(0),
        memory: AtomicU64::new(0),
    });
    let broker = Process::start(&binary, &data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = |error: Failed| io::Error::other(error.to_string());
    let start = clock::now();
    runtime.block_on(fill(&broker, &load, options.one_by_one)).map_err(failed)?;
    let filled = start.elapsed();
    clock::pause(Duration::from_secs(2));
    let waiting = broker.memory()?;
    let checkpoint = newest_checkpoint(&data_dir)?;
    broker.kill();
    let start = clock::now();
    let broker = Process::start(&binary, &data_dir)?;
    let started = start.elapsed();
    let again = broker.memory()?;
    let came = runtime.block_on(watch(&broker, &load)).map_err(failed)?;
    let peak = load.memory.load(Ordering::Relaxed).max(waiting).max(again);
    let due = messages.div_ceil(load.due_of);
    let rate = due as f64 / came.as_secs_f64();
    report::line(format_args!(
        "{messages} delayed messages of {} bytes, {}, synced\n\
         published at             {:>9.1} k/s\n\
         memory while waiting     {:>9.1} MB, {:.1} bytes a message\n\
         memory after the start   {:>9.1} MB\n\
         most memory seen         {:>9.1} MB\n\
         checkpoint               {:>9.1} MB\n\
         start after kill -9      {:>9.3} s\n\
         {due} due at once       {:>9.1} k/s",
        options.body,
        if options.one_by_one { "one by one" } else { "in batches" },
        messages as f64 / 1e3 / filled.as_secs_f64(),
        waiting as f64 / 1e6,
        waiting as f64 / messages as f64,
        again as f64 / 1e6,
        peak as f64 / 1e6,
        checkpoint as f64 / 1e6,
        started.as_secs_f64(),
        rate / 1e3,
    ));
    Record::new("delayed", "delayed", "posthouse")
        .durability(false)
        .parameter("body", options.body)
        .parameter("messages", messages)
        .parameter("one by one", options.one_by_one)
        .figure("filled", messages as f64 / filled.as_secs_f64(), "messages/s")
        .figure("memory", waiting as f64, "bytes")
        .figure("memory after the start", again as f64, "bytes")
        .figure("most memory", peak as f64, "bytes")
        .figure("checkpoint", checkpoint as f64, "bytes")
        .figure("restart", started.as_secs_f64(), "s")
        .figure("due", rate, "messages/s")
        .keep();
    broker.kill();
    if peak > MEMORY_MAX {
        return Err(io::Error::other("the memory is above 512 MiB"));
    }
    Ok(())
}

type Failed = Box<dyn std::error::Error>;

async fn fill(broker: &Process, load: &Arc<Load>, one_by_one: bool) -> Result<(), Failed> {
    let client = Client::builder().server(&broker.address).name("delayed").connect().await?;
    client.admin().ensure_topic("delayed").await?;
    if one_by_one {
        let local = tokio::task::LocalSet::new();
        let mut tasks = Vec::new();
        for _ in 0..ONE_BY_ONE {
            let publisher = client.publisher("delayed").await?;
            tasks.push(local.spawn_local(send_one_by_one(publisher, Arc::clone(load))));
        }
        let all = async {
            while load.next.load(Ordering::Relaxed) < load.messages {
                load.look(broker)?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            for task in tasks {
                task.await??;
            }
            Ok::<(), Failed>(())
        };
        local.run_until(all).await?;
    } else {
        let publisher = client.publisher("delayed").await?;
        let mut last = None;
        while let Some(message) = load.next() {
            last = Some(publisher.submit(message).await?);
            if load.next.load(Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
                load.look(broker)?;
            }
        }
        publisher.flush().await?;
        if let Some(last) = last {
            last.await?;
        }
    }
    client.close(Duration::from_secs(30)).await;
    if clock::millis() >= load.due_at {
        return Err("it took too long: some were due before all had been published".into());
    }
    Ok(())
}

async fn send_one_by_one(publisher: Publisher, load: Arc<Load>) -> io::Result<()> {
    while let Some(message) = load.next() {
        publisher.publish(message).await.map_err(io::Error::other)?;
    }
    Ok(())
}

impl Load {
    fn next(&self) -> Option<Message> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.messages).then(|| {
            // Scattered, so that neighbours are due at quite different times.
            let later = 1 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % SPREAD_MS;
            let later = if number.is_multiple_of(self.due_of) { 0 } else { 60 * 60 * 1000 + later };
            Message::new(self.body.clone()).due_at(Timestamp(self.due_at + later))
        })
    }

    fn look(&self, broker: &Process) -> io::Result<()> {
        self.memory.fetch_max(broker.memory()?, Ordering::Relaxed);
        Ok(())
    }
}

/// How long it takes from the moment at which they are due until all of those are published.
async fn watch(broker: &Process, load: &Load) -> Result<Duration, Failed> {
    let client = Client::builder().server(&broker.address).name("delayed").connect().await?;
    let waits = async || Ok::<_, Failed>(client.admin().describe_topic("delayed").await?.waiting);
    if waits().await? != load.messages {
        return Err(format!("{} of {} messages wait", waits().await?, load.messages).into());
    }
    let left = load.messages - load.messages.div_ceil(load.due_of);
    let until = load.due_at.saturating_sub(clock::millis());
    tokio::time::sleep(Duration::from_millis(until)).await;
    let start = clock::now();
    while waits().await? > left {
        load.look(broker)?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let came = start.elapsed();
    let info = client.admin().describe_topic("delayed").await?;
    client.close(Duration::from_secs(5)).await;
    if (info.messages, info.waiting) != (load.messages - left, left) {
        return Err(format!("{} came and {} wait", info.messages, info.waiting).into());
    }
    Ok(came)
}

/// Length of the newest checkpoint; zero if there is none yet.
fn newest_checkpoint(data_dir: &Path) -> io::Result<u64> {
    let mut newest = (String::new(), 0);
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && name > newest.0 {
            newest = (name, entry.metadata()?.len());
        }
    }
    Ok(newest.1)
}
