//! `posthouse-trial broker`: a broker that can be killed at labelled places.

use super::{Interrupt, say};
use clap::Args;
use posthouse_broker::config::Sources;
use posthouse_broker::{Config, Exit};
use posthouse_trials::Failure;

/// Small files, so that segments fill and folds happen all the time.
const SETTINGS: &[(&str, &str)] = &[
    ("segment_bytes", "1MiB"),
    ("fold_bytes", "1MiB"),
    ("fold_idle", "50ms"),
    ("unfolded_bytes_max", "64MiB"),
    ("journal_keep_bytes", "4MiB"),
    ("message_bytes_max", "64KiB"),
    ("drain_timeout", "1s"),
    ("listen", "127.0.0.1:0"),
];

/// A broker.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where it keeps everything
    #[arg(long)]
    data_dir: String,
}

impl Broker {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let settings = SETTINGS.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        let flags = settings.chain([("data_dir".to_owned(), self.data_dir)]).collect();
        let sources = Sources { file: None, environment: Vec::new(), flags };
        let mut broker = posthouse_broker::Broker::start(Config::load(&sources)?).await?;
        say(format_args!("ready {}", broker.addresses().join(",")));
        let exit = tokio::select! {
            exit = broker.stopped() => exit,
            () = interrupt.next() => broker.shutdown().await,
        };
        if exit == Exit::Clean { Ok(()) } else { Err(exit.to_string().into()) }
    }
}
