//! A store, what was put into it, and the judgement whether it still holds that.

use crate::guard::Guard;
use crate::toy::{Event, Toy, encode_events};
use bytes::Bytes;
use posthouse_protocol::batch::{BatchBuilder, BatchView};
use posthouse_protocol::{LogIndex, MessageId, Offset, PartitionId, Timestamp};
use posthouse_storage::checkpointer::{CheckpointError, Checkpointer, Step, Task};
use posthouse_storage::frame::{BatchDraft, FrameDraft};
use posthouse_storage::fs::Fs;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::journal::Journal;
use posthouse_storage::reader::Reader;
use posthouse_storage::shared::Shared;
use posthouse_storage::store::Store;
use posthouse_storage::{Fold, Options};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What was appended, whatever became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) frames: Vec<ModelFrame>,
    /// Frames up to here were durable when they were last looked at.
    pub(crate) durable: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelFrame {
    pub(crate) events: Vec<Event>,
    pub(crate) batches: Vec<BatchDraft>,
}

/// An open store.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) state: Toy,
    pub(crate) journal: Journal,
    pub(crate) reader: Reader,
    pub(crate) shared: Arc<Shared>,
    pub(crate) checkpointer: Checkpointer<Toy>,
    pub(crate) now: Duration,
    /// How often each task was done.
    pub(crate) done: BTreeMap<Task, u64>,
}

/// The disk stopped, or the store noticed that something is wrong with it.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a test fails")]
pub(crate) struct Stopped(pub(crate) String);

pub(crate) fn options() -> Options {
    let segment_bytes = 64 << 10;
    Options {
        segment_bytes,
        segments_ready: 2,
        fold_bytes: segment_bytes,
        journal_keep_bytes: 0,
        ..Options::new([7; 16])
    }
}

impl Model {
    /// The state after the first `count` frames.
    pub(crate) fn state_at(&self, count: u64) -> Toy {
        let mut state = Toy::empty();
        for (index, frame) in (1..=count).zip(&self.frames) {
            let events = encode_events(&frame.events);
            let (term, time) = Default::default();
            state.apply(LogIndex(index), term, time, &events).unwrap();
        }
        state
    }

    /// All batches of the first `count` frames.
    fn batches(&self, count: u64) -> BTreeMap<(PartitionId, Offset), Bytes> {
        let count = usize::try_from(count).unwrap();
        let frames = self.frames.iter().take(count);
        let batches = frames.flat_map(|frame| &frame.batches);
        batches.map(|batch| ((batch.partition, batch.base), batch.bytes.clone())).collect()
    }
}

