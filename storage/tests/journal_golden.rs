//! The bytes of segment headers, frames and manifests, held against files that are never changed in
//! silence.
//!
//! `BLESS=1` writes them anew; then the version of the layout has to rise.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use bytes::Bytes;
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::frame::{FrameKey, FrameView, Kind, Salt, Stamp, encode_head, padding};
use posthouse_storage::manifest::{
    CheckpointEntry, Fence, Manifest, RunEntry, SegmentEnd, SegmentEntry,
};
use posthouse_storage::names::{FileId, FileKind, FileName};
use posthouse_storage::segment::{HEADER_LEN, Header, StoreId};
use posthouse_storage::{BatchDraft, FrameDraft};
use std::fmt::Write;
use std::path::Path;

const STORE: StoreId = StoreId(*b"store-0123456789");
const SALT: Salt = Salt(*b"salt-abcdefghijk");
/// Of a segment's header; zeros follow.
const HEADER_FIELDS: usize = 64;

#[test]
fn segment_header_has_the_bytes_of_the_golden_file() {
    let header = Header { store: STORE, id: FileId(0x11), size: 0x400_0000, salt: SALT };

    let bytes = header.encode();

    let (fields, zeros) = bytes.split_at(HEADER_FIELDS);
    assert_eq!(bytes.len(), HEADER_LEN);
    assert!(zeros.iter().all(|byte| *byte == 0));
    let mut golden = golden("segment_header.hex", fields);
    golden.resize(HEADER_LEN, 0);
    assert_eq!(Header::decode(&golden).unwrap(), header);
}

#[test]
fn data_frame_has_the_bytes_of_the_golden_file() {
    let (first, second) = (b"the first batch".as_slice(), b"the 2nd!".as_slice());
    let draft = FrameDraft {
        time: Timestamp(0x0102_0304),
        synced: true,
        events: Bytes::from_static(b"the events"),
        batches: vec![draft(4, 0x100, 3, first), draft(9, 0x200, 1, second)],
    };
    let mut bytes = Vec::new();
    encode_head(FrameKey::new(&SALT), &stamp(Kind::Data), &draft, &mut bytes);
    for batch in &draft.batches {
        bytes.extend_from_slice(&batch.bytes);
        bytes.extend_from_slice(padding(batch.bytes.len()));
    }
    assert_eq!(bytes.len() as u64, draft.encoded_len());

    let golden = golden("frame_data.hex", &bytes);

    let frame = FrameView::parse(FrameKey::new(&SALT), &golden).unwrap();
    assert_eq!(frame.kind, Kind::Data);
    assert_eq!(frame.index, LogIndex(0x55));
    assert_eq!(frame.term, StartEpoch(0x66));
    assert_eq!(frame.prev_crc, 0x7777_8888);
    assert_eq!(frame.durable, LogIndex(0x54));
    assert_eq!(frame.time, draft.time);
    assert!(frame.synced);
    assert_eq!(frame.events, b"the events");
    let entries: Vec<_> = frame.batches.collect();
    assert_eq!(frame.batch_bytes(&entries[0]), first);
    assert_eq!(frame.batch_bytes(&entries[1]), second);
    assert_eq!((entries[1].partition, entries[1].base), (PartitionId(9), Offset(0x200)));
    assert_eq!((entries[0].count, entries[0].header_crc), (3, 0xdead_0003));
}

#[test]
fn mark_and_footer_have_the_bytes_of_the_golden_files() {
    for (kind, name) in [(Kind::Mark, "frame_mark.hex"), (Kind::Footer, "frame_footer.hex")] {
        let mut bytes = Vec::new();
        encode_head(FrameKey::new(&SALT), &stamp(kind), &FrameDraft::default(), &mut bytes);

        let golden = golden(name, &bytes);

        let frame = FrameView::parse(FrameKey::new(&SALT), &golden).unwrap();
        assert_eq!(frame.kind, kind);
        assert_eq!(frame.len(), 64);
        assert!(frame.batches.is_empty());
    }
}

#[test]
fn manifest_has_the_bytes_of_the_golden_file() {
    let salt = |first| Salt([first; 16]);
    let manifest = Manifest {
        generation: 0x0a,
        store: STORE,
        start_epoch: StartEpoch(0x0b),
        clean: true,
        durable: LogIndex(0x0c),
        next_file: FileId(0x0d),
        journal_first: LogIndex(0x0e),
        journal: vec![
            SegmentEntry {
                id: FileId(1),
                salt: salt(0x11),
                base: Some(LogIndex(0x21)),
                end: Some(SegmentEnd { last: LogIndex(0x22), position: 0x2300 }),
            },
            SegmentEntry { id: FileId(2), salt: salt(0x12), base: None, end: None },
        ],
        checkpoints: vec![CheckpointEntry {
            id: FileId(3),
            salt: salt(0x13),
            index: LogIndex(0x24),
            bytes: 0x2500,
        }],
        runs: vec![RunEntry {
            id: FileId(4),
            salt: salt(0x14),
            after: LogIndex(0x26),
            upto: LogIndex(0x27),
            bytes: 0x2800,
            adopted: Some(FileId(5)),
        }],
        spares: vec![FileId(6)],
        retired: vec![FileName::new(FileKind::Run, FileId(7))],
        fences: vec![Fence { first: LogIndex(0x29), last: LogIndex(0x2a) }],
    };
    let mut bytes = Vec::new();
    manifest.encode(&mut bytes);

    let golden = golden("manifest.hex", &bytes);

    assert_eq!(Manifest::decode(&golden).unwrap(), manifest);
    for at in 0..golden.len() {
        let mut damaged = golden.clone();
        damaged[at] ^= 1;
        assert!(Manifest::decode(&damaged).is_err(), "at={at}");
        assert!(Manifest::decode(&golden[..at]).is_err(), "len={at}");
    }
}

fn stamp(kind: Kind) -> Stamp {
    Stamp {
        kind,
        index: LogIndex(0x55),
        term: StartEpoch(0x66),
        prev_crc: 0x7777_8888,
        durable: LogIndex(0x54),
    }
}

fn draft(partition: u32, base: u64, count: u32, bytes: &'static [u8]) -> BatchDraft {
    BatchDraft {
        partition: PartitionId(partition),
        base: Offset(base),
        count,
        header_crc: 0xdead_0000 + count,
        bytes: Bytes::from_static(bytes),
    }
}

/// Compares `bytes` with the golden file, 16 to a line, and gives what the file says.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut found = String::new();
    for (number, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(found, "{:04x}  {}", number * 16, hex.join(" ")).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "the layout of {name} has changed");
    let words = expected.lines().flat_map(|line| line.split_whitespace().skip(1));
    words.map(|word| u8::from_str_radix(word, 16).unwrap()).collect()
}
