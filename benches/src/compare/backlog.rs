//! A backlog in every broker: memory, and the start after `kill -9`.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::pool::{PATIENCE, Pool};
use super::turn::fill;
use super::{Options, print};
use crate::peers::{self, Durability, Duty, Kind, Link, Seen, Service, Take};
use crate::record::Record;
use crate::{clock, report};

pub(super) const NAME: &str = "backlog";
const BODY: usize = 1024;
const TITLE: &str = "written, 1 KiB bodies";
/// Longest time in which it is made.
const LONGEST: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// What one broker showed.
struct Found {
    messages: u64,
    memory: u64,
    restart: Duration,
    first: Duration,
    memory_after: u64,
}

pub(super) fn run(options: &Options, dir: &Path) -> io::Result<()> {
    let messages = options.few((options.backlog_mib << 20) / BODY as u64);
    report::line(format_args!("\n== {NAME}: {messages} messages, {TITLE}"));
    report::line(format_args!(
        "{:29}{:>10}{:>10}{:>12}{:>12}{:>12}",
        "", "kmsg", "MB of it", "memory MB", "serves s", "message s"
    ));
    // A RabbitMQ that starts twice takes longer than all other scenarios of a smoke run.
    let slow = |kind: Kind| options.common.smoke && kind == Kind::RabbitmqStream;
    let written = |kind: &Kind| kind.can(Durability::Written) && !slow(*kind);
    let peers = options.peers.iter().copied().filter(written);
    for kind in [Kind::Posthouse].into_iter().chain(peers) {
        let found = one(kind, messages, dir);
        let mut record = Record::new("compare", NAME, kind.name());
        record.version = peers::version(kind);
        record = record.durability(true).parameter("body", BODY);
        match found {
            Ok(found) => keep(record, kind, &found),
            Err(error) => {
                report::line(format_args!("{:29}not run: {error}", kind.name()));
                record.not_run = Some(error.to_string());
                record.keep();
                if kind == Kind::Posthouse {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

fn keep(record: Record, kind: Kind, found: &Found) {
    let bytes = found.messages * BODY as u64;
    let memory = found.memory.max(found.memory_after);
    report::line(format_args!(
        "{:29}{}{}  {}  {}  {}",
        kind.name(),
        print::cell(found.messages as f64 / 1e3),
        print::cell(bytes as f64 / 1e6),
        print::cell(memory as f64 / 1e6),
        print::cell(found.restart.as_secs_f64()),
        print::cell(found.first.as_secs_f64()),
    ));
    record
        .parameter("configuration", kind.configuration(Durability::Written))
        .parameter("messages", found.messages)
        .figure("memory", memory as f64, "bytes")
        .figure("restart", found.restart.as_secs_f64(), "s")
        .figure("first", found.first.as_secs_f64(), "s")
        .keep();
}

fn one(kind: Kind, messages: u64, dir: &Path) -> io::Result<Found> {
    let dir = dir.join(NAME);
    let mut service = Service::start(kind, Durability::Written, &dir)?;
    service.create(NAME, 1)?;
    let batch = if kind == Kind::Posthouse { 500 } else { 1 };
    let messages = fill(&service, NAME, (batch, 1), BODY, (messages, LONGEST))?;
    let memory = service.memory()?;
    service.kill();
    let start = clock::now();
    service.resume()?;
    while !service.serves(NAME) {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other("the backlog is not there after the start"));
        }
        clock::pause(TICK);
    }
    let restart = start.elapsed();
    first_message(&service)?;
    let first = start.elapsed();
    let found = Found { messages, memory, restart, first, memory_after: service.memory()? };
    drop(service);
    std::fs::remove_dir_all(&dir)?;
    Ok(found)
}

/// Waits for one delivery.
fn first_message(service: &Service) -> io::Result<()> {
    let take = Take { acked: false, expected: Some(1) };
    let mut pool = Pool::new(vec![service.connect(NAME, Duty::Consume(take))?])?;
    pool.links.iter_mut().try_for_each(Link::consume)?;
    let (mut seen, mut ready) = (Seen::default(), Vec::new());
    let start = clock::now();
    while seen.deliveries == 0 {
        pool.wait(PATIENCE, &mut ready)?;
        pool.links.iter_mut().try_for_each(|link| link.pump(&mut seen).map(drop))?;
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other("no message after the start"));
        }
    }
    Ok(())
}