impl World {
    /// Opens the store and checks that it holds what it must; what was not durable and is lost is
    /// taken out of the model.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        options: Options,
        mut model: Model,
    ) -> Result<Self, Stopped> {
        let guard = Arc::new(Guard::new(fs));
        let store =
            Store::<Toy>::open(guard, options).map_err(|error| Stopped(error.to_string()))?;
        let Store { state, report, journal, reader, shared, checkpointer, .. } = store;
        let last = report.last.0;
        assert!(report.corrupt.is_empty(), "{report:?}");
        assert!(report.runs_damaged.is_empty(), "{report:?}");
        assert!(model.durable <= last, "durable={} recovered={last}", model.durable);
        assert!(last <= model.frames.len() as u64, "never appended: {last}");
        model.frames.truncate(usize::try_from(last).unwrap());
        model.durable = last;
        assert_eq!(state, model.state_at(last), "the state after frame {last}");
        let now = Duration::ZERO;
        let world = Self {
            model,
            state,
            journal,
            reader,
            shared,
            checkpointer,
            now,
            done: BTreeMap::new(),
        };
        world.check_readable();
        Ok(world)
    }

    /// Every needed message can be read, with the bytes that were written.
    pub(crate) fn check_readable(&self) {
        let batches = self.model.batches(self.model.frames.len() as u64);
        for (partition, held) in &self.state.partitions {
            for max_bytes in [1, 3000, 1 << 20] {
                self.check_sequence(*partition, max_bytes);
            }
            for offset in &held.needed {
                let of_partition = (*partition, Offset(0))..=(*partition, *offset);
                let (_, expected) = batches.range(of_partition).next_back().unwrap();
                let found = self.reader.read(*partition, *offset, 1).unwrap();
                let first = found.first();
                let first =
                    first.unwrap_or_else(|| panic!("partition={partition} offset={offset}"));
                assert!(first.base <= *offset && *offset < first.next_offset(), "{first:?}");
                assert_eq!(&first.bytes, expected, "partition={partition} offset={offset}");
            }
        }
    }

    /// Reading on from the front gives every needed message once, in order.
    fn check_sequence(&self, partition: PartitionId, max_bytes: usize) {
        let mut needed = self.state.partitions.get(&partition).unwrap().needed.clone();
        let mut next = Offset(0);
        loop {
            let found = self.reader.read(partition, next, max_bytes).unwrap();
            let Some(last) = found.last() else {
                break;
            };
            assert!(found.len() == 1 || max_bytes > 1);
            for batch in &found {
                assert!(batch.base >= next, "{batch:?} comes after {next}");
                next = batch.next_offset();
                needed.retain(|offset| *offset < batch.base || next <= *offset);
            }
            assert_eq!(next, last.next_offset());
        }
        assert!(needed.is_empty(), "partition={partition} not read: {needed:?}");
    }

    /// Appends a few random frames as one group, and perhaps syncs.
    pub(crate) fn append(&mut self, random: &mut Dice) -> Result<(), Stopped> {
        let mut drafts = Vec::new();
        for _ in 0..=random.below(3) {
            let frame = self.random_frame(random);
            drafts.push(FrameDraft {
                time: Timestamp(self.model.frames.len() as u64),
                events: encode_events(&frame.events).into(),
                batches: frame.batches.clone(),
                ..FrameDraft::default()
            });
            self.model.frames.push(frame);
        }
        self.journal.append(&drafts).map_err(|error| Stopped(error.to_string()))?;
        if random.below(3) > 0 {
            self.sync()?;
        }
        Ok(())
    }

    /// Appends what fills a whole segment or two, all to one partition, and syncs.
    pub(crate) fn append_stream(&mut self, random: &mut Dice) -> Result<(), Stopped> {
        let partition = PartitionId(3 * u32::from(byte(random) % 4));
        for _ in 0..20 {
            let start = self.state.partitions.entry(partition).or_default().next;
            let bytes = stream_batch(random);
            let view = BatchView::parse(&bytes).unwrap();
            let (count, header_crc) = (view.count(), view.header_crc());
            let event = Event::Publish { partition, start, end: start.plus(u64::from(count)) };
            self.state.apply_event(&event);
            self.state.applied += 1;
            let batches = vec![BatchDraft { partition, base: start, count, header_crc, bytes }];
            let frame = ModelFrame { events: vec![event], batches };
            let draft = FrameDraft {
                events: encode_events(&frame.events).into(),
                batches: frame.batches.clone(),
                ..FrameDraft::default()
            };
            self.model.frames.push(frame);
            self.journal.append(&[draft]).map_err(|error| Stopped(error.to_string()))?;
        }
        self.sync()
    }

    pub(crate) fn sync(&mut self) -> Result<(), Stopped> {
        let durable = self.journal.sync().map_err(|error| Stopped(error.to_string()))?;
        self.model.durable = durable.0;
        Ok(())
    }

    fn random_frame(&mut self, random: &mut Dice) -> ModelFrame {
        let mut events = Vec::new();
        let mut batches = Vec::new();
        for _ in 0..=random.below(2) {
            let partition = PartitionId(3 * u32::from(byte(random) % 4));
            let held = self.state.partitions.entry(partition).or_default();
            let start = held.next;
            if random.below(3) > 0 {
                let bytes = batch(random);
                let view = BatchView::parse(&bytes).unwrap();
                let (count, header_crc) = (view.count(), view.header_crc());
                let end = start.plus(u64::from(count));
                events.push(Event::Publish { partition, start, end });
                batches.push(BatchDraft { partition, base: start, count, header_crc, bytes });
            } else {
                let first = held.needed.first().copied().unwrap_or(start);
                let width = start.distance_from(first) + 1;
                let from =
                    if random.below(2) > 0 { first } else { first.plus(random.below(width)) };
                let end = from.plus(1 + random.below(width)).min(start).max(from);
                events.push(Event::Settle { partition, start: from, end });
            }
            self.state.apply_event(events.last().unwrap());
        }
        self.state.applied += 1;
        ModelFrame { events, batches }
    }

    /// One step of the checkpointer; gives what it did or failed at.
    pub(crate) fn step(&mut self) -> Result<Step, Stopped> {
        let step = self.checkpointer.step(self.now);
        assert!(self.checkpointer.take_damaged().is_empty());
        if let Ok(Step::Worked(task)) = step {
            *self.done.entry(task).or_default() += 1;
        }
        step.map_err(|error| match error {
            CheckpointError::Journal { .. } | CheckpointError::Apply { .. } => panic!("{error}"),
            CheckpointError::Io { .. }
            | CheckpointError::Manifest(_)
            | CheckpointError::Run { .. }
            | CheckpointError::Checkpoint { .. } => Stopped(error.to_string()),
        })
    }

    pub(crate) const fn task(&self) -> Task {
        self.checkpointer.task()
    }

    /// Lets time pass and the checkpointer work until it has nothing to do.
    pub(crate) fn settle(&mut self) -> Result<(), Stopped> {
        self.sync()?;
        for _ in 0..3 {
            self.now += Duration::from_secs(20);
            self.shared.request_roll();
            self.journal.roll_if_requested().map_err(|error| Stopped(error.to_string()))?;
            self.sync()?;
            while let Step::Worked(_) = self.step()? {}
        }
        self.check_readable();
        Ok(())
    }
}

/// A batch of a few messages, now and then a large one.
fn batch(random: &mut Dice) -> Bytes {
    let mut builder = BatchBuilder::new();
    let is_large = random.below(8) == 0;
    for _ in 0..=random.below(3) {
        let len = if is_large { 850 } else { random.below(300) };
        let body: Vec<u8> = (0..len).map(|_| byte(random)).collect();
        let message = posthouse_protocol::batch::Message {
            id: MessageId([byte(random); 16]),
            body: body.into(),
            ..Default::default()
        };
        builder.push(&message).unwrap();
    }
    builder.finish(Timestamp(1))
}

/// Two messages that nearly fill a frame.
fn stream_batch(random: &mut Dice) -> Bytes {
    let mut builder = BatchBuilder::new();
    for _ in 0..2 {
        let body = Bytes::from(vec![byte(random); 3_700]);
        let message = posthouse_protocol::batch::Message { body, ..Default::default() };
        builder.push(&message).unwrap();
    }
    builder.finish(Timestamp(1))
}

const fn byte(random: &mut Dice) -> u8 {
    let [byte, ..] = random.throw().to_le_bytes();
    byte
}
