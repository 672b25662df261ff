//! The checkpointer: turns finished journal into checkpoints and runs, and makes room.
//!
//! It keeps a state of its own, folded from durable frames only, and never looks
//! at live state. All work is done by [`Checkpointer::step`], one bounded piece at
//! a time, so that a thread can drive it and a simulation can stop it anywhere:
//!
//! ```text
//!          finished journal                        less than half needed, or many small ones
//! Resting ------------------> Fold -> Save -+  +------------------------------- Resting
//!    ^                                      v  v
//!    |                                      Copy -> Seal -> Name -> Verify
//!    |                                                                v
//!    +--------------------------------------------- Swap <--------- Commit
//! Resting, or before a fold goes on: Retire -> Recycle, one file at a time
//! ```
//!
//! Until `Commit` (commit B) has returned, nothing that the manifest names has
//! changed, and a crash repeats the work. Files are freed only after both slots
//! of the manifest name them as retired (commit C), and only when no reader holds
//! a slice of them.

mod adopt;
mod compact;
mod error;
mod fold;
mod free;
mod job;
mod progress;
mod rewrite;
mod source;

pub use error::CheckpointError;
pub use progress::Progress;
pub use rewrite::DamagedBatch;

use crate::fold::Fold;
use crate::names::FileId;
use crate::run::{Run, Runs};
use crate::shared::{Segment, Shared};
use compact::Survey;
use fold::{Folded, Folding};
use free::Free;
use job::Job;
use posthouse_protocol::{LogIndex, StartEpoch, Timestamp};
use rewrite::Rewrite;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait after a full disk or damage.
const RETRY: Duration = Duration::from_secs(1);

/// Folds, compacts and frees in the background.
#[derive(Debug)]
pub struct Checkpointer<F> {
    shared: Arc<Shared>,
    folded: Folded<F>,
    runs: Runs,
    work: Work,
    /// What the latest step did, or tried to.
    task: Task,
    retry_at: Option<Duration>,
    /// A fold or a segment found no room, whatever the system counts as free, and nothing was made
    /// free since.
    lacks_room: bool,
    /// When to try again to make a segment ready, after the disk was full.
    ready_at: Duration,
    quiet: Quiet,
    /// Whether to fold what is finished however little it is.
    is_hurried: bool,
    free: Free,
    survey: Survey,
    damaged: Vec<DamagedBatch>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Work {
    Resting,
    Folding(Folding),
    Writing(Box<Job>),
}

/// How long the journal has not grown.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    written: LogIndex,
    since: Duration,
}

/// One bounded piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Apply the frames of one segment.
    Fold,
    /// Write the state.
    Save,
    /// Copy needed batches, or check and index them in a segment that is adopted.
    Copy,
    /// Write an index and sync the file.
    Seal,
    /// Give the files their names and sync the directory.
    Name,
    /// Read back past the page cache.
    Verify,
    /// Commit B.
    Commit,
    /// Show readers the new files.
    Swap,
    /// Look for something that can be freed.
    Choose,
    /// Commit C.
    Retire,
    /// Make a spare of a file that nobody reads any more, or remove it.
    Recycle,
    /// Make a segment ready for the journal.
    Ready,
    /// Find out how much of a run is still needed.
    Survey,
    /// Gather what a compaction has to copy.
    Gather,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more.
    Worked(Task),
    /// There is nothing to do before this time, unless the journal finishes a segment.
    Idle {
        /// On the clock of `now`.
        until: Duration,
    },
    /// The disk is full. What was begun was removed; it is tried again later.
    OutOfSpace {
        /// On the clock of `now`.
        until: Duration,
    },
}

/// What recovery knows about the newest sound checkpoint.
#[derive(Debug)]
pub struct Start<F> {
    /// The state in it; empty if there is none.
    pub state: F,
    /// The last frame in it.
    pub index: LogIndex,
    /// That frame's term.
    pub term: StartEpoch,
    /// That frame's time.
    pub time: Timestamp,
    /// The runs, as the readers' view holds them.
    pub runs: Runs,
}

impl<F: Fold> Checkpointer<F> {
    /// Goes on from the checkpoint that recovery used.
    #[must_use]
    pub fn new(shared: Arc<Shared>, start: Start<F>) -> Self {
        let Start { state, index, term, time, runs } = start;
        let progress = Arc::new(Progress::default());
        let free = Free::new(&shared.manifest(), index);
        let mut checkpointer = Self {
            shared,
            folded: Folded { state, index, term, time },
            runs,
            work: Work::Resting,
            task: Task::Choose,
            retry_at: None,
            lacks_room: false,
            ready_at: Duration::ZERO,
            quiet: Quiet::default(),
            is_hurried: false,
            free,
            survey: Survey::default(),
            damaged: Vec::new(),
            progress,
        };
        checkpointer.survey.restart();
        checkpointer.publish_progress(Duration::ZERO);
        checkpointer
    }

