//! The TOML file: read with line numbers, and printed with the meaning of each option.

use super::{Config, ConfigError, File, OPTIONS, source};
use std::fmt::Write as _;
use std::path::Path;
use toml::de::DeTable;

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parses the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let refuse = |error: toml::de::Error| ConfigError::File {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        why: error.message().to_owned(),
    };
    // Keys first: serde would report an unknown one without its nearest neighbour.
    let table = DeTable::parse(text).map_err(refuse)?;
    let known = |key: &str| OPTIONS.iter().any(|option| option.key == key);
    let unknown = table.get_ref().keys().filter(|key| !known(key.get_ref()));
    if let Some(key) = unknown.min_by_key(|key| key.span().start) {
        return Err(ConfigError::Unknown {
            place: format!("{}:{}", path.display(), line_of(text, key.span().start)),
            key: key.get_ref().to_string(),
            nearest: source::nearest(key.get_ref()).key,
        });
    }
    toml::from_str(text).map_err(refuse)
}

/// All options of `config`, each below its meaning.
pub(super) fn print(config: &Config) -> String {
    let mut text = String::new();
    for (option, value) in OPTIONS.iter().zip(config.values()) {
        if !text.is_empty() {
            text.push('\n');
        }
        for line in option.meaning {
            let _ = writeln!(text, "#{line}");
        }
        let _ = writeln!(text, "{} = {value}", option.key);
    }
    text
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}
