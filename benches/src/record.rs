//! What a run has measured, as JSON beside the text.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{clock, report};

static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

/// The points of a histogram that are written down.
const POINTS: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0];

/// Everything that one command measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The command line.
    pub(crate) command: String,
    /// When it ended, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) kernel: String,
    pub(crate) processors: usize,
    pub(crate) records: Vec<Record>,
}

/// One line of a table: one party in one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    /// Which row of the scenario, in a word.
    pub(crate) row: String,
    /// Who was measured.
    pub(crate) party: String,
    pub(crate) version: String,
    pub(crate) durability: String,
    /// How, and with which configuration.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Repeats whose medians the figures are.
    pub(crate) rounds: usize,
    pub(crate) figures: BTreeMap<String, Figure>,
    /// The machine in the same minutes.
    pub(crate) probes: BTreeMap<String, Figure>,
    /// Microseconds at shares of a latency histogram over all rounds.
    pub(crate) latency: Vec<(f64, f64)>,
    /// Why there are no figures.
    pub(crate) not_run: Option<String>,
}

/// A number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: String,
}

impl Record {
    pub(crate) fn new(scenario: &str, row: impl Into<String>, party: impl Into<String>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            row: row.into(),
            party: party.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn durability(mut self, written: bool) -> Self {
        if written { "written" } else { "synced" }.clone_into(&mut self.durability);
        self
    }

    #[must_use]
    pub(crate) fn parameter(mut self, name: &str, value: impl Display) -> Self {
        self.parameters.insert(name.to_owned(), format!("{value}"));
        self
    }

    #[must_use]
    pub(crate) const fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Adds a figure; one that is not a number is left out.
    #[must_use]
    pub(crate) fn figure(mut self, name: &str, value: f64, unit: &str) -> Self {
        if value.is_finite() {
            self.figures.insert(name.to_owned(), Figure { value, unit: unit.to_owned() });
        }
        self
    }

    #[must_use]
    pub(crate) fn probe(mut self, name: &str, value: f64, unit: &str) -> Self {
        if value.is_finite() {
            self.probes.insert(name.to_owned(), Figure { value, unit: unit.to_owned() });
        }
        self
    }

    /// The probes of a typical reading.
    #[must_use]
    pub(crate) fn reading(self, reading: &crate::probe::Reading) -> Self {
        self.probe("sync_p50", report::micros(reading.sync_p50), "us")
            .probe("sync_p99", report::micros(reading.sync_p99), "us")
            .probe("ping_together", report::micros(reading.ping_together), "us")
            .probe("ping_apart", report::micros(reading.ping_apart), "us")
    }

    #[must_use]
    pub(crate) fn histogram(mut self, histogram: &Histogram<u64>) -> Self {
        let at = |share| (share, report::micros(histogram.value_at_quantile(share)));
        if !histogram.is_empty() {
            self.latency = POINTS.into_iter().map(at).collect();
        }
        self
    }

    /// Keeps it for the file.
    pub(crate) fn keep(self) {
        RECORDS.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    pub(crate) fn value(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure).map(|figure| figure.value)
    }
}

/// Writes everything kept so far.
pub(crate) fn write(path: &Path) -> io::Result<()> {
    let records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let run = Run {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        at: clock::seconds(),
        kernel: kernel.trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        records,
    };
    fs::write(path, serde_json::to_string_pretty(&run)? + "\n")
}

/// Reads a file that [`write()`] has written.
pub(crate) fn read(path: &Path) -> io::Result<Run> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
