//! Tests of the run format: what is written is found again, and damage is noticed.

use super::*;
use crate::frame::Salt;
use crate::fs::Mapped;
use crate::reader::{Cold, ReadError};
use crate::segment::StoreId;
use posthouse_protocol::LogIndex;
use std::io::IoSlice;
use std::sync::{Arc, Mutex};

const IDENTITY: Identity = Identity {
    store: StoreId([7; 16]),
    id: FileId(42),
    salt: Salt(*b"salt-of-the-run!"),
    after: LogIndex(10),
    through: LogIndex(20),
    adopted: None,
};

#[test]
fn every_batch_is_found_by_any_of_its_offsets() {
    let batches = some_batches();
    let run = open(&written(&batches)).unwrap();

    for batch in &batches {
        for offset in batch.base.0..batch.base.0 + u64::from(batch.count) {
            let entry = run.lookup(batch.partition, Offset(offset)).unwrap().unwrap();
            assert_eq!((entry.base, entry.count), (batch.base, batch.count));
            assert_eq!(run.batch(&entry).unwrap(), batch.bytes);
            assert_eq!(entry.position % 8, 0);
        }
    }
}

#[test]
fn an_offset_in_a_gap_finds_the_next_batch_and_one_behind_the_end_finds_none() {
    let run = open(&written(&some_batches())).unwrap();

    let next = run.lookup(PartitionId(3), Offset(0)).unwrap().unwrap();
    assert_eq!(next.base, Offset(5));
    let next = run.lookup(PartitionId(3), Offset(8)).unwrap().unwrap();
    assert_eq!(next.base, Offset(100));
    assert!(run.lookup(PartitionId(3), Offset(130)).unwrap().is_none());
    assert!(run.lookup(PartitionId(4), Offset(0)).unwrap().is_none());
    assert!(run.lookup(PartitionId(99), Offset(0)).unwrap().is_none());
}

#[test]
fn a_lost_batch_is_named_and_has_no_bytes() {
    let file = MemoryFile::default();
    let mut writer = Writer::new(Arc::new(file.clone()), IDENTITY);
    writer.push_lost(&batch(1, 4, 3, b"gone"));
    writer.finish().unwrap();
    let run = open(&file).unwrap();

    let entry = run.lookup(PartitionId(1), Offset(5)).unwrap().unwrap();

    assert!(entry.is_lost());
    assert_eq!((entry.base, entry.end()), (Offset(4), Offset(7)));
    assert_eq!(run.batch(&entry).unwrap(), Bytes::new());
}

#[test]
fn old_bytes_behind_the_footer_do_not_matter() {
    let file = MemoryFile::default();
    file.write_at(0, &[IoSlice::new(&[0xaa; 9000])]).unwrap();
    write(&file, &some_batches());

    let run = open(&file).unwrap();

    assert!(run.len() < 9000);
    assert_eq!(run.entries(), 5);
    assert_eq!(run.partitions().map(|found| found.id.0).collect::<Vec<_>>(), [1, 3, 7]);
}

#[test]
fn any_changed_byte_is_noticed_on_verification() {
    let file = written(&some_batches());
    let header = read_header(&file).unwrap();
    for position in 0..header.len {
        file.flip(position);
        let verified = Verification::start(Arc::new(file.clone()), &header)
            .and_then(|mut verification| verification.advance(u64::MAX));
        assert!(verified.is_err(), "position={position}");
        file.flip(position);
    }
    let mut verification = Verification::start(Arc::new(file), &header).unwrap();
    while !verification.advance(100).unwrap() {}
}

#[test]
fn damage_in_the_index_costs_one_partition() {
    let file = written(&some_batches());
    let sound = open(&file).unwrap();
    file.flip(sound.footer.index_position + ENTRY_LEN + 8);
    let run = open(&file).unwrap();

    assert!(run.lookup(PartitionId(3), Offset(5)).is_err());
    assert_eq!(run.lookup(PartitionId(1), Offset(0)).unwrap().unwrap().base, Offset(0));
    assert_eq!(run.lookup(PartitionId(7), Offset(0)).unwrap().unwrap().base, Offset(1));
}

#[test]
fn damaged_index_hides_no_batch_that_another_run_has() {
    let around = written(&[batch(3, 0, 1, b"before"), batch(3, 9, 1, b"behind")]);
    let between = open(&written(&[batch(3, 5, 2, b"between")])).unwrap();
    let index = open(&around).unwrap().footer.index_position;
    around.flip(index + 8);
    let runs = Runs::default().with(vec![Arc::new(open(&around).unwrap()), Arc::new(between)]);

    let found = |offset| runs.find(PartitionId(3), Offset(offset)).map(|found| found.is_some());

    assert!(matches!((found(5), found(6)), (Ok(true), Ok(true))));
    for unknown in [0, 4, 7, 9] {
        assert!(matches!(found(unknown), Err(ReadError::Index { .. })), "{unknown}");
    }
    assert!(matches!(found(10), Ok(false)));
}

#[test]
fn damage_in_header_directory_or_footer_is_noticed_on_opening() {
    let file = written(&some_batches());
    let sound = open(&file).unwrap();
    let positions = (0..HEADER_LEN).chain(sound.footer.directory_position..sound.len());
    for position in positions {
        file.flip(position);
        assert!(open(&file).is_err(), "position={position}");
        file.flip(position);
    }
    open(&file).unwrap();
}

