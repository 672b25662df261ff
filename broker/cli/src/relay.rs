//! `posthouse relay`: hands what an outbox holds over to the broker, until it is told to stop.

use crate::cli::Common;
use crate::database::{Chosen, Decisions, with_advice};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::reach::reach;
use crate::serve::log_to_stderr;
use clap::Args;
use posthouse_broker::config::{LogFormat, LogLevel};
use posthouse_client::outbox::{RelayError, RelayErrorKind, RelayHandle, RelayState, RelayStats};
use serde::Serialize;
use std::time::Duration;
use tokio::time::interval;

const EXAMPLES: &str = "\
Examples:
  posthouse relay --database sqlite:/var/lib/shop/shop.db
  posthouse relay --database postgres://relay:secret@db/shop --server broker:7400
  POSTHOUSE_DATABASE=mysql://relay:secret@db/shop posthouse relay
  posthouse outbox install --database sqlite:shop.db      makes the tables

Any number of relays may run for one outbox: one works, the others stand by and take over within
15 s, or at once if it is stopped with SIGTERM or Ctrl-C. An application can also carry its relay
inside itself: outbox.relay(&client).spawn().

A message that the broker refuses for good is set aside and the rest goes on, see posthouse outbox
parked --help. A database or a broker that cannot be reached is waited for.

Connections to PostgreSQL and MariaDB are made without TLS: use a Unix socket, a private network,
or a tunnel. Exits 1 if an operator has to decide something, and 4 if the tables are not there.";

/// How often the log is brought up to date.
const LOOK: Duration = Duration::from_millis(100);
/// Looks between two lines that say how much was handed over.
const LOOKS_PER_REPORT: u32 = 600;

/// Hand the messages of an outbox over to the broker, exactly once
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Relay {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    decisions: Decisions,
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: &'a str,
}

impl Relay {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let format = if common.json { LogFormat::Json } else { LogFormat::Text };
        log_to_stderr(LogLevel::Info, format);
        let outbox = self.chosen.outbox()?;
        let mut interrupt = Interrupt::new()?;
        let client = tokio::select! {
            reached = reach(&outbox, common) => reached?,
            signal = interrupt.next() => {
                tracing::info!(signal, "stopped before it began");
                return Ok(());
            }
        };
        let relay = outbox.spawn_relay(&client, self.decisions);
        let database = self.chosen.shown();
        let text = format_args!("posthouse relay started for {database}");
        output.print(&Ready { ready: &database }, text)?;
        output.flush()?;
        watch(relay, &mut interrupt).await
    }
}

/// Tells the log what the relay does, until it ends or a signal comes.
async fn watch(mut relay: RelayHandle, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let mut log = Log::default();
    let mut looks = interval(LOOK);
    let signal = loop {
        tokio::select! {
            ended = relay.ended() => {
                log.look(&relay.stats());
                return ended.map_err(|error| failure(&error));
            }
            signal = interrupt.next() => break signal,
            _ = looks.tick() => log.look(&relay.stats()),
        }
    };
    tracing::info!(signal, "stopping; the signal once more stops at once");
    let rows = relay.stats().rows;
    tokio::select! {
        ended = relay.shutdown() => {
            ended.map_err(|error| failure(&error))?;
            tracing::info!(rows, "stopped; the lease is given back");
            Ok(())
        }
        _ = interrupt.next() => {
            Err(Failure::refused("stopped at once; the lease ends by itself, nothing is lost"))
        }
    }
}

/// What the log has been told.
#[derive(Debug, Default)]
struct Log {
    state: RelayState,
    said: RelayStats,
    looks: u32,
}

impl Log {
    fn look(&mut self, stats: &RelayStats) {
        self.say_state(stats);
        self.say_trouble(stats);
        self.say_parked(stats);
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_REPORT) && stats.rows != self.said.rows {
            let (waiting, claims) = (stats.lag.map(|lag| lag.rows), stats.claims);
            tracing::info!(rows = stats.rows, claims, waiting, "handed over so far");
            self.said.rows = stats.rows;
        }
    }

    fn say_state(&mut self, stats: &RelayStats) {
        if stats.state == self.state {
            return;
        }
        self.state = stats.state;
        let text = match stats.state {
            RelayState::Active => "active: handing over",
            RelayState::StandingBy => "standing by: another relay has the lease",
            RelayState::Starting => "starting",
            RelayState::Ended | _ => "ended",
        };
        tracing::info!(rows = stats.rows, "{text}");
    }

    fn say_trouble(&mut self, stats: &RelayStats) {
        let (warning, error) = (&stats.durability_warning, &stats.last_error);
        if let Some(text) = warning.as_ref().filter(|_| *warning != self.said.durability_warning) {
            tracing::warn!("{text}");
        }
        if let Some(error) = error.as_ref().filter(|_| *error != self.said.last_error) {
            tracing::warn!(error, "trying again");
        }
        self.said.durability_warning.clone_from(warning);
        self.said.last_error.clone_from(error);
    }

    fn say_parked(&mut self, stats: &RelayStats) {
        if stats.parked > self.said.parked {
            let rows = stats.parked - self.said.parked;
            tracing::warn!(
                rows,
                "refused for good and set aside: see posthouse outbox parked list"
            );
            self.said.parked = stats.parked;
        }
    }
}

/// Why it ended, in words of the command line.
fn failure(error: &RelayError) -> Failure {
    let advice = match error.kind() {
        RelayErrorKind::NotInstalled => return Failure::new(Code::NotFound, with_advice(error)),
        RelayErrorKind::DatabaseCopied => "; on this command line: --adopt",
        RelayErrorKind::BrokerRestored => "; on this command line: --continue",
        RelayErrorKind::RowsChanged => "; on this command line: --accept-changed-rows",
        RelayErrorKind::ProducerInUse
        | RelayErrorKind::Poison
        | RelayErrorKind::Database
        | RelayErrorKind::ClientClosed
        | RelayErrorKind::Aborted
        | _ => "",
    };
    Failure::refused(format_args!("{error}{advice}"))
}
