//! Posthouse with thousands of topics and a deep backlog in it, to be measured beside one without.

use std::io;
use std::time::Duration;

use super::turn::fill;
use crate::peers::Service;
use crate::{backlog, report};

/// Topics besides, each with a subscription and a message.
const TOPICS: usize = 10_000;
const FEW_TOPICS: usize = 20;
/// Bytes of a body in the backlog.
const BODY: u64 = 1024;
const LONGEST: Duration = Duration::from_secs(60);

/// Puts topics and a backlog of so many bytes into a broker.
pub(super) fn load(service: &Service, bytes: u64, smoke: bool) -> io::Result<()> {
    let topics = if smoke { FEW_TOPICS } else { TOPICS };
    service.create("besides", topics)?;
    let messages = topics as u64;
    let sent = fill(service, "besides", (1, topics), 100, (messages, LONGEST))?;
    if sent != messages {
        return Err(io::Error::other(format!("{sent} of {messages} messages were published")));
    }
    backlog::fill(&service.address.to_string(), bytes / BODY, BODY)?;
    report::line(format_args!(
        "posthouse laden: {topics} topics and {} MB more",
        bytes / 1_000_000
    ));
    Ok(())
}
