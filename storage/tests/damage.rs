//! Damage of what was durable: noticed, confined, reported, and never taken for a torn tail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use posthouse_protocol::batch::BatchView;
use posthouse_protocol::{LogIndex, Offset, PartitionId, Timestamp};
use posthouse_storage::frame::{FrameDraft, FrameKey};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::manifest::Manifest;
use posthouse_storage::names::{FileKind, FileName, MANIFEST};
use posthouse_storage::recover::{CorruptRange, Origin};
use posthouse_storage::segment::{HEADER_LEN, Scanner};
use posthouse_storage::{Options, ReadError, Store, spare};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use support::{Ledger, batch, frame, options};

const SEGMENT_BYTES: u64 = 32 << 10;
const P: PartitionId = PartitionId(3);
const Q: PartitionId = PartitionId(4);

#[test]
fn every_flipped_byte_of_the_last_segment_is_noticed_and_costs_only_what_it_hit() {
    let noticed = flip_every_byte(&Fixture::new(&frames(8)), usize::MAX);
    assert!(noticed > 2_000, "noticed={noticed}");
}

#[test]
fn every_flipped_byte_is_noticed_in_the_segment_of_a_second_start() {
    let noticed = flip_every_byte(&Fixture::of_two_starts(&frames(8)), usize::MAX);
    assert!(noticed > 1_000, "noticed={noticed}");
}

#[test]
fn every_flipped_byte_is_noticed_at_the_front_of_a_segment_just_rolled_into() {
    let noticed = flip_every_byte(&Fixture::new(&frames(120)), 400);
    assert!(noticed > 700, "noticed={noticed}");
}

/// Flips every byte of the last segment, but no more than `most` of its frames; gives how often
/// that was noticed.
fn flip_every_byte(fixture: &Fixture, most: usize) -> u32 {
    let name = fixture.last_segment();
    let bytes = fixture.disk.contents(&name).unwrap();
    let layout = Layout::of(fixture, &bytes);
    let mut dice = Dice::new(1);
    let mut noticed = 0;
    // The header's zeros are many and alike.
    let header = (0..HEADER_LEN).filter(|at| *at < 128 || at % 64 == 0);
    for at in header.chain((HEADER_LEN..layout.end).take(most)) {
        for flip in [0xFF, 1 << dice.below(8)] {
            let mut damaged = bytes.clone();
            damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flip);
            let disk = fixture.copy();
            disk.overwrite(&name, damaged);

            let store = open(&disk);

            let report = &store.report;
            assert_eq!(report.last, fixture.last(), "never cut off, at={at}: {report:?}");
            fixture.check_all_but_the_reported(&store);
            if at >= layout.marked {
                // The last mark itself is above what it marks: losing it loses nothing.
                assert!(!report.is_damaged(), "at={at}: {report:?}");
                continue;
            }
            assert_eq!(report.torn, None, "not taken for a torn tail, at={at}");
            let harmless = layout.padding.iter().any(|range| range.contains(&at));
            assert_eq!(report.is_damaged(), !harmless, "at={at} flip={flip:02x}: {report:?}");
            noticed += u32::from(report.is_damaged());
        }
    }
    noticed
}

#[test]
fn damage_is_reported_the_same_by_the_next_start() {
    let fixture = Fixture::new(&frames(8));
    let name = fixture.last_segment();
    let mut bytes = fixture.disk.contents(&name).unwrap();
    let [third, fifth] = [2, 4].map(|at| Layout::of(&fixture, &bytes).frames[at]);
    bytes[third + 30] ^= 1;
    bytes[fifth + 10] ^= 1;
    let disk = fixture.copy();
    disk.overwrite(&name, bytes);

    let first = open(&disk);
    let second = open(&disk);

    let fenced = [3, 5].map(|index| {
        let index = LogIndex(index);
        CorruptRange::Frames { first: index, last: index }
    });
    assert_eq!(first.report.corrupt, fenced);
    assert_eq!(second.report.corrupt, fenced);
    assert_eq!(first.state, second.state);
    fixture.check_all_but_the_reported(&second);
}

