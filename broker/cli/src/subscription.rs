//! `posthouse subscription`: making, looking at and deleting subscriptions.

use crate::cli::{Common, parse_name};
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, grouped};
use crate::position::Place;
use crate::settings::{SubscriptionOptions, mode_word, order_word};
use crate::time;
use clap::{Args, Subcommand};
use posthouse_client::{Name, SubscriptionInfo, Timestamp};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  posthouse subscription create orders billing
  posthouse subscription create orders audit --mode stream
  posthouse subscription create orders mail --from latest --lease 2m --attempts-max 5
  posthouse subscription describe orders billing --json
  posthouse subscription list orders
  posthouse subscription delete orders billing";

/// Create, look at and delete subscriptions
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Subscription {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a subscription; the same name with the same settings is no error
    #[command(
        after_help = "Example:\n  posthouse subscription create orders billing --from latest"
    )]
    Create {
        #[command(flatten)]
        named: Named,
        /// The first message it gets: earliest, latest, an offset or a time
        #[arg(long, value_name = "PLACE", default_value = "earliest")]
        from: Place,
        #[command(flatten)]
        options: SubscriptionOptions,
    },
    /// Print the names of a topic's subscriptions
    #[command(after_help = "Example:\n  posthouse subscription list orders")]
    List {
        /// The topic's name
        #[arg(value_parser = parse_name)]
        topic: Name,
    },
    /// Show a subscription: backlog, in flight, delayed, dead, oldest age, consumers
    #[command(after_help = "Example:\n  posthouse subscription describe orders billing")]
    Describe(Named),
    /// Delete a subscription; what only it still needed is forgotten, its dead letters stay
    #[command(after_help = "Example:\n  posthouse subscription delete orders billing")]
    Delete(Named),
}

/// A topic and a subscription of it.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The topic's name
    #[arg(value_parser = parse_name)]
    pub(crate) topic: Name,
    /// The subscription's name
    #[arg(value_parser = parse_name)]
    pub(crate) subscription: Name,
}

impl Subscription {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let admin = connect(common).await?.admin();
        match self.action {
            Action::Create { named, from, options } => {
                let (topic, name) = (named.topic.as_str(), named.subscription.as_str());
                let made = admin.create_subscription(topic, name, options.settings(), from.start());
                print(output, &SubscriptionObject::new(&named.topic, &made.await?))
            }
            Action::List { topic } => {
                #[derive(Serialize)]
                struct Listed<'a> {
                    topic: &'a str,
                    subscription: &'a str,
                }
                for name in admin.list_subscriptions(topic.as_str()).await? {
                    let listed = Listed { topic: topic.as_str(), subscription: name.as_str() };
                    output.print(&listed, &name)?;
                }
                Ok(())
            }
            Action::Describe(named) => {
                let (topic, name) = (named.topic.as_str(), named.subscription.as_str());
                let info = admin.describe_subscription(topic, name).await?;
                print(output, &SubscriptionObject::new(&named.topic, &info))
            }
            Action::Delete(named) => {
                #[derive(Serialize)]
                struct Deleted<'a> {
                    topic: &'a str,
                    subscription: &'a str,
                    deleted: bool,
                }
                let (topic, subscription) = (named.topic.as_str(), named.subscription.as_str());
                admin.delete_subscription(topic, subscription).await?;
                output.print(&Deleted { topic, subscription, deleted: true }, "deleted")
            }
        }
    }
}

/// A subscription as JSON and as a row of a table.
#[derive(Debug, Serialize)]
pub(crate) struct SubscriptionObject {
    topic: String,
    subscription: String,
    id: u32,
    mode: &'static str,
    order: &'static str,
    lease_ms: u64,
    lease_ms_max: u64,
    attempts_max: u32,
    backoff_ms_first: u64,
    backoff_ms_max: u64,
    dead_letter: bool,
    ack_floor: u64,
    backlog: u64,
    in_flight: u64,
    delayed: u64,
    dead: u64,
    consumers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    #[serde(skip)]
    oldest_age: String,
}

const COLUMNS: [&str; 8] =
    ["SUBSCRIPTION", "MODE", "BACKLOG", "IN FLIGHT", "DELAYED", "DEAD", "CONSUMERS", "OLDEST"];

impl SubscriptionObject {
    pub(crate) fn new(topic: &Name, info: &SubscriptionInfo) -> Self {
        let settings = &info.settings;
        let waits = info.oldest_at != Timestamp::ZERO;
        Self {
            topic: topic.to_string(),
            subscription: info.subscription.to_string(),
            id: info.id.0,
            mode: mode_word(settings.mode),
            order: order_word(settings.order),
            lease_ms: settings.lease_ms,
            lease_ms_max: settings.lease_ms_max,
            attempts_max: settings.attempts_max,
            backoff_ms_first: settings.backoff_ms_first,
            backoff_ms_max: settings.backoff_ms_max,
            dead_letter: settings.dead_letter,
            ack_floor: info.ack_floor.0,
            backlog: info.backlog,
            in_flight: info.in_flight,
            delayed: info.delayed,
            dead: info.dead,
            consumers: info.consumers,
            oldest_at: time::print_known(info.oldest_at),
            oldest_age: if waits { time::print_age(info.oldest_at) } else { "-".to_owned() },
        }
    }

    /// Prints a table with a row each.
    pub(crate) fn print_table(all: &[Self], output: &mut Output) -> Result<(), Failure> {
        let rows: Vec<[String; 8]> = all.iter().map(Self::row).collect();
        output.table(COLUMNS, &rows)
    }

    fn row(&self) -> [String; 8] {
        [
            self.subscription.clone(),
            self.mode.to_owned(),
            grouped(self.backlog),
            grouped(self.in_flight),
            grouped(self.delayed),
            grouped(self.dead),
            self.consumers.to_string(),
            self.oldest_age.clone(),
        ]
    }
}

fn print(output: &mut Output, object: &SubscriptionObject) -> Result<(), Failure> {
    if output.is_json() {
        return output.object(object);
    }
    SubscriptionObject::print_table(std::slice::from_ref(object), output)
}
