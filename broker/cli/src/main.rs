//! The `posthouse` command.

mod base64;
mod cli;
mod connect;
mod consume;
mod database;
mod dead;
mod demo;
mod exit;
mod inspect;
mod interrupt;
mod lines;
mod message;
mod outbox;
mod output;
mod position;
mod producer;
mod publish;
mod reach;
mod read;
mod ready;
mod relay;
mod serve;
mod settings;
mod subscription;
mod time;
mod topic;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = cli::run(cli::Cli::parse());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure != exit::Failure::Unheard {
                output::note(format_args!("posthouse: {failure}"));
            }
            failure.exit_code()
        }
    }
}