#[test]
fn another_run_and_a_cut_file_are_refused() {
    let file = written(&some_batches());
    let other = Identity { id: FileId(43), ..IDENTITY };
    assert!(matches!(Run::open(&file, &other, None), Err(OpenError::Other { found: FileId(42) })));
    let size = file.size().unwrap();
    file.set_len(size - 1).unwrap();
    assert!(matches!(open(&file), Err(OpenError::Short { .. })));
}

#[test]
fn batches_of_an_adopted_segment_are_read_there() {
    let segment = MemoryFile::default();
    segment.write_at(4096, &[IoSlice::new(b"the first one---and the second")]).unwrap();
    let file = MemoryFile::default();
    let identity = Identity { adopted: Some(FileId(9)), ..IDENTITY };
    let mut writer = Writer::adopting(Arc::new(file.clone()), identity, 4126);
    writer.push_adopted(&batch(3, 5, 1, b"and the second"), 4112);
    writer.push_lost(&batch(3, 6, 2, b""));
    writer.push_adopted(&batch(4, 0, 1, b"the first one"), 4096);
    let len = writer.len();
    assert_eq!(writer.finish().unwrap().len, len);
    let adopted =
        |id, size| Some(Adopted { id: FileId(id), size, map: segment.map(size).unwrap() });

    let run = Run::open(&file, &identity, adopted(9, 4126)).unwrap();

    let read = |partition, offset| {
        let entry = run.lookup(PartitionId(partition), Offset(offset)).unwrap().unwrap();
        (entry.base.0, run.batch(&entry).unwrap())
    };
    assert_eq!(read(3, 0), (5, Bytes::from_static(b"and the second")));
    assert_eq!(read(4, 0), (0, Bytes::from_static(b"the first one")));
    assert!(run.lookup(PartitionId(3), Offset(7)).unwrap().unwrap().is_lost());
    assert_eq!((run.batch_file(), run.batch_file_bytes().unwrap().len()), (FileId(9), 4126));
    // Not without the segment, over another one, over a part of it, nor as another run.
    for missing in [None, adopted(8, 4126)] {
        let error = Run::open(&file, &identity, missing).unwrap_err();
        assert!(matches!(error, OpenError::Segment { id: FileId(9), .. }), "{error}");
    }
    let error = Run::open(&file, &identity, adopted(9, 4125)).unwrap_err();
    let is_short = matches!(error, OpenError::SegmentShort { expected: 4126, found: 4125, .. });
    assert!(is_short, "{error}");
    for other in [None, Some(FileId(8))] {
        let other = Identity { adopted: other, ..identity };
        let error = Run::open(&file, &other, adopted(9, 4126)).unwrap_err();
        assert!(matches!(error, OpenError::Other { .. }), "{error}");
    }
}

fn some_batches() -> Vec<Copied> {
    vec![
        batch(1, 0, 1, b"one"),
        batch(3, 5, 3, b"three messages"),
        batch(3, 100, 10, &[9; 64]),
        batch(3, 110, 20, &[8; 1]),
        batch(7, 1, 1, b"12345678"),
    ]
}

fn batch(partition: u32, base: u64, count: u32, bytes: &[u8]) -> Copied {
    let partition = PartitionId(partition);
    let bytes = Bytes::copy_from_slice(bytes);
    Copied { partition, base: Offset(base), count, crc: crc32fast::hash(&bytes), bytes }
}

fn write(file: &MemoryFile, batches: &[Copied]) {
    let mut writer = Writer::new(Arc::new(file.clone()), IDENTITY);
    for batch in batches {
        writer.push(batch).unwrap();
    }
    let len = writer.len();
    assert_eq!(writer.finish().unwrap().len, len);
}

fn written(batches: &[Copied]) -> MemoryFile {
    let file = MemoryFile::default();
    write(&file, batches);
    file
}

fn open(file: &MemoryFile) -> Result<Run, OpenError> {
    Run::open(file, &IDENTITY, None)
}

/// A file that is only bytes.
#[derive(Clone, Debug, Default)]
struct MemoryFile(Arc<Mutex<Vec<u8>>>);

impl MemoryFile {
    fn flip(&self, position: u64) {
        self.0.lock().unwrap()[usize::try_from(position).unwrap()] ^= 0x10;
    }
}

impl File for MemoryFile {
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let mut at = to_usize(position);
        for part in parts {
            let end = at + part.len();
            let len = bytes.len().max(end);
            bytes.resize(len, 0);
            bytes[at..end].copy_from_slice(part);
            at = end;
        }
        Ok(())
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = to_usize(position);
        let part = bytes.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(to_usize(len), 0);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let bytes = Bytes::copy_from_slice(&self.0.lock().unwrap()[..to_usize(len)]);
        Ok(Map(Arc::new(Copy(bytes))))
    }
}

#[derive(Debug)]
struct Copy(Bytes);

impl Mapped for Copy {
    fn slice(self: Arc<Self>, range: Range<u64>) -> Option<Bytes> {
        let inside = range.end <= self.0.len() as u64;
        inside.then(|| self.0.slice(to_usize(range.start)..to_usize(range.end)))
    }
}