#[test]
fn frames_once_given_up_stay_so_when_they_read_well_again() {
    let fixture = Fixture::new(&frames(8));
    let name = fixture.last_segment();
    let bytes = fixture.disk.contents(&name).unwrap();
    let mut damaged = bytes.clone();
    damaged[Layout::of(&fixture, &bytes).frames[2] + 30] ^= 1;
    let disk = fixture.copy();
    disk.overwrite(&name, damaged);
    let first = open(&disk);
    disk.overwrite(&name, bytes);

    let second = open(&disk);

    assert_eq!(first.report.corrupt.len(), 1);
    assert_eq!(second.report.corrupt, first.report.corrupt);
    assert_eq!(second.state, first.state, "what was decided on it stays decided");
}

#[test]
fn segment_that_only_a_lost_slot_named_is_taken_in() {
    let disk = SimFs::new();
    let mut store = open(&disk);
    store.journal.append(&[frame(P, 0, 1, 10)]).unwrap();
    store.journal.sync().unwrap();
    // The newest commit is the one that names the segment to roll into.
    spare::prepare(&store.shared).unwrap();
    store.shared.request_roll();
    assert!(store.journal.roll_if_requested().unwrap());
    store.journal.append(&[frame(P, 1, 1, 10)]).unwrap();
    store.journal.sync().unwrap();
    drop(store);
    let generation =
        |name: &&str| Manifest::decode(&disk.contents(name).unwrap()).unwrap().generation;
    let newest = *MANIFEST.iter().max_by_key(|name| generation(name)).unwrap();
    disk.overwrite(newest, vec![0; 4096]);

    let store = open(&disk);

    assert!(store.report.manifest_damaged.is_some());
    assert_eq!(store.report.last, LogIndex(2));
    assert!(store.report.orphans.is_empty());
    assert_eq!(store.state.frames(), 2);
}

#[test]
fn frames_that_were_dropped_stay_dropped_when_the_manifest_is_lost() {
    let disk = SimFs::new();
    let mut store = open(&disk);
    store.journal.append(&[frame(P, 0, 1, 10)]).unwrap();
    store.journal.sync().unwrap();
    // Three more, of which the first does not reach the disk.
    store.journal.append(&[frame(P, 1, 1, 600)]).unwrap();
    store.journal.append(&[frame(P, 2, 1, 600)]).unwrap();
    store.journal.append(&[frame(P, 3, 1, 600)]).unwrap();
    drop(store);
    let mut sectors = 0;
    let disk = disk.crash_with(&mut |_, versions| {
        sectors += 1;
        if sectors == 1 { Fate::Lost } else { Fate::Kept { version: versions - 1 } }
    });
    let mut store = open(&disk);
    assert_eq!(store.report.last, LogIndex(1));
    assert_eq!(store.report.torn.map(|torn| torn.frames_dropped), Some(2));
    for base in [101, 102, 103, 104] {
        store.journal.append(&[frame(P, base, 1, 20)]).unwrap();
        store.journal.sync().unwrap();
    }
    drop(store);
    MANIFEST.iter().for_each(|name| disk.lose(name));

    let store = open(&disk);

    assert_eq!(store.report.origin, Origin::Rebuilt);
    assert!(store.report.corrupt.is_empty(), "{:?}", store.report);
    assert_eq!(store.report.last, LogIndex(5));
    let read = store.reader.read(P, Offset(0), usize::MAX).unwrap();
    let bases: Vec<u64> = read.iter().map(|batch| batch.base.0).collect();
    assert_eq!(bases, [0, 101, 102, 103, 104]);
}

