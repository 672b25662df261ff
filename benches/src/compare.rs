//! Posthouse beside other brokers, in turns within each round, so that a slow phase of the machine
//! meets all of them; ratios are taken within a round.

mod backlog;
mod given;
mod laden;
mod library;
mod paced;
mod pool;
mod print;
pub(crate) mod rows;
mod turn;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use self::given::Given;
use self::rows::{Limit, Party, ROWS, Row, Style, Work};
use self::turn::{Crowd, Outcome};
use crate::device::Device;
use crate::peers::{self, Durability, Kind, Service};
use crate::probe::{Bulk, Probe, Reading};
use crate::{Common, bare_loop, clock, report};

/// Longest time in which a backlog is made, however few messages it has then.
const FILL: Duration = Duration::from_secs(3);
/// Messages in each publish while a backlog is made, by whoever has batches.
const FILL_BATCH: usize = 1000;
/// Publishes in flight of somebody who sends batches.
const BATCHES: usize = 4;
/// Bytes that somebody who sends batches has in flight.
const BATCH_BYTES: usize = 16 << 20;
/// The disk is quiet when it writes less than this in a pause.
const QUIET: u64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(50);
const PAUSES: usize = 20;
/// A server is at rest when it used less than a tenth of a processor for so long.
const REST: Duration = Duration::from_millis(1500);
const RESTS: usize = 8;

/// Whom to compare, in what.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Turns of everybody.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds of one turn.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Only rows whose names begin so; `list` names them.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these peers; without a name, none.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::PEERS, num_args = 0..)]
    peers: Vec<Kind>,
    #[command(flatten)]
    given: Given,
    /// Use what is installed; install nothing.
    #[arg(long)]
    no_install: bool,
    /// Also Posthouse with 10,000 topics and a backlog of so many GiB in it.
    #[arg(long, value_name = "GIB", num_args = 0..=1, default_missing_value = "10")]
    laden: Option<u64>,
    /// MiB of the backlog for memory and restart.
    #[arg(long, default_value_t = 1024)]
    backlog_mib: u64,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| name.starts_with(row.as_str()))
    }

    fn rounds(&self) -> usize {
        if self.common.smoke { 1 } else { self.rounds.max(1) }
    }

    fn measured(&self) -> Duration {
        Duration::from_millis(if self.common.smoke { 10 } else { self.millis })
    }

    /// Everybody beside Posthouse.
    fn kinds(&self, durability: Durability) -> Vec<Kind> {
        let started = self.peers.iter().copied().filter(|kind| kind.can(durability));
        started.chain(self.given.at(durability).into_iter().map(|(kind, _)| kind)).collect()
    }

    /// A smoke run takes a few of many.
    fn few(&self, count: u64) -> u64 {
        if self.common.smoke { count.min(500) } else { count }
    }
}

/// Names of the rows, as `--rows` takes them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name).chain([backlog::NAME])
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    if !options.no_install && !options.common.smoke {
        peers::install(&options.peers);
    }
    let dir = tempfile::Builder::new().prefix("compare-").tempdir_in(&options.common.dir)?;
    print::versions(&options.peers);
    let mut node = None;
    for durability in [Durability::Synced, Durability::Written] {
        let wanted = |row: &&Row| row.durability == durability && options.wants(row.name);
        let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
        if !rows.is_empty() {
            let mut table = Table::start(options, dir.path(), durability, node.take())?;
            rows.into_iter().try_for_each(|row| table.row(row))?;
            node = table.services.remove(&Kind::RabbitmqQuorum).and_then(Result::ok);
        }
    }
    drop(node);
    if options.wants(backlog::NAME) {
        backlog::run(options, dir.path())?;
    }
    Ok(())
}

/// The brokers of one durability, and the machine below them.
struct Table<'a> {
    options: &'a Options,
    dir: &'a Path,
    services: BTreeMap<Kind, Result<Service, String>>,
    probe: Probe,
    /// What the probe said last; a smoke run asks once.
    read: Option<(Reading, Bulk)>,
    device: Device,
    folder: File,
}

/// What one party's turn showed.
struct Turn {
    outcome: Outcome,
    flushes: u64,
    device_bytes: u64,
    /// Unknown of a server whose process is.
    cpu: Option<Duration>,
}

/// All rounds of a row.
struct Rounds {
    parties: Vec<Party>,
    /// By party.
    versions: Vec<String>,
    /// By party, then by round.
    turns: Vec<Vec<Turn>>,
    failed: Vec<Option<String>>,
    readings: Vec<Reading>,
    bulk: Vec<Bulk>,
    /// p50 and p99 in microseconds, messages a second.
    bare: Vec<[f64; 3]>,
}

