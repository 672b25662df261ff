//! The command line: what can be said, and who answers.

use crate::exit::Failure;
use crate::output::Output;
use crate::serve::Serve;
use clap::{Args, Parser, Subcommand};

const ABOUT: &str = "Posthouse, a persistent message broker: an acknowledged message is on disk";

const EXAMPLES: &str = "\
The main job, in two terminals:
  posthouse serve
  posthouse publish orders 'hello' --create
  posthouse consume orders billing --create --count 1

  posthouse demo              shows it with processes that are killed and compared

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 outcome unknown, 4 not found,
            69 no server, 74 disk failed.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "posthouse", version, about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where the broker listens: HOST:PORT or unix:PATH
    #[arg(long, global = true, env = "POSTHOUSE_SERVER", value_name = "ADDR")]
    #[arg(default_value = "127.0.0.1:7400", hide_env_values = true)]
    pub(crate) server: String,

    /// Print one JSON object a line; bodies as `body`, or `body_base64` if they are not UTF-8
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Serve),
}

/// Carries out a command.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    let mut output = Output::new(common.json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format_args!("cannot start: {error}")))?;
    let done = runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve.run(&mut output).await,
        }
    });
    // A thread that still waits for standard input must not keep the command from ending.
    runtime.shutdown_background();
    done.and_then(|()| output.flush())
}
