//! Folding finished journal into the checkpointer's own state, and noting its batches.

use super::error::CheckpointError;
use super::rewrite::Rewrite;
use super::source::{Found, Source};
use crate::fold::{Fold, overlaps};
use crate::frame::{FrameView, Kind};
use crate::manifest::{Fence, SegmentEnd};
use crate::names::FileId;
use crate::run::{Adopted, Runs};
use crate::segment::Scanner;
use crate::shared::Segment;
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A fold stops taking in segments once it has noted this many batches, to bound its memory.
const BATCHES_MAX: usize = 1 << 18;
/// Offsets that the state is asked about at once.
const STRETCH: u64 = 1 << 18;

/// A state and the frame it is at.
#[derive(Debug)]
pub(super) struct Folded<F> {
    pub(super) state: F,
    pub(super) index: LogIndex,
    pub(super) term: StartEpoch,
    pub(super) time: Timestamp,
}

impl<F: Fold> Folded<F> {
    /// Tells the state of the frames up to `last` that were not applied, if there are any.
    fn lose_through(&mut self, last: LogIndex) {
        if self.index < last {
            self.state.lost(self.index.next(), last);
            self.index = last;
        }
    }
}

/// Segments being folded.
#[derive(Debug)]
pub(super) struct Folding {
    after: LogIndex,
    segments: VecDeque<Arc<Segment>>,
    fences: Vec<Fence>,
    sources: Vec<Source>,
    batches: Vec<Found>,
    last: FileId,
}

impl Folding {
    pub(super) fn new(after: LogIndex, segments: Vec<Arc<Segment>>, fences: Vec<Fence>) -> Self {
        let last = FileId(0);
        let segments = segments.into();
        Self { after, segments, fences, sources: Vec::new(), batches: Vec::new(), last }
    }

    /// Takes up a fold whose files could not be written, together with what was finished
    /// meanwhile: more may have been settled by now, and less have to be copied.
    pub(super) fn resume(
        (rewrite, last): (Rewrite, FileId),
        mut segments: Vec<Arc<Segment>>,
        fences: Vec<Fence>,
    ) -> Self {
        let (after, sources, batches) = rewrite.into_parts();
        if batches.len() >= BATCHES_MAX {
            segments.clear();
        }
        Self { after, segments: segments.into(), fences, sources, batches, last }
    }

    /// Folds one segment; true once all are folded, or enough of them.
    ///
    /// May be called again after an error: no frame is applied twice.
    pub(super) fn advance<F: Fold>(
        &mut self,
        folded: &mut Folded<F>,
    ) -> Result<bool, CheckpointError> {
        let Some(segment) = self.segments.front().cloned() else {
            return Ok(true);
        };
        if let Some(end) = segment.end() {
            self.fold_segment(&segment, end, folded)?;
        }
        self.last = segment.id;
        self.segments.pop_front();
        Ok(self.segments.is_empty() || self.batches.len() >= BATCHES_MAX)
    }

    fn fold_segment<F: Fold>(
        &mut self,
        segment: &Segment,
        end: SegmentEnd,
        folded: &mut Folded<F>,
    ) -> Result<(), CheckpointError> {
        let missing = |index| CheckpointError::Journal { segment: segment.id, index };
        let bytes = segment.map.slice(0..end.position);
        let bytes = bytes.ok_or_else(|| missing(folded.index.next()))?;
        // After an error the same segment comes again.
        if self.last_source() != Some(segment.id) {
            let segment = Some(Adopted::of(segment));
            self.sources.push(Source { bytes: bytes.clone(), segment });
        }
        let source = u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX);
        for (position, frame) in Scanner::new(segment.key, &bytes) {
            // Marks and footers repeat the last index. What is fenced stays out even if it can be
            // read now: recovery has left it out.
            let is_new = folded.index < frame.index && frame.index <= end.last;
            if frame.kind != Kind::Data || !is_new {
                continue;
            }
            let before = LogIndex(frame.index.0 - 1);
            if !self.is_fenced(folded.index.next(), before) {
                return Err(missing(folded.index.next()));
            }
            folded.lose_through(before);
            if self.is_fenced(frame.index, frame.index) {
                folded.lose_through(frame.index);
            } else {
                self.take(position, source, &frame, folded)?;
                folded.index = frame.index;
            }
        }
        if !self.is_fenced(folded.index.next(), end.last) {
            return Err(missing(folded.index.next()));
        }
        folded.lose_through(end.last);
        Ok(())
    }

    fn last_source(&self) -> Option<FileId> {
        self.sources.last()?.segment.as_ref().map(|segment| segment.id)
    }

    fn take<F: Fold>(
        &mut self,
        position: u64,
        source: u32,
        frame: &FrameView<'_>,
        folded: &mut Folded<F>,
    ) -> Result<(), CheckpointError> {
        let index = frame.index;
        let applied = folded.state.apply(index, frame.term, frame.time, frame.events);
        applied.map_err(|source| CheckpointError::Apply { index, source: source.into() })?;
        folded.term = frame.term;
        folded.time = frame.time;
        self.batches.extend(frame.batches.map(|entry| Found {
            partition: entry.partition,
            count: entry.count,
            base: entry.base,
            position: position + u64::from(entry.position),
            len: entry.len,
            crc: entry.header_crc,
            source,
        }));
        Ok(())
    }

    /// Whether all of `first..=last` is known to be damaged; true if that is nothing.
    fn is_fenced(&self, first: LogIndex, last: LogIndex) -> bool {
        let mut next = first;
        for fence in &self.fences {
            if fence.first <= next && next <= fence.last {
                next = fence.last.next();
            }
        }
        next > last
    }

    /// What has to be copied now that the state at the end is known, and the last segment folded.
    pub(super) fn finish<F: Fold>(mut self, folded: &Folded<F>, runs: &Runs) -> (Rewrite, FileId) {
        retain_needed(&mut self.batches, &folded.state);
        // After recovery from the older checkpoint, runs hold some of this journal already. Where
        // an index cannot be read, a second copy does no harm.
        if runs.all().iter().any(|run| run.identity().through > self.after) {
            self.batches.retain(|batch| !runs.has(batch.partition, batch.base).unwrap_or(false));
        }
        let rewrite = Rewrite::new(self.after, folded.index, self.sources, self.batches);
        (rewrite, self.last)
    }
}

/// Sorts `batches` and drops those that no needed offset lies in.
pub(super) fn retain_needed<F: Fold>(batches: &mut Vec<Found>, state: &F) {
    batches.sort_unstable_by_key(|batch| (batch.partition, batch.base));
    let mut stretch = Stretch::default();
    batches.retain(|batch| stretch.needs(state, batch));
}

/// What is needed of a stretch of one partition: never all of it at once, for it may have more holes
/// than there is memory for.
#[derive(Default)]
struct Stretch {
    partition: Option<PartitionId>,
    end: Offset,
    needed: Vec<Range<Offset>>,
}

impl Stretch {
    /// Whether any of `batch` is needed; batches come in the order of their offsets.
    fn needs<F: Fold>(&mut self, state: &F, batch: &Found) -> bool {
        let end = batch.base.plus(u64::from(batch.count));
        if self.partition != Some(batch.partition) || end > self.end {
            self.partition = Some(batch.partition);
            self.end = end.max(batch.base.plus(STRETCH));
            self.needed = state.needed(batch.partition, batch.base..self.end);
        }
        overlaps(&self.needed, batch.base, end)
    }
}
