//! Every interleaving, within bounds, of writers, two relays, a database, a broker and a network that
//! delays, reorders, loses and repeats; relays and broker crash, the database breaks connections and
//! leaves transactions open. The relays are the real machines.

mod broker;
mod database;
mod tests;

use super::machine::{
    Action as Wish, Answer, Call, DatabaseFault, Doubt, Input, Machine, Mistake, Note, OnPoison,
    Query, Sent, Settings,
};
use super::time::{Now, Time};
use crate::outbox::RowId;
use broker::{Broker, Commit, Flaw};
use database::Database;
use stateright::{Model, Property};
use std::collections::BTreeSet;
use std::time::Duration;

/// How much may happen.
#[derive(Clone, Debug)]
struct Bounds {
    rows: u64,
    rollbacks: u8,
    crashes: u8,
    broker_crashes: u8,
    /// Leases that end although their holder lives.
    expiries: u8,
    /// Connections to the database that break before or after a transaction.
    faults: u8,
    /// Transactions that are given up and carried out later all the same.
    late: u8,
    /// Replies of the broker that are lost; the client sends again.
    losses: u8,
    /// Requests that arrive once more, at any time.
    copies: u8,
    /// How often a relay no longer asks for what is missing below the highest row seen.
    gap_ends: u8,
    /// How often rows that were read have waited for too long to be claimed.
    waits: u8,
    /// The row whose topic is missing, and whether it may be created later.
    poison: Option<(RowId, bool)>,
    relays: usize,
    depth: usize,
    rows_max: u32,
    gaps_max: usize,
    mistake: Option<Mistake>,
    flaw: Option<Flaw>,
    ignores_epoch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    relays: Vec<Relay>,
    database: Database,
    broker: Broker,
    requests: BTreeSet<Request>,
    replies: Vec<Reply>,
    /// Transactions that were given up but may still be carried out.
    late: Vec<(database::Owner, Query)>,
    spent: Spent,
    /// A relay may no longer ask for what is missing: a sweep has to find it, and may come too late
    /// for its order.
    misses: bool,
    /// What should not have happened.
    wrongs: BTreeSet<Wrong>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wrong {
    /// A row came to the broker that was not committed.
    Ghost,
    /// A row came before one that was committed before it was inserted.
    OutOfOrder,
    /// A relay ended by itself.
    Halted,
    /// A look asked for rows twice: as missing and as new.
    AskedTwice,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Relay {
    machine: Machine,
    life: u8,
    query: Option<Query>,
    look: Option<Look>,
    call: Option<Call>,
}

/// A look at the table: what it finds is what there was, when it is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Look {
    Asked(Query),
    Found(Answer),
}

/// A commit on its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Request {
    /// Who waits for the answer; nobody for one of a relay that has crashed, and for a copy.
    sender: Option<database::Owner>,
    commit: Commit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reply {
    request: Request,
    outcome: Sent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    rollbacks: u8,
    crashes: u8,
    broker_crashes: u8,
    expiries: u8,
    faults: u8,
    late: u8,
    losses: u8,
    copies: u8,
    gap_ends: u8,
    waits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Insert,
    Commit(RowId),
    RollBack(RowId),
    /// The relay's query is carried out and answered.
    Query(usize),
    /// The relay's look is carried out.
    Look(usize),
    /// And answered.
    LookAnswered(usize),
    /// Its connection breaks.
    LookFails(usize),
    /// The connection breaks before it.
    QueryFails(usize),
    /// The connection breaks after it.
    QueryUnanswered(usize),
    /// The connection breaks, and it is carried out later.
    QueryGivenUp(usize),
    CarriedOutLate(usize),
    Call(usize),
    /// The time to look at the table has come.
    Looks(usize),
    /// The time to look for what was left behind has come.
    Sweeps(usize),
    GapsEnd(usize),
    ReadyWaits(usize),
    Arrives(Request),
    Answered(usize),
    /// The connection breaks: the client sends the request again.
    ReplyLost(usize),
    /// The connection breaks after the request was sent: it is sent again, and both arrive.
    Copied(Request),
    Crash(usize),
    /// It dies after its transaction, before it hears of it.
    CrashAfterQuery(usize),
    BrokerCrash,
    LeaseEnds,
    TopicCreated,
}

const NOW: Now = Now { at: Time(0), random: 0 };

impl Bounds {
    fn settings(&self) -> Settings {
        Settings {
            // Time stands still: what time would bring about is an action of its own, or waits 0.
            lease: Duration::MAX,
            standby: Duration::ZERO,
            backoff_min: Duration::ZERO,
            failures_counted: 0,
            gap_life: Duration::MAX,
            sweep_min: Duration::MAX,
            depth: self.depth,
            rows_max: self.rows_max,
            gaps_max: self.gaps_max,
            on_poison: OnPoison::Park,
            broker_restored: Doubt::Halt,
            mistake: self.mistake,
            ..Settings::default()
        }
    }