impl<'a> Table<'a> {
    /// Starts everybody; `node` is a `RabbitMQ` that runs already.
    fn start(
        options: &'a Options,
        dir: &'a Path,
        durability: Durability,
        mut node: Option<Service>,
    ) -> io::Result<Self> {
        let kinds = options.peers.iter().copied().filter(|kind| kind.can(durability));
        let mut services = BTreeMap::new();
        let laden = options.laden.map(|_| Kind::Laden);
        for kind in [Kind::Posthouse].into_iter().chain(laden).chain(kinds) {
            let running = node.take_if(|_| kind == Kind::RabbitmqStream);
            let service = running.map_or_else(
                || Service::launch(kind, durability, dir),
                |node| Ok(node.into_streams()),
            );
            services.insert(kind, service);
        }
        for (kind, address) in options.given.at(durability) {
            let service = Service::given(kind, durability, address);
            service.iter().for_each(print::given);
            services.insert(kind, service);
        }
        // They start side by side, and are waited for one after another.
        let services = services.into_iter().map(|(kind, service)| {
            let service = service.and_then(|mut service| service.ready().map(|()| service));
            (kind, service.map_err(|error| error.to_string()))
        });
        let mut services: BTreeMap<_, _> = services.collect();
        if let (Some(gib), Some(Ok(service))) = (options.laden, services.get_mut(&Kind::Laden)) {
            laden::load(service, options.few(gib << 30), options.common.smoke)?;
        }
        let folder = File::open(dir)?;
        let device = Device::below(&folder)?;
        Ok(Self { options, dir, services, probe: Probe::new(dir)?, read: None, device, folder })
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        let kinds = self.options.kinds(row.durability);
        let mut parties = row.parties(&kinds, self.options.laden.is_some());
        let small = row.small();
        let smoke = self.options.common.smoke;
        let row = if smoke { &small } else { row };
        if smoke {
            parties.iter_mut().for_each(|party| party.style = party.style.small());
        }
        let mut rounds = Rounds {
            turns: parties.iter().map(|_| Vec::new()).collect(),
            failed: vec![None; parties.len()],
            versions: parties.iter().map(|party| self.version(party.kind)).collect(),
            parties,
            readings: Vec::new(),
            bulk: Vec::new(),
            bare: Vec::new(),
        };
        for round in 0..self.options.rounds() {
            self.round(row, round, &mut rounds)?;
        }
        print::row(row, &rounds);
        // Whoever fails tells nothing about Posthouse; Posthouse itself must not fail.
        let ours = rounds.parties.iter().zip(&rounds.failed);
        let mut ours = ours.filter(|(party, _)| party.kind.is_ours());
        match ours.find_map(|(_, failed)| failed.as_ref()) {
            Some(error) => Err(io::Error::other(format!("{}: posthouse: {error}", row.name))),
            None => Ok(()),
        }
    }

    fn version(&self, kind: Kind) -> String {
        let service = self.services.get(&kind).and_then(|service| service.as_ref().ok());
        service.map_or_else(|| peers::version(kind), |service| service.version().to_owned())
    }

    fn round(&mut self, row: &Row, round: usize, rounds: &mut Rounds) -> io::Result<()> {
        self.quiesce()?;
        let (reading, bulk) = match self.read.filter(|_| self.options.common.smoke) {
            Some(read) => read,
            None => (self.probe.read()?, self.probe.bulk()?),
        };
        self.read = Some((reading, bulk));
        rounds.readings.push(reading);
        rounds.bulk.push(bulk);
        if let (Limit::BareLoop, Work::Publish { connections, window }) = (row.limit, row.work) {
            let written = row.durability == Durability::Written;
            let millis = u64::try_from(self.options.measured().as_millis()).unwrap_or(u64::MAX);
            let crowd = bare_loop::Crowd { connections, window };
            rounds.bare.push(bare_loop::bare_turn(self.dir, crowd, millis, written)?);
        }
        let parties = rounds.parties.iter().zip(&mut rounds.turns).zip(&mut rounds.failed);
        for (number, ((party, turns), failed)) in parties.enumerate() {
            if failed.is_some() {
                continue;
            }
            let queue = format!("{}-{number}-{round}", row.name);
            match self.turn(row, *party, &queue) {
                Ok(turn) => turns.push(turn),
                Err(error) => *failed = Some(error.to_string()),
            }
        }
        Ok(())
    }

