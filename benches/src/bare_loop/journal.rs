//! A journal without recovery: groups of messages in a ring of written blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const HEADER: usize = 32;

/// Messages that are written, and synced, together.
#[derive(Debug)]
pub(crate) struct Group {
    bytes: Vec<u8>,
    /// Who waits for the group: connection and request.
    pub(crate) waiting: Vec<(usize, u64)>,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; HEADER], waiting: Vec::new() }
    }

    pub(crate) fn push(&mut self, connection: usize, id: u64, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("a body of the bench is small");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
        self.bytes.extend_from_slice(body);
        self.waiting.push((connection, id));
    }

    pub(crate) const fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn seal(&mut self, index: u64) -> &[u8] {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let length = self.bytes.len() as u64;
        if let Some((head, _)) = self.bytes.split_first_chunk_mut::<HEADER>() {
            let [a, b, crc, _] = head.as_chunks_mut::<8>().0 else { return &self.bytes };
            *a = length.to_le_bytes();
            *b = index.to_le_bytes();
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(a);
            hasher.update(b);
            *crc = u64::from(hasher.finalize()).to_le_bytes();
        }
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.waiting.clear();
    }
}

/// Where groups go. Counts them: the position of a group is its number.
#[derive(Debug)]
pub(crate) struct Ring {
    file: Arc<File>,
    size: u64,
    at: u64,
    /// Position of the last group that was written.
    pub(crate) written: u64,
}

impl Ring {
    pub(crate) const fn new(file: Arc<File>, size: u64) -> Self {
        Self { file, size, at: 0, written: 0 }
    }

    /// Writes the group and empties it.
    pub(crate) fn append(&mut self, group: &mut Group) -> io::Result<()> {
        self.written += 1;
        let bytes = group.seal(self.written);
        let length = bytes.len() as u64;
        if self.at + length > self.size {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += length;
        group.clear();
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}
