//! `posthouse publish`: one message, or a message a line.

mod stream;
mod tally;

use crate::cli::{Common, parse_name};
use crate::connect::{close, connect_for};
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::settings::durability_word;
use clap::Args;
use posthouse_broker::config::Period;
use posthouse_client::{Message, Name, Receipt};
use posthouse_protocol::limits;
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  posthouse publish orders 'hello' --create
  posthouse publish orders --key c-17 --header content-type=text/plain < body.txt
  posthouse publish orders --lines orders.txt
  tail -f app.log | posthouse publish logs --lines -
  posthouse publish reminders 'call back' --delay 2h

--lines makes a message of every line. The line feed is not part of the message, a
carriage return before it is; empty lines are empty messages; bytes need not be UTF-8. A
last line without a line feed gets the header `posthouse-line-end: none`, so that `consume`
and `read` give the input back byte for byte.

A broker that is killed and started again is ridden out: every line is stored once, in
order. A message that gets no receipt within --timeout ends the command; the last line says
how many were accepted and at which durability: `synced` is on disk, `written` is in the
broker's page cache. Exit code 3 means that others may have been stored, too.";

/// Publish one message, or a message a line
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Publish {
    /// The topic's name
    #[arg(value_parser = parse_name)]
    topic: Name,

    /// The message; without it and without --lines, all of standard input is one message
    #[arg(conflicts_with = "lines")]
    body: Option<String>,

    /// Publish every line of a file, or of standard input for -
    #[arg(long, value_name = "FILE|-")]
    lines: Option<PathBuf>,

    #[command(flatten)]
    envelope: Envelope,

    /// Create the topic with default settings if it is not there
    #[arg(long)]
    create: bool,

    /// How long a message may wait for its receipt, restarts of the broker included
    #[arg(long, value_name = "PERIOD", default_value = "30s")]
    timeout: Period,
}

/// What is said about a message beside its body.
#[derive(Debug, Args)]
struct Envelope {
    /// A key, kept with the message; order by key is not built yet
    #[arg(long, value_name = "K")]
    key: Option<String>,

    /// A header; may be given several times
    #[arg(long = "header", value_name = "K=V", value_parser = parse_header)]
    headers: Vec<(String, String)>,

    /// Store it now, let it be seen so long from now; `topic describe` counts what waits
    #[arg(long, value_name = "PERIOD")]
    delay: Option<Period>,
}

impl Envelope {
    /// The message with this body.
    fn around(&self, body: bytes::Bytes) -> Message {
        let mut message = Message::new(body);
        if let Some(key) = &self.key {
            message = message.key(key.clone());
        }
        for (name, value) in &self.headers {
            message = message.header(name.clone(), value.clone());
        }
        match self.delay {
            Some(Period(delay)) => message.delay(delay),
            None => message,
        }
    }
}

impl Publish {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        // The input first: a file that is not there should not make a topic.
        let input = match &self.lines {
            Some(path) => Some(stream::open(path)?),
            None => None,
        };
        let client = connect_for(common, self.timeout.0).await?;
        let topic = self.topic.as_str();
        if self.create {
            client.admin().ensure_topic(topic).await?;
        }
        let publisher = client.publisher(topic).timeout(self.timeout.0).await?;
        match input {
            Some(input) => {
                let job = stream::Job { publisher: &publisher, envelope: &self.envelope, topic };
                job.run(input, output).await?;
            }
            None => {
                let body = match &self.body {
                    Some(text) => text.clone().into(),
                    None => read_body()?.into(),
                };
                let receipt = publisher.publish(self.envelope.around(body)).await?;
                self.print_receipt(output, &receipt)?;
            }
        }
        output.flush()?;
        close(&client).await
    }

    fn print_receipt(&self, output: &mut Output, receipt: &Receipt) -> Result<(), Failure> {
        let object = ReceiptObject {
            topic: self.topic.as_str(),
            id: receipt.id.to_string(),
            offset: receipt.offset.map(|offset| offset.0),
            durability: durability_word(receipt.durability),
            duplicate: receipt.duplicate,
        };
        let place = match (object.offset, self.envelope.delay) {
            (Some(offset), _) => format!("at offset {offset}"),
            (None, Some(delay)) => format!("to be published in {delay}"),
            (None, None) => "at offset unknown".to_owned(),
        };
        let text = format!("accepted {} {place}, {}", object.id, object.durability);
        output.print(&object, text)
    }
}

#[derive(Serialize)]
struct ReceiptObject<'a> {
    topic: &'a str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    durability: &'static str,
    duplicate: bool,
}

/// All of standard input, as far as a message can hold it.
fn read_body() -> Result<Vec<u8>, Failure> {
    let most = u64::from(limits::MESSAGE_BYTES_MAX);
    let mut body = Vec::new();
    let read = std::io::stdin().lock().take(most + 1).read_to_end(&mut body).map_err(|error| {
        Failure::new(Code::Disk, format_args!("cannot read standard input: {error}"))
    })?;
    if read as u64 > most {
        return Err(Failure::refused(format_args!(
            "standard input is longer than a message can be ({most} bytes); --lines sends many"
        )));
    }
    Ok(body)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "is not K=V".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}
