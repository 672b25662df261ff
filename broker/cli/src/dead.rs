//! `posthouse dead`: messages that were given up, and their way back.

use crate::cli::Common;
use crate::connect::{close, connect};
use crate::exit::{Code, Failure};
use crate::message::MessageObject;
use crate::output::{Output, counted};
use crate::subscription::Named;
use crate::time;
use clap::{Args, Subcommand};
use posthouse_client::{Client, ErrorCode, Offset, Position, ReadError, Reader, Record, Timestamp};
use posthouse_protocol::limits;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  posthouse dead list orders billing
  posthouse dead show orders billing 3
  posthouse dead redrive orders billing --count 100

A message that failed as often as its subscription allows, or that was rejected, is kept in
the topic <topic>.<subscription>.dead with the reason. Redriving gives it back to that
subscription only, with its attempts counted anew. Offsets are those of the dead letters.";

/// Header names of a dead letter, without their prefix.
const PREFIX: &str = "posthouse-dead-";
/// Redriven with one request.
const REDRIVE_PAGE: u32 = 1000;

/// List, show and give back dead letters
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Dead {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a line for each dead letter: where it was, how often it failed, why
    #[command(after_help = "Example:\n  posthouse dead list orders billing --json")]
    List {
        #[command(flatten)]
        named: Named,
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Print one dead letter with its headers and body
    #[command(after_help = "Example:\n  posthouse dead show orders billing 3")]
    Show {
        #[command(flatten)]
        named: Named,
        /// Which, as `dead list` shows it
        offset: u64,
    },
    /// Give dead letters, oldest first, back to the subscription that they came from
    #[command(after_help = "Example:\n  posthouse dead redrive orders billing --count 100")]
    Redrive {
        #[command(flatten)]
        named: Named,
        /// End after so many [default: all]
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
}

impl Dead {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let client = connect(common).await?;
        match self.action {
            Action::List { named, count } => list(&client, &named, count, output).await?,
            Action::Show { named, offset } => show(&client, &named, offset, output).await?,
            Action::Redrive { named, count } => redrive(&client, &named, count, output).await?,
        }
        output.flush()?;
        close(&client).await
    }
}

/// Where a subscription's dead letters are.
struct DeadTopic {
    name: String,
    reader: Reader,
}

impl DeadTopic {
    /// `None` if there never was one.
    async fn open(client: &Client, named: &Named, from: Position) -> Result<Option<Self>, Failure> {
        let (topic, subscription) = (named.topic.as_str(), named.subscription.as_str());
        // Asked first, so that a wrong name is not found rather than empty.
        let info = client.admin().describe_subscription(topic, subscription).await?;
        let name = format!("{topic}.{subscription}.dead");
        let fits = name.len() <= limits::NAME_BYTES_MAX;
        let name = if fits { name } else { format!("dead.{}", info.id) };
        match client.reader(&name, from).await {
            Ok(reader) => Ok(Some(Self { name, reader })),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Serialize)]
struct DeadObject<'a> {
    #[serde(flatten)]
    message: MessageObject<'a>,
    source_topic: String,
    source_subscription: String,
    source_offset: Option<u64>,
    attempts: Option<u64>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_at: Option<String>,
}

impl<'a> DeadObject<'a> {
    fn new(topic: &'a str, record: &'a Record) -> Self {
        let text = |name: &str| {
            let value = record.header(&format!("{PREFIX}{name}")).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let at = text("at").parse().map(Timestamp).unwrap_or_default();
        Self {
            message: MessageObject::new(topic, record, None),
            source_topic: text("topic"),
            source_subscription: text("subscription"),
            source_offset: text("offset").parse().ok(),
            attempts: text("attempts").parse().ok(),
            reason: text("reason"),
            dead_at: time::print_known(at),
        }
    }

    fn text(&self, record: &Record) -> String {
        let number =
            |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |it| it.to_string());
        format!(
            "{}\tfrom offset {}\t{} attempts\t{}\t{} bytes\t{}",
            record.offset(),
            number(self.source_offset),
            number(self.attempts),
            self.dead_at.as_deref().unwrap_or("-"),
            record.body().len(),
            self.reason,
        )
    }
}

async fn list(
    client: &Client,
    named: &Named,
    count: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let Some(mut dead) = DeadTopic::open(client, named, Position::Earliest).await? else {
        return Ok(());
    };
    for _ in 0..count.unwrap_or(u64::MAX) {
        let Some(record) = dead.reader.next().await? else {
            return Ok(());
        };
        let object = DeadObject::new(&dead.name, &record);
        output.print(&object, object.text(&record))?;
    }
    Ok(())
}

async fn show(
    client: &Client,
    named: &Named,
    offset: u64,
    output: &mut Output,
) -> Result<(), Failure> {
    let at = Position::Offset(Offset(offset));
    let record = match DeadTopic::open(client, named, at).await? {
        Some(mut dead) => match dead.reader.next().await {
            Err(ReadError::BeyondEnd { .. }) => None,
            found => found?.map(|record| (dead.name, record)),
        },
        None => None,
    };
    let Some((topic, record)) = record.filter(|(_, record)| record.offset().0 == offset) else {
        return Err(Failure::new(
            Code::NotFound,
            format_args!(
                "no dead letter {offset}: see posthouse dead list {} {}",
                named.topic, named.subscription
            ),
        ));
    };
    let object = DeadObject::new(&topic, &record);
    if output.is_json() {
        return output.object(&object);
    }
    output.line(object.text(&record))?;
    for (name, value) in record.headers() {
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        output.line(format_args!("{name}: {value}"))?;
    }
    output.line("")?;
    crate::message::print_record(output, &topic, &record)
}

async fn redrive(
    client: &Client,
    named: &Named,
    count: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Redriven<'a> {
        topic: &'a str,
        subscription: &'a str,
        redriven: u64,
    }
    let (topic, subscription) = (named.topic.as_str(), named.subscription.as_str());
    let admin = client.admin();
    // Those that fail again meanwhile are not redriven twice.
    let all = admin.describe_subscription(topic, subscription).await?.dead;
    let wanted = count.unwrap_or(all);
    let mut redriven = 0;
    while redriven < wanted {
        let page = u32::try_from(wanted - redriven).unwrap_or(u32::MAX).min(REDRIVE_PAGE);
        let given = admin.redrive(topic, subscription, page).await?;
        redriven += u64::from(given);
        if given < page {
            break;
        }
    }
    let object = Redriven { topic, subscription, redriven };
    let text = format!("gave back {} to {topic} {subscription}", counted(redriven, "message"));
    output.print(&object, text)
}
