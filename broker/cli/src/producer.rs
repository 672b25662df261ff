//! `posthouse producer`: looking at and retiring named producers.

use crate::cli::{Common, parse_name};
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::Output;
use crate::time;
use clap::{Args, Subcommand};
use posthouse_client::{Admin, Name, ProducerInfo};
use serde::Serialize;

const EXAMPLES: &str = "\
A named producer is one whose commits and publishes are numbered for good: an outbox, an importer. The
broker remembers its last number, so that a repeat is recognised however late it comes.

Examples:
  posthouse producer list
  posthouse producer list --json
  posthouse producer retire importer";

const RETIRE: &str = "\
Retire only what will never send again. A producer that still runs gets UNKNOWN_PRODUCER for whatever it
sends; opened again under its name it begins at number 1, and what it repeats from before is stored a
second time. An outbox keeps its producer, outbox-<32 hex digits>, for as long as its tables live.

Example:
  posthouse producer retire importer";

/// Look at and retire named producers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Producer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all named producers: epoch, last number, when that was
    #[command(after_help = "Example:\n  posthouse producer list --json")]
    List,
    /// Forget a named producer and its numbers for good
    #[command(after_help = RETIRE)]
    Retire {
        /// The producer's name
        #[arg(value_name = "NAME", value_parser = parse_name)]
        producer: Name,
    },
}

impl Producer {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let admin = connect(common).await?.admin();
        match self.action {
            Action::List => list(&admin, output).await,
            Action::Retire { producer } => {
                admin.retire_producer(producer.as_str()).await?;
                let object = Retired { producer: producer.as_str(), retired: true };
                output.print(&object, "retired")
            }
        }
    }
}

#[derive(Serialize)]
struct Retired<'a> {
    producer: &'a str,
    retired: bool,
}

/// A producer as JSON.
#[derive(Serialize)]
struct ProducerObject {
    producer: String,
    id: u64,
    epoch: u32,
    last: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
}

async fn list(admin: &Admin, output: &mut Output) -> Result<(), Failure> {
    let producers = admin.list_producers().await?;
    if output.is_json() {
        return producers.iter().try_for_each(|info| output.object(&ProducerObject::new(info)));
    }
    if producers.is_empty() {
        return Ok(());
    }
    let rows = producers.iter().map(row).collect::<Vec<_>>();
    output.table(["producer", "epoch", "last", "age"], &rows)
}

fn row(info: &ProducerInfo) -> [String; 4] {
    let name = info.name.as_ref().map_or("", |name| name.as_str());
    let age = time::print_age(info.last_at);
    [name.to_owned(), info.epoch.to_string(), info.last.to_string(), age]
}

impl ProducerObject {
    fn new(info: &ProducerInfo) -> Self {
        Self {
            producer: info.name.as_ref().map_or("", |name| name.as_str()).to_owned(),
            id: info.producer.0,
            epoch: info.epoch.0,
            last: info.last.0,
            last_at: time::print_known(info.last_at),
        }
    }
}
