//! `posthouse demo`: the main job told step by step, with real processes that are really killed.

mod evidence;
mod process;

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::{Output, counted, grouped};
use clap::Args;
use evidence::{Evidence, body};
use posthouse_client::{Client, Message, Pending, Publisher};
use process::{BrokerProcess, Site};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  posthouse demo
  posthouse demo --messages 1000000

Starts brokers in a temporary directory on a free port, kills them with kill -9 while messages
are on their way, and compares what was accepted with what comes out: counts, and SHA-256 over
all bodies. Exits 1 if they differ. Leaves nothing behind.";

const TOPIC: &str = "parcels";
const SUBSCRIPTION: &str = "couriers";
/// Messages on their way at a time.
const AHEAD: usize = 1000;
/// Kills while publishing.
const KILLS: u64 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Show the main job step by step: publish, kill -9, consume, compare; exits 1 on a difference
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Demo {
    /// How many messages to send
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    messages: u64,
}

impl Demo {
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        // Dropped, the broker is killed and the directory removed.
        tokio::select! {
            done = Story::new(self.messages, output)?.tell() => done,
            _ = interrupt.next() => Err(Failure::refused("interrupted")),
        }
    }
}

/// The demo while it runs.
struct Story<'a> {
    output: &'a mut Output,
    messages: u64,
    site: Site,
    step: u32,
}

#[derive(Serialize)]
struct Step<'a> {
    step: u32,
    text: &'a str,
}

impl<'a> Story<'a> {
    fn new(messages: u64, output: &'a mut Output) -> Result<Self, Failure> {
        Ok(Self { output, messages, site: Site::new()?, step: 0 })
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.step += 1;
        let step = Step { step: self.step, text };
        self.output.print(&step, format_args!("{:>2}. {text}", step.step))?;
        self.output.flush()
    }

    async fn tell(mut self) -> Result<(), Failure> {
        let broker = self.start("Started a broker")?;
        let client = connect(broker.address()).await?;
        client.admin().ensure_topic(TOPIC).await?;
        client.admin().ensure_subscription(TOPIC, SUBSCRIPTION).await?;
        self.say(&format!("Created topic {TOPIC} (synced: a receipt means on disk) and subscription {SUBSCRIPTION}"))?;
        let mut accepted = Evidence::default();
        let broker = self.publish(&client, broker, &mut accepted).await?;
        let mut consumed = Evidence::default();
        let broker = self.consume(&client, broker, &mut consumed).await?;
        client.close(CLOSE_TIMEOUT).await;
        let code = broker.stop()?;
        self.say(&format!("Stopped the broker with SIGTERM; it exited with {code}"))?;
        self.compare(&accepted, &consumed)
    }

    fn start(&mut self, what: &str) -> Result<BrokerProcess, Failure> {
        let broker = self.site.start()?;
        self.say(&format!("{what}: process {}, {}", broker.id(), broker.address()))?;
        Ok(broker)
    }

    /// Publishes everything and kills the broker now and then.
    async fn publish(
        &mut self,
        client: &Client,
        mut broker: BrokerProcess,
        accepted: &mut Evidence,
    ) -> Result<BrokerProcess, Failure> {
        let publisher = client.publisher(TOPIC).timeout(Duration::from_secs(120)).await?;
        let mut sending = Sending { publisher, waiting: VecDeque::new(), next: 0 };
        for kill in 1..=KILLS {
            let until = self.messages * kill / (KILLS + 1);
            sending.until_accepted(until, self.messages, accepted).await?;
            let on_the_way = sending.waiting.len() as u64;
            broker.kill()?;
            self.say(&format!(
                "kill -9 after {} and with {} on the way",
                counted(accepted.count(), "receipt"),
                grouped(on_the_way),
            ))?;
            broker = self.start("Started it again; the publisher goes on by itself")?;
        }
        sending.until_accepted(self.messages, self.messages, accepted).await?;
        self.say(&format!("Published {} in all; each has its receipt", grouped(accepted.count())))?;
        Ok(broker)
    }

    /// Takes everything, with a kill in the middle.
    async fn consume(
        &mut self,
        client: &Client,
        mut broker: BrokerProcess,
        consumed: &mut Evidence,
    ) -> Result<BrokerProcess, Failure> {
        take(client, self.messages / 2, consumed).await?;
        broker.kill()?;
        self.say(&format!(
            "kill -9 after {} taken and acknowledged",
            counted(consumed.count(), "message")
        ))?;
        broker = self.start("Started it again")?;
        take(client, self.messages - consumed.count(), consumed).await?;
        let left = client.admin().describe_subscription(TOPIC, SUBSCRIPTION).await?.backlog;
        self.say(&format!(
            "Took and acknowledged the rest; {} waiting, {} taken in all",
            grouped(left),
            grouped(consumed.count())
        ))?;
        if left > 0 {
            return Err(Failure::refused(format_args!("{left} messages are left over")));
        }
        Ok(broker)
    }

    fn compare(&mut self, accepted: &Evidence, consumed: &Evidence) -> Result<(), Failure> {
        for (what, evidence) in [("accepted", accepted), ("consumed", consumed)] {
            self.say(&format!(
                "{what} {}, SHA-256 of all bodies {}",
                counted(evidence.count(), "message"),
                evidence.digest(),
            ))?;
        }
        if accepted.digest() != consumed.digest() || accepted.count() != consumed.count() {
            return Err(Failure::refused("what was consumed is not what was accepted"));
        }
        self.say("The same: nothing lost, nothing doubled, nothing changed, nothing out of order")
    }
}

/// A publisher and what it waits for.
struct Sending {
    publisher: Publisher,
    waiting: VecDeque<(u64, Pending)>,
    next: u64,
}

impl Sending {
    /// Sends until so many have their receipt, keeping more on the way.
    async fn until_accepted(
        &mut self,
        until: u64,
        messages: u64,
        accepted: &mut Evidence,
    ) -> Result<(), Failure> {
        while accepted.count() < until {
            while self.next < messages && self.waiting.len() < AHEAD {
                let pending = self.publisher.submit(Message::new(body(self.next))).await?;
                self.waiting.push_back((self.next, pending));
                self.next += 1;
            }
            let Some((number, pending)) = self.waiting.pop_front() else {
                return Ok(());
            };
            pending.await?;
            accepted.add(&body(number));
        }
        Ok(())
    }
}

/// Takes so many messages and waits until each acknowledgement is confirmed.
async fn take(client: &Client, count: u64, consumed: &mut Evidence) -> Result<(), Failure> {
    let mut consumer = client.consumer(TOPIC, SUBSCRIPTION).await?;
    let mut confirming = VecDeque::new();
    for _ in 0..count {
        let Some(delivery) = consumer.next().await else {
            return Err(Failure::refused("the client was closed"));
        };
        let delivery = delivery?;
        consumed.add(delivery.body());
        confirming.push_back(delivery.ack());
        if confirming.len() > AHEAD
            && let Some(first) = confirming.pop_front()
        {
            first.await.map_err(Failure::refused)?;
        }
    }
    for settlement in confirming {
        settlement.await.map_err(Failure::refused)?;
    }
    Ok(())
}

async fn connect(address: &str) -> Result<Client, Failure> {
    let builder = Client::builder().server(address).name("posthouse demo");
    Ok(builder.connect_timeout(CONNECT_TIMEOUT).connect().await?)
}
