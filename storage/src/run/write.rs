//! Writing a run: batches in order, then the index, then the header. Over an adopted segment only
//! the index and the header are written.
//!
//! Nothing is durable and nothing may be relied on before [`Writer::finish`] has
//! returned, the file has its final name and the directory is synced.
//!
//! It is written past the system's cache, from one buffer: what is copied here has
//! been in the cache as journal, and would only take the place of what is read.

use super::format::{
    ENTRY_LEN, Entry, FOOTER_LEN, Footer, HEADER_LEN, Header, Identity, PARTITION_LEN, Partition,
    checksum, padded, salted,
};
use crate::fs::{Aligned, BLOCK, File};
use bytes::Bytes;
use posthouse_protocol::{Offset, PartitionId};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Blocks that are written with one call.
const WRITE_BLOCKS: usize = (1 << 20) / BLOCK;
const ZEROS: [u8; 8] = [0; 8];

/// A run in the making.
#[derive(Debug)]
pub struct Writer {
    file: Arc<dyn File>,
    identity: Identity,
    /// Where the next byte goes, those in the buffer counted.
    position: u64,
    /// Where the buffer goes.
    written: u64,
    /// Everything before it is durable.
    synced: u64,
    buffer: Aligned,
    index: Vec<u8>,
    partitions: Vec<Partition>,
    /// Length of the segment that holds the batches; 0 if this file does.
    adopted_bytes: u64,
    body_crc: crc32fast::Hasher,
}

impl Writer {
    /// Starts a run in `file`, whose present content does not matter.
    #[must_use]
    pub fn new(file: Arc<dyn File>, identity: Identity) -> Self {
        let mut buffer = Aligned::new(WRITE_BLOCKS);
        // The header is written at the end.
        buffer.push(&vec![0; usize::try_from(HEADER_LEN).unwrap_or_default()]);
        Self {
            file,
            identity,
            position: HEADER_LEN,
            written: 0,
            synced: 0,
            buffer,
            index: Vec::new(),
            partitions: Vec::new(),
            adopted_bytes: 0,
            body_crc: salted(&identity.salt),
        }
    }

    /// Starts a run whose batches stay in the segment that `identity` names, a file of
    /// `adopted_bytes`.
    #[must_use]
    pub fn adopting(file: Arc<dyn File>, identity: Identity, adopted_bytes: u64) -> Self {
        Self { adopted_bytes, ..Self::new(file, identity) }
    }

    /// Adds a batch, which must come behind all earlier ones by partition and base.
    ///
    /// # Errors
    ///
    /// The file's; the run is then worth nothing.
    pub fn push(&mut self, batch: &Copied) -> io::Result<()> {
        self.note(batch, self.position, length(batch));
        self.put(&batch.bytes)?;
        let len = batch.bytes.len() as u64;
        let padding = usize::try_from(padded(len) - len).unwrap_or_default();
        self.put(ZEROS.get(..padding).unwrap_or_default())
    }

    /// Adds a batch that lies at `position` of the adopted segment, and stays there.
    pub fn push_adopted(&mut self, batch: &Copied, position: u64) {
        self.note(batch, position, length(batch));
    }

    /// Adds the notice that a batch was found damaged; its bytes are not kept.
    pub fn push_lost(&mut self, batch: &Copied) {
        self.note(batch, self.position, 0);
    }

    fn note(&mut self, batch: &Copied, position: u64, len: u32) {
        let entry = Entry {
            partition: batch.partition,
            count: batch.count,
            base: batch.base,
            position,
            len,
            crc: batch.crc,
        };
        let first_entry = self.entries();
        let start = self.index.len();
        entry.encode(&mut self.index);
        let encoded = self.index.get(start..).unwrap_or_default();
        let same = self.partitions.last().is_some_and(|last| last.id == entry.partition);
        if !same {
            debug_assert!(self.partitions.last().is_none_or(|last| last.id < entry.partition));
            self.partitions.push(Partition {
                id: entry.partition,
                entries: 0,
                first_entry,
                start: entry.base,
                end: entry.base,
                bytes: 0,
                crc: checksum(&self.identity.salt, &[]),
            });
        }
        if let Some(last) = self.partitions.last_mut() {
            debug_assert!(last.end <= entry.base, "batches of a partition ascend");
            last.entries += 1;
            last.end = entry.end();
            last.bytes += padded(u64::from(len));
            let mut crc = crc32fast::Hasher::new_with_initial(last.crc);
            crc.update(encoded);
            last.crc = crc.finalize();
        }
    }

    /// Makes durable what has been written so far, so that no more is left for [`Self::finish`] than
    /// the disk takes in a moment: the journal's syncs wait behind it.
    ///
    /// # Errors
    ///
    /// The file's; the run is then worth nothing, and a failed sync is never retried.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.written > self.synced {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// How many batches there are so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.index.len() as u64 / ENTRY_LEN
    }

    /// Length the file would have if it were finished now.
    #[must_use]
    pub const fn len(&self) -> u64 {
        let directory = self.partitions.len() as u64 * PARTITION_LEN;
        self.position + self.index.len() as u64 + directory + FOOTER_LEN
    }

    /// Whether it holds no batch and no notice of a lost one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Writes index, directory, footer and header, and syncs the file.
    ///
    /// # Errors
    ///
    /// The file's; the run is then worth nothing, and a failed sync is never retried.
    pub fn finish(mut self) -> io::Result<Header> {
        let tail = self.tail();
        self.put(&tail)?;
        // What is left is no whole block.
        self.file.write_at(self.written, &[IoSlice::new(self.buffer.filled())])?;
        let header = Header {
            identity: self.identity,
            len: self.position,
            adopted_bytes: self.adopted_bytes,
            body_crc: self.body_crc.finalize(),
        };
        let mut head = Vec::new();
        header.encode(&mut head);
        self.file.write_at(0, &[IoSlice::new(&head)])?;
        self.file.sync()?;
        Ok(header)
    }

    /// Index, directory and footer.
    fn tail(&mut self) -> Vec<u8> {
        let index_position = self.position;
        let entries = self.entries();
        let directory_position = index_position + self.index.len() as u64;
        let mut tail = std::mem::take(&mut self.index);
        let directory_start = tail.len();
        for partition in &self.partitions {
            partition.encode(&mut tail);
        }
        let directory = tail.get(directory_start..).unwrap_or_default();
        let footer = Footer {
            index_position,
            entries,
            directory_position,
            partitions: u32::try_from(self.partitions.len()).unwrap_or(u32::MAX),
            directory_crc: checksum(&self.identity.salt, directory),
        };
        footer.encode(&self.identity.salt, &mut tail);
        tail
    }

    /// Appends bytes, and writes the buffer whenever it is full.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body_crc.update(bytes);
        self.position += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.buffer.push(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if self.buffer.is_full() {
                self.file.write_past_cache(self.written, &self.buffer)?;
                self.written += self.buffer.filled().len() as u64;
                self.buffer.clear();
            }
        }
        Ok(())
    }
}

fn length(batch: &Copied) -> u32 {
    u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX)
}

/// A batch on its way into a run.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Its partition.
    pub partition: PartitionId,
    /// Offset of its first message.
    pub base: Offset,
    /// How many messages it holds.
    pub count: u32,
    /// Its own `header_crc`.
    pub crc: u32,
    /// The whole batch.
    pub bytes: Bytes,
}
