//! `posthouse topic`: making, looking at and deleting topics.

use crate::cli::{Common, parse_name};
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, counted, grouped};
use crate::settings::{TopicOptions, durability_word, overflow_word, period, retention_word};
use crate::subscription::SubscriptionObject;
use crate::time;
use clap::{Args, Subcommand};
use posthouse_broker::config::ByteSize;
use posthouse_client::{Admin, Name, Timestamp, TopicInfo, TopicSettings};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  posthouse topic create orders
  posthouse topic create clicks --durability written --retention limits --age-max 7d
  posthouse topic describe orders
  posthouse topic alter orders --bytes-max 10GiB
  posthouse topic list --json
  posthouse topic purge orders
  posthouse topic delete orders";

/// Create, look at, alter, empty and delete topics
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Topic {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a topic; the same name with the same settings is no error
    #[command(after_help = "Example:\n  posthouse topic create orders --durability synced")]
    Create {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        options: TopicOptions,
    },
    /// Print the names of all topics
    #[command(after_help = "Example:\n  posthouse topic list")]
    List,
    /// Show a topic, what waits in it until it is due, and its subscriptions
    #[command(after_help = "Example:\n  posthouse topic describe orders --json")]
    Describe(Named),
    /// Change settings of a topic; what is not named stays
    #[command(after_help = "Example:\n  posthouse topic alter orders --messages-max 1000000")]
    Alter {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        options: TopicOptions,
    },
    /// Forget all messages that a topic has now, those that wait until they are due included
    #[command(after_help = "Example:\n  posthouse topic purge orders")]
    Purge(Named),
    /// Delete a topic with its messages and subscriptions; its dead letters stay
    #[command(after_help = "Example:\n  posthouse topic delete orders")]
    Delete(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The topic's name
    #[arg(value_name = "NAME", value_parser = parse_name)]
    topic: Name,
}

impl Topic {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let admin = connect(common).await?.admin();
        match self.action {
            Action::Create { named, options } => {
                let settings = options.over(&TopicSettings::default());
                let info = admin.create_topic(named.topic.as_str(), settings).await?;
                print_topic(output, &info, &[])
            }
            Action::List => list(&admin, output).await,
            Action::Describe(named) => describe(&admin, &named.topic, output).await,
            Action::Alter { named, options } => {
                let topic = named.topic.as_str();
                let settings = options.over(&admin.describe_topic(topic).await?.settings);
                print_topic(output, &admin.alter_topic(topic, settings).await?, &[])
            }
            Action::Purge(named) => {
                admin.purge_topic(named.topic.as_str()).await?;
                output.print(&Done { topic: &named.topic, done: "purged" }, "purged")
            }
            Action::Delete(named) => {
                admin.delete_topic(named.topic.as_str()).await?;
                output.print(&Done { topic: &named.topic, done: "deleted" }, "deleted")
            }
        }
    }
}

/// What was done to a topic, and nothing else to tell.
struct Done<'a> {
    topic: &'a Name,
    done: &'static str,
}

impl Serialize for Done<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("topic", self.topic.as_str())?;
        map.serialize_entry(self.done, &true)?;
        map.end()
    }
}

async fn list(admin: &Admin, output: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Listed<'a> {
        topic: &'a str,
    }
    for name in admin.list_topics().await? {
        output.print(&Listed { topic: name.as_str() }, &name)?;
    }
    Ok(())
}

async fn describe(admin: &Admin, topic: &Name, output: &mut Output) -> Result<(), Failure> {
    let info = admin.describe_topic(topic.as_str()).await?;
    let mut subscriptions = Vec::new();
    for name in admin.list_subscriptions(topic.as_str()).await? {
        let found = admin.describe_subscription(topic.as_str(), name.as_str()).await;
        subscriptions.push(SubscriptionObject::new(topic, &found?));
    }
    print_topic(output, &info, &subscriptions)
}

/// A topic as JSON.
#[derive(Serialize)]
struct TopicObject<'a> {
    topic: &'a str,
    id: u32,
    durability: &'static str,
    retention: &'static str,
    overflow: &'static str,
    age_ms_max: u64,
    bytes_max: u64,
    messages_max: u64,
    message_bytes_max: u32,
    start: u64,
    end: u64,
    messages: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_due_at: Option<String>,
    subscriptions: &'a [SubscriptionObject],
}

fn print_topic(
    output: &mut Output,
    info: &TopicInfo,
    subscriptions: &[SubscriptionObject],
) -> Result<(), Failure> {
    if output.is_json() {
        return output.object(&TopicObject::new(info, subscriptions));
    }
    for line in describe_lines(info) {
        output.line(line)?;
    }
    if info.subscriptions == 0 {
        return output.line("no subscription: everything is kept within the limits");
    }
    if subscriptions.is_empty() {
        return Ok(());
    }
    output.line("")?;
    SubscriptionObject::print_table(subscriptions, output)
}

fn describe_lines(info: &TopicInfo) -> Vec<String> {
    let settings = &info.settings;
    let mut lines = vec![
        format!("topic       {}", info.topic),
        format!("durability  {}", durability_word(settings.durability)),
        format!("retention   {}{}", retention_word(settings.retention), limits_text(settings)),
        format!(
            "messages    {} (offsets {} to {}), {}",
            grouped(info.messages),
            info.start,
            info.end,
            ByteSize(info.bytes),
        ),
        format!("largest     {}", ByteSize(u64::from(settings.message_bytes_max))),
    ];
    if info.oldest_at != Timestamp::ZERO {
        lines.push(format!("oldest      {} ago", time::print_age(info.oldest_at)));
    }
    if info.waiting > 0 {
        let (waiting, first) = (grouped(info.waiting), time::print(info.next_due_at));
        lines.push(format!("waiting     {waiting} until they are due, the first at {first}"));
    }
    lines
}

fn limits_text(settings: &TopicSettings) -> String {
    let mut limits = Vec::new();
    if settings.age_ms_max > 0 {
        limits.push(period(settings.age_ms_max).to_string());
    }
    if settings.bytes_max > 0 {
        limits.push(ByteSize(settings.bytes_max).to_string());
    }
    if settings.messages_max > 0 {
        limits.push(counted(settings.messages_max, "message"));
    }
    if limits.is_empty() {
        return String::new();
    }
    format!(", at most {}, then {}", limits.join(", "), overflow_word(settings.overflow))
}

impl<'a> TopicObject<'a> {
    fn new(info: &'a TopicInfo, subscriptions: &'a [SubscriptionObject]) -> Self {
        let settings = &info.settings;
        Self {
            topic: info.topic.as_str(),
            id: info.id.0,
            durability: durability_word(settings.durability),
            retention: retention_word(settings.retention),
            overflow: overflow_word(settings.overflow),
            age_ms_max: settings.age_ms_max,
            bytes_max: settings.bytes_max,
            messages_max: settings.messages_max,
            message_bytes_max: settings.message_bytes_max,
            start: info.start.0,
            end: info.end.0,
            messages: info.messages,
            bytes: info.bytes,
            oldest_at: time::print_known(info.oldest_at),
            waiting: info.waiting,
            next_due_at: time::print_known(info.next_due_at),
            subscriptions,
        }
    }
}