#[test]
fn segment_cut_at_any_length_is_missed_up_to_the_durable_mark() {
    let fixture = Fixture::new(&frames(8));
    let name = fixture.last_segment();
    let bytes = fixture.disk.contents(&name).unwrap();
    let layout = Layout::of(&fixture, &bytes);
    for len in (0..layout.marked).step_by(3) {
        let disk = fixture.copy();
        disk.overwrite(&name, bytes[..len].to_vec());
        // A mark in the manifest remembers what the file has lost.
        let whole = open(&fixture.copy());
        assert_eq!(whole.report.last, fixture.last());

        let store = open(&disk);

        let complete = layout.frames.iter().filter(|start| **start < len).count().max(1) - 1;
        let seen = store.state.frames();
        assert!(seen >= complete, "len={len} seen={seen} complete={complete}");
        fixture.check_all_but_the_reported(&store);
    }
}

#[test]
fn what_the_manifest_knows_to_be_durable_is_missed_in_a_cut_segment() {
    let fixture = Fixture::reopened(&frames(8));
    let name = fixture.segment_of(1);
    let bytes = fixture.disk.contents(&name).unwrap();
    let end = Layout::of(&fixture, &bytes).frames[7];
    for len in (0..end).step_by(7) {
        let disk = fixture.copy();
        disk.overwrite(&name, bytes[..len].to_vec());

        let store = open(&disk);

        assert_eq!(store.report.last, fixture.last(), "len={len}");
        assert!(store.report.is_damaged(), "len={len}");
        fixture.check_all_but_the_reported(&store);
    }
}

#[test]
fn missing_segment_costs_its_own_frames_only() {
    let fixture = Fixture::new(&frames(120));
    let names = fixture.segments();
    assert!(names.len() >= 4, "{names:?}");
    for name in &names[..3] {
        let disk = fixture.copy();
        disk.lose(name);

        let store = open(&disk);

        assert_eq!(store.report.missing.len(), 1, "{:?}", store.report);
        assert_eq!(store.report.last, fixture.last());
        assert!(store.state.frames() >= 60);
        fixture.check_all_but_the_reported(&store);
    }
}

#[test]
fn swapped_segments_serve_nothing_wrong() {
    let fixture = Fixture::new(&frames(120));
    let names = fixture.segments();
    let (first, second) = (&names[0], &names[1]);
    let disk = fixture.copy();
    let contents = [first, second].map(|name| disk.contents(name).unwrap());
    disk.overwrite(first, contents[1].clone());
    disk.overwrite(second, contents[0].clone());

    let store = open(&disk);

    assert_eq!(store.report.last, fixture.last());
    assert_eq!(store.report.damaged_headers.len(), 2);
    assert!(!store.report.corrupt.is_empty());
    fixture.check_all_but_the_reported(&store);
}

#[test]
fn unreadable_sectors_cost_what_is_in_them() {
    let fixture = Fixture::new(&frames(40));
    let name = fixture.segment_of(1);
    let disk = fixture.copy();
    disk.fail_reads(&name, 8192..8193);

    let store = open(&disk);

    assert_eq!(store.report.last, fixture.last());
    assert!(!store.report.corrupt.is_empty());
    assert!(store.state.frames() > 20);
    fixture.check_all_but_the_reported(&store);
}

#[test]
fn damaged_end_that_no_mark_covers_is_dropped() {
    let fixture = Fixture::unmarked(&frames(8));
    let name = fixture.last_segment();
    let mut bytes = fixture.disk.contents(&name).unwrap();
    let last = Layout::of(&fixture, &bytes).frames[7];
    bytes[last + 40] ^= 1;
    let disk = fixture.copy();
    disk.overwrite(&name, bytes);

    let store = open(&disk);

    assert_eq!(store.report.last, LogIndex(7));
    assert_eq!(store.report.torn.map(|torn| torn.index), Some(LogIndex(8)));
    assert!(!store.report.is_damaged(), "{:?}", store.report);
    assert_eq!(store.state.frames(), 7);
}