    fn relay(&self, life: u8) -> Relay {
        Relay { machine: Machine::new(self.settings()), life, query: None, look: None, call: None }
    }

    fn poison(&self) -> Option<RowId> {
        self.poison.map(|(row, _)| row)
    }
}

impl World {
    fn new(bounds: &Bounds) -> Self {
        let mut world = Self {
            relays: (0..bounds.relays).map(|_| bounds.relay(0)).collect(),
            database: Database { ignores_epoch: bounds.ignores_epoch, ..Database::default() },
            broker: Broker { flaw: bounds.flaw, ..Broker::default() },
            requests: BTreeSet::new(),
            replies: Vec::new(),
            late: Vec::new(),
            spent: Spent::default(),
            misses: bounds.gaps_max < usize::try_from(bounds.rows).unwrap_or(usize::MAX),
            wrongs: BTreeSet::new(),
        };
        (0..bounds.relays).for_each(|at| world.run(at));
        world
    }

    fn owner(&self, at: usize) -> database::Owner {
        (at, self.relays[at].life)
    }

    /// Tells a relay something and lets it do what it does without waiting.
    fn tell(&mut self, at: usize, input: Input) {
        self.relays[at].machine.handle(NOW, input);
        self.run(at);
    }

    fn run(&mut self, at: usize) {
        let owner = self.owner(at);
        for _ in 0..64 {
            let relay = &mut self.relays[at];
            let Some(wish) = relay.machine.poll(NOW) else { return };
            match wish {
                Wish::Query(query @ Query::Describe) => {
                    let answer = self.database.answer(owner, &query);
                    relay.machine.handle(NOW, Input::Database(Ok(answer)));
                }
                Wish::Look(Query::Lag) => {
                    relay.machine.handle(NOW, Input::Looked(Ok(Answer::Lag)));
                }
                Wish::Query(query) => relay.query = Some(query),
                Wish::Look(look) => {
                    if asks_twice(&look) {
                        self.wrongs.insert(Wrong::AskedTwice);
                    }
                    relay.look = Some(Look::Asked(look));
                }
                Wish::Call(call) => relay.call = Some(call),
                Wish::Send { epoch, sending } => {
                    let rows = relay.machine.rows_of(sending.sequence);
                    let (sequence, prev) = (sending.sequence, sending.prev);
                    let commit = Commit { epoch, sequence, prev, rows };
                    self.requests.insert(Request { sender: Some(owner), commit });
                }
                Wish::Note(Note::Ended(_)) => {
                    self.wrongs.insert(Wrong::Halted);
                }
                Wish::Note(_) => {}
            }
        }
        panic!("a relay never waits: {:?}", self.relays[at]);
    }

    fn query(&mut self, at: usize) -> Option<Input> {
        let query = self.relays[at].query.take()?;
        let answer = self.database.answer(self.owner(at), &query);
        Some(Input::Database(Ok(answer)))
    }

