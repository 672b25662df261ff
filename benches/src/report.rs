//! Prints figures, and reduces repeats to one of them.
#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]

use std::fmt::Display;

pub(crate) fn line(text: impl Display) {
    println!("{text}");
}

/// The value below which `share` of `samples` lie; sorts them.
pub(crate) fn percentile(samples: &mut [u64], share: f64) -> u64 {
    samples.sort_unstable();
    let rank = (0..samples.len()).rfind(|rank| *rank as f64 <= share * samples.len() as f64);
    rank.and_then(|rank| samples.get(rank)).copied().unwrap_or(0)
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
