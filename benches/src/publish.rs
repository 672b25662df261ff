//! Publishing against the real broker over TCP, with the bare loop in the same rounds.

mod peer;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{MessageId, Timestamp};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use self::peer::Peer;
use crate::bare_loop::{Crowd, bare_turn};
use crate::device::Device;
use crate::probe::{self, Probe, Reading};
use crate::record::Record;
use crate::running::InProcess;
use crate::{Common, clock, report};

/// How to publish.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Turns of bare loop and broker.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of one turn.
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Connections, and publishes in flight on each.
    #[arg(long, value_delimiter = ',', default_value = "1x1,16x1,32x1,1x512,16x512")]
    cases: Vec<Crowd>,
    /// Messages in each publish.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Bytes of each body.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Acknowledge from the page cache.
    #[arg(long)]
    written: bool,
    /// Leave the bare loop out.
    #[arg(long)]
    no_bare: bool,
}

struct Outcome {
    latency: Histogram<u64>,
    messages: u64,
    elapsed: Duration,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let (rounds, millis) =
        if options.common.smoke { (1, 20) } else { (options.rounds, options.millis) };
    let kind = if options.written { "written" } else { "synced" };
    let (batch, body) = (options.batch, options.body);
    report::line(format_args!(
        "publish, {kind}, {body} B bodies, {batch} a publish; us and thousand messages/s\n{:10}{:>9}{:>9}{:>10}{:>9}{:>9}{:>10}{:>8}{:>8}{:>8}",
        "case",
        "p50",
        "p99",
        "kmsg/s",
        "bare p50",
        "bare p99",
        "bare kmsg",
        "x p50",
        "x p99",
        "x ops"
    ));
    let broker = InProcess::start(dir.path())?;
    let device = Device::below(&File::open(dir.path())?)?;
    for crowd in &options.cases {
        let mut rows = Vec::new();
        let mut readings = Vec::new();
        for _ in 0..rounds {
            readings.push(probe.read()?);
            let (connections, window) = (crowd.connections, crowd.window);
            let load = Load { connections, window, millis, options };
            let written = device.written();
            let outcome = load.run(broker.address)?;
            let written = device.written() - written;
            let bare = if options.no_bare {
                None
            } else {
                Some(bare_turn(dir.path(), *crowd, millis, options.written)?)
            };
            rows.push((Figures::of(outcome, written, options.body), bare));
        }
        print_row(options, *crowd, &rows, &readings);
        report::line(probe::typical(&readings));
    }
    broker.stop()
}

struct Figures {
    p50: f64,
    p99: f64,
    per_second: f64,
    /// Device bytes per payload byte.
    device: f64,
    latency: Histogram<u64>,
}

impl Figures {
    fn of(outcome: Outcome, device_bytes: u64, body: usize) -> Self {
        let quantile = |share| report::micros(outcome.latency.value_at_quantile(share));
        Self {
            p50: quantile(0.5),
            p99: quantile(0.99),
            per_second: outcome.messages as f64 / outcome.elapsed.as_secs_f64(),
            device: device_bytes as f64 / (outcome.messages * body as u64) as f64,
            latency: outcome.latency,
        }
    }
}

