//! The world: one thread, one clock, one seed; the broker, its disk, the network and the clients.

mod crash_points;
mod ending;
mod faulting;
mod lives;
mod setup;

use crate::chance::Chance;
use crate::client::admin::Admin;
use crate::client::{Client, Commits, Delays, Phase, Surroundings};
use crate::faults::Faults;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::net::{Arrival, Delivered, Net};
use crate::plan::Plan;
use crate::tap::Tap;
use crate::trace::Trace;
use crate::wire;
use posthouse_broker::Exit;
use posthouse_checker::Report;
use posthouse_checker::history::Event;
use posthouse_engine::{Input, Now, Time};
use posthouse_protocol::{Reply, StartEpoch, Timestamp};
use posthouse_storage::checkpointer::Task;
use posthouse_storage::fs::dice::Dice;
use posthouse_storage::fs::sim::SimFs;

/// The wall clock when a run begins, in milliseconds.
const WALL_BEGIN: u64 = 1_900_000_000_000;

/// What became of a run.
#[derive(Debug)]
pub struct Run {
    /// What was done to the broker.
    pub faults: Faults,
    /// The same for every run with this seed.
    pub trace: u64,
    /// What the clients recorded.
    pub history: Vec<Event>,
    /// The checker's report; none if the run ended early.
    pub report: Option<Report>,
    /// What is wrong; nothing if all is well.
    pub failure: Option<String>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    now: u64,
    wall_ahead: u64,
    dice: Dice,
    phase: Phase,
    tap: Tap,
    host: Option<Host>,
    /// When the running broker was started.
    born: u64,
    /// When the next one is to be.
    restart_at: u64,
    epoch: StartEpoch,
    /// The live state at a death that took nothing away.
    expected: Option<Vec<u8>>,
    trouble: Trouble,
    net: Net,
    ledger: Ledger,
    history: Vec<Event>,
    trace: Trace,
    admin: Admin,
    clients: Vec<Box<dyn Client>>,
    faults: Faults,
}

/// What is wrong with the disk just now.
#[derive(Debug, Default)]
struct Trouble {
    /// Syncs of some files fail.
    syncs_fail: bool,
    /// The disk is full until then.
    full_until: Option<u64>,
    /// The plan of the disk's faults has been used.
    is_planned: bool,
}

