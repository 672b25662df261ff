//! Prints a row, and keeps it for the file.

use super::rows::{Limit, Party, Row, Style, Work};
use super::turn::histogram;
use super::{Rounds, Turn, crowd};
use crate::peers::{self, Kind, Service};
use crate::record::Record;
use crate::{probe, report};

/// What is measured in each turn.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// Column title, and what the value is divided by there.
    column: &'static str,
    scale: f64,
    of: fn(&Turn, usize) -> f64,
}

const fn figure(
    name: &'static str,
    unit: &'static str,
    column: &'static str,
    scale: f64,
    of: fn(&Turn, usize) -> f64,
) -> Figure {
    Figure { name, unit, column, scale, of }
}

const FIGURES: [Figure; 8] = [
    figure("p50", "us", "p50 us", 1.0, |turn, _| quantile(turn, 0.5)),
    figure("p99", "us", "p99 us", 1.0, |turn, _| quantile(turn, 0.99)),
    figure("p999", "us", "p99.9", 1.0, |turn, _| quantile(turn, 0.999)),
    figure("rate", "messages/s", "kmsg/s", 1e3, |turn, _| turn.outcome.rate()),
    figure("payload", "bytes/s", "MB/s", 1e6, |turn, body| turn.outcome.rate() * body as f64),
    figure("flushes", "per message", "flush/msg", 1.0, |turn, _| {
        turn.flushes as f64 / turn.outcome.all as f64
    }),
    figure("device", "bytes per payload byte", "dev B/B", 1.0, |turn, body| {
        turn.device_bytes as f64 / (turn.outcome.all * body as u64) as f64
    }),
    figure("cpu", "us per message", "cpu us", 1.0, |turn, _| {
        turn.cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64() * 1e6 / turn.outcome.all as f64)
    }),
];

fn quantile(turn: &Turn, share: f64) -> f64 {
    let latency = &turn.outcome.latency;
    if latency.is_empty() { f64::NAN } else { report::micros(latency.value_at_quantile(share)) }
}

/// Says who is compared.
pub(super) fn versions(kinds: &[Kind]) {
    report::line(format_args!("posthouse {}", peers::version(Kind::Posthouse)));
    for kind in kinds {
        let version = peers::version(*kind);
        let version = if version.is_empty() { "not installed" } else { &version };
        report::line(format_args!("{} {version}", kind.name()));
    }
}

/// Says who was found at an address that was given.
pub(super) fn given(service: &Service) {
    let (who, durability) =
        (format!("{} {}", service.kind.name(), service.version()), service.durability);
    report::line(format_args!("{} at {}, given as {durability}", who.trim_end(), service.address));
}

pub(super) fn row(row: &Row, rounds: &Rounds) {
    let limit = limit(row, rounds);
    report::line(format_args!("\n== {}: {}, {} B bodies", row.name, row.title, row.body));
    report::line(format_args!("   {}", probe::typical(&rounds.readings)));
    if let Some(bulk) = rounds.bulk.last() {
        report::line(format_args!("   {bulk}"));
    }
    if let [Some(p50), Some(p99), Some(rate)] = [0, 1, 2].map(|which| bare(rounds, which)) {
        let rate = rate / 1e3;
        report::line(format_args!(
            "   bare loop: p50 {p50:.1} us, p99 {p99:.1} us, {rate:.1} kmsg/s"
        ));
    }
    let columns = FIGURES.iter().map(|figure| format!("{:>10}", figure.column));
    report::line(format_args!("{:29}{}        x", "", columns.collect::<String>()));
    for number in 0..rounds.parties.len() {
        party(row, rounds, number, limit);
    }
}

/// What the row's figure would be if there was nothing but the limit.
fn limit(row: &Row, rounds: &Rounds) -> Option<f64> {
    let bytes = |of: fn(&probe::Bulk) -> f64| {
        Some(report::median(rounds.bulk.iter().map(of)) / row.body as f64)
    };
    match row.limit {
        Limit::BareLoop => bare(rounds, if row.by_latency() { 0 } else { 2 }),
        Limit::Disk => bytes(|bulk| bulk.sync),
        Limit::Loopback => bytes(|bulk| bulk.stream),
        Limit::Unknown => None,
    }
}

