//! Histories as JSON lines.

use crate::history::Event;
use std::fmt;
use std::io::{self, BufRead, Write};

/// Writes one event as one line. Flushing is the caller's business: a recorder in a process that
/// may die must hand each line to the system before it acts on what the line says.
///
/// # Errors
///
/// What `out` returns.
pub fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Reads a history. Empty lines and lines that start with `#` are skipped; a last line without an
/// end is dropped, because its writer may have died in the middle of it.
///
/// # Errors
///
/// [`ReadError`].
pub fn read_events(mut source: impl BufRead) -> Result<Vec<Event>, ReadError> {
    let mut events = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        source.read_until(b'\n', &mut line).map_err(|cause| ReadError::Io { number, cause })?;
        let Some(text) = line.strip_suffix(b"\n") else { break };
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let event = serde_json::from_slice(text);
        events.push(event.map_err(|cause| ReadError::Line { number, cause })?);
    }
    Ok(events)
}

/// Why a history cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The source failed.
    Io {
        /// At this line, from 1.
        number: usize,
        /// How.
        cause: io::Error,
    },
    /// A line is not an event.
    Line {
        /// Which line, from 1.
        number: usize,
        /// Why not.
        cause: serde_json::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { number, .. } => write!(f, "cannot read history line={number}"),
            Self::Line { number, .. } => write!(f, "not an event line={number}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(cause),
            Self::Line { cause, .. } => Some(cause),
        }
    }
}