#[test]
fn bodies_that_hold_frames_are_never_taken_for_frames() {
    let fixture = Fixture::new(&frames(8));
    let name = fixture.last_segment();
    let bytes = fixture.disk.contents(&name).unwrap();
    let layout = Layout::of(&fixture, &bytes);
    let stolen = &bytes[layout.frames[1]..layout.frames[5]];
    let mut frames = frames(8);
    let mut forged = batch(P, 1_000, 1, stolen.len());
    // The same store, segment and salt: seeds are equal.
    forged = support::batch_with_body(&forged, stolen);
    frames.push(FrameDraft { batches: vec![forged], ..FrameDraft::default() });
    frames.push(frame(P, 2_000, 1, 10));
    let fixture = Fixture::new(&frames);
    let mut bytes = fixture.disk.contents(&name).unwrap();
    let carrier = Layout::of(&fixture, &bytes).frames[8];
    bytes[carrier + 20] ^= 1;
    let disk = fixture.copy();
    disk.overwrite(&name, bytes);

    let store = open(&disk);

    let lost = CorruptRange::Frames { first: LogIndex(9), last: LogIndex(9) };
    assert_eq!(store.report.corrupt, [lost]);
    assert_eq!(store.state.frames(), 9);
    fixture.check_all_but_the_reported(&store);
}

#[test]
fn damaged_manifest_slot_loses_nothing() {
    let fixture = Fixture::reopened(&frames(20));
    for name in MANIFEST {
        let bytes = fixture.disk.contents(name).unwrap();
        for at in 0..600 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let disk = fixture.copy();
            disk.overwrite(name, damaged);
            let before = data_files(&disk);

            // A flip in the version makes it another version's, which is for people to sort out.
            let Ok(store) = Store::<Ledger>::open(Arc::new(disk.clone()), small()) else {
                assert!((8..12).contains(&at), "at={at}");
                continue;
            };

            assert_eq!(store.report.last, fixture.last(), "at={at}");
            assert!(store.report.corrupt.is_empty());
            assert!(before.is_subset(&data_files(&disk)), "no segment goes away, at={at}");
            fixture.check_all_but_the_reported(&store);
        }
    }
}

#[test]
fn segments_alone_are_enough_to_rebuild_the_manifest() {
    let fixture = Fixture::new(&frames(120));
    for lost in [true, false] {
        let disk = fixture.copy();
        for name in MANIFEST {
            if lost {
                disk.lose(name);
            } else {
                disk.overwrite(name, vec![0xAB; 4096]);
            }
        }

        let store = open(&disk);

        assert_eq!(store.report.origin, Origin::Rebuilt);
        assert!(store.report.is_damaged());
        assert_eq!(store.report.last, fixture.last());
        assert_eq!(store.state.frames(), 120);
        fixture.check_all_but_the_reported(&store);
    }
}

#[test]
fn stale_copy_of_a_segment_is_noticed() {
    let mut store = open(&SimFs::new());
    store = {
        drop(store);
        open(&SimFs::new())
    };
    drop(store);
    let disk = SimFs::new();
    let mut store = open(&disk);
    store.journal.append(&[frame(P, 0, 1, 10)]).unwrap();
    store.journal.sync().unwrap();
    let name = segment_names(&disk)[0].clone();
    let stale = disk.contents(&name).unwrap();
    store.journal.append(&[frame(P, 1, 1, 10)]).unwrap();
    store.journal.sync().unwrap();
    drop(store);
    drop(open(&disk));
    disk.overwrite(&name, stale);

    let store = open(&disk);

    assert_eq!(store.report.last, LogIndex(2));
    let lost = CorruptRange::Frames { first: LogIndex(2), last: LogIndex(2) };
    assert_eq!(store.report.corrupt, [lost]);
}

/// A store that was written to and then left without a clean stop.
struct Fixture {
    disk: SimFs,
    frames: Vec<FrameDraft>,
}

impl Fixture {
    /// All frames are durable, and a mark says so.
    fn new(frames: &[FrameDraft]) -> Self {
        let fixture = Self::unmarked(frames);
        let disk = SimFs::new();
        let mut store = open(&disk);
        write(&mut store, frames);
        store.journal.mark(Timestamp(9)).unwrap();
        store.journal.sync().unwrap();
        Self { disk, ..fixture }
    }

