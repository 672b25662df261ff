//! `posthouse read`: looks at messages without consuming them.

use crate::cli::{Common, parse_name};
use crate::connect::{close, connect};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::message::print_record;
use crate::output::{Output, counted, note};
use crate::position::Place;
use crate::ready::if_ready;
use clap::Args;
use posthouse_client::{Name, ReadError};

const EXAMPLES: &str = "\
Examples:
  posthouse read orders
  posthouse read orders --from 1000 --count 10 --json
  posthouse read orders --from '15m ago'
  posthouse read orders --from 2026-11-21T20:49:00Z
  posthouse read orders --from latest --follow

Nothing is consumed, and no subscription is needed. Messages are there as long as the topic
keeps them: by default until every subscription has settled them.";

/// Look at a topic's messages without consuming them; ends at the end unless --follow
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Read {
    /// The topic's name
    #[arg(value_parser = parse_name)]
    topic: Name,

    /// Start here: earliest, latest, an offset (an error if the topic ends before it), a time, or
    /// so long ago
    #[arg(long, value_name = "PLACE", default_value = "earliest")]
    from: Place,

    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Wait for more at the end
    #[arg(long)]
    follow: bool,
}

impl Read {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        let mut interrupt = Interrupt::new()?;
        let client = connect(common).await?;
        let topic = self.topic.as_str();
        let open = client.reader(topic, self.from.position());
        let mut reader = if self.follow { open.follow().await? } else { open.await? };
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut damaged = 0;
        while left > 0 {
            let next = match if_ready(reader.next()).await {
                Some(next) => next,
                // Whoever reads along sees everything before this waits.
                None => {
                    output.flush()?;
                    tokio::select! {
                        biased;
                        _ = interrupt.next() => break,
                        next = reader.next() => next,
                    }
                }
            };
            match next {
                Ok(Some(record)) => print_record(output, topic, &record)?,
                Ok(None) => break,
                Err(error @ ReadError::Damaged { .. }) => {
                    note(format_args!("posthouse: {error}"));
                    damaged += 1;
                }
                Err(error @ ReadError::Unreadable { first, next }) => {
                    note(format_args!("posthouse: {error}"));
                    damaged += next.distance_from(first);
                }
                Err(error) => return Err(error.into()),
            }
            left -= 1;
        }
        output.flush()?;
        close(&client).await?;
        if damaged > 0 {
            let text = format!("{} damaged", counted(damaged, "message"));
            return Err(Failure::refused(text));
        }
        Ok(())
    }
}