    fn arrives(&mut self, request: Request, poison: Option<RowId>) {
        let known = self.broker.log.len();
        let outcome = self.broker.take(&request.commit, poison);
        for place in known..self.broker.log.len() {
            let row = self.broker.log[place];
            let comes = |earlier: &RowId| {
                self.broker.log[..place].contains(earlier) || Some(*earlier) == poison
            };
            match self.database.committed.get(&row) {
                None => self.wrongs.insert(Wrong::Ghost),
                Some(before) if !self.misses && !before.iter().all(comes) => {
                    self.wrongs.insert(Wrong::OutOfOrder)
                }
                Some(_) => false,
            };
        }
        if request.sender.is_some_and(|(at, life)| self.relays[at].life == life) {
            self.replies.push(Reply { request, outcome });
            self.replies.sort_by(|left, right| left.request.cmp(&right.request));
        }
    }

    /// A relay dies and another one is started in its place.
    fn crash(&mut self, at: usize, bounds: &Bounds) {
        let owner = self.owner(at);
        self.replies.retain(|reply| reply.request.sender != Some(owner));
        for request in std::mem::take(&mut self.requests) {
            let is_orphan = request.sender == Some(owner);
            let sender = request.sender.filter(|_| !is_orphan);
            self.requests.insert(Request { sender, ..request });
        }
        self.relays[at] = bounds.relay(owner.1 + 1);
        self.run(at);
    }

    fn wake(&mut self) {
        for at in 0..self.relays.len() {
            self.tell(at, Input::Wake);
        }
    }

    /// Whether a relay's query would do anything.
    fn is_query_useful(&self, at: usize) -> bool {
        let Some(query) = &self.relays[at].query else { return false };
        let is_refused = self.database.lease.is_some_and(|holder| holder != self.owner(at));
        !(matches!(query, Query::Acquire) && is_refused)
    }

    /// Whether a relay that has given up gaps could find something below what it has seen.
    fn is_sweep_useful(&self, at: usize) -> bool {
        let is_left = || self.database.rows.iter().any(|row| !self.is_handed_over(row));
        self.misses && self.relays[at].machine.waits_to_sweep() && is_left()
    }

    fn is_lease_orphaned(&self) -> bool {
        self.database.lease.is_some_and(|(at, life)| self.relays[at].life != life)
    }

    /// Whether nothing goes on by itself.
    fn is_quiet(&self) -> bool {
        let is_waiting = |at: usize| {
            let relay = &self.relays[at];
            let asks = self.is_query_useful(at) || relay.look.is_some() || relay.call.is_some();
            !asks && !relay.machine.waits_to_look() && !self.is_sweep_useful(at)
        };
        self.requests.is_empty()
            && self.replies.is_empty()
            && !self.is_lease_orphaned()
            && (0..self.relays.len()).all(is_waiting)
    }