    /// Half of the frames come from an earlier start.
    fn of_two_starts(frames: &[FrameDraft]) -> Self {
        let disk = SimFs::new();
        let (earlier, later) = frames.split_at(frames.len() / 2);
        write(&mut open(&disk), earlier);
        let mut store = open(&disk);
        write(&mut store, later);
        store.journal.mark(Timestamp(9)).unwrap();
        store.journal.sync().unwrap();
        Self { disk, frames: frames.to_vec() }
    }

    /// All frames are durable, and nothing says so of the last.
    fn unmarked(frames: &[FrameDraft]) -> Self {
        let disk = SimFs::new();
        write(&mut open(&disk), frames);
        Self { disk, frames: frames.to_vec() }
    }

    /// All frames are durable, and the manifest says so.
    fn reopened(frames: &[FrameDraft]) -> Self {
        let fixture = Self::new(frames);
        drop(open(&fixture.disk));
        fixture
    }

    fn copy(&self) -> SimFs {
        self.disk.crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 })
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.frames.len() as u64)
    }

    fn segments(&self) -> Vec<String> {
        segment_names(&self.disk)
    }

    /// The segment that holds the frame `index`.
    fn segment_of(&self, index: u64) -> String {
        let holds = |name: &String| {
            let bytes = self.disk.contents(name).unwrap();
            Layout::of(self, &bytes).indexes.contains(&index)
        };
        self.segments().into_iter().find(holds).unwrap()
    }

    fn last_segment(&self) -> String {
        self.segment_of(self.last().0)
    }

    /// Everything that the report does not name is as it was appended, and what it names is not
    /// served as sound.
    fn check_all_but_the_reported(&self, store: &Store<Ledger>) {
        let corrupt = &store.report.corrupt;
        let lost = |index: u64| {
            corrupt.iter().any(|range| match range {
                CorruptRange::Frames { first, last } => (first.0..=last.0).contains(&index),
                CorruptRange::Messages { .. } | CorruptRange::Bytes { .. } => false,
            })
        };
        let seen: BTreeSet<u64> = store.state.seen.iter().map(|(index, ..)| index.0).collect();
        let told: Vec<u64> = store.state.lost.iter().map(|index| index.0).collect();
        let all_lost: Vec<u64> = (1..=store.report.last.0).filter(|index| lost(*index)).collect();
        assert_eq!(told, all_lost, "the fold is told what is lost");
        for (index, frame) in (1..).zip(&self.frames) {
            if index > store.report.last.0 {
                continue;
            }
            assert_eq!(seen.contains(&index), !lost(index), "frame={index}");
            if lost(index) {
                continue;
            }
            for batch in &frame.batches {
                let read = store.reader.read(batch.partition, batch.base, 1);
                let reported = |offset: Offset| {
                    corrupt.iter().any(|range| match range {
                        CorruptRange::Messages { partition, first, last, .. } => {
                            *partition == batch.partition && (*first..=*last).contains(&offset)
                        }
                        CorruptRange::Frames { .. } | CorruptRange::Bytes { .. } => false,
                    })
                };
                let found = match read {
                    Ok(found) => found,
                    Err(ReadError::Corrupt { first, last, .. }) => {
                        assert!(reported(first) && reported(last), "frame={index}");
                        continue;
                    }
                    Err(ReadError::Missing { .. }) => {
                        let mut offsets = (0..u64::from(batch.count)).map(|at| batch.base.plus(at));
                        assert!(offsets.any(reported), "frame={index}");
                        continue;
                    }
                    Err(error) => panic!("frame={index}: {error}"),
                };
                let found = found.first().unwrap();
                assert_eq!(found.base, batch.base);
                let view = BatchView::parse(&found.bytes).unwrap();
                for (place, message) in (0..).zip(view.messages()) {
                    let sound = message.verify().is_ok();
                    assert_eq!(sound, !reported(batch.base.plus(place)), "frame={index}");
                }
                let spared = (0..u64::from(batch.count)).all(|at| !reported(batch.base.plus(at)));
                assert_eq!(spared, found.bytes == batch.bytes, "frame={index}");
            }
        }
    }
}

