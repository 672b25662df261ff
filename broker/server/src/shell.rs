//! The shell around the engine: takes everything that waits, lets the engine decide, writes the
//! journal, syncs, and lets leave what may.
//!
//! One round is: inputs -> engine -> one append -> what is open leaves -> sync if something waits
//! for one -> what has opened leaves. It has no clock, no sockets and no threads of its own: the
//! time comes with each call and what leaves goes to an [`Outlet`], so that the simulation runs
//! the same rounds on a simulated disk.
//!
//! When it is the only work, the shell syncs itself: a hand-over to a thread and back costs more
//! than it saves. Large groups are handed over while the next one gathers. See decision 0002.

use crate::bugs::{Bug, planted};
use crate::commits::Commits;
use crate::exit::Exit;
use crate::gates::Gates;
use bytes::{Bytes, BytesMut};
use posthouse_engine::effect::{Append, BatchAppend, Deliver, Fetch};
use posthouse_engine::input::{ConnectionId, LoadPurpose, Space};
use posthouse_engine::{Effect, Effects, Engine, Gate, Input, Now, Time, event};
use posthouse_protocol::{CorrelationId, LogIndex, Offset, PartitionId, Reply, SubscriptionId};
use posthouse_storage::checkpointer::Progress;
use posthouse_storage::frame::{BatchDraft, FrameDraft};
use posthouse_storage::journal::{Journal, SyncDone, SyncJob};
use posthouse_storage::recover::RecoveryReport;
use posthouse_storage::shared::Shared;
use std::sync::Arc;

/// Written bytes not yet durable from which on a sync is handed over.
const HAND_OVER_BYTES: usize = 64 << 10;
/// Milliseconds after the last sync at which an idle journal gets its mark.
const MARK_MS: u64 = 100;
/// Milliseconds after which what is only written is synced as well.
const WRITTEN_SYNC_MS: u64 = 1_000;
/// Milliseconds between two looks at the free space.
const SPACE_MS: u64 = 100;
/// Memory for the events of frames that is taken at a time.
const EVENTS_BYTES: usize = 64 << 10;

/// Where everything goes that leaves the shell.
pub trait Outlet {
    /// Sends a reply, or a push if the correlation is 0.
    fn reply(&mut self, connection: ConnectionId, correlation: CorrelationId, reply: Reply);

    /// Reads messages and sends them. Called in the order in which they were handed out.
    fn deliver(&mut self, deliver: Deliver);

    /// Reads something that may lie on the disk and comes back with it as an input or a reply.
    fn load(&mut self, job: Job);

    /// What was given before may leave now: a sync comes next, which takes long, or the end of the
    /// round.
    fn flush(&mut self) {}
}

/// Where the shell looks how much room there is.
#[derive(Clone, Debug)]
pub struct Room {
    /// The open store.
    pub shared: Arc<Shared>,
    /// The checkpointer's figures.
    pub progress: Arc<Progress>,
}

/// One thing to read.
#[derive(Debug)]
pub enum Job {
    /// See [`Effect::LoadWindow`].
    Window {
        /// For this subscription.
        subscription: SubscriptionId,
        /// Of this partition.
        partition: PartitionId,
        /// First offset of interest.
        from: Offset,
        /// End of interest.
        end: Offset,
        /// Entries at most.
        entries_max: usize,
    },
    /// See [`Effect::LoadMessage`].
    Message {
        /// Why.
        purpose: LoadPurpose,
        /// Of this partition.
        partition: PartitionId,
        /// Where it is.
        offset: Offset,
        /// Headers to add.
        headers: Vec<(Bytes, Bytes)>,
    },
    /// See [`Effect::LoadDue`].
    Due {
        /// The waiting room.
        partition: PartitionId,
        /// Where the messages are.
        offsets: Vec<Offset>,
        /// Bytes of the batch at most.
        bytes_max: usize,
        /// Whether the log has been told lately that some cannot be read.
        told: bool,
    },
    /// See [`Fetch`].
    Fetch(Fetch),
}