fn bare(rounds: &Rounds, which: usize) -> Option<f64> {
    let values = rounds.bare.iter().filter_map(|turn| turn.get(which).copied());
    (!rounds.bare.is_empty()).then(|| report::median(values))
}

fn party(row: &Row, rounds: &Rounds, number: usize, limit: Option<f64>) {
    let Some(party) = rounds.parties.get(number) else { return };
    let turns = rounds.turns.get(number).map_or(&[][..], Vec::as_slice);
    let failed = rounds.failed.get(number).and_then(Option::as_ref);
    let mut record = record(row, *party, rounds);
    record.version = rounds.versions.get(number).cloned().unwrap_or_default();
    if let Some(error) = failed {
        report::line(format_args!("{:29}not run: {error}", party.name()));
        record.not_run = Some(error.clone());
        record.keep();
        return;
    }
    let mut line = String::new();
    for figure in &FIGURES {
        let value = report::median(turns.iter().map(|turn| (figure.of)(turn, row.body)));
        line += &cell(value / figure.scale);
        record = record.figure(figure.name, value, figure.unit);
    }
    let ratio = ratio(row, rounds, number);
    record = record.figure("ratio", ratio, "times better Posthouse is");
    if let Some(limit) = limit {
        let own = record.value(if row.by_latency() { "p50" } else { "rate" });
        record = record.figure("limit", limit, "the same figure without a broker");
        record = record.figure("of_limit", own.unwrap_or(f64::NAN) / limit, "x");
    }
    let mut all = histogram();
    // Histograms of one shape can always be added.
    turns.iter().for_each(|turn| all.add(&turn.outcome.latency).unwrap_or_default());
    record.histogram(&all).keep();
    report::line(format_args!("{:29}{line}{ratio:9.2}", party.name()));
}

pub(super) fn cell(value: f64) -> String {
    if !value.is_finite() {
        format!("{:>10}", "-")
    } else if value >= 100.0 {
        format!("{value:10.0}")
    } else if value >= 0.1 {
        format!("{value:10.2}")
    } else {
        format!("{value:10.4}")
    }
}

fn record(row: &Row, party: Party, rounds: &Rounds) -> Record {
    let mut record = Record::new("compare", row.name, party.name());
    record.durability = row.durability.to_string();
    record.rounds = rounds.readings.len();
    let is_library = matches!(party.style, Style::Library | Style::Records);
    let client = if is_library { "client crate" } else { "bare sockets" };
    record = record
        .parameter("configuration", party.kind.configuration(row.durability))
        .parameter("client", client)
        .parameter("body", row.body)
        .parameter("batch", party.batch())
        .parameter("topics", party.topics());
    record = match row.work {
        Work::Publish { connections, window } => {
            let window = crowd(party, connections, window, row.body).window;
            record.parameter("connections", connections).parameter("window", window)
        }
        Work::Together { window } => {
            record.parameter("window", crowd(party, 1, window, row.body).window)
        }
        Work::Paced { rate } => record.parameter("rate", rate),
        Work::Queue { messages } | Work::Replay { messages } => {
            record.parameter("backlog", messages)
        }
    };
    if let Some(bulk) = rounds.bulk.last() {
        record = record
            .probe("bulk_sync", bulk.sync, "bytes/s")
            .probe("bulk_loopback", bulk.stream, "bytes/s")
            .probe("bulk_copy", bulk.copy, "bytes/s")
            .probe("bulk_checksum", bulk.checksum, "bytes/s");
    }
    record.reading(&probe::typical(&rounds.readings))
}

/// How much better the first way of Posthouse is, within each round.
fn ratio(row: &Row, rounds: &Rounds, number: usize) -> f64 {
    let (Some(ours), Some(theirs)) = (rounds.turns.first(), rounds.turns.get(number)) else {
        return f64::NAN;
    };
    let pairs = ours.iter().zip(theirs);
    report::median(pairs.map(|(ours, theirs)| {
        if row.by_latency() {
            quantile(theirs, 0.5) / quantile(ours, 0.5)
        } else {
            ours.outcome.rate() / theirs.outcome.rate()
        }
    }))
}
