//! What the batch layout costs per message: its checksum, and its index entry.

use std::hint::black_box;
use std::io;

use crate::probe::Probe;
use crate::record::Record;
use crate::{Common, clock, report};

/// Bytes that the contents of a fixed index entry take.
const ENTRY: usize = 40;
const BATCH: usize = 1_000;
const REPEATS: usize = 9;

pub(crate) fn run(common: &Common) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&common.dir)?;
    report::line(Probe::new(dir.path())?.read()?);
    report::line(format_args!(
        "{:>8}{:>14}{:>14}{:>10}{:>12}{:>12}",
        "bytes", "crc each ns", "one crc ns", "extra ns", "copy ns", "copy+crc ns"
    ));
    let passes = if common.smoke { 2 } else { 200 };
    for size in [48, 128, 140, 144, 256, 1024, 1036, 4096] {
        checksums(size, passes);
    }
    entries(passes);
    Ok(())
}

fn checksums(size: usize, passes: usize) {
    let batch: Vec<u8> = (0..=u8::MAX).cycle().take(size * BATCH).collect();
    let mut copy: Vec<u8> = Vec::with_capacity(batch.len());
    let each = best(passes, || {
        batch.chunks_exact(size).fold(0, |sum, message| sum ^ crc32fast::hash(message))
    });
    let whole = best(passes, || crc32fast::hash(black_box(&batch)));
    let copied = best(passes, || {
        copy.clear();
        batch.chunks_exact(size).for_each(|message| copy.extend_from_slice(message));
        copy.len()
    });
    let both = best(passes, || {
        copy.clear();
        batch.chunks_exact(size).fold(0, |sum, message| {
            copy.extend_from_slice(message);
            sum ^ crc32fast::hash(message)
        })
    });
    Record::new("layout", format!("{size} bytes"), "this machine")
        .figure("checksum_each", each, "ns per message")
        .figure("checksum_whole", whole, "ns per message")
        .figure("copy", copied, "ns per message")
        .figure("copy_and_checksum", both, "ns per message")
        .keep();
    report::line(format_args!(
        "{size:8}{each:14.1}{whole:14.1}{:10.1}{copied:12.1}{both:12.1}",
        each - whole
    ));
}

fn entries(passes: usize) {
    let index: Vec<u8> = (0..=u8::MAX).cycle().take(ENTRY * BATCH).collect();
    let parsed = best(passes, || {
        let entries = index.as_chunks::<ENTRY>().0;
        entries.iter().fold(0, |sum, bytes| sum ^ Entry::parse(bytes).map_or(0, black_box_entry))
    });
    let skipped = best(passes, || {
        let entries = index.as_chunks::<ENTRY>().0;
        entries.iter().fold(0, |sum, bytes| sum ^ body_end(bytes))
    });
    Record::new("layout", "index entry", "this machine")
        .figure("parse_whole", parsed, "ns per message")
        .figure("read_one_field", skipped, "ns per message")
        .keep();
    report::line(format_args!(
        "index entry of {ENTRY} bytes: {parsed:.2} ns to parse whole, {skipped:.2} ns to read one field"
    ));
}

/// Every field that delivering or admitting a message may need.
struct Entry {
    id: [u8; 16],
    body_end: u32,
    crc: u32,
    key_hash: u32,
    head_length: u16,
    priority: u8,
    flags: u8,
    due: u64,
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let (key_hash, rest) = rest.split_first_chunk()?;
        let (head_length, rest) = rest.split_first_chunk()?;
        let ([priority, flags], rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            id: *id,
            body_end: u32::from_le_bytes(*end),
            crc: u32::from_le_bytes(*crc),
            key_hash: u32::from_le_bytes(*key_hash),
            head_length: u16::from_le_bytes(*head_length),
            priority: *priority,
            flags: *flags,
            due: u64::from_le_bytes(*due),
        })
    }
}

/// Uses every field, so that none is optimised away.
fn black_box_entry(entry: Entry) -> u64 {
    let Entry { id, body_end, crc, key_hash, head_length, priority, flags, due } = black_box(entry);
    let small = u64::from(body_end) ^ u64::from(crc) ^ u64::from(key_hash);
    let smaller = u64::from(head_length) ^ u64::from(priority) ^ u64::from(flags);
    small ^ smaller ^ due ^ u64::from(id.first().copied().unwrap_or(0))
}

fn body_end(bytes: &[u8; ENTRY]) -> u32 {
    let (_, rest) = bytes.split_at(16);
    rest.first_chunk().map_or(0, |end| u32::from_le_bytes(*end))
}

/// Nanoseconds per message of the fastest repeat; the machine can only add to it.
fn best<T>(passes: usize, mut over_batch: impl FnMut() -> T) -> f64 {
    let mut repeat = || {
        let ((), nanos) = clock::timed(|| {
            for _ in 0..passes {
                black_box(over_batch());
            }
        });
        nanos as f64 / (passes * BATCH) as f64
    };
    (0..REPEATS).map(|_| repeat()).fold(f64::INFINITY, f64::min)
}