/// The engine, the journal, and what waits between them.
#[derive(Debug)]
pub struct Shell<O> {
    engine: Engine,
    journal: Journal,
    gates: Gates<Output>,
    outlet: O,
    room: Room,
    timers: Timers,
    unsynced_bytes: usize,
    hand_over_bytes: usize,
    /// A sync is under way elsewhere.
    syncing: bool,
    effects: Effects,
    frames: Vec<FrameDraft>,
    commits: Commits,
    /// Events of one frame, while they are encoded.
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Timers {
    mark_at: Option<Time>,
    sync_at: Option<Time>,
    space_at: Time,
    was_out_of_space: bool,
}

/// What can wait behind a gate.
#[derive(Debug)]
enum Output {
    Reply { connection: ConnectionId, correlation: CorrelationId, reply: Reply },
    Deliver(Deliver),
    Load(Job),
}

impl<O: Outlet> Shell<O> {
    /// A shell over what recovery has returned. [`Self::start`] comes next.
    pub fn new(engine: Engine, journal: Journal, room: Room, outlet: O) -> Self {
        Self {
            gates: Gates::new(journal.durable()),
            engine,
            journal,
            outlet,
            room,
            timers: Timers::default(),
            unsynced_bytes: 0,
            hand_over_bytes: HAND_OVER_BYTES,
            syncing: false,
            effects: Effects::new(),
            frames: Vec::new(),
            commits: Commits::default(),
            scratch: Scratch::default(),
        }
    }

    /// Hands over syncs from so many unsynced bytes on, so that a simulation gets to see them with
    /// little traffic.
    pub const fn set_hand_over_bytes(&mut self, bytes: usize) {
        self.hand_over_bytes = bytes;
    }

    /// Begins the start epoch that recovery has made; when this returns it is durable.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed.
    pub fn start(&mut self, now: Now, report: &RecoveryReport) -> Result<(), Exit> {
        self.look_at_space(now);
        let (epoch, clean) = (report.start_epoch, report.clean);
        let start = Input::Start { epoch, clean, damaged: report.may_lack_frames() };
        self.engine.handle(now, start, &mut self.effects);
        self.settle_round(now)?;
        self.journal.sync().map_err(disk)?;
        self.committed(now)
    }

    /// When the next round is due even if nothing arrives.
    pub fn wake_at(&self) -> Time {
        let timers = [self.engine.next_deadline(), self.timers.mark_at, self.timers.sync_at];
        timers.into_iter().flatten().fold(self.timers.space_at, Time::min)
    }

    /// Whether everything that was decided has left.
    pub fn is_drained(&self) -> bool {
        self.gates.is_empty() && !self.syncing
    }

    /// The durable state as it is now, for comparing it with what recovery makes of the journal.
    pub const fn state(&self) -> &posthouse_engine::State {
        self.engine.state()
    }

    /// Where everything goes.
    pub const fn outlet(&mut self) -> &mut O {
        &mut self.outlet
    }

    /// One round over `inputs`. If it returns a job, run it anywhere and give the result to
    /// [`Self::synced`]; meanwhile rounds go on.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed; nothing that depends on what was not synced has left.
    pub fn round(
        &mut self,
        now: Now,
        inputs: impl Iterator<Item = Input>,
    ) -> Result<Option<SyncJob>, Exit> {
        self.look_at_space(now);
        for input in inputs {
            self.engine.handle(now, input, &mut self.effects);
        }
        if self.engine.next_deadline().is_some_and(|at| at <= now.mono) {
            self.engine.handle(now, Input::Deadline, &mut self.effects);
        }
        self.settle_round(now)?;
        self.sync_as_needed(now)
    }

    /// The end of a sync that was handed over.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the sync failed.
    pub fn synced(&mut self, now: Now, done: SyncDone) -> Result<(), Exit> {
        self.syncing = false;
        self.journal.finish_sync(done).map_err(disk)?;
        self.committed(now)
    }

