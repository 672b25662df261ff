//! `posthouse consume`: takes messages, writes them, and acknowledges what is written.

mod sink;

use crate::cli::{Common, parse_name};
use crate::connect::{close, connect};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Output, counted, note};
use crate::ready::if_ready;
use clap::Args;
use posthouse_client::{
    Client, ConsumeError, Consumer, Delivery, Name, Outcome, SettleError, Settlement,
};
use posthouse_protocol::limits;
use sink::Sink;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::sleep;

const EXAMPLES: &str = "\
Examples:
  posthouse consume orders billing
  posthouse consume orders billing --create --count 1
  posthouse consume orders export --create --until-empty --output orders.txt
  posthouse consume orders billing --json | while read -r line; do ...; done

Each body is written with a line feed behind it; --json writes an object a line. A message is
acknowledged once it is written: FILE is synced to disk first, standard output is flushed. So
nothing is lost when this is killed, and what was written last may come again.
FILE is made if it is not there, else appended to: what was acknowledged before is only there.

Ctrl-C, and the end, give back what was fetched ahead, uncounted: no attempt is used up.
--until-empty waits for messages that others hold or that wait for another attempt, too.";

/// Messages written and acknowledged together, at most.
const GROUP_MESSAGES_MAX: usize = 4096;
/// Bytes written and acknowledged together, roughly.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// First and longest wait between two questions whether the subscription is empty.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(5);
const ASK_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Take messages from a queue subscription; acknowledges what is written
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Consume {
    /// The topic's name
    #[arg(value_parser = parse_name)]
    topic: Name,

    /// The subscription's name
    #[arg(value_parser = parse_name)]
    subscription: Name,

    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End when every message of the subscription is settled
    #[arg(long)]
    until_empty: bool,

    /// Append to this file instead of writing to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Create topic and subscription with default settings if they are not there
    #[arg(long)]
    create: bool,
}

/// Why consuming ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Enough,
    Empty,
    Interrupted,
}

impl Consume {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let client = connect(common).await?;
        let (topic, subscription) = (self.topic.as_str(), self.subscription.as_str());
        if self.create {
            client.admin().ensure_topic(topic).await?;
            client.admin().ensure_subscription(topic, subscription).await?;
        }
        let consumer = self.open(&client).await?;
        let sink = Sink::open(self.output.as_deref(), topic, output)?;
        let mut job =
            Job { options: &self, client: &client, consumer, sink, work: Work::default() };
        let ended = job.run(&mut interrupt).await;
        let Job { consumer, work, .. } = job;
        // What was fetched ahead goes back before the confirmations are awaited.
        drop(consumer);
        let confirmed = work.confirm(&mut interrupt).await;
        let end = ended?;
        confirmed?;
        close(&client).await?;
        match (end, self.count) {
            (End::Interrupted, Some(_)) => Err(Failure::refused("interrupted before the end")),
            (End::Interrupted, None) if self.until_empty => {
                Err(Failure::refused("interrupted before the end"))
            }
            (End::Interrupted | End::Enough | End::Empty, _) => Ok(()),
        }
    }

    async fn open(&self, client: &Client) -> Result<Consumer, Failure> {
        let ahead = self.count.unwrap_or(u64::MAX).min(limits::CREDIT_MESSAGES_DEFAULT.into());
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).max(1);
        let open = client.consumer(self.topic.as_str(), self.subscription.as_str());
        Ok(open.credit(ahead, limits::CREDIT_BYTES_DEFAULT).await?)
    }
}

/// What consuming needs.
struct Job<'a> {
    options: &'a Consume,
    client: &'a Client,
    consumer: Consumer,
    sink: Sink<'a>,
    work: Work,
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Work {
    taken: u64,
    /// Acknowledged and not confirmed yet, in order.
    unconfirmed: VecDeque<Settlement>,
    /// Acknowledgements that did not count.
    refused: u64,
    /// Messages that arrived damaged.
    damaged: u64,
    /// One of the refusals.
    example: Option<SettleError>,
}