    fn turn(&mut self, row: &Row, party: Party, queue: &str) -> io::Result<Turn> {
        let service = match self.services.get(&party.kind) {
            Some(Ok(service)) => service,
            Some(Err(error)) => return Err(io::Error::other(error.clone())),
            None => return Err(io::Error::other("not started")),
        };
        service.create(queue, party.topics())?;
        let turn = self.measure(&Trial { row, party, service, queue });
        // The turn's own error says more than that of cleaning up after it.
        let Some(Ok(service)) = self.services.get_mut(&party.kind) else { return turn };
        let removed = service.remove(queue, party.topics());
        turn.and_then(|turn| removed.map(|()| turn))
    }

    fn measure(&self, trial: &Trial<'_>) -> io::Result<Turn> {
        let Trial { row, party, service, queue } = *trial;
        let backlog = match row.work {
            Work::Queue { messages } | Work::Replay { messages } => {
                let batch = if party.kind.has_batches() {
                    FILL_BATCH.min(usize::try_from(messages).unwrap_or(FILL_BATCH))
                } else {
                    1
                };
                let goal = (messages, FILL);
                let filled = turn::fill(service, queue, (batch, 1), row.body, goal)?;
                self.rest(service);
                filled
            }
            Work::Publish { .. } | Work::Together { .. } | Work::Paced { .. } => 0,
        };
        self.quiesce()?;
        let (flushes, bytes) = (self.device.flushes(), self.device.written());
        let cpu = service.cpu();
        let outcome = trial.work(self.options.measured(), backlog)?;
        let flushes = self.device.flushes() - flushes;
        let cpu = service.cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        if !self.options.common.smoke {
            // What is only in the page cache is written as well, sooner or later.
            rustix::fs::syncfs(&self.folder)?;
        }
        let device_bytes = self.device.written() - bytes;
        Ok(Turn { outcome, flushes, device_bytes, cpu })
    }

    /// Waits until a server has done what it does with a backlog once it has it, within reason.
    fn rest(&self, service: &Service) {
        if self.options.common.smoke {
            return;
        }
        for _ in 0..RESTS {
            let before = service.cpu();
            clock::pause(REST);
            let used =
                service.cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
            if used.is_none_or(|used| used < REST / 10) {
                return;
            }
        }
        report::line(format_args!("   {}: not at rest when its turn began", service.kind.name()));
    }

    /// Waits until the disk has done what earlier turns left to it, within reason.
    fn quiesce(&self) -> io::Result<()> {
        if self.options.common.smoke {
            return Ok(());
        }
        rustix::fs::syncfs(&self.folder)?;
        for _ in 0..PAUSES {
            let before = self.device.written();
            clock::pause(PAUSE);
            if self.device.written() - before < QUIET {
                break;
            }
        }
        Ok(())
    }
}

/// One party at the work of a row.
struct Trial<'a> {
    row: &'a Row,
    party: Party,
    service: &'a Service,
    queue: &'a str,
}

impl Trial<'_> {
    fn work(&self, measured: Duration, backlog: u64) -> io::Result<Outcome> {
        let Self { row, party, service, queue } = *self;
        let (body, library) = (row.body, party.style == Style::Library);
        match row.work {
            Work::Publish { .. } if library => library::publish(service, queue, body, measured),
            Work::Publish { connections, window } => {
                let crowd = crowd(party, connections, window, body);
                turn::publish(service, queue, crowd, body, measured)
            }
            Work::Queue { .. } if library => library::queue(service, queue, backlog),
            Work::Queue { .. } => turn::drain(service, queue, backlog, true),
            Work::Replay { .. } if library => library::replay(service, queue, backlog),
            Work::Replay { .. } if party.style == Style::Records => {
                library::replay_records(service, queue, backlog)
            }
            Work::Replay { .. } => turn::drain(service, queue, backlog, false),
            Work::Together { window } => {
                let crowd = crowd(party, 1, window, body);
                turn::together(service, queue, crowd, body, measured)
            }
            Work::Paced { rate } => paced::run(service, queue, rate, body, measured),
        }
    }
}

/// Whoever sends batches has a few of them in flight.
fn crowd(party: Party, connections: usize, window: usize, body: usize) -> Crowd {
    let (batch, topics) = (party.batch(), party.topics());
    let few = (BATCH_BYTES / (batch * body * connections)).clamp(1, BATCHES);
    let window = if batch > 1 { few } else { window };
    Crowd { connections, window, batch, topics }
}
