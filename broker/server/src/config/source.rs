//! Where options come from, and which source wins.

use super::{ConfigError, ConfigOption, File, OPTIONS, file};
use std::path::PathBuf;

const PREFIX: &str = "POSTHOUSE_";
/// How many letters a variable may differ from an option's to count as a slip of the pen.
const SLIP_DISTANCE_MAX: usize = 2;

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Names and values; only `POSTHOUSE_...` is looked at. An empty value counts as absent.
    pub environment: Vec<(String, String)>,
    /// Options from the command line, as key and text.
    pub flags: Vec<(String, String)>,
}

/// Everything that the sources say, the strongest on top.
pub(super) fn read(sources: &Sources) -> Result<File, ConfigError> {
    let file = match &sources.file {
        Some(path) => file::read(path)?,
        None => File::default(),
    };
    let mut environment = File::default();
    for (name, text) in &sources.environment {
        read_variable(&mut environment, name, text)?;
    }
    let mut flags = File::default();
    for (key, text) in &sources.flags {
        read_flag(&mut flags, key, text)?;
    }
    Ok(flags.over(environment).over(file))
}

fn read_variable(into: &mut File, name: &str, text: &str) -> Result<(), ConfigError> {
    let Some(key) = name.strip_prefix(PREFIX).filter(|_| !text.is_empty()) else {
        return Ok(());
    };
    let key = key.to_ascii_lowercase();
    match into.set(&key, text) {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(ConfigError::Value { place: name.to_owned(), why }),
        // Others use the prefix too: this program's clients, and Kubernetes, which names a
        // service's address so. Only what is nearly an option is taken for one.
        None => {
            let option = nearest(&key);
            if distance(&key, option.key) > SLIP_DISTANCE_MAX {
                return Ok(());
            }
            Err(ConfigError::Unknown { place: name.to_owned(), key, nearest: option.key })
        }
    }
}

fn read_flag(into: &mut File, key: &str, text: &str) -> Result<(), ConfigError> {
    match into.set(key, text) {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(ConfigError::Value { place: format!("flag for {key}"), why }),
        None => Err(ConfigError::Unknown {
            place: format!("--set {key}={text}"),
            key: key.to_owned(),
            nearest: nearest(key).key,
        }),
    }
}

/// The option whose key takes the fewest changes to become `key`.
pub(super) fn nearest(key: &str) -> &'static ConfigOption {
    let by_distance = OPTIONS.iter().min_by_key(|option| distance(key, option.key));
    by_distance.expect("there are options")
}

/// Letters to insert, remove or replace to turn `left` into `right`.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (done, from) in left.chars().enumerate() {
        let mut before = done;
        let mut last = done + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&right) {
            let replaced = before + usize::from(from != *to);
            before = *cell;
            last = replaced.min(before + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = done + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