/// Carries out a run.
#[must_use]
pub fn run(plan: Plan) -> Run {
    let mut world = World::new(plan);
    let ended = world.live();
    let report = match &ended {
        Ok(report) => Some(report.clone()),
        Err(_) => None,
    };
    let failure = match ended {
        Ok(report) if report.is_valid() => None,
        Ok(report) => Some(report.to_string()),
        Err(text) => Some(text),
    };
    if let Some(report) = &report {
        world.faults.redeliveries += report.counts.redeliveries;
    }
    let World { faults, trace, history, .. } = world;
    Run { faults, trace: trace.hash(), history, report, failure }
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut dice = Dice::new(plan.seed ^ 0x5EED);
        let tap = Tap::new(SimFs::new(), plan.sampling, &mut dice);
        Self {
            plan,
            now: 1_000_000,
            wall_ahead: 0,
            dice,
            phase: Phase::Setup,
            tap,
            host: None,
            born: 0,
            restart_at: 0,
            epoch: StartEpoch::ZERO,
            expected: None,
            trouble: Trouble::default(),
            net: Net::default(),
            ledger: Ledger::default(),
            history: Vec::new(),
            trace: Trace::new(),
            admin: Admin::new(0, Plan::topics(), plan.can_redrive),
            clients: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// The whole run.
    fn live(&mut self) -> Result<Report, String> {
        self.set_up()?;
        self.phase = Phase::Load;
        for _ in 0..self.plan.steps {
            if self.dice.below(10_000) < self.plan.faults {
                self.fault()?;
            }
            self.step()?;
        }
        self.end()
    }

    fn clock(&self) -> Now {
        let mono = Time(self.now.saturating_sub(self.born) / 1_000);
        let wall = Timestamp(WALL_BEGIN + self.wall_ahead + self.now / 1_000_000);
        Now { mono, wall }
    }

    /// One move of somebody.
    fn step(&mut self) -> Result<(), String> {
        let hop = if self.dice.percent(4) { 25_000_000 } else { 60_000 };
        self.now += self.dice.between(1_000, hop);
        self.trace.word(self.now);
        if self.trouble.full_until.is_some_and(|until| until <= self.now) {
            self.trouble.full_until = None;
            self.tap.disk().set_capacity(u64::MAX);
        }
        if self.host.is_none() {
            if self.now >= self.restart_at {
                self.start()?;
            }
            return Ok(());
        }
        match self.dice.below(100) {
            0..40 => self.client_acts(),
            40..58 => self.clients_hear(),
            58..80 => self.round()?,
            80..87 => self.load()?,
            87..94 => self.checkpoint()?,
            94..98 => self.sync()?,
            _ => {
                if self.host.as_ref().is_some_and(|host| host.wake_at() <= self.clock().mono) {
                    self.round()?;
                }
            }
        }
        self.judge_crash_points()
    }

    fn client_acts(&mut self) {
        let at = self.dice.index(self.clients.len() + 1);
        self.with_client(at, |client, around| client.act(around));
    }

    fn clients_hear(&mut self) {
        if let Some(delivered) = self.net.deliver(&mut self.dice) {
            self.hear(delivered);
        }
    }

    fn hear(&mut self, (client, connection, frames): Delivered) {
        self.with_client(client, |client, around| {
            if client.session().connection == Some(connection) {
                for (left, frame) in frames {
                    client.session().lived = left;
                    let (to, reply, tail) = wire::read_reply(&frame);
                    if let Reply::Refused(_) = &reply {
                        around.refusals += 1;
                    }
                    client.receive(around, to, reply, &tail);
                }
            }
        });
    }

    fn with_client(&mut self, at: usize, act: impl FnOnce(&mut dyn Client, &mut Surroundings<'_>)) {
        let wall = self.clock().wall;
        let mut around = Surroundings {
            now: self.now,
            wall,
            phase: self.phase,
            is_up: self.host.is_some(),
            dice: &mut self.dice,
            net: &mut self.net,
            ledger: &mut self.ledger,
            history: &mut self.history,
            trace: &mut self.trace,
            refusals: 0,
            commits: Commits::default(),
            delays: Delays::default(),
        };
        match at.checked_sub(1) {
            None => act(&mut self.admin, &mut around),
            Some(at) => {
                if let Some(client) = self.clients.get_mut(at) {
                    act(client.as_mut(), &mut around);
                }
            }
        }
        let Surroundings { refusals, commits, delays, .. } = around;
        self.faults.refused_publishes += refusals;
        self.faults.commits += commits.told;
        self.faults.repeated_commits += commits.repeated;
        self.faults.refused_commits += commits.refused;
        self.faults.delayed_publishes += delays.published;
        self.faults.delayed_commits += delays.committed;
    }

    /// A round of the broker over some of what is under way to it.
    fn round(&mut self) -> Result<(), String> {
        let now = self.clock();
        let Some(host) = &mut self.host else { return Ok(()) };
        for arrival in self.net.arrive(&mut self.dice) {
            host.push(match arrival {
                Arrival::Frame(connection, frame) => wire::read_request(connection, &frame),
                Arrival::Gone(connection) => Input::Disconnected { connection },
            });
        }
        let was_syncing = host.is_syncing();
        let ended = host.round(now);
        self.faults.syncs_handed_over += u64::from(!was_syncing && host.is_syncing());
        self.after(ended)
    }

    fn load(&mut self) -> Result<(), String> {
        if let Some(host) = &mut self.host {
            host.load(&mut self.dice);
        }
        self.after(Ok(()))
    }

    fn sync(&mut self) -> Result<(), String> {
        let now = self.clock();
        let done = self.host.as_mut().map_or(Ok(false), |host| host.sync(now));
        self.after(done.map(drop))
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        let now = self.clock();
        let adopted = |host: &Option<Host>| host.as_ref().map_or(0, Host::adopted_bytes);
        let before = adopted(&self.host);
        let done = self.host.as_mut().map_or(Ok(None), |host| host.checkpoint(now));
        if let Ok(Some(task)) = &done {
            self.faults.adoptions += u64::from(adopted(&self.host) > before);
            self.faults.checkpoints += u64::from(*task == Task::Commit);
            self.faults.recycled += u64::from(*task == Task::Recycle);
        }
        self.after(done.map(drop))
    }

    /// What left the broker sets out; if the broker has ended, it has ended.
    fn after(&mut self, ended: Result<(), Exit>) -> Result<(), String> {
        self.post();
        if let Some(text) = self.ledger.contradictions.first() {
            return Err(text.clone());
        }
        match ended {
            Ok(()) => Ok(()),
            Err(exit) => self.exited(&exit),
        }
    }

    fn post(&mut self) {
        let Some(host) = &mut self.host else { return };
        for (connection, frame) in host.take_frames() {
            self.trace.frame(self.now, connection.0, &frame);
            self.ledger.left(connection, &frame);
            self.net.send_down(self.now, connection, frame);
        }
    }
}
