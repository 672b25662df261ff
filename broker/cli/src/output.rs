//! What goes to standard output: text for people, or with `--json` one object a line.
//!
//! Everything else (progress, hints, failures) goes to standard error through [`note`].

use crate::exit::Failure;
use serde::Serialize;
use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

/// Bytes gathered before a write; what is gathered is flushed before it is acknowledged.
const BUFFER_BYTES: usize = 256 << 10;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()) }
    }

    /// Whether objects are wanted.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one thing: `object` with `--json`, else `text`.
    pub(crate) fn print(
        &mut self,
        object: &impl Serialize,
        text: impl fmt::Display,
    ) -> Result<(), Failure> {
        if self.json { self.object(object) } else { self.line(text) }
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(|error| Failure::stdout(&error))
    }

    /// A table: a line of titles, then a line for each row, in columns as wide as they need to be.
    pub(crate) fn table<const N: usize>(
        &mut self,
        titles: [&str; N],
        rows: &[[String; N]],
    ) -> Result<(), Failure> {
        let mut widths = titles.map(str::len);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let mut line = |cells: &[&str]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        line(&titles)?;
        rows.iter().try_for_each(|row| line(&row.each_ref().map(String::as_str)))
    }

    /// An object on a line of its own.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, object)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|error| Failure::stdout(&error))
    }

    /// For bytes as they are.
    pub(crate) const fn writer(&mut self) -> &mut impl Write {
        &mut self.out
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::stdout(&error))
    }
}

/// A line on standard error. One that cannot be written is dropped: there is nobody to tell.
pub(crate) fn note(text: impl fmt::Display) {
    let _: io::Result<()> = writeln!(io::stderr().lock(), "{text}");
}

/// A line on standard error that the next one replaces.
pub(crate) fn progress(text: impl fmt::Display) {
    let mut err = io::stderr().lock();
    let _: io::Result<()> = write!(err, "\r{text}\x1b[K").and_then(|()| err.flush());
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(2_000, "message"), "2,000 messages");
    }
}
