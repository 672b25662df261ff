//! Real text: source code and documents that every machine has on which this is built.

use std::path::{Path, PathBuf};

/// Text of at least `lines` lines: the sources of the crates that we use, as far as they are there,
/// and our own. With CRLF, empty lines, bytes that are not UTF-8, and no final line feed.
pub(crate) fn text(lines: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut count = 0;
    while count < lines {
        let before = count;
        for file in files() {
            let Ok(bytes) = std::fs::read(&file) else { continue };
            // What was cut off in the middle of a line goes on in the next file's first one.
            count += bytes.iter().filter(|byte| **byte == b'\n').count();
            text.extend(bytes);
            if count >= lines {
                break;
            }
        }
        assert!(count > before, "there is no text on this machine, not even this file");
    }
    text.extend(b"\r\na line with CRLF\r\n\r\n\n\n\r\r\n\0\n");
    text.extend(b"not UTF-8: \xff\xfe\xc3\x28\x80\n");
    text.extend((0..=255_u8).filter(|byte| *byte != b'\n'));
    text.extend(b"\nno line feed at the end");
    text
}

fn files() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut files = Vec::new();
    if let Some(home) = home {
        gather(&home.join("registry/src"), 8, &mut files);
    }
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), 1, &mut files);
    for member in ["protocol", "storage", "client", "broker", "docs"] {
        gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(member), 8, &mut files);
    }
    files
}

/// Text files below `directory`, in the order of their names.
fn gather(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() && depth > 1 {
            gather(&path, depth - 1, files);
        } else if matches!(extension, Some("rs" | "md" | "toml" | "txt" | "lock")) {
            files.push(path);
        }
    }
}
