//! `posthouse serve`: a broker until it is told to stop.

use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Output, note};
use clap::Args;
use posthouse_broker::config::{LogFormat, LogLevel, Sources};
use posthouse_broker::{Broker, Config, Exit};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "\
Examples:
  posthouse serve
  posthouse serve --data-dir /var/lib/posthouse --listen unix:/run/posthouse.sock
  posthouse serve --listen 127.0.0.1:0           takes a free port and prints it
  posthouse serve --set journal_keep_bytes=4GiB --set log_format=json
  posthouse serve --print-config > posthouse.toml
  posthouse serve --config posthouse.toml

Every option: docs/OPERATIONS.md. Flags win over POSTHOUSE_... in the environment,
that over the file, that over the defaults.
SIGTERM or Ctrl-C drains, makes everything durable and exits 0. kill -9 loses nothing
that was acknowledged. Exits 74 when the disk fails.";

/// Run a broker; prints one line with its addresses when it is ready
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Read options from this TOML file
    #[arg(long, env = "POSTHOUSE_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Keep everything in this directory [default: posthouse-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// Listen here: HOST:PORT or unix:PATH; may be given several times [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,

    /// Allow listening where other machines can connect, without TLS and authentication
    #[arg(long)]
    insecure: bool,

    /// Set any option; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,

    /// Print the options that result, with their meaning, and exit
    #[arg(long)]
    print_config: bool,
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: &'a [String],
}

impl Serve {
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let print_config = self.print_config;
        let config = Config::load(&self.sources()).map_err(Failure::refused)?;
        if print_config {
            let printed = output.writer().write_all(config.to_toml().as_bytes());
            return printed.map_err(|error| Failure::stdout(&error));
        }
        log_to_stderr(config.log_level, config.log_format);
        let exposed = config.exposed().map_err(Failure::refused)?;
        if !exposed.is_empty() {
            tracing::warn!(?exposed, "insecure: everybody who reaches this address is let in");
        }
        let mut interrupt = Interrupt::new()?;
        let broker = Broker::start(config).await.map_err(|error| ended(error.code(), error))?;
        let ready = Ready { ready: broker.addresses() };
        output.print(&ready, format_args!("posthouse ready on {}", ready.ready.join(", ")))?;
        output.flush()?;
        until_stopped(broker, &mut interrupt).await
    }

    fn sources(self) -> Sources {
        let mut flags = self.settings;
        let mut flag = |key: &str, text: String| flags.push((key.to_owned(), text));
        if let Some(directory) = self.data_dir {
            flag("data_dir", directory);
        }
        if !self.listen.is_empty() {
            flag("listen", self.listen.join(","));
        }
        if self.insecure {
            flag("insecure", true.to_string());
        }
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Sources { file: self.config, environment: environment.collect(), flags }
    }
}

async fn until_stopped(mut broker: Broker, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let exit = tokio::select! {
        exit = broker.stopped() => exit,
        name = interrupt.next() => {
            tracing::info!(signal = name, "stopping; the signal once more stops at once");
            tokio::select! {
                exit = broker.shutdown() => exit,
                _ = interrupt.next() => {
                    return Err(Failure::refused("stopped at once; what was acknowledged is safe"));
                }
            }
        }
    };
    if exit == Exit::Clean { Ok(()) } else { Err(ended(exit.code(), exit)) }
}

/// A broker that could not start or go on, by its exit code.
fn ended(code: u8, text: impl std::fmt::Display) -> Failure {
    let code = match code {
        74 => Code::Disk,
        70 => Code::Bug,
        _ => Code::Refused,
    };
    Failure::new(code, text)
}

pub(crate) fn log_to_stderr(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    if let Err(error) = installed {
        note(format_args!("posthouse: no log: {error}"));
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "is not KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}
