//! What the machine can do at this minute, to be printed beside every figure.

use std::fmt;
use std::fs::File;
use std::hint;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use crate::place::Placement;
use crate::{clock, disk, report};

const BLOCK: usize = 4096;
const FILE_SIZE: u64 = 16 << 20;
const SYNCS: u64 = 150;
const ROUND_TRIPS: u64 = 400;
const PING: usize = 64;
const MEBI: usize = 1 << 20;
/// MiB of one reading in bulk.
const BLOCKS: u64 = 64;
const WRITE: usize = 256 << 10;
/// Bytes through the loopback in one reading.
const STREAM: u64 = 256 << 20;

/// One reading of both probes, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) sync_p50: u64,
    pub(crate) sync_p99: u64,
    /// Both ends on one processor.
    pub(crate) ping_together: u64,
    /// Each end wakes the other processor.
    pub(crate) ping_apart: u64,
}

/// What the machine can move in bulk, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// 1 MiB written into written blocks and synced, again and again.
    pub(crate) sync: f64,
    /// One stream over the loopback, 256 KiB a write.
    pub(crate) stream: f64,
    /// 1 MiB copied in memory.
    pub(crate) copy: f64,
    /// CRC-32 of 1 MiB.
    pub(crate) checksum: f64,
}

impl fmt::Display for Bulk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sync, stream, copy, checksum] =
            [self.sync, self.stream, self.copy, self.checksum].map(|rate| rate / 1e9);
        write!(
            out,
            "bulk: synced {sync:.1} GB/s, loopback {stream:.1}, copy {copy:.1}, checksum {checksum:.1}"
        )
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sync, tail, together, apart] =
            [self.sync_p50, self.sync_p99, self.ping_together, self.ping_apart].map(report::micros);
        write!(
            out,
            "probe: 4 KiB sync {sync:.0}/{tail:.0} us, ping-pong {together:.1} us, apart {apart:.1} us"
        )
    }
}

/// The median of several readings, field by field.
pub(crate) fn typical(readings: &[Reading]) -> Reading {
    let middle = |field: fn(&Reading) -> u64| {
        report::percentile(&mut readings.iter().map(field).collect::<Vec<_>>(), 0.5)
    };
    Reading {
        sync_p50: middle(|reading| reading.sync_p50),
        sync_p99: middle(|reading| reading.sync_p99),
        ping_together: middle(|reading| reading.ping_together),
        ping_apart: middle(|reading| reading.ping_apart),
    }
}

/// Probes the disk below one directory, and the loopback.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
}

impl Probe {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: disk::zero_filled(&dir.join("probe"), FILE_SIZE)? })
    }

    pub(crate) fn read(&self) -> io::Result<Reading> {
        let mut syncs = self.syncs()?;
        Ok(Reading {
            sync_p50: report::percentile(&mut syncs, 0.5),
            sync_p99: report::percentile(&mut syncs, 0.99),
            ping_together: report::percentile(&mut ping_pong(Placement::Together)?, 0.5),
            ping_apart: report::percentile(&mut ping_pong(Placement::Apart)?, 0.5),
        })
    }

    /// Takes about a tenth of a second.
    pub(crate) fn bulk(&self) -> io::Result<Bulk> {
        let block = vec![7; MEBI];
        let mut copy = vec![0; MEBI];
        let (synced, sync) = clock::timed(|| {
            (0..BLOCKS).try_for_each(|step| {
                self.file.write_all_at(&block, step * MEBI as u64 % FILE_SIZE)?;
                self.file.sync_data()
            })
        });
        synced?;
        let ((), copied) = clock::timed(|| {
            (0..BLOCKS).for_each(|_| copy.copy_from_slice(hint::black_box(&block)));
        });
        let (_, checked) = clock::timed(|| {
            (0..BLOCKS).fold(0, |sum, _| sum ^ crc32fast::hash(hint::black_box(&copy)))
        });
        let rate = |nanos: u64| (BLOCKS * MEBI as u64) as f64 / (nanos as f64 / 1e9);
        Ok(Bulk {
            sync: rate(sync),
            stream: loopback()?,
            copy: rate(copied),
            checksum: rate(checked),
        })
    }

    fn syncs(&self) -> io::Result<Vec<u64>> {
        let block = [7; BLOCK];
        let write_and_sync = |step: u64| {
            let (result, nanos) = clock::timed(|| {
                self.file.write_all_at(&block, step * BLOCK as u64 % FILE_SIZE)?;
                self.file.sync_data()
            });
            result.map(|()| nanos)
        };
        (0..SYNCS).map(write_and_sync).collect()
    }
}

/// Bytes a second of one stream, received into one buffer.
fn loopback() -> io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let sender = thread::spawn(move || {
        let block = vec![1; WRITE];
        (0..STREAM / WRITE as u64).try_for_each(|_| client.write_all(&block))
    });
    let mut buffer = vec![0; WRITE];
    let mut left = STREAM;
    let (read, nanos) = clock::timed(|| {
        while left > 0 {
            let count = server.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            left -= count as u64;
        }
        Ok::<_, io::Error>(())
    });
    sender.join().expect("the sender only writes")?;
    read.map(|()| STREAM as f64 / (nanos as f64 / 1e9))
}

fn ping_pong(placement: Placement) -> io::Result<Vec<u64>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        placement.place_server()?;
        let mut ping = [0; PING];
        while server.read_exact(&mut ping).is_ok() && server.write_all(&ping).is_ok() {}
        Ok(())
    });
    let trips = thread::spawn(move || {
        placement.place_client()?;
        let mut ping = [1; PING];
        let round_trip = |_| {
            let (result, nanos) = clock::timed(|| {
                client.write_all(&ping)?;
                client.read_exact(&mut ping)
            });
            result.map(|()| nanos)
        };
        (0..ROUND_TRIPS).map(round_trip).collect()
    });
    let trips = trips.join().expect("the client only writes and reads");
    let echoed: io::Result<()> = echo.join().expect("the echo thread only reads and writes");
    echoed.and(trips)
}