fn print_row(
    options: &Options,
    crowd: Crowd,
    rows: &[(Figures, Option<[f64; 3]>)],
    readings: &[Reading],
) {
    let ours = |figure: fn(&Figures) -> f64| report::median(rows.iter().map(|(f, _)| figure(f)));
    let bare = |which: usize| {
        report::median(rows.iter().filter_map(|(_, bare)| bare.as_ref()?.get(which).copied()))
    };
    let ratio =
        |figure: fn(&Figures) -> f64, which: usize| {
            report::median(rows.iter().filter_map(|(ours, bare)| {
                Some(figure(ours) / bare.as_ref()?.get(which).copied()?)
            }))
        };
    let mut all = histogram();
    rows.iter().for_each(|(figures, _)| all.add(&figures.latency).unwrap_or_default());
    Record::new("publish", format!("{}x{}", crowd.connections, crowd.window), "posthouse")
        .durability(options.written)
        .parameter("body", options.body)
        .parameter("batch", options.batch)
        .parameter("connections", crowd.connections)
        .parameter("window", crowd.window)
        .rounds(rows.len())
        .figure("p50", ours(|f| f.p50), "us")
        .figure("p99", ours(|f| f.p99), "us")
        .figure("rate", ours(|f| f.per_second), "messages/s")
        .figure("device", ours(|f| f.device), "bytes per payload byte")
        .figure("bare_p50", bare(0), "us")
        .figure("bare_p99", bare(1), "us")
        .figure("bare_rate", bare(2), "messages/s")
        .reading(&probe::typical(readings))
        .histogram(&all)
        .keep();
    report::line(format_args!(
        "{:10}{:9.1}{:9.1}{:10.1}{:9.1}{:9.1}{:10.1}{:8.2}{:8.2}{:8.2}",
        format!("{}x{}", crowd.connections, crowd.window),
        ours(|f| f.p50),
        ours(|f| f.p99),
        ours(|f| f.per_second) / 1e3,
        bare(0),
        bare(1),
        bare(2) / 1e3,
        ratio(|f| f.p50, 0),
        ratio(|f| f.p99, 1),
        ratio(|f| f.per_second, 2),
    ));
}

struct Load<'a> {
    connections: usize,
    window: usize,
    millis: u64,
    options: &'a Options,
}

impl Load<'_> {
    fn run(&self, to: SocketAddr) -> io::Result<Outcome> {
        thread::scope(|scope| {
            scope.spawn(|| self.publish(to)).join().expect("the client does not panic")
        })
    }

    fn publish(&self, to: SocketAddr) -> io::Result<Outcome> {
        let durability =
            if self.options.written { Durability::Written } else { Durability::Synced };
        let topic = if self.options.written { "written" } else { "synced" };
        let batch = batch(self.options.batch, self.options.body)?;
        let connect = |_| Peer::connect(to, topic, durability, batch.clone());
        let mut peers = (0..self.connections).map(connect).collect::<io::Result<Vec<_>>>()?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, peer) in peers.iter().enumerate() {
            let data = epoll::EventData::new_u64(number as u64);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&poll, &peer.stream, data, flags)?;
        }
        let measured = Duration::from_millis(self.millis);
        let start = clock::now();
        let from = start + measured / 10;
        let until = from + measured;
        let mut latency = histogram();
        for peer in &mut peers {
            peer.send(self.window, start)?;
        }
        let mut events = Vec::with_capacity(self.connections);
        let mut now = start;
        while now < until || peers.iter().any(|peer| !peer.sent_at.is_empty()) {
            events.clear();
            epoll::wait(&poll, spare_capacity(&mut events), None)?;
            for event in &events {
                let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                let Some(peer) = peers.get_mut(number) else { continue };
                let received = clock::now();
                let answered = peer.receive(|sent_at| {
                    if received >= from && received < until {
                        latency.saturating_record(clock::nanos(received - sent_at));
                    }
                })?;
                now = clock::now();
                peer.send(if now < until { answered } else { 0 }, now)?;
            }
        }
        let messages = latency.len() * self.options.batch as u64;
        Ok(Outcome { latency, messages, elapsed: measured })
    }
}

fn histogram() -> Histogram<u64> {
    const MINUTE: u64 = 60_000_000_000;
    Histogram::new_with_max(MINUTE, 3).expect("three digits are allowed")
}

fn batch(messages: usize, body: usize) -> io::Result<Bytes> {
    let mut builder = BatchBuilder::new();
    let body = Bytes::from(vec![b'x'; body]);
    for number in 0..messages {
        let id = MessageId((number as u128).to_be_bytes());
        let message = Message { id, body: body.clone(), ..Message::default() };
        builder.push(&message).map_err(io::Error::other)?;
    }
    Ok(builder.finish(Timestamp(1)))
}
