//! Measuring programs of Posthouse: one subcommand per scenario.

mod backlog;
mod bare_loop;
mod client;
mod clock;
mod device;
mod disk;
mod layout;
mod map_vs_write;
mod place;
mod probe;
mod publish;
mod report;
mod running;

use std::io;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "posthouse-benches", about = "Measures what the design assumes")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Names every scenario.
    List,
    /// Runs every scenario once, for a moment: shows that they work, measures nothing.
    Smoke,
    /// The honest limit: sockets, one write, one sync, replies, and no broker.
    BareLoop(bare_loop::Options),
    /// What a checksum per message and an index entry per message cost.
    Layout(Common),
    /// The client crate: submit, a queue with every message acknowledged, replay.
    Client(client::Options),
    /// A deep backlog in the real binary: memory, start after a kill, the first message.
    Backlog(backlog::Options),
    /// Publishing against the real broker, beside the bare loop.
    Publish(publish::Options),
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
const NAMES: [&str; 6] = ["backlog", "bare-loop", "client", "layout", "map-vs-write", "publish"];

fn main() -> io::Result<()> {
    perform(Cli::parse().scenario)
}

fn perform(scenario: Scenario) -> io::Result<()> {
    match scenario {
        Scenario::List => {
            report::line(NAMES.join("\n"));
            Ok(())
        }
        Scenario::Smoke => NAMES.iter().try_for_each(|name| {
            report::line(format_args!("\n== {name}"));
            let arguments = ["posthouse-benches", name, "--smoke"];
            perform(Cli::try_parse_from(arguments).map_err(io::Error::other)?.scenario)
        }),
        Scenario::Backlog(options) => backlog::run(&options),
        Scenario::BareLoop(options) => bare_loop::run(&options),
        Scenario::Client(options) => client::run(&options),
        Scenario::Layout(common) => layout::run(&common),
        Scenario::MapVsWrite(common) => map_vs_write::run(&common),
        Scenario::Publish(options) => publish::run(&options),
    }
}
