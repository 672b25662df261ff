//! `posthouse outbox`: the tables of an outbox, what waits in it, and what was set aside.

use crate::database::{Chosen, Outbox as Database};
use crate::exit::{Code, Failure};
use crate::output::{Output, counted, grouped};
use crate::time;
use clap::{Args, Subcommand};
use posthouse_broker::config::ByteSize;
use posthouse_client::Timestamp;
use posthouse_client::outbox::{Description, Lag, Parked, RowId, SCHEMA_VERSIONS};
use serde::Serialize;
use std::cmp::Ordering;

const EXAMPLES: &str = "\
Examples:
  posthouse outbox install --database sqlite:shop.db
  posthouse outbox status --database postgres://me:secret@db/shop
  posthouse outbox parked list --database sqlite:shop.db

An outbox is some tables in the application's own database: a message is inserted in the
transaction of the work that it tells of, and a relay (posthouse relay, or one inside the
application) hands it over to the broker once that is committed. From SQL, a trigger for example:
  INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'a lamp for Ada')";

const DDL: &str = "\
Examples:
  posthouse outbox ddl --database postgres://localhost/shop
  posthouse outbox ddl --database sqlite:shop.db --from 1

Nothing is connected to: only the kind of database and the prefix matter.";

const PARKED: &str = "\
Examples:
  posthouse outbox parked list --database sqlite:shop.db
  posthouse outbox parked redrive --database sqlite:shop.db 17 18
  posthouse outbox parked redrive --database sqlite:shop.db --all
  posthouse outbox parked discard --database sqlite:shop.db 17

A message that the broker refuses for good (no such topic, too large) is set aside with the reason,
so that those behind it go on. Redrive puts it back at the end, once the reason is gone.";

/// Parked rows that are asked for at a time.
const PAGE: u32 = 1000;
/// Rows that one transaction puts back: it writes their bodies once more.
const REDRIVEN: usize = 100;

/// Make an outbox' tables, see what waits, give back or delete what was set aside
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Outbox {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the tables of outbox and inbox, or bring them up to date; what is in them stays
    #[command(after_help = "Example:\n  posthouse outbox install --database sqlite:shop.db")]
    Install(Chosen),
    /// Print what install would run, for a tool that keeps the database's schema
    #[command(after_help = DDL)]
    Ddl {
        #[command(flatten)]
        chosen: Chosen,

        /// The version of the tables that are there, as `status` shows it; 0: there are none
        #[arg(long, value_name = "VERSION", default_value_t = 0)]
        from: u32,
    },
    /// Print what waits, what is parked, and who hands it over
    #[command(after_help = "Example:\n  posthouse outbox status --database sqlite:shop.db --json")]
    Status(Chosen),
    /// Messages that the broker refused for good
    Parked(ParkedCommand),
}

#[derive(Debug, Args)]
#[command(after_help = PARKED)]
struct ParkedCommand {
    #[command(subcommand)]
    action: ParkedAction,
}

#[derive(Debug, Subcommand)]
enum ParkedAction {
    /// Print a line for each: number, topic, when, size, why
    #[command(after_help = "Example:\n  posthouse outbox parked list --database sqlite:shop.db")]
    List(Chosen),
    /// Put them back at the end of the outbox
    #[command(
        after_help = "Example:\n  posthouse outbox parked redrive --database sqlite:shop.db --all"
    )]
    Redrive(Which),
    /// Delete them
    #[command(
        after_help = "Example:\n  posthouse outbox parked discard --database sqlite:shop.db 17"
    )]
    Discard(Which),
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    chosen: Chosen,

    /// Their numbers, as `parked list` shows them
    #[arg(value_name = "NUMBER", required_unless_present = "all")]
    numbers: Vec<u64>,

    /// All of them
    #[arg(long, conflicts_with = "numbers")]
    all: bool,
}

impl Outbox {
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        match self.action {
            Action::Install(chosen) => {
                chosen.outbox()?.install().await?;
                let done = Installed { installed: true };
                output.print(&done, format_args!("the tables are there: {}", chosen.shown()))
            }
            Action::Ddl { chosen, from } => {
                let text = chosen.outbox()?.upgrade(from);
                let shown = if text.is_empty() { "-- up to date" } else { text.trim_end() };
                output.print(&Ddl { sql: &text }, shown)
            }
            Action::Status(chosen) => {
                let outbox = chosen.outbox()?;
                let status = (outbox.describe().await?, outbox.lag().await?);
                print_status(output, &chosen, &status)
            }
            Action::Parked(ParkedCommand { action }) => match action {
                ParkedAction::List(chosen) => list(&chosen.outbox()?, output).await,
                ParkedAction::Redrive(which) => {
                    let outbox = which.chosen.outbox()?;
                    let ids = which.ids(&outbox).await?;
                    let mut count = 0;
                    for page in ids.chunks(REDRIVEN) {
                        count += outbox.redrive(page).await?;
                    }
                    let object = Redriven { redriven: count };
                    output
                        .print(&object, format_args!("gave back {}", counted(count, "message")))?;
                    which.check(count, &ids)
                }
                ParkedAction::Discard(which) => {
                    let outbox = which.chosen.outbox()?;
                    let ids = which.ids(&outbox).await?;
                    let count = outbox.discard(&ids).await?;
                    let object = Discarded { discarded: count };
                    output.print(&object, format_args!("deleted {}", counted(count, "message")))?;
                    which.check(count, &ids)
                }
            },
        }
    }
}

