//! Kills, aimed at all moments of a broker's life, and what they met.

use crate::chance::Chance;
use crate::progress::{Deed, Progress};
use crate::record::Record;
use crate::support::PATIENCE;
use crate::support::broker::{Broker, Site};
use crate::support::command::wait;
use bytes::BytesMut;
use posthouse_checker::history::{self, BrokerChange, Event};
use posthouse_protocol::message::{HELLO_MAGIC, Hello, VERSION};
use posthouse_protocol::{CorrelationId, Reply, Request, frame};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use tokio::time::Instant;

/// Most receipts to wait for a file to appear.
const FILE_PATIENCE: u64 = 3_000;

/// A broker that is killed and started again.
#[derive(Debug)]
pub(crate) struct Killer {
    site: Site,
    record: Record,
    broker: Option<Broker>,
    address: String,
    seen: Seen,
}

/// What the kills met.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    kills: u64,
    /// Kills of a broker that was still recovering.
    recovering: u64,
    /// Kills while a run or checkpoint was being written.
    folding: u64,
    segments: BTreeSet<String>,
    checkpoints: BTreeSet<String>,
    runs: BTreeSet<String>,
}

impl Killer {
    pub(crate) fn new(site: Site, record: Record) -> Self {
        let mut killer =
            Self { site, record, broker: None, address: String::new(), seen: Seen::default() };
        killer.start();
        killer
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits for a moment, kills the broker, and starts it again.
    pub(crate) fn cycle(&mut self, progress: &Progress, chance: &mut Chance) {
        match chance.below(6) {
            0 => self.await_file(progress),
            choice => {
                let deed = Deed::ALL[usize::try_from(choice).unwrap() % Deed::ALL.len()];
                // Half of the kills come early in a cycle; long ones keep the share of outcomes that are
                // unknown, because a kill cut them off, below what the judge takes.
                let most = if chance.below(2) == 0 { 800 } else { 4800 };
                progress.wait(deed, 20 + chance.below(most));
            }
        }
        self.kill();
        if chance.below(4) == 0 {
            self.kill_recovering();
        }
        self.start();
    }

    /// Waits until a file is made that was not there, or until that takes too long.
    fn await_file(&mut self, progress: &Progress) {
        let before = names(&self.site.data_dir());
        let until = progress.of(Deed::Accepted) + FILE_PATIENCE;
        while names(&self.site.data_dir()).is_subset(&before) && progress.of(Deed::Accepted) < until
        {
            progress.wait(Deed::Submitted, 1);
        }
    }

    fn kill(&mut self) {
        let broker = self.broker.take().expect("one runs");
        let t0 = self.record.now();
        broker.kill();
        self.ended(t0, BrokerChange::Killed);
        self.seen.kills += 1;
        self.seen.look(&names(&self.site.data_dir()));
    }

    /// Starts a broker and kills it as soon as it has the directory.
    fn kill_recovering(&mut self) {
        let t0 = self.record.now();
        let mut child = self.site.serve().spawn().unwrap();
        let lock = self.site.data_dir().join("lock");
        let began = Instant::now();
        let own = child.id().to_string();
        while std::fs::read_to_string(&lock).unwrap_or_default().trim() != own {
            assert!(began.elapsed() < PATIENCE, "the broker does not take its directory");
        }
        child.kill().unwrap();
        wait(&mut child, "posthouse serve");
        self.ended(t0, BrokerChange::Killed);
        self.seen.recovering += 1;
    }

    fn ended(&self, t0: history::Time, change: BrokerChange) {
        let t1 = self.record.now();
        self.record.add(Event::Broker(history::Broker { t0, t1, change }));
    }

    fn start(&mut self) {
        let t0 = self.record.now();
        let broker = self.site.start();
        let epoch = epoch(broker.address());
        self.ended(t0, BrokerChange::Started { epoch });
        self.address = broker.address().to_owned();
        self.broker = Some(broker);
    }

    /// Stops the broker in good order.
    pub(crate) fn finish(mut self) -> Seen {
        let broker = self.broker.take().expect("one runs");
        let t0 = self.record.now();
        assert_eq!(broker.stop(), Some(0));
        self.ended(t0, BrokerChange::Stopped);
        self.seen.look(&names(&self.site.data_dir()));
        self.seen
    }
}

impl Seen {
    fn look(&mut self, names: &BTreeSet<String>) {
        self.folding += u64::from(names.iter().any(|name| name.ends_with(".tmp")));
        let of = |kind: &str| -> Vec<String> {
            let finished = names.iter().filter(|name| !name.ends_with(".tmp"));
            finished.filter(|name| name.starts_with(kind)).cloned().collect()
        };
        self.segments.extend(of("segment-"));
        self.checkpoints.extend(of("checkpoint-"));
        self.runs.extend(of("run-"));
    }

    /// Fails if the kills met nothing worth meeting.
    pub(crate) fn check(&self, kills: u64) {
        let at_least = |what: &str, found: usize, least: u64| {
            assert!(found as u64 >= least, "only {found} {what}: {self}");
        };
        at_least("segments", self.segments.len(), 3 + kills / 4);
        at_least("checkpoints", self.checkpoints.len(), 2 + kills / 4);
        at_least("runs", self.runs.len(), 1 + kills / 8);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} more while recovering, {} while folding; {} segments, {} checkpoints, {} runs",
            self.kills,
            self.recovering,
            self.folding,
            self.segments.len(),
            self.checkpoints.len(),
            self.runs.len(),
        )
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The start epoch, from the broker's own welcome.
fn epoch(address: &str) -> u32 {
    let hello = Hello {
        magic: HELLO_MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "kill suite".to_owned(),
        credentials: Vec::new(),
    };
    let request = Request::from(hello);
    let mut out = BytesMut::new();
    frame::encode_head(&mut out, request.kind(), CorrelationId(1), 0, |head| request.encode(head));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&out).unwrap();
    let mut answer = BytesMut::new();
    loop {
        let mut chunk = [0; 512];
        let read = stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "the broker does not welcome us");
        answer.extend_from_slice(&chunk[..read]);
        if let Some(welcome) = decode(&mut answer) {
            return welcome;
        }
    }
}

fn decode(bytes: &mut BytesMut) -> Option<u32> {
    let frame = frame::decode(bytes, posthouse_protocol::limits::FRAME_BYTES_MAX).unwrap()?;
    let reply = Reply::decode(frame.kind, &frame.head).unwrap();
    let Reply::Welcome(welcome) = reply else { panic!("not a welcome: {reply:?}") };
    Some(welcome.start_epoch.0)
}
