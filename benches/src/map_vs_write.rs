//! A store through a mapping and `msync` against a positioned write and `fdatasync`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::MmapMut;

use crate::device::Device;
use crate::probe::{self, Probe, Reading};
use crate::record::Record;
use crate::{Common, clock, disk, report};

const FILE_SIZE: u64 = 64 << 20;
const SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// One repeat of one way stops at so many bytes, or after so many steps.
const MOST_BYTES: usize = 32 << 20;
const MOST_STEPS: usize = 400;

/// How bytes get into a file, and what the file was before.
#[derive(Clone, Copy, Debug)]
enum Way {
    WriteZeroFilled,
    WriteAllocated,
    WriteGrowing,
    MapZeroFilled,
    MapAllocated,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::WriteZeroFilled,
        Self::WriteAllocated,
        Self::WriteGrowing,
        Self::MapZeroFilled,
        Self::MapAllocated,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::WriteZeroFilled => "write + fdatasync, written blocks",
            Self::WriteAllocated => "write + fdatasync, allocated blocks",
            Self::WriteGrowing => "write + fdatasync, growing file",
            Self::MapZeroFilled => "store + msync, written blocks",
            Self::MapAllocated => "store + msync, allocated blocks",
        }
    }

    fn prepare(self, path: &Path) -> io::Result<(Target, Device)> {
        let file = match self {
            Self::WriteZeroFilled | Self::MapZeroFilled => disk::zero_filled(path, FILE_SIZE)?,
            Self::WriteAllocated | Self::MapAllocated => disk::allocated(path, FILE_SIZE)?,
            Self::WriteGrowing => disk::growing(path)?,
        };
        let device = Device::below(&file)?;
        let target = match self {
            Self::WriteZeroFilled | Self::WriteAllocated | Self::WriteGrowing => Target::File(file),
            Self::MapZeroFilled | Self::MapAllocated => Target::Map(map(&file)?),
        };
        Ok((target, device))
    }
}

#[expect(unsafe_code, reason = "a mapping is what is measured")]
fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: the file was just made in a directory of this process alone, and nothing shortens it.
    unsafe { MmapMut::map_mut(file) }
}

enum Target {
    File(File),
    Map(MmapMut),
}

impl Target {
    fn append(&mut self, bytes: &[u8], at: usize) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.write_all_at(bytes, at as u64)?;
                file.sync_data()
            }
            Self::Map(map) => {
                let place = map.get_mut(at..at + bytes.len());
                place.expect("steps stay inside the file").copy_from_slice(bytes);
                map.flush_range(at, bytes.len())
            }
        }
    }
}

pub(crate) fn run(common: &Common) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&common.dir)?;
    let probe = Probe::new(dir.path())?;
    let rounds = if common.smoke { 1 } else { 5 };
    for size in SIZES {
        let steps = if common.smoke { 2 } else { MOST_STEPS.min(MOST_BYTES / size) };
        let mut readings: Vec<Reading> = Vec::new();
        let mut figures = Way::ALL.map(|_| Vec::new());
        for _ in 0..rounds {
            readings.push(probe.read()?);
            for (way, figures) in Way::ALL.iter().zip(&mut figures) {
                figures.push(measure(*way, size, steps, &dir.path().join("target"))?);
            }
        }
        print(size, probe::typical(&readings), &figures);
    }
    Ok(())
}

/// One repeat of one way.
struct Repeat {
    p50: f64,
    p99: f64,
    /// Bytes to the device per byte appended.
    amplification: f64,
}

fn measure(way: Way, size: usize, steps: usize, path: &Path) -> io::Result<Repeat> {
    let (mut target, device) = way.prepare(path)?;
    let bytes = vec![7; size];
    let before = device.written();
    let step = |number: usize| {
        let (result, nanos) = clock::timed(|| target.append(&bytes, number * size));
        result.map(|()| nanos)
    };
    let mut nanos = (0..steps).map(step).collect::<io::Result<Vec<_>>>()?;
    let written = device.written() - before;
    let [p50, p99] = [0.5, 0.99].map(|share| report::micros(report::percentile(&mut nanos, share)));
    Ok(Repeat { p50, p99, amplification: written as f64 / (steps * size) as f64 })
}

fn print(size: usize, probe: Reading, figures: &[Vec<Repeat>]) {
    report::line(format_args!("\n{} KiB   {probe}", size >> 10));
    report::line(format_args!(
        "{:38}{:>10}{:>10}{:>8}{:>8}",
        "way", "p50 us", "p99 us", "x p50", "dev/B"
    ));
    for (way, rounds) in Way::ALL.iter().zip(figures) {
        let first = figures.first().into_iter().flatten();
        let ratios = rounds.iter().zip(first).map(|(this, first)| this.p50 / first.p50);
        let amplification = rounds.iter().map(|repeat| repeat.amplification);
        Record::new("map-vs-write", way.name(), "this machine")
            .parameter("bytes", size)
            .rounds(rounds.len())
            .figure("p50", report::median(rounds.iter().map(|repeat| repeat.p50)), "us")
            .figure("p99", report::median(rounds.iter().map(|repeat| repeat.p99)), "us")
            .reading(&probe)
            .keep();
        report::line(format_args!(
            "{:38}{:10.1}{:10.1}{:8.2}{:8.1}",
            way.name(),
            report::median(rounds.iter().map(|repeat| repeat.p50)),
            report::median(rounds.iter().map(|repeat| repeat.p99)),
            report::median(ratios),
            amplification.fold(f64::INFINITY, f64::min),
        ));
    }
}
