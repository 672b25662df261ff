//! The table of the documentation, from files that `--json` has written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Args;

use crate::compare::rows::{ROWS, Row, Work};
use crate::peers::Kind;
use crate::record::{self, Record};
use crate::{plot, report};

/// Which files.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Files written with `--json`. A row that is in several is taken from the last one.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Draws throughput against latency into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const HEAD: &str = "| work | target | Posthouse | best peer | ratio to peer | ratio to limit |\n|---|---|---|---|---|---|";

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let mut rows: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for file in &options.files {
        let run = record::read(file)?;
        let mut of_file: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in run.records.into_iter().filter(|record| record.scenario == "compare") {
            of_file.entry(record.row.clone()).or_default().push(record);
        }
        rows.extend(of_file);
    }
    report::line(table(&rows));
    report::line(versions(&rows));
    if let Some(path) = &options.svg {
        fs::write(path, plot::draw(&rows.values().flatten().collect::<Vec<_>>()))?;
    }
    Ok(())
}

fn table(rows: &BTreeMap<String, Vec<Record>>) -> String {
    let mut text = HEAD.to_owned();
    for row in &ROWS {
        let cells = rows.get(row.name).and_then(|records| cells(row, records));
        let [ours, peer, ratio, limit] =
            cells.unwrap_or_else(|| ["not run", "not run", "", ""].map(str::to_owned));
        let (title, target) = (row.title, row.target);
        text += &format!("\n| {title} | {target} | {ours} | {peer} | {ratio} | {limit} |");
    }
    for (name, title, target, show) in BACKLOG {
        let found = rows.get("backlog").map(|records| backlog(name, show, records));
        let [ours, peer, ratio] =
            found.unwrap_or_else(|| ["not run", "not run", ""].map(str::to_owned));
        text += &format!("\n| {title} | {target} | {ours} | {peer} | {ratio} | |");
    }
    text
}

/// Posthouse, best peer, ratio to it, ratio to the limit.
fn cells(row: &Row, records: &[Record]) -> Option<[String; 4]> {
    let (ours, others) = records.split_first()?;
    // The other ways of Posthouse stand in the cell beside the one that is compared.
    let ways = others.iter().filter(|record| record.party.starts_with("posthouse"));
    let mut text = shown(row, ours);
    for way in ways {
        let party = way.party.trim_start_matches("posthouse").trim_start_matches(", ");
        let party = if party.is_empty() { "one a publish" } else { party };
        text += &format!("; {party}: {}", shown(row, way));
    }
    let peers = others.iter().filter(|record| !record.party.starts_with("posthouse"));
    let ratio = |record: &&Record| record.value("ratio").unwrap_or(f64::INFINITY);
    let best = peers.min_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let (peer, to_peer) = match best.filter(|best| best.not_run.is_none()) {
        Some(best) => (format!("{} {}", best.party, shown(row, best)), times(best.value("ratio"))),
        None if row.peers => ("not run".to_owned(), String::new()),
        None => ("none does it".to_owned(), against_one_topic(records)),
    };
    Some([text, peer, to_peer, times(ours.value("of_limit"))])
}

/// Where no peer takes part, the last way of an empty Posthouse is what the first is measured by.
fn against_one_topic(records: &[Record]) -> String {
    let is_empty = |record: &&Record| record.party != Kind::Laden.name();
    let mut empty = records.iter().filter(is_empty);
    empty
        .next_back()
        .map_or_else(String::new, |last| format!("{} one topic", times(last.value("ratio"))))
}

fn shown(row: &Row, record: &Record) -> String {
    let value = |name| record.value(name).unwrap_or(f64::NAN);
    if record.not_run.is_some() {
        "not run".to_owned()
    } else if matches!(row.work, Work::Paced { .. }) {
        format!("{:.0} / {:.0} / {:.0} us", value("p50"), value("p99"), value("p999"))
    } else if row.by_latency() {
        format!("{:.0} / {:.0} us", value("p50"), value("p99"))
    } else if row.body >= 1024 {
        format!("{:.2} GB/s", value("payload") / 1e9)
    } else if value("rate") >= 1e6 {
        format!("{:.2} M/s", value("rate") / 1e6)
    } else {
        format!("{:.1} k/s", value("rate") / 1e3)
    }
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} x"))
}

type Show = fn(f64) -> String;

/// Figure, title, target, and how it is written.
const BACKLOG: [(&str, &str, &str, Show); 2] = [
    ("memory", "memory with the backlog", "96 MB beside the page cache", |bytes| {
        format!("{:.0} MB", bytes / 1e6)
    }),
    ("restart", "serving again after kill -9", "at most 0.5 s", |seconds| {
        format!("{seconds:.2} s")
    }),
];

/// Posthouse, best peer, ratio to it; less is better.
fn backlog(name: &str, show: Show, records: &[Record]) -> [String; 3] {
    let value = |record: &Record| record.value(name).unwrap_or(f64::INFINITY);
    let Some((ours, peers)) = records.split_first() else { return Default::default() };
    let shown = |record: &Record| record.value(name).map_or_else(|| "not run".to_owned(), show);
    match peers.iter().min_by(|one, other| value(one).total_cmp(&value(other))) {
        Some(best) if best.not_run.is_none() => {
            let ratio = times(Some(value(best) / value(ours)));
            [shown(ours), format!("{} {}", best.party, shown(best)), ratio]
        }
        Some(_) | None => [shown(ours), "not run".to_owned(), String::new()],
    }
}

fn versions(rows: &BTreeMap<String, Vec<Record>>) -> String {
    let mut parties = BTreeMap::new();
    for record in rows.values().flatten() {
        let name = record.party.split(',').next().unwrap_or_default();
        let version = if record.version.is_empty() { "not installed" } else { &record.version };
        parties.insert(name.to_owned(), version.to_owned());
    }
    let parties: Vec<String> =
        parties.into_iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!("\nVersions: {}. A ratio is how many times better Posthouse is.", parties.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::table;
    use crate::record::Record;

    fn record(party: &str, p50: f64, ratio: f64) -> Record {
        Record::new("compare", "synced-1x1", party)
            .figure("p50", p50, "us")
            .figure("p99", 2.0 * p50, "us")
            .figure("ratio", ratio, "x")
            .figure("of_limit", 1.25, "x")
    }

    #[test]
    fn the_best_peer_is_named_and_an_absent_one_reads_not_run() {
        let mut absent = Record::new("compare", "synced-1x1", "nats");
        absent.not_run = Some("not installed".to_owned());
        let records =
            vec![record("posthouse", 100.0, 1.0), record("redis", 150.0, 1.5), absent.clone()];
        let rows = BTreeMap::from([("synced-1x1".to_owned(), records)]);
        let text = table(&rows);
        let line = text.lines().find(|line| line.contains("synced, one in flight |")).unwrap();
        assert!(line.contains("| 100 / 200 us | redis 150 / 300 us | 1.50 x | 1.25 x |"), "{line}");
        assert!(text.contains("| queue, each message acked | 1 M/s, acks synced | not run |"));

        let rows = BTreeMap::from([(
            "synced-1x1".to_owned(),
            vec![record("posthouse", 100.0, 1.0), absent],
        )]);
        let text = table(&rows);
        assert!(text.contains("| 100 / 200 us | not run |  | 1.25 x |"), "{text}");
    }
}
