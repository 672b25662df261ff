//! Where threads run: waking one on another, idle processor costs several times a wake-up here.

use std::io;

use clap::ValueEnum;
use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which processors the two ends of a connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Placement {
    /// Where the kernel likes.
    Free,
    /// The server on the first processor and the client on the last.
    Apart,
    /// Both on the first.
    Together,
}

impl Placement {
    /// Binds the calling thread, which serves.
    pub(crate) fn place_server(self) -> io::Result<()> {
        match self {
            Self::Free => roam(),
            Self::Apart | Self::Together => pin(processors()?.first()),
        }
    }

    /// Binds the calling thread, which sends.
    pub(crate) fn place_client(self) -> io::Result<()> {
        match self {
            Self::Free => roam(),
            Self::Apart => pin(processors()?.last()),
            Self::Together => pin(processors()?.first()),
        }
    }
}

/// Frees the calling thread from what it inherited; the first thread is never bound.
pub(crate) fn roam() -> io::Result<()> {
    Ok(sched_setaffinity(None, &sched_getaffinity(Some(getpid()))?)?)
}

fn processors() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Some(getpid()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect())
}

fn pin(processor: Option<&usize>) -> io::Result<()> {
    let mut allowed = CpuSet::new();
    processor.into_iter().for_each(|processor| allowed.set(*processor));
    Ok(sched_setaffinity(None, &allowed)?)
}