    /// Lets the engine end the round and carries out what it wants, until it wants nothing more.
    fn settle_round(&mut self, now: Now) -> Result<(), Exit> {
        loop {
            self.engine.flush(now, &mut self.effects);
            if self.effects.is_empty() {
                return Ok(());
            }
            let mut effects = std::mem::take(&mut self.effects);
            let appended = self.append(now, &mut effects)?;
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
            self.effects = effects;
            if appended {
                let progress = self.progress();
                self.engine.handle(now, progress, &mut self.effects);
            }
        }
    }

    fn progress(&self) -> Input {
        let (written, durable) = (self.journal.written(), self.journal.durable());
        let committed = if planted(Bug::ServeUnsynced) { written } else { durable };
        Input::Progress { written, committed }
    }

    /// Appends the frames among `effects` as one group.
    fn append(&mut self, now: Now, effects: &mut Effects) -> Result<bool, Exit> {
        let mut last = LogIndex::ZERO;
        for effect in effects.iter_mut() {
            if let Effect::Append(append) = effect {
                last = append.index;
                self.commits.joined(append);
                let frame = draft(std::mem::take(append), &mut self.scratch);
                let bytes = frame.batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
                self.unsynced_bytes += bytes;
                self.frames.push(frame);
            }
        }
        if self.frames.is_empty() {
            return Ok(false);
        }
        self.commits.before_write();
        let written = self.journal.append(&self.frames).map_err(disk)?;
        assert_eq!(written, last, "engine and journal count frames alike");
        self.commits.after_write(written);
        self.frames.clear();
        self.gates.wrote(written);
        let overdue_at = now.mono.plus_millis(WRITTEN_SYNC_MS);
        self.timers.sync_at = Some(self.timers.sync_at.unwrap_or(overdue_at));
        Ok(true)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Append(_) => {} // Written already, with the others of its group.
            Effect::Reply { connection, correlation, reply, gate } => {
                self.pass(gate, false, Output::Reply { connection, correlation, reply });
            }
            Effect::Deliver(deliver) => self.pass(deliver.gate, true, Output::Deliver(deliver)),
            Effect::Fetch(fetch) => self.pass(fetch.gate, false, Output::Load(Job::Fetch(fetch))),
            Effect::LoadWindow { subscription, partition, from, end, entries_max } => {
                self.outlet.load(Job::Window { subscription, partition, from, end, entries_max });
            }
            Effect::LoadMessage { purpose, partition, offset, headers } => {
                self.outlet.load(Job::Message { purpose, partition, offset, headers });
            }
            Effect::LoadDue { partition, offsets, bytes_max, told } => {
                self.outlet.load(Job::Due { partition, offsets, bytes_max, told });
            }
        }
    }

    fn pass(&mut self, gate: Gate, in_order: bool, output: Output) {
        let gate = if planted(Bug::AckBeforeSync) { Gate::Now } else { gate };
        if let Some(output) = self.gates.pass(gate, in_order, output) {
            self.let_out(output);
        }
    }

    fn let_out(&mut self, output: Output) {
        match output {
            Output::Reply { connection, correlation, reply } => {
                self.outlet.reply(connection, correlation, reply);
            }
            Output::Deliver(deliver) => self.outlet.deliver(deliver),
            Output::Load(job) => self.outlet.load(job),
        }
    }

    fn sync_as_needed(&mut self, now: Now) -> Result<Option<SyncJob>, Exit> {
        if self.syncing {
            return Ok(None);
        }
        let awaited = self.gates.wanted().is_some();
        let overdue = self.timers.sync_at.is_some_and(|at| at <= now.mono);
        if awaited || overdue {
            let hand_over = self.unsynced_bytes >= self.hand_over_bytes;
            self.unsynced_bytes = 0;
            self.timers.sync_at = None;
            self.timers.mark_at = Some(now.mono.plus_millis(MARK_MS));
            if hand_over {
                let job = self.journal.begin_sync();
                self.syncing = job.is_some();
                return Ok(job);
            }
            self.outlet.flush();
            self.journal.sync().map_err(disk)?;
            self.committed(now)?;
        } else if self.timers.mark_at.is_some_and(|at| at <= now.mono) {
            self.timers.mark_at = None;
            // The mark says how far the journal was durable, so that an idle one has no ambiguous
            // tail. One with frames to sync is not idle; their sync asks for a mark again.
            if self.timers.sync_at.is_none() {
                self.outlet.flush();
                self.journal.mark(now.wall).map_err(disk)?;
                self.journal.sync().map_err(disk)?;
            }
        }
        self.outlet.flush();
        self.journal.roll_if_requested().map_err(disk)?;
        Ok(None)
    }

