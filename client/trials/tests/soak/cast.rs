//! All processes of a soak, and the faults that strike them while an application works.

use crate::fault::{Fault, Seen};
use crate::special;
use crate::support::base::Base;
use crate::support::process::Process;
use crate::support::stage::{LEASE, Stage};
use posthouse_trials::{Chance, Driver, TOPICS};
use std::time::Duration;

/// Operations of one application.
const OPERATIONS: u32 = 60;
/// So that the faults fall into its work.
const PACE: [&str; 2] = ["--pace", "20"];
/// How long a handler takes, in milliseconds, so that the faults fall into its transaction.
const HOLD: [&str; 2] = ["--hold", "5"];
/// How long a fault may take to show that it hit.
const SHOWN_WITHIN: Duration = Duration::from_secs(6);

/// How often a zombie may miss its moment.
const ZOMBIE_TRIES: u32 = 4;

/// A stage with two relays, two consumers and a view.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) stage: Stage,
    pub(crate) relays: [Option<Process>; 2],
    pub(crate) consumers: [Option<Process>; 2],
    pub(crate) view: Option<Process>,
    /// What relays are told besides.
    pub(crate) relay_options: &'static [&'static str],
}

const RELAYS: [&str; 2] = ["relay-a", "relay-b"];
const CONSUMERS: [&str; 2] = ["consumer-a", "consumer-b"];

impl Cast {
    pub(crate) fn new(driver: Driver, seed: u64) -> Self {
        let mut stage = Stage::new(driver, seed, Base::own);
        stage.start_broker(None);
        stage.make_topics();
        let (relays, consumers) = ([None, None], [None, None]);
        Self { stage, relays, consumers, view: None, relay_options: &[] }
    }

    /// Starts what does not run.
    pub(crate) fn revive(&mut self) {
        if self.stage.broker.is_none() {
            self.stage.start_broker(None);
        }
        for (place, name) in self.relays.iter_mut().zip(RELAYS) {
            // One that lost its lease or its database for good ends, and is started again.
            if place.as_mut().is_none_or(|process| !process.is_running()) {
                *place = Some(self.stage.relay(name, self.relay_options, None));
            }
        }
        for (place, name) in self.consumers.iter_mut().zip(CONSUMERS) {
            if place.as_mut().is_none_or(|process| !process.is_running()) {
                *place = Some(self.stage.consumer(name, &HOLD, None));
            }
        }
        // One that was overtaken ends.
        if self.view.as_mut().is_none_or(|process| !process.is_running()) {
            self.view = Some(self.stage.view("view-a", &TOPICS, None));
        }
    }

    /// Ends all relays in good order.
    pub(crate) fn stop_relays(&mut self) {
        self.relays.iter_mut().filter_map(Option::take).for_each(Process::stop);
    }

    /// One application at work, and what strikes meanwhile.
    pub(crate) fn cycle(&mut self, faults: &[Fault], chance: &mut Chance, seen: &mut Seen) {
        self.revive();
        if let [fault] = faults
            && special::strike(self, *fault)
        {
            seen.hit(*fault);
            return;
        }
        let mut app = self.stage.app(OPERATIONS, &PACE, None);
        app.hear("working");
        for fault in faults {
            self.stage.rest(Duration::from_millis(20 + chance.below(150)));
            if !app.is_running() {
                app = self.stage.app(OPERATIONS, &PACE, None);
            }
            if self.strike(*fault, &mut app, chance) {
                seen.hit(*fault);
            } else if fault.befalls(self.stage.sender.driver) {
                println!("{:?}: {fault:?} hit nothing", self.stage.sender.driver);
            }
            self.revive();
        }
        self.finish(app);
    }

    /// Lets an application come to its end, and everything to rest.
    pub(crate) fn finish(&mut self, mut app: Process) {
        let status = app.wait();
        assert!(status.success(), "the application ended with {status}: {}", app.told());
        self.rest();
    }

    /// Waits until nothing moves any more.
    pub(crate) fn rest(&mut self) {
        self.revive();
        let all = self.relays.iter().chain(&self.consumers).chain([&self.view]);
        let all: Vec<&Process> = all.flatten().collect();
        self.stage.settle(&all);
    }

    pub(crate) fn judge(&self, about: &str) {
        self.stage.judge(about);
    }

