//! The `posthouse` command.

mod base64;
mod cli;
mod exit;
mod lines;
mod output;
mod serve;
mod time;

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
