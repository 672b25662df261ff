//! What really went to the disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{major, minor};

/// `/sys/dev/block/<device>/stat` counts these, whatever the device's own blocks are.
const SECTOR: u64 = 512;
/// Which field of the line it is.
const SECTORS_WRITTEN: usize = 6;
/// Which field counts requests to flush the device's cache.
const FLUSHES: usize = 15;

/// The block device below a file. Counts everybody's writes: take the least of several runs.
#[derive(Debug)]
pub(crate) struct Device {
    stat: PathBuf,
}

impl Device {
    pub(crate) fn below(file: &File) -> io::Result<Self> {
        let device = file.metadata()?.dev();
        let stat = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
        Ok(Self { stat: stat.into() })
    }

    /// Bytes written since the machine started; 0 where the file is on no block device.
    pub(crate) fn written(&self) -> u64 {
        self.field(SECTORS_WRITTEN) * SECTOR
    }

    /// Flushes of its cache since the machine started: the proof that a sync reached it.
    pub(crate) fn flushes(&self) -> u64 {
        self.field(FLUSHES)
    }

    fn field(&self, number: usize) -> u64 {
        let line = fs::read_to_string(&self.stat).unwrap_or_default();
        let field = line.split_ascii_whitespace().nth(number);
        field.and_then(|field| field.parse().ok()).unwrap_or(0)
    }
}
