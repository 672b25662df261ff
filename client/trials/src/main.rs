//! The processes of the trials: broker, application, relay, consumer and view, in one binary.
//!
//! Each says on standard output what the trial waits for, one thing a line, and logs to standard
//! error. Each stops in good order on SIGTERM, and dies with the process that started it.

mod commands;

use clap::{Parser, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::process::ExitCode;

/// A part of a trial.
#[derive(Debug, Parser)]
struct Trial {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// A broker
    Broker(commands::broker::Broker),
    /// An application that changes its database and sends messages
    App(commands::app::App),
    /// A relay that hands messages over to the broker
    Relay(commands::relay::Relay),
    /// A consumer with an inbox
    Consumer(commands::consumer::Consumer),
    /// A reader of streams into a database
    View(commands::view::View),
}

fn main() -> ExitCode {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    subscriber.with_max_level(tracing::level_filters::LevelFilter::INFO).init();
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::error!(%error, "cannot tie this process to the one that started it");
        return ExitCode::FAILURE;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| {
        let outcome = runtime.block_on(run(Trial::parse().part));
        // What is still blocked then, such as a database call, does not hold up the end.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the trial's part failed");
            commands::say(format_args!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(part: Part) -> Result<(), posthouse_trials::Failure> {
    match part {
        Part::Broker(broker) => broker.run().await,
        Part::App(app) => app.run().await,
        Part::Relay(relay) => relay.run().await,
        Part::Consumer(consumer) => consumer.run().await,
        Part::View(view) => view.run().await,
    }
}