    /// Whether it hit something.
    fn strike(&mut self, fault: Fault, app: &mut Process, chance: &mut Chance) -> bool {
        match fault {
            Fault::KillApp => {
                let next = self.stage.app(OPERATIONS, &PACE, None);
                std::mem::replace(app, next).kill();
                true
            }
            Fault::KillBroker => {
                self.stage.broker.take().expect("it runs").kill();
                self.stage.proxy.lead_to(None);
                self.stage.rest(Duration::from_millis(chance.below(200)));
                true
            }
            Fault::KillRelay => self.active_relay().is_some_and(|active| {
                self.relays[active].take().expect("it is active").kill();
                true
            }),
            Fault::KillConsumer => {
                let one = usize::from(chance.percent(50));
                self.consumers[one].take().expect("it runs").kill();
                true
            }
            Fault::KillView => {
                self.view.take().expect("it runs").kill();
                true
            }
            Fault::CutConnections => self.stage.proxy.cut() > 0,
            Fault::StallConnections => {
                self.stage.proxy.stall(true);
                self.stage.rest(Duration::from_millis(100 + chance.below(400)));
                if chance.percent(50) {
                    self.stage.proxy.cut();
                }
                self.stage.proxy.stall(false);
                true
            }
            Fault::ZombieRelay => self.zombie_relay(chance),
            Fault::ZombieConsumer => self.zombie_consumer(chance),
            Fault::ZombieView => self.zombie_view(chance),
            Fault::CrashSender => self.stage.sender.crash(),
            Fault::CrashReceiver => self.stage.receiver.crash(),
            Fault::RestoreSender | Fault::CloneSender | Fault::RestoreBroker => {
                unreachable!("it takes a cycle of its own")
            }
        }
    }

    /// The relay that has the lease.
    fn active_relay(&self) -> Option<usize> {
        let active = |relay: &Option<Process>| relay.as_ref().is_some_and(Process::is_active);
        let mut found = None;
        self.stage.within(SHOWN_WITHIN, || {
            found = self.relays.iter().position(active);
            found.is_some()
        });
        found
    }

    /// As with [`Self::zombie_view`], one that was stopped while it had the database locked is not
    /// replaced. It has when it has just said that it is active: it looks at what waits.
    fn zombie_relay(&mut self, chance: &mut Chance) -> bool {
        (0..ZOMBIE_TRIES).any(|_| {
            self.revive();
            self.active_relay();
            self.stage.rest(Duration::from_millis(chance.below(100)));
            self.is_relay_replaced()
        })
    }

    fn is_relay_replaced(&mut self) -> bool {
        let Some(active) = self.active_relay() else { return false };
        let [first, second] = &mut self.relays;
        let (first, second) = if active == 0 { (first, second) } else { (second, first) };
        let (Some(first), Some(second)) = (first, second) else { return false };
        first.freeze();
        let replaced = self.stage.within(SHOWN_WITHIN, || second.is_active());
        first.resume();
        replaced
    }

    fn zombie_consumer(&mut self, chance: &mut Chance) -> bool {
        let one = usize::from(chance.percent(50));
        (0..ZOMBIE_TRIES).any(|_| {
            // There has to be something to handle.
            let mut more = self.stage.app(OPERATIONS, &[], None);
            let Some(consumer) = &mut self.consumers[one] else { return false };
            // Frozen in a transaction: what it has not taken is not missed.
            consumer.hear_next("holding", SHOWN_WITHIN);
            consumer.freeze();
            let ended = self.stage.within(3 * LEASE, || {
                self.stage.subscriptions().iter().any(|found| found.delayed > 0)
            });
            consumer.resume();
            assert!(more.wait().success(), "{}", more.told());
            ended
        })
    }

    /// Nobody overtakes one that was stopped while it had the database, or its row there, locked.
    fn zombie_view(&mut self, chance: &mut Chance) -> bool {
        (0..ZOMBIE_TRIES).any(|_| {
            self.revive();
            self.is_view_overtaken(Duration::from_millis(chance.below(100)))
        })
    }

    fn is_view_overtaken(&mut self, at: Duration) -> bool {
        let first = self.view.take().expect("it runs");
        // There has to be something to read.
        let mut more = self.stage.app(OPERATIONS, &[], None);
        let held = first.count("holding");
        self.stage.within(SHOWN_WITHIN, || first.count("holding") > held);
        self.stage.rest(at);
        first.freeze();
        let second = self.stage.view("view-b", &TOPICS, None);
        let overtakes = second.hear_within("holding", 3 * LEASE).is_some();
        first.resume();
        assert!(more.wait().success(), "{}", more.told());
        // Each may be the one that goes on, in one topic or the other: a third one does.
        let is_overtaken = || first.count("overtaken") + second.count("overtaken") > 0;
        overtakes && self.stage.within(3 * LEASE, is_overtaken)
    }
}
