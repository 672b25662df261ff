//! The honest limit of a broker: what remains when the broker is taken away.
//!
//! Answers which shape the server should have. Shapes take turns within each
//! round, so that a slow phase of the machine meets all of them; ratios are taken
//! within a round.

mod epoll_server;
mod journal;
mod load;
mod shape;
mod syncer;
mod tokio_server;
mod wire;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::journal::Ring;
use self::load::{Load, Outcome};
use self::shape::{Served, Shape, Sockets, Sync};
use self::wire::BODY;
use crate::device::Device;
use crate::place::Placement;
use crate::probe::{self, Probe, Reading};
use crate::record::Record;
use crate::{Common, disk, report};

const BACKLOG: i32 = 1024;
const SMOKE_CONNECTIONS: usize = 8;
const RING: u64 = 64 << 20;
const SPIN: Duration = Duration::from_micros(50);
/// Bytes from which on a group is worth a hand-over.
const LARGE: usize = 64 * 1024;

/// How to run the bare loop.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Turns that every shape gets.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of one turn, after a tenth of it to warm up.
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Connections, and requests in flight on each.
    #[arg(long, value_delimiter = ',', default_value = "1x1,16x1,32x1,256x1,1x512,16x512")]
    cases: Vec<Crowd>,
    /// Only this durability.
    #[arg(long, value_enum)]
    only: Option<Durability>,
    /// Which processors client and core may use.
    #[arg(long, value_enum, default_value_t = Placement::Free)]
    place: Placement,
    /// The client waits in `read` and not in epoll, where there is one connection.
    #[arg(long)]
    blocking: bool,
}

/// What a receipt promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Durability {
    Synced,
    Written,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) connections: usize,
    pub(crate) window: usize,
}

impl FromStr for Crowd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('x').and_then(|(connections, window)| {
            Some(Self { connections: connections.parse().ok()?, window: window.parse().ok()? })
        });
        parts.ok_or_else(|| "expected connections x window, as 16x1".to_owned())
    }
}

const fn shape(name: &'static str, sockets: Sockets, sync: Sync, spin: Duration) -> Shape {
    Shape { name, sockets, sync, spin }
}

const SYNCED: [Shape; 10] = [
    shape("a  epoll inline", Sockets::Epoll, Sync::Inline, Duration::ZERO),
    shape("b  epoll inline+spin", Sockets::Epoll, Sync::Inline, SPIN),
    shape("c  epoll sync thread", Sockets::Epoll, Sync::HandOver, Duration::ZERO),
    shape("f  epoll adaptive", Sockets::Epoll, Sync::Adaptive(0), Duration::ZERO),
    shape("h  epoll adaptive+size", Sockets::Epoll, Sync::Adaptive(LARGE), Duration::ZERO),
    shape("d  tokio inline", Sockets::Tokio, Sync::Inline, Duration::ZERO),
    shape("d' tokio inline+spin", Sockets::Tokio, Sync::Inline, SPIN),
    shape("e  tokio sync thread", Sockets::Tokio, Sync::HandOver, Duration::ZERO),
    shape("g  tokio adaptive", Sockets::Tokio, Sync::Adaptive(0), Duration::ZERO),
    shape("i  tokio adaptive+size", Sockets::Tokio, Sync::Adaptive(LARGE), Duration::ZERO),
];

const WRITTEN: [Shape; 4] = [
    shape("a  epoll", Sockets::Epoll, Sync::Never, Duration::ZERO),
    shape("b  epoll+spin", Sockets::Epoll, Sync::Never, SPIN),
    shape("d  tokio", Sockets::Tokio, Sync::Never, Duration::ZERO),
    shape("d' tokio+spin", Sockets::Tokio, Sync::Never, SPIN),
];

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let ring = Arc::new(disk::zero_filled(&dir.path().join("ring"), RING)?);
    for (durability, shapes) in
        [(Durability::Synced, &SYNCED[..]), (Durability::Written, &WRITTEN[..])]
    {
        if options.only.is_some_and(|only| only != durability) {
            continue;
        }
        for crowd in &options.cases {
            let load = options.load(*crowd);
            let Load { connections, window, .. } = load;
            let title = format!("{durability:?} {connections}x{window} {:?}", options.place);
            let case = Case { shapes, load, ring: &ring, place: options.place };
            case.run(&title, options.rounds(), &probe)?;
        }
    }
    Ok(())
}

/// One turn of the plain bare loop (epoll, sync inline): p50 and p99 in microseconds, requests a
/// second.
pub(crate) fn bare_turn(
    dir: &std::path::Path,
    crowd: Crowd,
    millis: u64,
    written: bool,
) -> io::Result<[f64; 3]> {
    let shapes = if written { &WRITTEN[..1] } else { &SYNCED[..1] };
    let path = dir.join("ring");
    let ring = match File::options().read(true).write(true).open(&path) {
        Ok(ring) => ring,
        Err(_) => disk::zero_filled(&path, RING)?,
    };
    let measured = Duration::from_millis(millis);
    let Crowd { connections, window } = crowd;
    let load = Load { connections, window, blocking: false, warm_up: measured / 10, measured };
    let case = Case { shapes, load, ring: &Arc::new(ring), place: Placement::Free };
    let [shape] = shapes else { unreachable!("one shape was chosen") };
    let turn = case.turn(*shape)?;
    Ok([turn.p50, turn.p99, turn.per_second])
}

impl Options {
    fn rounds(&self) -> usize {
        if self.common.smoke { 1 } else { self.rounds }
    }