    fn is_handed_over(&self, row: &RowId) -> bool {
        self.broker.log.contains(row) || self.database.parked.contains(row)
    }
}

/// Rows above the highest one seen are asked for in any case.
fn asks_twice(look: &Query) -> bool {
    let Query::Scan { gaps, after, .. } = look else { return false };
    gaps.iter().any(|gap| gap.last > *after)
}

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let spent = &world.spent;
        if world.database.next < self.rows {
            actions.push(Action::Insert);
        }
        for row in world.database.open.keys() {
            actions.push(Action::Commit(*row));
            if spent.rollbacks < self.rollbacks {
                actions.push(Action::RollBack(*row));
            }
        }
        for at in 0..world.relays.len() {
            self.relay_actions(world, at, actions);
        }
        for at in 0..world.late.len() {
            actions.push(Action::CarriedOutLate(at));
        }
        for request in &world.requests {
            actions.push(Action::Arrives(request.clone()));
            if spent.copies < self.copies && request.sender.is_some() {
                actions.push(Action::Copied(request.clone()));
            }
        }
        for at in 0..world.replies.len() {
            actions.push(Action::Answered(at));
            if spent.losses < self.losses {
                actions.push(Action::ReplyLost(at));
            }
        }
        if spent.broker_crashes < self.broker_crashes {
            actions.push(Action::BrokerCrash);
        }
        let lives = world.database.lease.is_some() && spent.expiries < self.expiries;
        if world.is_lease_orphaned() || lives {
            actions.push(Action::LeaseEnds);
        }
        if self.poison.is_some_and(|(_, may_come)| may_come) && !world.broker.has_topic {
            actions.push(Action::TopicCreated);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Insert => world.database.insert(),
            Action::Commit(row) => {
                world.database.commit(row);
                world.wake();
            }
            Action::RollBack(row) => {
                world.database.roll_back(row);
                world.spent.rollbacks += 1;
            }
            Action::Arrives(request) => {
                world.requests.remove(&request);
                world.arrives(request, self.poison());
            }
            Action::Answered(at) => {
                let Reply { request, outcome } = world.replies.remove(at);
                let Commit { epoch, sequence, .. } = request.commit;
                let (relay, _) = request.sender?;
                world.tell(relay, Input::Sent { epoch, sequence, outcome });
            }
            Action::ReplyLost(at) => {
                let reply = world.replies.remove(at);
                world.requests.insert(reply.request);
                world.spent.losses += 1;
            }
            Action::Copied(request) => {
                world.requests.insert(Request { sender: None, ..request });
                world.spent.copies += 1;
            }
            Action::BrokerCrash => {
                world.broker.crash();
                for reply in std::mem::take(&mut world.replies) {
                    world.requests.insert(reply.request);
                }
                world.spent.broker_crashes += 1;
            }
            Action::LeaseEnds => {
                world.spent.expiries += u8::from(!world.is_lease_orphaned());
                world.database.lease = None;
            }
            Action::TopicCreated => world.broker.has_topic = true,
            Action::CarriedOutLate(at) => {
                let (owner, query) = world.late.remove(at);
                let _ = world.database.answer(owner, &query);
            }
            Action::Query(at)
            | Action::Look(at)
            | Action::LookAnswered(at)
            | Action::LookFails(at)
            | Action::QueryFails(at)
            | Action::QueryUnanswered(at)
            | Action::QueryGivenUp(at)
            | Action::Call(at)
            | Action::Looks(at)
            | Action::Sweeps(at)
            | Action::GapsEnd(at)
            | Action::ReadyWaits(at)
            | Action::Crash(at)
            | Action::CrashAfterQuery(at) => self.relay_acts(&mut world, at, &action)?,
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no row is lost", |_, world: &World| {
                let mut committed = world.database.committed.keys();
                committed.all(|row| world.database.rows.contains(row) || world.is_handed_over(row))
            }),
            Property::always("no row is handed over twice", |_, world: &World| {
                let log = &world.broker.log;
                let distinct: BTreeSet<_> = log.iter().collect();
                distinct.len() == log.len()
                    && distinct.is_disjoint(&world.database.parked.iter().collect())
            }),
            Property::always("no row of a rolled-back transaction", |_, world: &World| {
                !world.wrongs.contains(&Wrong::Ghost)
            }),
            Property::always("order of commits", |_, world: &World| {
                !world.wrongs.contains(&Wrong::OutOfOrder)
            }),
            Property::always("one relay for each epoch", |_, world: &World| {
                let epochs: Vec<_> =
                    world.relays.iter().filter_map(|relay| relay.machine.works_at()).collect();
                let distinct: BTreeSet<_> = epochs.iter().collect();
                distinct.len() == epochs.len()
                    && world.broker.epoch.is_none_or(|epoch| epoch <= world.database.epoch)
            }),
            Property::always("no relay halts", |_, world: &World| {
                !world.wrongs.contains(&Wrong::Halted)
            }),
            Property::always("no row is asked for twice", |_, world: &World| {
                !world.wrongs.contains(&Wrong::AskedTwice)
            }),
            Property::always("at rest all is handed over", |_, world: &World| {
                let mut rows = world.database.committed.keys();
                !world.is_quiet() || rows.all(|row| world.is_handed_over(row))
            }),
            Property::sometimes(
                "all is handed over and deleted",
                |bounds: &Self, world: &World| {
                    let is_all =
                        world.database.next == bounds.rows && world.database.open.is_empty();
                    is_all && world.is_quiet() && world.database.rows.is_empty()
                },
            ),
        ]
    }
}