    /// Does one bounded piece of work. `now` is any monotonic clock, the same in all calls.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]. If it is fatal the process must end; else the same work is tried again
    /// by a later step.
    pub fn step(&mut self, now: Duration) -> Result<Step, CheckpointError> {
        self.watch(now);
        // Comes before everything else: the journal must never have to wait for it.
        if self.make_ready(now)? {
            return Ok(Step::Worked(Task::Ready));
        }
        if let Some(until) = self.retry_at.filter(|at| *at > now) {
            return Ok(Step::Idle { until });
        }
        self.retry_at = None;
        match self.advance(now) {
            Err(error) if error.is_out_of_space() => {
                self.give_up_writing();
                // A compaction does without.
                if matches!(self.work, Work::Folding(_)) {
                    self.lacks_room = true;
                    self.progress.note_out_of_space(true);
                }
                let until = now.saturating_add(RETRY);
                self.retry_at = Some(until);
                Ok(Step::OutOfSpace { until })
            }
            Err(error) => {
                if !error.is_fatal() {
                    self.give_up_writing();
                    self.retry_at = Some(now.saturating_add(RETRY));
                }
                Err(error)
            }
            done => done,
        }
    }

    /// Asks for a fold of everything that is finished, however little: before a clean stop, for
    /// one. Let the journal roll first.
    pub const fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// What the latest step did, or failed at.
    #[must_use]
    pub const fn task(&self) -> Task {
        self.task
    }

    /// The last frame in the newest checkpoint, or in the one being made.
    #[must_use]
    pub const fn folded(&self) -> LogIndex {
        self.folded.index
    }

    /// Figures for the space budget, kept up to date by every step.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Batches found damaged since the last call, for the log and the health report.
    pub fn take_damaged(&mut self) -> Vec<DamagedBatch> {
        std::mem::take(&mut self.damaged)
    }

    fn watch(&mut self, now: Duration) {
        let written = self.shared.written();
        if written != self.quiet.written {
            self.quiet = Quiet { written, since: now };
        }
    }

    fn advance(&mut self, now: Duration) -> Result<Step, CheckpointError> {
        // Not only at rest: a fold that found no room would else wait for ever for what can be freed.
        if !matches!(self.work, Work::Writing(_)) && self.make_room(now)? {
            return Ok(Step::Worked(self.task));
        }
        match &mut self.work {
            Work::Resting => self.choose(now),
            Work::Folding(folding) => {
                self.task = Task::Fold;
                if folding.advance(&mut self.folded)? {
                    self.start_writing();
                }
                Ok(Step::Worked(Task::Fold))
            }
            Work::Writing(_) => self.write(now),
        }
    }

    fn start_writing(&mut self) {
        if let Work::Folding(folding) = std::mem::replace(&mut self.work, Work::Resting) {
            let (rewrite, last) = folding.finish(&self.folded, &self.runs);
            self.work = Work::Writing(Box::new(Job::fold(rewrite, last)));
        }
    }

    fn write(&mut self, now: Duration) -> Result<Step, CheckpointError> {
        let Work::Writing(job) = &mut self.work else {
            return Ok(Step::Worked(self.task));
        };
        self.task = job.task();
        if let Some(done) = job.advance(&self.shared, &self.folded, &self.runs)? {
            self.damaged.extend(done.damaged);
            self.free.dropped.extend(done.dropped);
            self.runs = done.runs;
            self.work = Work::Resting;
            self.lacks_room = false;
            self.survey.restart();
            self.publish_progress(now);
        }
        Ok(Step::Worked(self.task))
    }

    /// Removes what an unfinished job has made. A fold begins again, a compaction is dropped.
    fn give_up_writing(&mut self) {
        let job = match std::mem::replace(&mut self.work, Work::Resting) {
            Work::Writing(job) => job,
            other @ (Work::Resting | Work::Folding(_)) => {
                self.work = other;
                return;
            }
        };
        for name in job.leftovers() {
            // What cannot be removed now is removed by the next start.
            let _: Result<(), std::io::Error> = self.shared.fs.remove(&name.to_string());
        }
        let Some(begun) = job.into_fold() else {
            self.survey.block();
            return;
        };
        let finished = self.shared.finished_after(self.folded.index);
        let fences = self.shared.manifest().fences;
        self.work = Work::Folding(Folding::resume(begun, finished, fences));
    }

