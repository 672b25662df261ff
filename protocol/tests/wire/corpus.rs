//! The golden files: bytes in hexadecimal, `#` starts a comment.

use posthouse_protocol::batch::Entries;
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

/// Makes a batch's length and checksums right again, as far as its entries can be read.
pub(crate) fn reseal(batch: &mut [u8]) {
    let Some(header) = batch.get(..64) else { return };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let index_len = (number(16) as usize).min(batch.len() - 64);
    let len = (batch.len() as u32).to_le_bytes();
    batch[8..12].copy_from_slice(&len);
    let bodies_at = 64 + index_len;
    let (mut at, mut body_at) = (64, bodies_at);
    while let Ok(entry) = Entries::new(&batch[at..bodies_at]).read() {
        let (len, body_end) = (entry.bytes().len(), body_at + entry.body_len as usize);
        if body_end > batch.len() {
            break;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&batch[at..at + 4]);
        hasher.update(&batch[at + 8..at + len]);
        hasher.update(&batch[body_at..body_end]);
        batch[at + 4..at + 8].copy_from_slice(&hasher.finalize().to_le_bytes());
        (at, body_at) = (at + len, body_end);
    }
    batch[20..24].fill(0);
    let crc = crc32fast::hash(&batch[..bodies_at]).to_le_bytes();
    batch[20..24].copy_from_slice(&crc);
}
