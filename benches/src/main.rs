//! Measuring programs of Posthouse: one subcommand per scenario.

mod backlog;
mod bare_loop;
mod client;
mod clock;
mod compare;
mod delayed;
mod device;
mod disk;
mod layout;
mod map_vs_write;
mod peers;
mod place;
mod plot;
mod probe;
mod publish;
mod record;
mod report;
mod running;
mod sending;
mod sustained;
mod table;

use std::io;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "posthouse-benches", about = "Measures what the decisions rest on")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Writes what was measured into this file, too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names every scenario, and every row of the comparison.
    List,
    /// Runs every scenario once, for a moment: shows that they work, measures nothing.
    Smoke,
    /// Runs one scenario; its name alone does the same.
    #[command(subcommand)]
    Run(Scenario),
    /// Reads files written with `--json`: the table of the documentation, and a plot.
    Report(table::Options),
    #[command(flatten)]
    Direct(Scenario),
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// The honest limit: sockets, one write, one sync, replies, and no broker.
    BareLoop(bare_loop::Options),
    /// What a checksum per message and an index entry per message cost.
    Layout(Common),
    /// The client crate: submit, a queue with every message acknowledged, replay.
    Client(client::Options),
    /// A deep backlog in the real binary: memory, start after a kill, the first message.
    Backlog(backlog::Options),
    /// Many messages that wait until they are due: memory, start after a kill, how fast they come.
    Delayed(delayed::Options),
    /// Posthouse beside other brokers, which are installed and started here.
    Compare(compare::Options),
    /// Publishing against the real broker, beside the bare loop.
    Publish(publish::Options),
    /// Publishing for a minute: whether the rate stays what it was.
    Sustained(sustained::Options),
    /// Outbox: the tax of an enqueue on the sender's transaction, on real databases.
    OutboxTax(sending::Options),
    /// Outbox: a relay beside a loop of bare SQL that selects and deletes.
    OutboxDrain(sending::Options),
    /// Outbox: from commit to consumer, also beside transactions held open and other relays.
    OutboxLatency(sending::Options),
    /// Inbox: its tax on a consumer's transaction.
    InboxTax(sending::Options),
    /// Positioned writes against stores through a mapping.
    MapVsWrite(Common),
}

/// What every scenario takes.
#[derive(Args, Clone, Debug)]
struct Common {
    /// Only show that the scenario works; the figures mean nothing.
    #[arg(long)]
    smoke: bool,
    /// Where the measured files go; must be on the disk in question.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

/// Every scenario, as `list` names them.
const NAMES: [&str; 13] = [
    "backlog",
    "bare-loop",
    "client",
    "compare",
    "delayed",
    "inbox-tax",
    "layout",
    "map-vs-write",
    "outbox-drain",
    "outbox-latency",
    "outbox-tax",
    "publish",
    "sustained",
];

fn main() -> io::Result<()> {
    let cli = Cli::parse();
    let done = perform(cli.command);
    // What was measured before something failed is kept.
    let written = cli.json.as_deref().map_or(Ok(()), record::write);
    done.and(written)
}

fn perform(command: Command) -> io::Result<()> {
    match command {
        Command::List => {
            report::line(NAMES.join("\n"));
            compare::names().for_each(|row| report::line(format_args!("compare --rows {row}")));
            Ok(())
        }
        Command::Smoke => NAMES.iter().try_for_each(|name| {
            report::line(format_args!("\n== {name}"));
            let arguments = ["posthouse-benches", name, "--smoke"];
            perform(Cli::try_parse_from(arguments).map_err(io::Error::other)?.command)
        }),
        Command::Report(options) => table::run(&options),
        Command::Run(scenario) | Command::Direct(scenario) => run(scenario),
    }
}

fn run(scenario: Scenario) -> io::Result<()> {
    match scenario {
        Scenario::Backlog(options) => backlog::run(&options),
        Scenario::BareLoop(options) => bare_loop::run(&options),
        Scenario::Client(options) => client::run(&options),
        Scenario::Compare(options) => compare::run(&options),
        Scenario::Delayed(options) => delayed::run(&options),
        Scenario::Layout(common) => layout::run(&common),
        Scenario::OutboxTax(options) => sending::tax(&options),
        Scenario::OutboxDrain(options) => sending::drain(&options),
        Scenario::OutboxLatency(options) => sending::latency(&options),
        Scenario::InboxTax(options) => sending::inbox(&options),
        Scenario::MapVsWrite(common) => map_vs_write::run(&common),
        Scenario::Publish(options) => publish::run(&options),
        Scenario::Sustained(options) => sustained::run(&options),
    }
}