    fn committed(&mut self, now: Now) -> Result<(), Exit> {
        self.commits.after_sync(self.journal.durable());
        self.gates.commit(self.journal.durable());
        while let Some(output) = self.gates.next_open() {
            self.let_out(output);
        }
        let progress = self.progress();
        self.engine.handle(now, progress, &mut self.effects);
        self.settle_round(now)
    }

    fn look_at_space(&mut self, now: Now) {
        let is_out = self.room.progress.is_out_of_space();
        if now.mono < self.timers.space_at && is_out == self.timers.was_out_of_space {
            return;
        }
        self.timers.was_out_of_space = is_out;
        self.timers.space_at = now.mono.plus_millis(SPACE_MS);
        match self.room.progress.space(&self.room.shared) {
            Ok(space) => {
                let frame_bytes_max = self.room.shared.options.frame_bytes_max();
                let space = publishable(&space, frame_bytes_max);
                self.engine.handle(now, Input::Space(space), &mut self.effects);
            }
            // The last answer stands; a disk that is really gone shows at the next write.
            Err(error) => tracing::warn!(%error, "cannot find out how much space is free"),
        }
    }

    /// Ends the segment that is being written, so that the checkpointer can fold everything before
    /// [`Self::close`].
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed.
    pub fn finish_segment(&mut self) -> Result<(), Exit> {
        self.room.shared.request_roll();
        self.journal.roll_if_requested().map_err(disk)?;
        self.journal.sync().map_err(disk).map(drop)
    }

    /// Ends the journal cleanly.
    ///
    /// # Errors
    ///
    /// [`Exit`] if the disk failed; the next start then recovers as after a kill.
    pub fn close(self) -> Result<(), Exit> {
        self.journal.close().map_err(disk)
    }
}

fn disk(error: impl std::fmt::Display) -> Exit {
    Exit::Disk(error.to_string())
}

/// What publishes may take: each byte needs a place in the journal and one in a run.
fn publishable(space: &posthouse_storage::space::Space, frame_bytes_max: u64) -> Space {
    let disk_bytes = space.room().saturating_sub(space.needed_for(0)) / 2;
    let index_full = space.index_bytes >= space.index_bytes_max;
    let ring_bytes = space.unfolded_bytes_max.saturating_sub(space.unfolded_bytes);
    Space { frame_bytes_max, disk_bytes, ring_bytes: if index_full { 0 } else { ring_bytes } }
}

/// Memory that frames are made in, so that one with a single message takes no allocation.
#[derive(Debug, Default)]
struct Scratch {
    /// The events of one frame.
    events: Vec<u8>,
    /// The events of frames that are being written; what nobody holds any more is used again.
    held: BytesMut,
}

/// A frame as the journal takes it.
fn draft(append: Append, scratch: &mut Scratch) -> FrameDraft {
    scratch.events.clear();
    event::encode_all(&append.events, &mut scratch.events);
    if scratch.held.capacity() < scratch.events.len() {
        scratch.held.reserve(EVENTS_BYTES.max(scratch.events.len()));
    }
    scratch.held.extend_from_slice(&scratch.events);
    // As large as what they are made of, the drafts lie in its memory.
    let batches = append.batches.into_iter().map(|batch| BatchDraft {
        partition: batch.partition,
        base: batch.base,
        count: batch.count,
        header_crc: batch.header_crc,
        bytes: batch.bytes,
    });
    FrameDraft {
        time: append.time,
        events: scratch.held.split().freeze(),
        batches: batches.collect(),
        ..FrameDraft::default()
    }
}

const _: () = assert!(size_of::<BatchDraft>() == size_of::<BatchAppend>(), "see `draft`");
