//! The command line: what can be said, and who answers.

use crate::consume::Consume;
use crate::dead::Dead;
use crate::demo::Demo;
use crate::exit::Failure;
use crate::inspect::Inspect;
use crate::outbox::Outbox;
use crate::output::Output;
use crate::producer::Producer;
use crate::publish::Publish;
use crate::read::Read;
use crate::relay::Relay;
use crate::serve::Serve;
use crate::subscription::Subscription;
use crate::topic::Topic;
use clap::{Args, Parser, Subcommand};
use posthouse_client::{InvalidName, Name};

const ABOUT: &str = "Posthouse, a persistent message broker: an acknowledged message is on disk";

const EXAMPLES: &str = "\
The main job, in two terminals:
  posthouse serve
  posthouse publish orders 'hello' --create
  posthouse consume orders billing --create --count 1

  posthouse demo              sends through an SQLite outbox, kills everything, compares
  posthouse relay             hands over what applications put into their outboxes

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
    Topic(Topic),
    Subscription(Subscription),
    Producer(Producer),
    Publish(Publish),
    Consume(Consume),
    Read(Read),
    Dead(Dead),
    Relay(Relay),
    Outbox(Outbox),
    Inspect(Inspect),
    Demo(Demo),
}

/// Carries out a command.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    let mut output = Output::new(common.json);
    // The client's task has a thread of its own, so that it keeps the connection alive and its
    // leases prolonged while a command waits for a slow reader of its output.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format_args!("cannot start: {error}")))?;
    let done = runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve.run(&mut output).await,
            Command::Topic(topic) => topic.run(&common, &mut output).await,
            Command::Subscription(subscription) => subscription.run(&common, &mut output).await,
            Command::Producer(producer) => producer.run(&common, &mut output).await,
            Command::Publish(publish) => publish.run(&common, &mut output).await,
            Command::Consume(consume) => consume.run(&common, &mut output).await,
            Command::Read(read) => read.run(&common, &mut output).await,
            Command::Dead(dead) => dead.run(&common, &mut output).await,
            Command::Relay(relay) => relay.run(&common, &mut output).await,
            Command::Outbox(outbox) => outbox.run(&mut output).await,
            Command::Inspect(inspect) => inspect.run(&mut output),
            Command::Demo(demo) => demo.run(&common, &mut output).await,
        }
    });
    // A thread that still waits for standard input must not keep the command from ending.
    runtime.shutdown_background();
    done.and_then(|()| output.flush())
}

/// Checks a name where it is written, so that a wrong one is wrong usage.
pub(crate) fn parse_name(text: &str) -> Result<Name, InvalidName> {
    Name::new(text)
}
