//! Checks recorded histories: `posthouse-checker FILE...`, all files together being one history.
//!
//! Exit status: 0 valid, 1 invalid, 2 unknown or unreadable.

use posthouse_checker::{Expectations, Report, Verdict, check, lines};
use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let report = match judge() {
        Ok(report) => report,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let _ = writeln!(io::stderr(), "posthouse-checker: {error}{cause}");
            return ExitCode::from(2);
        }
    };
    let _ = writeln!(io::stdout(), "{report}");
    match report.verdict() {
        Verdict::Valid => ExitCode::SUCCESS,
        Verdict::Invalid => ExitCode::FAILURE,
        Verdict::Unknown => ExitCode::from(2),
    }
}

fn judge() -> Result<Report, Box<dyn Error>> {
    let mut events = Vec::new();
    for path in std::env::args_os().skip(1) {
        events.append(&mut lines::read_events(BufReader::new(File::open(path)?))?);
    }
    if events.is_empty() {
        return Err("usage: posthouse-checker FILE... (no events found)".into());
    }
    Ok(check(&events, &Expectations::SUITE))
}
