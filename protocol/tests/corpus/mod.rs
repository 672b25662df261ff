//! The golden files: bytes in hexadecimal, `#` starts a comment.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Names and bytes of all golden files, in the order of their names.
pub(crate) fn load() -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory()).expect("there are golden files");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("listed").path()).collect();
    files.sort();
    let name = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let read = |path: &PathBuf| fs::read_to_string(path).expect("golden files are text");
    files.iter().map(|path| (name(path).unwrap_or_default(), parse(&read(path)))).collect()
}

pub(crate) fn parse(text: &str) -> Vec<u8> {
    let digits = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let digits: String = digits.flat_map(str::chars).filter(|at| !at.is_whitespace()).collect();
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16);
    pairs.map(|pair| byte(pair).expect("two hexadecimal digits")).collect()
}

/// The frames among the golden files.
pub(crate) fn frames() -> Vec<(String, Vec<u8>)> {
    load().into_iter().filter(|(name, _)| !name.starts_with("batch-")).collect()
}

/// The batches among the golden files.
pub(crate) fn batches() -> Vec<(String, Vec<u8>)> {
    load().into_iter().filter(|(name, _)| name.starts_with("batch-")).collect()
}