impl Job<'_> {
    async fn run(&mut self, interrupt: &mut Interrupt) -> Result<End, Failure> {
        let mut pause = ASK_PAUSE_MIN;
        loop {
            let left = self.options.count.map_or(u64::MAX, |count| count - self.work.taken);
            if left == 0 {
                return Ok(End::Enough);
            }
            let first = tokio::select! {
                biased;
                _ = interrupt.next() => return Ok(End::Interrupted),
                first = self.consumer.next() => first,
                empty = is_empty(self.client, self.options, pause), if self.options.until_empty => {
                    if empty? {
                        return Ok(End::Empty);
                    }
                    pause = (pause * 2).min(ASK_PAUSE_MAX);
                    continue;
                }
            };
            pause = ASK_PAUSE_MIN;
            let group = self.gather(first, left).await?;
            self.write(group)?;
            self.work.take_confirmed().await;
        }
    }

    /// `first` and what arrived with it.
    async fn gather(
        &mut self,
        first: Option<Result<Delivery, ConsumeError>>,
        left: u64,
    ) -> Result<Vec<Delivery>, Failure> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(GROUP_MESSAGES_MAX);
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Some(Ok(delivery)) => {
                    bytes += delivery.body().len();
                    group.push(delivery);
                }
                Some(Err(error)) if !error.is_final() => {
                    note(format_args!("posthouse: {error}; it counts as failed"));
                    self.work.damaged += 1;
                }
                // What was gathered is written first; the end comes again.
                _ if !group.is_empty() => break,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(Code::Unknown, "the client was closed")),
            }
            if group.len() >= most || bytes >= GROUP_BYTES_MAX {
                break;
            }
            next = if_ready(self.consumer.next()).await;
        }
        Ok(group)
    }

    /// Writes a group and acknowledges it, or gives it back uncounted if it cannot be written.
    fn write(&mut self, group: Vec<Delivery>) -> Result<(), Failure> {
        let written = group.iter().try_for_each(|delivery| self.sink.write(delivery));
        match written.and_then(|()| self.sink.commit()) {
            Ok(()) => {
                self.work.taken += group.len() as u64;
                self.work.unconfirmed.extend(group.into_iter().map(Delivery::ack));
                Ok(())
            }
            Err(failure) => {
                self.work.unconfirmed.extend(group.into_iter().map(Delivery::release));
                Err(failure)
            }
        }
    }
}

/// Asks after `pause` whether everything is settled, what we acknowledged included.
async fn is_empty(client: &Client, options: &Consume, pause: Duration) -> Result<bool, Failure> {
    sleep(pause).await;
    let (topic, subscription) = (options.topic.as_str(), options.subscription.as_str());
    let state = client.admin().describe_subscription(topic, subscription).await?;
    Ok(state.backlog == 0)
}

impl Work {
    /// Counts the confirmations that are there.
    async fn take_confirmed(&mut self) {
        poll_fn(|context| {
            while self.poll_confirmation(context).is_ready() {}
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for all confirmations.
    async fn confirm(mut self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        while !self.unconfirmed.is_empty() {
            tokio::select! {
                biased;
                () = poll_fn(|context| self.poll_confirmation(context)) => {}
                _ = interrupt.next() => {
                    let left = counted(self.unconfirmed.len() as u64, "acknowledgement");
                    let text = format!("stopped at once; {left} may or may not have counted");
                    return Err(Failure::new(Code::Unknown, text));
                }
            }
        }
        let code = match &self.example {
            Some(error) if error.outcome() == Outcome::Unknown => Code::Unknown,
            Some(_) => Code::Refused,
            None if self.damaged == 0 => return Ok(()),
            None => {
                let damaged = counted(self.damaged, "message");
                return Err(Failure::refused(format_args!("{damaged} arrived damaged")));
            }
        };
        let refused = counted(self.refused, "acknowledgement");
        let why = self.example.map(|error| error.to_string()).unwrap_or_default();
        let text = format!("{refused} came too late; what was written will come again: {why}");
        Err(Failure::new(code, text))
    }

    /// Counts the oldest confirmation once it is there. Pending, too, if none is awaited.
    fn poll_confirmation(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(first) = self.unconfirmed.front_mut() else {
            return Poll::Pending;
        };
        let Poll::Ready(outcome) = Pin::new(first).poll(context) else {
            return Poll::Pending;
        };
        self.unconfirmed.pop_front();
        if let Err(error) = outcome {
            self.refused += 1;
            self.example.get_or_insert(error);
        }
        Poll::Ready(())
    }
}