#[derive(Serialize)]
struct Installed {
    installed: bool,
}

#[derive(Serialize)]
struct Ddl<'a> {
    sql: &'a str,
}

#[derive(Serialize)]
struct Redriven {
    redriven: u64,
}

#[derive(Serialize)]
struct Discarded {
    discarded: u64,
}

impl Which {
    async fn ids(&self, outbox: &Database) -> Result<Vec<RowId>, Failure> {
        if !self.all {
            return Ok(self.numbers.iter().copied().map(RowId).collect());
        }
        let mut ids = Vec::new();
        loop {
            let after = ids.last().copied().unwrap_or_default();
            let page = outbox.parked(after, PAGE).await?;
            if page.is_empty() {
                return Ok(ids);
            }
            ids.extend(page.iter().map(|parked| parked.id));
        }
    }

    /// A number that was not there is said so.
    fn check(&self, count: u64, ids: &[RowId]) -> Result<(), Failure> {
        if self.all || count == ids.len() as u64 {
            return Ok(());
        }
        let missing = ids.len() as u64 - count.min(ids.len() as u64);
        let text = "not parked: see posthouse outbox parked list";
        Err(Failure::new(Code::NotFound, format_args!("{} {text}", counted(missing, "number"))))
    }
}

#[derive(Serialize)]
struct Status<'a> {
    database: &'a str,
    outbox: String,
    version: u32,
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ms: Option<u64>,
    parked: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<&'a str>,
    is_copy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'a str>,
}

fn print_status(
    output: &mut Output,
    chosen: &Chosen,
    (found, lag): &(Description, Lag),
) -> Result<(), Failure> {
    let database = chosen.shown();
    let is_copy = !found.belongs_to.is_empty() && found.belongs_to != found.found_in;
    let oldest = lag.oldest.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    if output.is_json() {
        return output.object(&Status {
            database: &database,
            outbox: found.outbox.to_string(),
            version: found.schema_version,
            waiting: lag.rows,
            oldest_ms: oldest,
            parked: lag.parked,
            relay: found.owner.as_deref(),
            is_copy,
            warning: found.durability_warning.as_deref(),
        });
    }
    output.line(format_args!("outbox      {} in {database}", found.outbox))?;
    let version = found.schema_version;
    let advice = match version.cmp(SCHEMA_VERSIONS.end()) {
        Ordering::Less => ": posthouse outbox install brings them up to date",
        Ordering::Equal => "",
        Ordering::Greater => ": newer than this program",
    };
    output.line(format_args!("tables      version {version}{advice}"))?;
    let age = lag.oldest.map_or_else(String::new, |age| {
        format!(", the oldest for {}.{:03} s", age.as_secs(), age.subsec_millis())
    });
    output.line(format_args!("waiting     {}{age}", bounded(lag.rows)))?;
    output.line(format_args!("parked      {}", bounded(lag.parked)))?;
    let relay = found.owner.as_deref().unwrap_or("none at work: start one with posthouse relay");
    output.line(format_args!("relay       {relay}"))?;
    if is_copy {
        output.line("this is a copy: a relay refuses it unless it is told to --adopt it")?;
    }
    found.durability_warning.as_ref().map_or(Ok(()), |text| output.line(text))
}

/// Rows, which are counted only so far.
fn bounded(rows: u64) -> String {
    if rows < Lag::COUNTED_MAX {
        return counted(rows, "message");
    }
    format!("{} messages or more", grouped(Lag::COUNTED_MAX - 1))
}

#[derive(Serialize)]
struct ParkedObject<'a> {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    topic: &'a str,
    reason: &'a str,
    parked_at: String,
    bytes: u64,
}

async fn list(outbox: &Database, output: &mut Output) -> Result<(), Failure> {
    let mut after = RowId::default();
    loop {
        let page = outbox.parked(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        page.iter().try_for_each(|parked| print_parked(output, parked))?;
    }
}

fn print_parked(output: &mut Output, parked: &Parked) -> Result<(), Failure> {
    let object = ParkedObject {
        number: parked.id.0,
        id: parked.message_id.map(|id| id.to_string()),
        topic: &parked.topic,
        reason: &parked.reason,
        parked_at: time::print(Timestamp(parked.parked_at)),
        bytes: parked.body_bytes,
    };
    let size = ByteSize(parked.body_bytes);
    let ParkedObject { number, topic, reason, parked_at, .. } = &object;
    output.print(&object, format_args!("{number}\t{topic}\t{parked_at}\t{size}\t{reason}"))
}