impl Bounds {
    fn relay_actions(&self, world: &World, at: usize, actions: &mut Vec<Action>) {
        let (relay, spent) = (&world.relays[at], &world.spent);
        if relay.call.is_some() {
            actions.push(Action::Call(at));
        }
        if relay.machine.waits_to_look() {
            actions.push(Action::Looks(at));
        }
        if world.is_sweep_useful(at) {
            actions.push(Action::Sweeps(at));
        }
        if spent.gap_ends < self.gap_ends && relay.machine.has_gaps() {
            actions.push(Action::GapsEnd(at));
        }
        if spent.waits < self.waits && !relay.machine.ready().is_empty() {
            actions.push(Action::ReadyWaits(at));
        }
        match relay.look {
            Some(Look::Asked(_)) => actions.push(Action::Look(at)),
            Some(Look::Found(_)) => actions.push(Action::LookAnswered(at)),
            None => {}
        }
        if relay.look.is_some() && spent.faults < self.faults {
            actions.push(Action::LookFails(at));
        }
        let has_crash = spent.crashes < self.crashes;
        if has_crash {
            actions.push(Action::Crash(at));
        }
        if !world.is_query_useful(at) {
            return;
        }
        actions.push(Action::Query(at));
        if spent.faults < self.faults {
            actions.push(Action::QueryFails(at));
            actions.push(Action::QueryUnanswered(at));
        }
        if spent.late < self.late {
            actions.push(Action::QueryGivenUp(at));
        }
        if has_crash {
            actions.push(Action::CrashAfterQuery(at));
        }
    }

    fn relay_acts(&self, world: &mut World, at: usize, action: &Action) -> Option<()> {
        let broken = Input::Database(Err(DatabaseFault::Transient));
        if matches!(action, Action::Crash(_)) {
            world.spent.crashes += 1;
            world.crash(at, self);
        } else if matches!(action, Action::Call(_)) {
            let call = world.relays[at].call.take()?;
            let answer = world.broker.call(call);
            world.tell(at, Input::Broker(call, answer));
        } else if matches!(action, Action::Looks(_)) {
            world.tell(at, Input::Wake);
        } else if matches!(action, Action::Sweeps(_)) {
            world.relays[at].machine.sweep_now();
            world.run(at);
        } else if matches!(action, Action::GapsEnd(_)) {
            world.spent.gap_ends += 1;
            world.misses = true;
            world.relays[at].machine.end_gaps();
        } else if matches!(action, Action::ReadyWaits(_)) {
            world.spent.waits += 1;
            world.relays[at].machine.read_again();
            world.run(at);
        } else if matches!(action, Action::Look(_)) {
            let Look::Asked(look) = world.relays[at].look.take()? else { return None };
            let answer = world.database.answer(world.owner(at), &look);
            world.relays[at].look = Some(Look::Found(answer));
        } else if matches!(action, Action::LookAnswered(_)) {
            let Look::Found(answer) = world.relays[at].look.take()? else { return None };
            world.tell(at, Input::Looked(Ok(answer)));
        } else if matches!(action, Action::LookFails(_)) {
            world.relays[at].look = None;
            world.spent.faults += 1;
            world.tell(at, Input::Looked(Err(DatabaseFault::Transient)));
        } else if matches!(action, Action::QueryFails(_)) {
            world.relays[at].query = None;
            world.spent.faults += 1;
            world.tell(at, broken);
        } else if matches!(action, Action::QueryGivenUp(_)) {
            let query = world.relays[at].query.take()?;
            world.late.push((world.owner(at), query));
            world.spent.late += 1;
            world.tell(at, broken);
        } else {
            let answer = world.query(at)?;
            if matches!(action, Action::QueryUnanswered(_)) {
                world.spent.faults += 1;
                world.tell(at, broken);
            } else if matches!(action, Action::CrashAfterQuery(_)) {
                world.spent.crashes += 1;
                world.crash(at, self);
            } else {
                world.tell(at, answer);
            }
        }
        Some(())
    }
}
