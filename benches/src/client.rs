//! The client crate against the real broker: one by one, a queue with every message acknowledged,
//! and replay.

use std::io;
use std::time::Duration;

use clap::Args;
use posthouse_client::{Client, Durability, Message, Position, TopicSettings};

use crate::probe::{self, Probe};
use crate::record::Record;
use crate::running::InProcess;
use crate::{Common, clock, report};

/// How much to send and take.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Messages in each round.
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of each body.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Acknowledge from the page cache.
    #[arg(long)]
    written: bool,
    /// Credit of the consumer, in messages.
    #[arg(long, default_value_t = 4096)]
    credit: u32,
}

/// Messages a second of one round.
struct Round {
    submit: f64,
    queue: f64,
    replay: f64,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let broker = InProcess::start(dir.path())?;
    let (rounds, messages) =
        if options.common.smoke { (1, 2_000) } else { (options.rounds, options.messages) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut done = Vec::new();
    let mut readings = Vec::new();
    for number in 0..rounds {
        readings.push(probe.read()?);
        let round = Measured { options, messages, topic: format!("round-{number}") };
        let outcome = runtime.block_on(round.run(&broker.address.to_string()));
        done.push(outcome.map_err(|error| io::Error::other(error.to_string()))?);
    }
    let kind = if options.written { "written" } else { "synced" };
    let middle = |figure: fn(&Round) -> f64| report::median(done.iter().map(figure)) / 1e3;
    report::line(format_args!(
        "client, {kind}, {} B bodies, 1 connection, {messages} messages; thousand messages/s",
        options.body
    ));
    report::line(format_args!(
        "submitted one by one, each with its receipt {:>9.1}\nqueue, each message acknowledged            {:>9.1}\nreplay                                      {:>9.1}\n{}",
        middle(|round| round.submit),
        middle(|round| round.queue),
        middle(|round| round.replay),
        probe::typical(&readings)
    ));
    for (row, rate) in [
        ("submit", middle(|round| round.submit)),
        ("queue", middle(|round| round.queue)),
        ("replay", middle(|round| round.replay)),
    ] {
        Record::new("client", row, "posthouse")
            .durability(options.written)
            .parameter("body", options.body)
            .parameter("messages", messages)
            .rounds(rounds)
            .figure("rate", rate * 1e3, "messages/s")
            .reading(&probe::typical(&readings))
            .keep();
    }
    broker.stop()
}

struct Measured<'a> {
    options: &'a Options,
    messages: u64,
    topic: String,
}

type Failed = Box<dyn std::error::Error>;

impl Measured<'_> {
    async fn run(&self, server: &str) -> Result<Round, Failed> {
        let client = Client::builder().server(server).name("bench").connect().await?;
        let durability =
            if self.options.written { Durability::Written } else { Durability::Synced };
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        client.admin().create_topic(&self.topic, settings).await?;
        client.admin().ensure_subscription(&self.topic, "all").await?;
        let submit = self.rate(self.submit(&client).await?);
        let replay = self.rate(self.replay(&client).await?);
        let queue = self.rate(self.consume(&client).await?);
        client.close(Duration::from_secs(5)).await;
        Ok(Round { submit, queue, replay })
    }

    fn rate(&self, took: Duration) -> f64 {
        self.messages as f64 / took.as_secs_f64()
    }

    async fn submit(&self, client: &Client) -> Result<Duration, Failed> {
        let publisher = client.publisher(&self.topic).await?;
        let body = bytes::Bytes::from(vec![b'x'; self.options.body]);
        let start = clock::now();
        let mut pending = std::collections::VecDeque::new();
        for _ in 0..self.messages {
            pending.push_back(publisher.submit(Message::new(body.clone())).await?);
            if pending.len() >= 20_000
                && let Some(oldest) = pending.pop_front()
            {
                oldest.await?;
            }
        }
        for receipt in pending {
            receipt.await?;
        }
        Ok(start.elapsed())
    }

    async fn consume(&self, client: &Client) -> Result<Duration, Failed> {
        let consumer = client.consumer(&self.topic, "all");
        let start = clock::now();
        let mut consumer = consumer.credit(self.options.credit, 8 << 20).await?;
        let mut last = None;
        for _ in 0..self.messages {
            let Some(delivery) = consumer.next().await else { break };
            last = Some(delivery?.ack());
        }
        // Settlements are answered in order, so the last one's answer is everybody's.
        if let Some(last) = last {
            last.await?;
        }
        Ok(start.elapsed())
    }

    async fn replay(&self, client: &Client) -> Result<Duration, Failed> {
        let start = clock::now();
        let mut reader = client.reader(&self.topic, Position::Earliest).await?;
        let mut count = 0;
        while reader.next().await?.is_some() {
            count += 1;
        }
        if count != self.messages {
            return Err(format!("read {count} of {} messages", self.messages).into());
        }
        Ok(start.elapsed())
    }
}