    fn load(&self, crowd: Crowd) -> Load {
        let Crowd { connections, window } = crowd;
        let (connections, millis) = if self.common.smoke {
            (connections.min(SMOKE_CONNECTIONS), 2)
        } else {
            (connections, self.millis)
        };
        let measured = Duration::from_millis(millis);
        let blocking = self.blocking && connections == 1;
        Load { connections, window, blocking, warm_up: measured / 10, measured }
    }
}

struct Case<'a> {
    shapes: &'a [Shape],
    load: Load,
    ring: &'a Arc<File>,
    place: Placement,
}

impl Case<'_> {
    fn run(&self, title: &str, rounds: usize, probe: &Probe) -> io::Result<()> {
        let mut readings: Vec<Reading> = Vec::new();
        let mut turns: Vec<Vec<Turn>> = Vec::new();
        for _ in 0..rounds {
            readings.push(probe.read()?);
            let round = self.shapes.iter().map(|shape| self.turn(*shape));
            turns.push(round.collect::<io::Result<_>>()?);
        }
        report::line(format_args!("\n{title}   {}", probe::typical(&readings)));
        report::line(format_args!(
            "{:22}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>8}{:>8}{:>8}",
            "shape",
            "p50 us",
            "p99 us",
            "best p50",
            "kops/s",
            "x p50",
            "x p99",
            "x ops",
            "group",
            "core us",
            "sync us",
            "client",
            "dev/B"
        ));
        for (number, shape) in self.shapes.iter().enumerate() {
            let record = Record::new("bare-loop", title, shape.name)
                .parameter("connections", self.load.connections)
                .parameter("window", self.load.window)
                .rounds(rounds)
                .reading(&probe::typical(&readings));
            print_row(record, shape.name, number, &turns);
        }
        Ok(())
    }

    fn turn(&self, shape: Shape) -> io::Result<Turn> {
        let device = Device::below(self.ring)?;
        let written = device.written();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The 128 of the standard library are overrun by 256 clients at once, who then wait a second.
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        let ring = Ring::new(Arc::clone(self.ring), RING);
        let connections = self.load.connections;
        let Self { load, place, .. } = *self;
        let server = thread::spawn(move || {
            place.place_server()?;
            match shape.sockets {
                Sockets::Epoll => epoll_server::serve(&listener, connections, shape, ring),
                Sockets::Tokio => tokio_server::serve(listener, connections, shape, ring),
            }
        });
        let client = thread::spawn(move || {
            place.place_client()?;
            load::run(address, load)
        });
        let outcome = client.join().expect("the client does not panic")?;
        let served = server.join().expect("the server does not panic")?;
        Ok(Turn::new(&outcome, served, device.written() - written))
    }
}

/// The figures of one shape in one round.
struct Turn {
    p50: f64,
    p99: f64,
    per_second: f64,
    group: f64,
    core_micros: f64,
    sync_micros: f64,
    client_share: f64,
    device_share: f64,
}

impl Turn {
    fn new(outcome: &Outcome, served: Served, device_bytes: u64) -> Self {
        let quantile = |share| report::micros(outcome.latency.value_at_quantile(share));
        let receipts = outcome.receipts as f64;
        let groups = if served.syncs == 0 { served.writes } else { served.syncs };
        Self {
            p50: quantile(0.5),
            p99: quantile(0.99),
            per_second: outcome.latency.len() as f64 / outcome.elapsed.as_secs_f64(),
            group: receipts / groups as f64,
            core_micros: served.core_cpu.as_secs_f64() * 1e6 / receipts,
            sync_micros: served.sync_cpu.as_secs_f64() * 1e6 / receipts,
            client_share: outcome.cpu.as_secs_f64() / outcome.lifetime.as_secs_f64(),
            device_share: device_bytes as f64 / (receipts * BODY as f64),
        }
    }
}

fn print_row(record: Record, name: &str, number: usize, rounds: &[Vec<Turn>]) {
    let middle = |figure: fn(&Turn) -> f64| {
        report::median(rounds.iter().filter_map(|round| round.get(number)).map(figure))
    };
    let ratio = |figure: fn(&Turn) -> f64| {
        let pairs = rounds.iter().filter_map(|round| Some((round.get(number)?, round.first()?)));
        report::median(pairs.map(|(this, first)| figure(this) / figure(first)))
    };
    record
        .figure("p50", middle(|turn| turn.p50), "us")
        .figure("p99", middle(|turn| turn.p99), "us")
        .figure("rate", middle(|turn| turn.per_second), "messages/s")
        .figure("group", middle(|turn| turn.group), "messages per sync")
        .figure("cpu", middle(|turn| turn.core_micros + turn.sync_micros), "us per message")
        .figure("device", middle(|turn| turn.device_share), "bytes per payload byte")
        .keep();
    let best = rounds.iter().filter_map(|round| round.get(number)).map(|turn| turn.p50);
    report::line(format_args!(
        "{name:22}{:9.1}{:9.1}{:9.1}{:8.1}{:8.2}{:8.2}{:7.2}{:7.1}{:8.2}{:8.2}{:7.0}%{:8.1}",
        middle(|turn| turn.p50),
        middle(|turn| turn.p99),
        best.fold(f64::INFINITY, f64::min),
        middle(|turn| turn.per_second) / 1e3,
        ratio(|turn| turn.p50),
        ratio(|turn| turn.p99),
        ratio(|turn| turn.per_second),
        middle(|turn| turn.group),
        middle(|turn| turn.core_micros),
        middle(|turn| turn.sync_micros),
        middle(|turn| turn.client_share) * 100.0,
        middle(|turn| turn.device_share),
    ));
}
