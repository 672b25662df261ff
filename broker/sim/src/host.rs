//! One life of a broker: the shell on a simulated disk, its loader, its sync thread and its
//! checkpointer, each done when the simulation says so.

use crate::chance::Chance;
use crate::tap::Tap;
use crate::wire;
use bytes::Bytes;
use posthouse_broker::shell::{Job, Outlet, Room, Shell};
use posthouse_broker::{Exit, Folded, Loaded, perform, read_delivery};
use posthouse_engine::effect::Deliver;
use posthouse_engine::input::ConnectionId;
use posthouse_engine::{Engine, Input, Now, State, Time};
use posthouse_protocol::{CorrelationId, Reply};
use posthouse_storage::Store;
use posthouse_storage::checkpointer::{Checkpointer, Step, Task};
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::journal::{SyncDone, SyncJob};
use posthouse_storage::reader::Reader;
use std::time::Duration;

/// A running broker.
#[derive(Debug)]
pub(crate) struct Host {
    shell: Shell<Post>,
    checkpointer: Checkpointer<Folded>,
    reader: Reader,
    syncing: Syncing,
    inputs: Vec<Input>,
}

/// A sync that was handed over.
#[derive(Debug)]
enum Syncing {
    Nothing,
    Job(SyncJob),
    Done(SyncDone),
}

/// Where the shell sends to.
#[derive(Debug)]
struct Post {
    reader: Reader,
    tap: Tap,
    jobs: Vec<Job>,
    frames: Vec<(ConnectionId, Bytes)>,
}

impl Post {
    fn send(
        &mut self,
        to: ConnectionId,
        correlation: CorrelationId,
        reply: &Reply,
        tail: &[Bytes],
    ) {
        self.frames.push((to, wire::reply(correlation, reply, tail)));
        self.tap.frame_left();
    }
}

impl Outlet for Post {
    fn reply(&mut self, connection: ConnectionId, correlation: CorrelationId, reply: Reply) {
        self.send(connection, correlation, &reply, &[]);
    }

    fn deliver(&mut self, deliver: Deliver) {
        let reader = self.reader.clone();
        read_delivery(&reader, &deliver, |head, tail| {
            self.send(deliver.connection, CorrelationId::ZERO, &head, &tail);
        });
    }

    fn load(&mut self, job: Job) {
        self.jobs.push(job);
    }
}

impl Host {
    /// A broker over what recovery has returned, its start epoch durable.
    pub(crate) fn start(
        store: Store<Folded>,
        tap: Tap,
        now: Now,
        hand_over_bytes: Option<usize>,
    ) -> Result<Self, Exit> {
        let Store { state, report, journal, reader, checkpointer, shared } = store;
        let room = Room { shared, progress: checkpointer.progress() };
        let engine = Engine::new(state.0, journal.written());
        let post = Post { reader: reader.clone(), tap, jobs: Vec::new(), frames: Vec::new() };
        let mut shell = Shell::new(engine, journal, room, post);
        if let Some(bytes) = hand_over_bytes {
            shell.set_hand_over_bytes(bytes);
        }
        shell.start(now, &report)?;
        Ok(Self { shell, checkpointer, reader, syncing: Syncing::Nothing, inputs: Vec::new() })
    }

    pub(crate) const fn state(&self) -> &State {
        self.shell.state()
    }

    pub(crate) fn wake_at(&self) -> Time {
        self.shell.wake_at()
    }

    pub(crate) fn is_drained(&mut self) -> bool {
        self.shell.is_drained() && self.shell.outlet().jobs.is_empty() && self.inputs.is_empty()
    }

    pub(crate) const fn is_syncing(&self) -> bool {
        !matches!(self.syncing, Syncing::Nothing)
    }

    pub(crate) fn push(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// What has left the shell.
    pub(crate) fn take_frames(&mut self) -> Vec<(ConnectionId, Bytes)> {
        std::mem::take(&mut self.shell.outlet().frames)
    }

    /// One round over everything that waits.
    pub(crate) fn round(&mut self, now: Now) -> Result<(), Exit> {
        let inputs = std::mem::take(&mut self.inputs);
        if let Some(job) = self.shell.round(now, inputs.into_iter())? {
            assert!(!self.is_syncing(), "one sync at a time");
            self.syncing = Syncing::Job(job);
        }
        Ok(())
    }

    /// One move of the sync thread: the sync itself, or that the core hears of it. Says whether
    /// there was one.
    pub(crate) fn sync(&mut self, now: Now) -> Result<bool, Exit> {
        match std::mem::replace(&mut self.syncing, Syncing::Nothing) {
            Syncing::Nothing => return Ok(false),
            Syncing::Job(job) => self.syncing = Syncing::Done(job.run()),
            Syncing::Done(done) => self.shell.synced(now, done)?,
        }
        Ok(true)
    }

    /// One job of the loader.
    pub(crate) fn load(&mut self, dice: &mut Dice) {
        let jobs = &mut self.shell.outlet().jobs;
        if jobs.is_empty() {
            return;
        }
        let job = jobs.swap_remove(dice.index(jobs.len()));
        match perform(&self.reader, job) {
            Loaded::Input(input) => self.inputs.push(input),
            Loaded::Reply { connection, correlation, reply, tail } => {
                self.shell.outlet().send(connection, correlation, &reply, &tail);
            }
        }
    }

    /// One step of the checkpointer, and what it did.
    pub(crate) fn checkpoint(&mut self, now: Now) -> Result<Option<Task>, Exit> {
        let step = self.checkpointer.step(now.mono.since(Time::default()));
        let damaged = self.checkpointer.take_damaged();
        assert!(damaged.is_empty(), "nothing damages the disk, and yet: {damaged:?}");
        match step {
            Ok(Step::Worked(task)) => Ok(Some(task)),
            Ok(Step::Idle { .. } | Step::OutOfSpace { .. }) => Ok(None),
            Err(error) if error.is_fatal() => Err(Exit::Disk(error.to_string())),
            Err(error) => {
                panic!("nothing damages the disk, and yet the checkpointer says: {error}")
            }
        }
    }

    /// Bytes of segments that runs have adopted.
    pub(crate) fn adopted_bytes(&self) -> u64 {
        self.checkpointer.progress().adopted_bytes()
    }

    /// A stop in good order, after everything was answered.
    pub(crate) fn close(mut self, now: Duration) -> Result<(), Exit> {
        self.checkpointer.hurry();
        loop {
            match self.checkpointer.step(now) {
                Ok(Step::Worked(_)) => {}
                Ok(Step::Idle { .. } | Step::OutOfSpace { .. }) => break,
                Err(error) => return Err(Exit::Disk(error.to_string())),
            }
        }
        self.shell.close()
    }
}
