//! Publishing for a minute: whether the rate stays what it was while the checkpointer works beside it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use posthouse_client::{Client, Durability, Message, Publisher, TopicSettings};
use tokio::task::JoinSet;

use crate::device::Device;
use crate::probe::Probe;
use crate::record::Record;
use crate::running::{self, Process};
use crate::{Common, clock, report};

const TOPIC: &str = "sustained";
/// Bytes that may be unacknowledged on one connection.
const OUTSTANDING_BYTES: usize = 16 << 20;
const OUTSTANDING_MAX: usize = 20_000;
/// Lines of the report.
const SLICES: u32 = 12;
const CLOSE: Duration = Duration::from_secs(30);

/// What is published.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Bytes of each body.
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Connections, each with a publisher of the client crate.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Acknowledge from the page cache.
    #[arg(long)]
    written: bool,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What has happened up to a moment.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    messages: u64,
    device: u64,
    cpu: Duration,
}

/// What is looked at while messages are published.
struct Watch<'a> {
    options: &'a Options,
    broker: &'a Process,
    device: Device,
    acknowledged: Arc<AtomicU64>,
    memory_max: u64,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let disk = probe.bulk()?.sync;
    let broker = Process::start(&running::binary()?, &dir.path().join("data"))?;
    let mut watch = Watch {
        options,
        broker: &broker,
        device: Device::below(&File::open(dir.path())?)?,
        acknowledged: Arc::default(),
        memory_max: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = |error: Failed| io::Error::other(error.to_string());
    let rates = runtime.block_on(watch.load()).map_err(failed)?;
    watch.conclude(&rates, [disk, probe.bulk()?.sync]);
    broker.kill();
    Ok(())
}

impl Watch<'_> {
    /// Publishes for the time that is wanted; bytes a second in each slice of it.
    async fn load(&mut self) -> Result<Vec<f64>, Failed> {
        let options = self.options;
        let millis = if options.common.smoke { 120 } else { options.seconds.max(1) * 1000 };
        let kind = if options.written { "written" } else { "synced" };
        report::line(format_args!(
            "sustained, {kind}, {} B bodies, {} connections, client crate\n{:>8}{:>10}{:>10}{:>10}{:>10}",
            options.body, options.connections, "s", "MB/s", "dev B/B", "cpu", "memory MB"
        ));
        self.prepare().await?;
        let start = clock::now();
        let until = start + Duration::from_millis(millis);
        let mut publishers = JoinSet::new();
        for _ in 0..options.connections {
            let client = self.connect().await?;
            let load = Load {
                publisher: client.publisher(TOPIC).await?,
                body: Bytes::from(vec![b'x'; options.body]),
                acknowledged: Arc::clone(&self.acknowledged),
                until,
            };
            publishers.spawn(async move {
                load.run().await?;
                client.close(CLOSE).await;
                Ok::<_, Failed>(())
            });
        }
        let mut rates = Vec::new();
        let mut last = self.mark();
        for slice in 1..=SLICES {
            let end = start + Duration::from_millis(millis) * slice / SLICES;
            tokio::time::sleep_until(end.into()).await;
            let mark = self.mark();
            rates.push(self.slice(start, last, mark)?);
            last = mark;
        }
        while let Some(done) = publishers.join_next().await {
            done??;
        }
        Ok(rates)
    }

    async fn connect(&self) -> Result<Client, Failed> {
        Ok(Client::builder().server(&self.broker.address).name(TOPIC).connect().await?)
    }

    /// Makes the topic, with a subscription that keeps its messages.
    async fn prepare(&self) -> Result<(), Failed> {
        let client = self.connect().await?;
        let durability =
            if self.options.written { Durability::Written } else { Durability::Synced };
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        client.admin().create_topic(TOPIC, settings).await?;
        client.admin().ensure_subscription(TOPIC, "all").await?;
        client.close(CLOSE).await;
        Ok(())
    }

    fn mark(&self) -> Mark {
        Mark {
            at: clock::now(),
            messages: self.acknowledged.load(Ordering::Relaxed),
            device: self.device.written(),
            cpu: self.broker.cpu(),
        }
    }

    /// Reports what happened between two moments; bytes a second.
    fn slice(&mut self, start: Instant, from: Mark, to: Mark) -> io::Result<f64> {
        let seconds = (to.at - from.at).as_secs_f64();
        let bytes = ((to.messages - from.messages) * self.options.body as u64) as f64;
        let memory = self.broker.memory()?;
        self.memory_max = self.memory_max.max(memory);
        report::line(format_args!(
            "{:>8.1}{:>10.0}{:>10.2}{:>10.2}{:>10.0}",
            (to.at - start).as_secs_f64(),
            bytes / seconds / 1e6,
            (to.device - from.device) as f64 / bytes,
            to.cpu.saturating_sub(from.cpu).as_secs_f64() / seconds,
            memory as f64 / 1e6,
        ));
        Ok(bytes / seconds)
    }

    /// `disk` is what the disk took with syncs, before and after.
    fn conclude(&self, rates: &[f64], disk: [f64; 2]) {
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        let (first, last) = rates.split_at(rates.len() / 4);
        let last = last.get(last.len().saturating_sub(first.len())..).unwrap_or_default();
        let (all, steady) = (mean(rates), mean(last) / mean(first));
        let [before, after] = disk;
        let limit = f64::midpoint(before, after);
        report::line(format_args!(
            "in all {:.0} MB/s, {:.2} of the disk ({:.0} MB/s synced before, {:.0} after); the last quarter {steady:.2} times the first",
            all / 1e6,
            all / limit,
            before / 1e6,
            after / 1e6,
        ));
        let options = self.options;
        Record::new("sustained", "sustained", "posthouse")
            .durability(options.written)
            .parameter("body", options.body)
            .parameter("connections", options.connections)
            .parameter("seconds", options.seconds)
            .figure("payload", all, "bytes/s")
            .figure("of_limit", all / limit, "x")
            .figure("steady", steady, "last quarter by first quarter")
            .figure("memory", self.memory_max as f64, "bytes")
            .probe("bulk_sync", limit, "bytes/s")
            .keep();
    }
}

/// One connection's part.
struct Load {
    publisher: Publisher,
    body: Bytes,
    acknowledged: Arc<AtomicU64>,
    until: Instant,
}

impl Load {
    /// Submits one by one; each message has its own receipt, which is awaited.
    async fn run(self) -> Result<(), Failed> {
        let most = (OUTSTANDING_BYTES / self.body.len().max(1)).clamp(4, OUTSTANDING_MAX);
        let mut pending = VecDeque::with_capacity(most);
        while clock::now() < self.until {
            while pending.len() < most {
                pending.push_back(self.publisher.submit(Message::new(self.body.clone())).await?);
            }
            for receipt in pending.drain(..most.div_ceil(4)) {
                receipt.await?;
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        for receipt in pending {
            receipt.await?;
        }
        Ok(())
    }
}
