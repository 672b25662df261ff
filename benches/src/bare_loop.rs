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
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;

use self::journal::Ring;
use self::load::{Load, Outcome};
use self::shape::{Served, Shape, Sockets, Sync};
use crate::probe::{self, Probe, Reading};
use crate::{Common, disk, report};

const RING: u64 = 64 << 20;
const SPIN: Duration = Duration::from_micros(50);

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
    /// Only cases whose name contains this, as `synced 16x1`.
    #[arg(long, default_value = "")]
    only: String,
}

const fn shape(name: &'static str, sockets: Sockets, sync: Sync, spin: Duration) -> Shape {
    Shape { name, sockets, sync, spin }
}

const SYNCED: [Shape; 8] = [
    shape("a  epoll inline", Sockets::Epoll, Sync::Inline, Duration::ZERO),
    shape("b  epoll inline+spin", Sockets::Epoll, Sync::Inline, SPIN),
    shape("c  epoll sync thread", Sockets::Epoll, Sync::HandOver, Duration::ZERO),
    shape("f  epoll adaptive", Sockets::Epoll, Sync::Adaptive, Duration::ZERO),
    shape("d  tokio inline", Sockets::Tokio, Sync::Inline, Duration::ZERO),
    shape("d' tokio inline+spin", Sockets::Tokio, Sync::Inline, SPIN),
    shape("e  tokio sync thread", Sockets::Tokio, Sync::HandOver, Duration::ZERO),
    shape("g  tokio adaptive", Sockets::Tokio, Sync::Adaptive, Duration::ZERO),
];

const WRITTEN: [Shape; 4] = [
    shape("a  epoll", Sockets::Epoll, Sync::Never, Duration::ZERO),
    shape("b  epoll+spin", Sockets::Epoll, Sync::Never, SPIN),
    shape("d  tokio", Sockets::Tokio, Sync::Never, Duration::ZERO),
    shape("d' tokio+spin", Sockets::Tokio, Sync::Never, SPIN),
];

/// Connections, and requests in flight on each.
const CASES: [(usize, usize); 6] = [(1, 1), (16, 1), (32, 1), (256, 1), (1, 512), (16, 512)];

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let ring = Arc::new(disk::zero_filled(&dir.path().join("ring"), RING)?);
    for (durability, shapes) in [("synced", &SYNCED[..]), ("written", &WRITTEN[..])] {
        for (connections, window) in CASES {
            let title = format!("{durability} {connections}x{window}");
            if title.contains(&options.only) {
                let load = options.load(connections, window);
                Case { shapes, load, ring: &ring }.run(&title, options.rounds(), &probe)?;
            }
        }
    }
    Ok(())
}

impl Options {
    fn rounds(&self) -> usize {
        if self.common.smoke { 1 } else { self.rounds }
    }

    fn load(&self, connections: usize, window: usize) -> Load {
        let millis = if self.common.smoke { 5 } else { self.millis };
        let measured = Duration::from_millis(millis);
        Load { connections, window, warm_up: measured / 10, measured }
    }
}

struct Case<'a> {
    shapes: &'a [Shape],
    load: Load,
    ring: &'a Arc<File>,
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
            "{:22}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>8}{:>8}",
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
            "client"
        ));
        for (number, shape) in self.shapes.iter().enumerate() {
            print_row(shape.name, number, &turns);
        }
        Ok(())
    }

    fn turn(&self, shape: Shape) -> io::Result<Turn> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ring = Ring::new(Arc::clone(self.ring), RING);
        let connections = self.load.connections;
        let server = thread::spawn(move || match shape.sockets {
            Sockets::Epoll => epoll_server::serve(&listener, connections, shape, ring),
            Sockets::Tokio => tokio_server::serve(listener, connections, shape, ring),
        });
        let load = self.load;
        let client = thread::spawn(move || load::run(address, load));
        let outcome = client.join().expect("the client does not panic")?;
        let served = server.join().expect("the server does not panic")?;
        Ok(Turn::new(&outcome, served))
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
}

impl Turn {
    fn new(outcome: &Outcome, served: Served) -> Self {
        let quantile = |share| report::micros(outcome.latency.value_at_quantile(share));
        let receipts = outcome.receipts as f64;
        Self {
            p50: quantile(0.5),
            p99: quantile(0.99),
            per_second: outcome.latency.len() as f64 / outcome.elapsed.as_secs_f64(),
            group: receipts / served.syncs.max(1) as f64,
            core_micros: served.core_cpu.as_secs_f64() * 1e6 / receipts,
            sync_micros: served.sync_cpu.as_secs_f64() * 1e6 / receipts,
            client_share: outcome.cpu.as_secs_f64() / outcome.lifetime.as_secs_f64(),
        }
    }
}

fn print_row(name: &str, number: usize, rounds: &[Vec<Turn>]) {
    let middle = |figure: fn(&Turn) -> f64| {
        report::median(rounds.iter().filter_map(|round| round.get(number)).map(figure))
    };
    let ratio = |figure: fn(&Turn) -> f64| {
        let pairs = rounds.iter().filter_map(|round| Some((round.get(number)?, round.first()?)));
        report::median(pairs.map(|(this, first)| figure(this) / figure(first)))
    };
    let best = rounds.iter().filter_map(|round| round.get(number)).map(|turn| turn.p50);
    report::line(format_args!(
        "{name:22}{:9.1}{:9.1}{:9.1}{:8.1}{:8.2}{:8.2}{:7.2}{:7.1}{:8.2}{:8.2}{:7.0}%",
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
    ));
}