/// Where things lie in a segment.
struct Layout {
    /// Starts of the frames, marks included.
    frames: Vec<usize>,
    indexes: Vec<u64>,
    /// Bytes that mean nothing: between a batch and the next.
    padding: Vec<Range<usize>>,
    end: usize,
    /// Start of the last frame.
    marked: usize,
}

impl Layout {
    fn of(fixture: &Fixture, bytes: &[u8]) -> Self {
        let salt = posthouse_storage::segment::Header::decode(bytes).unwrap().salt;
        let mut layout =
            Self { frames: vec![], indexes: vec![], padding: vec![], end: 0, marked: 0 };
        assert!(!fixture.frames.is_empty());
        for (start, frame) in Scanner::new(FrameKey::new(&salt), bytes) {
            let start = usize::try_from(start).unwrap();
            layout.frames.push(start);
            layout.indexes.push(frame.index.0);
            for entry in frame.batches {
                let end = start + (entry.position + entry.len) as usize;
                layout.padding.push(end..end.next_multiple_of(8));
            }
            layout.marked = start;
            layout.end = start + usize::try_from(frame.len()).unwrap();
        }
        layout
    }
}

fn frames(count: u64) -> Vec<FrameDraft> {
    (0..count)
        .map(|at| {
            let mut frame = frame(P, at * 10, 2, 30 + usize::try_from(at % 5).unwrap());
            if at % 3 == 0 {
                frame.batches.push(batch(Q, at * 10, 1, 21));
            }
            if count > 50 {
                frame.batches.push(batch(PartitionId(5), at * 10, 1, 900));
            }
            frame
        })
        .collect()
}

fn write(store: &mut Store<Ledger>, frames: &[FrameDraft]) {
    for frame in frames {
        store.journal.append(std::slice::from_ref(frame)).unwrap();
        store.journal.sync().unwrap();
    }
}

fn small() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, ..options(1) }
}

fn open(disk: &SimFs) -> Store<Ledger> {
    Store::open(Arc::new(disk.clone()), small()).unwrap()
}

/// Names of the segments that hold frames.
fn segment_names(disk: &SimFs) -> Vec<String> {
    let mut names = disk.all_names();
    names.retain(|name| {
        let is_segment = FileName::parse(name).is_some_and(|name| name.kind == FileKind::Segment);
        is_segment && {
            let bytes = disk.contents(name).unwrap();
            let header = posthouse_storage::segment::Header::decode(&bytes);
            header.is_ok_and(|header| {
                Scanner::new(FrameKey::new(&header.salt), &bytes).next().is_some()
            })
        }
    });
    names
}

fn data_files(disk: &SimFs) -> BTreeSet<String> {
    segment_names(disk).into_iter().collect()
}

#[test]
fn both_slots_of_another_version_are_refused_and_nothing_is_touched() {
    let fixture = Fixture::new(&frames(4));
    let disk = fixture.copy();
    for name in MANIFEST {
        let mut bytes = disk.contents(name).unwrap();
        let Ok(manifest) = Manifest::decode(&bytes) else { continue };
        let mut encoded = Vec::new();
        manifest.encode(&mut encoded);
        encoded[8] += 1;
        encoded[12..16].fill(0);
        let crc = crc32fast::hash(&encoded);
        encoded[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes[..encoded.len()].copy_from_slice(&encoded);
        disk.overwrite(name, bytes);
    }
    let before: Vec<_> = disk.all_names().iter().map(|name| disk.contents(name)).collect();

    let refused = Store::<Ledger>::open(Arc::new(disk.clone()), small());

    assert!(refused.is_err());
    let after: Vec<_> = disk.all_names().iter().map(|name| disk.contents(name)).collect();
    assert!(before == after);
}
