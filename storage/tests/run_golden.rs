//! The bytes of runs and checkpoints, held against files that are never changed in silence.
//!
//! `BLESS=1` writes them anew; then the version of the layout has to rise.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use bytes::Bytes;
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::checkpoint::{self, Checkpoint};
use posthouse_storage::frame::Salt;
use posthouse_storage::fs::Fs;
use posthouse_storage::fs::sim::SimFs;
use posthouse_storage::names::FileId;
use posthouse_storage::run::{Copied, Header, Identity, Run, Writer};
use posthouse_storage::segment::StoreId;
use std::fmt::Write;
use std::path::Path;

const STORE: StoreId = StoreId(*b"store-0123456789");
const SALT: Salt = Salt(*b"salt-abcdefghijk");

#[test]
fn a_run_has_the_bytes_of_the_golden_file() {
    let disk = SimFs::new();
    let file = disk.create("run").unwrap();
    let (after, through) = (LogIndex(0x11), LogIndex(0x22));
    let adopted = None;
    let identity = Identity { store: STORE, id: FileId(0x33), salt: SALT, after, through, adopted };
    let mut writer = Writer::new(file.clone(), identity);
    writer.push(&copied(4, 0x100, 2, b"first batch")).unwrap();
    writer.push_lost(&copied(4, 0x102, 3, b""));
    writer.push(&copied(9, 0x200, 1, b"12345678")).unwrap();
    writer.finish().unwrap();

    check("run.hex", &disk.contents("run").unwrap());

    let run = Run::open(&*file, &identity, None).unwrap();
    assert_eq!(run.lookup(PartitionId(9), Offset(0)).unwrap().unwrap().base, Offset(0x200));
}

#[test]
fn a_run_over_an_adopted_segment_has_the_bytes_of_the_golden_file() {
    let disk = SimFs::new();
    let file = disk.create("run").unwrap();
    let (after, through) = (LogIndex(0x11), LogIndex(0x22));
    let adopted = Some(FileId(0x99));
    let identity = Identity { store: STORE, id: FileId(0x34), salt: SALT, after, through, adopted };
    let mut writer = Writer::adopting(file.clone(), identity, 0x1_0000);
    writer.push_adopted(&copied(4, 0x100, 2, b"first batch"), 0x2000);
    writer.push_lost(&copied(4, 0x102, 3, b""));
    writer.push_adopted(&copied(9, 0x200, 1, b"12345678"), 0x1080);
    writer.finish().unwrap();

    let bytes = disk.contents("run").unwrap();
    check("run_adopted.hex", &bytes);
    let header = Header::decode(&bytes[..128]).unwrap();
    assert_eq!((header.identity, header.adopted_bytes), (identity, 0x1_0000));
}

#[test]
fn a_checkpoint_has_the_bytes_of_the_golden_file() {
    let disk = SimFs::new();
    let file = disk.create("checkpoint").unwrap();
    let identity = checkpoint::Identity { store: STORE, id: FileId(0x44), salt: SALT };
    let written = Checkpoint {
        index: LogIndex(0x55),
        term: StartEpoch(0x66),
        time: Timestamp(0x77),
        state: b"the state".to_vec(),
    };
    let len = written.write(&*file, &identity).unwrap();

    let bytes = disk.contents("checkpoint").unwrap();
    assert_eq!(bytes.len() as u64, len);
    check("checkpoint.hex", &bytes);

    assert_eq!(Checkpoint::read(&*file, &identity).unwrap(), written);
}

fn copied(partition: u32, base: u64, count: u32, bytes: &'static [u8]) -> Copied {
    let (partition, base) = (PartitionId(partition), Offset(base));
    Copied { partition, base, count, crc: 0xdead_0000 + count, bytes: Bytes::from_static(bytes) }
}

/// Compares `bytes` with the golden file, 16 to a line.
fn check(name: &str, bytes: &[u8]) {
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
}