    /// What to do while nothing is being written.
    fn choose(&mut self, now: Duration) -> Result<Step, CheckpointError> {
        self.task = Task::Choose;
        if let Some(folding) = self.due_fold(now) {
            self.work = Work::Folding(folding);
            return Ok(Step::Worked(Task::Choose));
        }
        if self.survey_one() || self.start_compaction() || self.start_second_checkpoint() {
            self.publish_progress(now);
            return Ok(Step::Worked(self.task));
        }
        Ok(Step::Idle { until: self.idle_until(now) })
    }

    /// Starts a fold if enough of the journal is finished, or if nothing else happens.
    fn due_fold(&mut self, now: Duration) -> Option<Folding> {
        let mut finished = self.shared.finished_after(self.folded.index);
        let bytes: u64 = finished.iter().map(|segment| length(segment)).sum();
        let is_quiet = self.is_quiet(now);
        if finished.is_empty() {
            self.is_hurried = false;
            if is_quiet && self.unfolded_bytes() >= self.idle_bytes_min() {
                self.shared.request_roll();
            }
            return None;
        }
        let is_short = self.is_short();
        if bytes < self.fold_target() && !is_quiet && !self.is_hurried && !is_short {
            return None;
        }
        // A journal that is filled faster than it is folded gets room piece by piece, not once in
        // many seconds. Folded as a whole less is copied, for less is needed by then: where there
        // is little space that comes first.
        if !is_short {
            finished.truncate(enough(&finished, self.fold_target()));
        }
        let fences = self.shared.manifest().fences;
        Some(Folding::new(self.folded.index, finished, fences))
    }

    /// When space is short, makes a second checkpoint at the same frame, so that the journal between
    /// the two can be freed although nothing new is finished.
    fn start_second_checkpoint(&mut self) -> bool {
        let manifest = self.shared.manifest();
        let newest = manifest.checkpoints.last().map(|entry| entry.index);
        let is_single = manifest.checkpoints.len() < 2;
        let is_apart = manifest.checkpoints.first().map(|entry| entry.index) != newest;
        let index = self.folded.index;
        if newest != Some(index) || !(is_single || is_apart) || !self.is_short() {
            return false;
        }
        let rewrite = Rewrite::new(index, index, Vec::new(), Vec::new());
        self.work = Work::Writing(Box::new(Job::fold(rewrite, FileId(0))));
        true
    }

    fn is_quiet(&self, now: Duration) -> bool {
        now.saturating_sub(self.quiet.since) >= self.shared.options.fold_idle
    }

    /// Unfolded journal at which it is worth folding: never more than half the ring.
    fn fold_target(&self) -> u64 {
        let options = &self.shared.options;
        let target = options.fold_bytes.max(self.progress.checkpoint_bytes().saturating_mul(4));
        target.min(options.unfolded_bytes_max / 2)
    }

    /// A journal shorter than this is not worth a run when all is quiet: replaying it takes less
    /// than a millisecond.
    fn idle_bytes_min(&self) -> u64 {
        self.shared.options.segment_bytes / 64
    }

    fn unfolded_bytes(&self) -> u64 {
        self.shared.written_bytes().saturating_sub(self.progress.folded_bytes())
    }

    fn idle_until(&self, now: Duration) -> Duration {
        let quiet_at = self.quiet.since.saturating_add(self.shared.options.fold_idle);
        let retired = self.free.next_deadline(now);
        let idle = if quiet_at > now {
            quiet_at
        } else {
            now.saturating_add(self.shared.options.fold_idle)
        };
        retired.map_or(idle, |at| at.min(idle))
    }
}

/// Bytes of a finished segment.
fn length(segment: &Segment) -> u64 {
    segment.end().map_or(0, |end| end.position)
}

/// How many of these segments hold `target` bytes together; all, if they hold less.
fn enough(segments: &[Arc<Segment>], target: u64) -> usize {
    let mut bytes = 0;
    let reaches = segments.iter().position(|segment| {
        bytes += length(segment);
        bytes >= target
    });
    reaches.map_or(segments.len(), |place| place + 1)
}

/// The runs that are left when those in `gone` are.
fn without(runs: &Runs, gone: impl Fn(&Run) -> bool) -> Vec<Arc<Run>> {
    runs.all().iter().filter(|run| !gone(run)).cloned().collect()
}
