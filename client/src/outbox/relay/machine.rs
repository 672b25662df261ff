//! The relay as a pure machine: answers of database and broker and the time go in, what to do next
//! comes out. No clock, no tasks, no randomness, so that the model checker runs this very code.
//!
//! From taking the lease to handing over: *describing* the outbox, *acquiring* the lease (or standing
//! by), *comparing* with what the broker knows, *opening* the producer under the lease's epoch,
//! *listing* and *loading* the claims of an earlier holder, *working*. Whatever goes wrong with the
//! database or the lease, it starts over from the beginning under a higher epoch, and what an
//! earlier try may still do somewhere is refused there by its epoch.

mod fixing;
mod io;
mod settings;
mod taking;
#[cfg(test)]
mod tests;
mod working;

pub(crate) use io::{
    Action, Answer, BrokerFault, Call, Candidate, DatabaseFault, Draft, End, Input, Note, Producer,
    Query, Sent,
};
pub use settings::OnPoison;
pub(crate) use settings::{Doubt, Settings};

#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) use settings::Mistake;

use super::backoff::Backoff;
use super::reading::Reading;
use super::sweep::Sweep;
use super::time::{Now, Time};
use super::window::{Flight, Window};
use crate::outbox::{Claim, RowId, Standing};
use fixing::Verdict;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Rows that wait longer than this to be claimed, while the broker takes nothing or the claim before
/// them is recorded, are read again: they may have been changed, or the database set back.
const READY_MAX: Duration = Duration::from_secs(1);

/// One relay. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    settings: Arc<Settings>,
    phase: Phase,
    /// The query without an answer.
    asked: Option<Asked>,
    /// The look without an answer: rows are read while an earlier claim is recorded.
    looking: Option<Asked>,
    /// Whether this phase's call has been made.
    is_calling: bool,
    /// Nothing but work, and what keeps the lease, before then.
    not_before: Time,
    backoff: Backoff,
    /// The lease's epoch, while it may be held.
    epoch: Option<u64>,
    /// The highest sequence that is used up.
    claimed: u64,
    /// The highest sequence that the database has as claimed.
    recorded: u64,
    /// The highest sequence that the database has as acknowledged.
    noted: u64,
    /// When to prolong the lease.
    renew: Time,
    /// How often the broker's epoch was found above ours.
    raises: u32,
    window: Window,
    reading: Reading,
    sweep: Sweep,
    /// When to count what waits; also across starting over.
    lag: Sweep,
    /// Rows acknowledged but still in the table.
    done: Vec<RowId>,
    /// Every row in `window`, `done`, `gone`, `bad` and `ready`: not to be claimed again.
    held: BTreeSet<RowId>,
    /// Rows that have left the table, as a look under way may not know.
    gone: Vec<RowId>,
    /// Rows to be set aside that are in no claim.
    bad: Vec<(RowId, String)>,
    /// Rows of the next claim, when they were read, and their weight.
    ready: Vec<RowId>,
    ready_since: Time,
    ready_bytes: u64,
    /// What a claim may weigh; less than the setting if the broker found one too large.
    bytes_max: u64,
    closing: Option<Time>,
    notes: VecDeque<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Describing,
    Acquiring {
        /// The database is a copy, which is to become an outbox of its own.
        is_copied: bool,
        /// Somebody else has the lease.
        is_refused: bool,
    },
    Adopting,
    Comparing,
    Opening,
    /// Read the claims, in order to:
    Listing(Then),
    /// Remove these claims; their rows stay in the table.
    Dropping(Vec<u64>, Then),
    /// The broker's epoch is not below ours although we hold the lease: raise ours above it.
    Raising {
        to: u64,
    },
    /// Read the rows of claims of an earlier holder, one after another.
    Loading(VecDeque<Claim>),
    /// Rows of this claim are not what they were. If another relay has handed them over meanwhile, the
    /// lease is not ours any more: ask before halting.
    Doubting(u64),
    Working,
    /// Raise the epoch, so that no copy of a claim that is about to be changed can be taken any more.
    Fencing(Verdict),
    /// Hear from the broker what it had taken before.
    Reopening(Verdict),
    /// Change the claim.
    Parking(Verdict),
    Releasing(End),
    Ended,
}

/// What claims are listed or dropped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Then {
    /// To go on with them.
    Resume,
    /// To drop them and work without them.
    Work,
    /// To drop them and raise the epoch.
    Raise { to: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    query: Query,
    since: Time,
    /// The machine has started over since; the answer is of no use.
    is_stale: bool,
}

impl Machine {
    /// A relay that has done nothing yet.
    pub(crate) fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        Self {
            phase: Phase::Describing,
            asked: None,
            looking: None,
            is_calling: false,
            not_before: Time(0),
            backoff: Backoff::default(),
            epoch: None,
            claimed: 0,
            recorded: 0,
            noted: 0,
            renew: Time(0),
            raises: 0,
            window: Window::new(0),
            reading: Reading::new(&settings),
            sweep: Sweep::default(),
            lag: Sweep::default(),
            done: Vec::new(),
            held: BTreeSet::new(),
            gone: Vec::new(),
            bad: Vec::new(),
            ready: Vec::new(),
            ready_since: Time(0),
            ready_bytes: 0,
            bytes_max: settings.bytes_max,
            closing: None,
            notes: VecDeque::new(),
            settings,
        }
    }

    /// Tells it what has happened.
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Time => {}
            Input::Wake => self.reading.wake(now.at, &self.settings),
            Input::Database(answer) => self.on_database(now, answer),
            Input::Looked(answer) => self.on_looked(now, answer),
            Input::Broker(call, answer) => self.on_broker(now, call, answer),
            Input::Sent { epoch, sequence, outcome } => {
                if self.epoch == Some(epoch) {
                    self.on_sent(now, sequence, outcome);
                }
            }
            Input::Shutdown { by } => self.closing = Some(by),
        }
    }

    /// The next thing to do now; `None` until something happens or [`Self::deadline`] comes.
    pub(crate) fn poll(&mut self, now: Now) -> Option<Action> {
        self.close_if_due(now.at);
        self.read_again_if_old(now.at);
        if let Some(note) = self.notes.pop_front() {
            return Some(Action::Note(note));
        }
        if let Some(send) = self.next_send(now.at) {
            return Some(send);
        }
        if let Some(call) = self.next_call(now.at) {
            return Some(Action::Call(call));
        }
        let asked = |query| Some(Asked { query, since: now.at, is_stale: false });
        if self.asked.is_none()
            && let Some(query) = self.next_query(now.at)
        {
            self.asked = asked(query.clone());
            return Some(Action::Query(query));
        }
        if self.looking.is_none()
            && let Some(look) = self.look(now.at)
        {
            self.looking = asked(look.clone());
            return Some(Action::Look(look));
        }
        None
    }

    /// When [`Self::poll`] has something to do that nothing else announces.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let is_asking = self.asked.is_some();
        let is_waiting = if self.calls() { self.is_calling } else { is_asking };
        let (next, work) = match self.phase {
            Phase::Working => (self.window.deadline(), self.next_work()),
            Phase::Ended => return None,
            Phase::Describing
            | Phase::Acquiring { .. }
            | Phase::Adopting
            | Phase::Comparing
            | Phase::Opening
            | Phase::Listing(_)
            | Phase::Dropping(..)
            | Phase::Raising { .. }
            | Phase::Loading(_)
            | Phase::Doubting(_)
            | Phase::Fencing(_)
            | Phase::Reopening(_)
            | Phase::Parking(_)
            | Phase::Releasing(_) => ((!is_waiting).then_some(self.not_before), None),
        };
        let renew = (self.holds_lease() && !is_asking).then_some(self.renew);
        [next, work, renew, self.closing].into_iter().flatten().min()
    }

    /// Whether this claim may have to be sent or changed yet.
    pub(crate) fn needs(&self, sequence: u64) -> bool {
        self.window.get(sequence).is_some()
    }

    /// The rows of a claim under way.
    #[cfg(test)]
    pub(crate) fn rows_of(&self, sequence: u64) -> Vec<RowId> {
        self.window.get(sequence).map(|flight| flight.rows.clone()).unwrap_or_default()
    }

    /// The epoch under which it hands over, if it does.
    #[cfg(test)]
    pub(crate) fn works_at(&self) -> Option<u64> {
        self.epoch.filter(|_| matches!(self.phase, Phase::Working))
    }

    /// Whether it will look at the table again before long, because the last look found something.
    #[cfg(test)]
    pub(crate) fn waits_to_look(&self) -> bool {
        let is_working = matches!(self.phase, Phase::Working) && self.reads_on();
        is_working && !self.reading.is_quiet && self.reading.due > Time(0)
    }

    /// Whether it would sweep if it were time to.
    #[cfg(test)]
    pub(crate) fn waits_to_sweep(&self) -> bool {
        matches!(self.phase, Phase::Working) && self.sweep.due() > Some(Time(0))
    }

    /// It is time to.
    #[cfg(test)]
    pub(crate) fn sweep_now(&mut self) {
        self.sweep = Sweep::default();
    }

    /// Whether it asks for what is missing.
    #[cfg(test)]
    pub(crate) fn has_gaps(&self) -> bool {
        !self.reading.gaps.ranges().is_empty()
    }

    /// Lets the rows that are ready wait for too long.
    #[cfg(test)]
    pub(crate) fn read_again(&mut self) {
        self.forget_rows();
    }

    /// Lets the time pass for which it does.
    #[cfg(test)]
    pub(crate) fn end_gaps(&mut self) {
        self.reading.gaps.clear();
    }

    /// The rows of the next claim, which can be encoded while the one before it is recorded.
    pub(crate) fn ready(&self) -> &[RowId] {
        &self.ready
    }

    const fn holds_lease(&self) -> bool {
        match self.phase {
            Phase::Describing | Phase::Acquiring { .. } | Phase::Releasing(_) | Phase::Ended => {
                false
            }
            Phase::Adopting
            | Phase::Comparing
            | Phase::Opening
            | Phase::Listing(_)
            | Phase::Dropping(..)
            | Phase::Raising { .. }
            | Phase::Loading(_)
            | Phase::Doubting(_)
            | Phase::Working
            | Phase::Fencing(_)
            | Phase::Reopening(_)
            | Phase::Parking(_) => true,
        }
    }

    /// Where the database says that the outbox stands.
    const fn standing(&self, epoch: u64) -> Standing {
        Standing { epoch, claimed: self.recorded, acked: self.noted }
    }

    fn next_send(&mut self, now: Time) -> Option<Action> {
        let epoch = self.epoch.filter(|_| matches!(self.phase, Phase::Working))?;
        let sending = self.window.send(now)?;
        Some(Action::Send { epoch, sending })
    }

    /// Whether this phase asks the broker.
    const fn calls(&self) -> bool {
        matches!(self.phase, Phase::Comparing | Phase::Opening | Phase::Reopening(_))
    }

    /// The call that this phase makes.
    fn expected_call(&self) -> Option<Call> {
        let epoch = self.epoch.filter(|_| self.calls())?;
        let compares = matches!(self.phase, Phase::Comparing);
        Some(if compares { Call::Describe { epoch } } else { Call::Open { epoch } })
    }

    fn next_call(&mut self, now: Time) -> Option<Call> {
        let call = self.expected_call()?;
        if self.is_calling || now < self.not_before {
            return None;
        }
        self.is_calling = true;
        Some(call)
    }

    fn next_query(&mut self, now: Time) -> Option<Query> {
        if self.holds_lease() && self.renew <= now {
            return self.renewal();
        }
        if matches!(self.phase, Phase::Working) {
            return self.work(now);
        }
        if now < self.not_before {
            return None;
        }
        self.step_of_phase()
    }

    fn step_of_phase(&self) -> Option<Query> {
        let epoch = self.epoch.unwrap_or_default();
        Some(match &self.phase {
            Phase::Describing => Query::Describe,
            Phase::Acquiring { .. } => Query::Acquire,
            Phase::Adopting => Query::Adopt { epoch },
            Phase::Listing(_) => Query::Claims,
            Phase::Dropping(sequences, _) => self.drop_claims(sequences, epoch),
            Phase::Raising { to } => Query::RaiseEpoch { from: epoch, to: *to },
            Phase::Loading(claims) => {
                let claim = claims.front()?;
                Query::Load { sequence: claim.sequence, rows: claim.rows.clone() }
            }
            Phase::Fencing(_) => Query::RaiseEpoch { from: epoch, to: epoch + 1 },
            Phase::Parking(verdict) => self.park(verdict, epoch)?,
            Phase::Releasing(_) => Query::Release { epoch },
            Phase::Doubting(_) => self.prolonging(epoch),
            Phase::Comparing
            | Phase::Opening
            | Phase::Reopening(_)
            | Phase::Working
            | Phase::Ended => return None,
        })
    }

    fn on_database(&mut self, now: Now, answer: Result<Answer, DatabaseFault>) {
        let Some(asked) = self.asked.take() else { return };
        if let Phase::Releasing(end) = &self.phase
            && matches!(asked.query, Query::Release { .. })
        {
            // Not released, the lease ends by itself.
            let end = end.clone();
            self.ended(end);
            return;
        }
        self.on_result(now, asked, answer);
    }

    fn on_looked(&mut self, now: Now, answer: Result<Answer, DatabaseFault>) {
        let Some(asked) = self.looking.take() else { return };
        let is_stale = asked.is_stale && !self.uses_stale_looks();
        self.on_result(now, Asked { is_stale, ..asked }, answer);
        self.let_go();
    }

    /// Forgets rows that have left the table, once no look can find them any more.
    fn let_go(&mut self) {
        if self.looking.is_none() || self.lets_go_early() {
            for row in self.gone.drain(..) {
                self.held.remove(&row);
            }
        }
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn lets_go_early(&self) -> bool {
        self.makes(Mistake::RowsLetGoEarly)
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn lets_go_early(&self) -> bool {
        false
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn uses_stale_looks(&self) -> bool {
        self.makes(Mistake::StaleLookUsed)
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    #[expect(clippy::unused_self, reason = "the mistake that tests plant needs it")]
    const fn uses_stale_looks(&self) -> bool {
        false
    }

    fn on_result(&mut self, now: Now, asked: Asked, answer: Result<Answer, DatabaseFault>) {
        if asked.query == Query::Lag {
            // Also one that is of no use: it took its time all the same.
            self.lag.looked(now.at.since(asked.since), None, now.at, &self.settings);
        }
        if asked.is_stale {
            return;
        }
        match answer {
            Ok(answer) => self.on_answer(now, asked, answer),
            Err(DatabaseFault::Transient) => {
                let pause = self.backoff.next(&self.settings, now.random);
                self.start_over(now.at, pause);
            }
            Err(DatabaseFault::NotInstalled) => self.end(End::NotInstalled { found: None }),
            Err(DatabaseFault::Permanent) => self.end(End::Database),
        }
    }

    fn on_answer(&mut self, now: Now, asked: Asked, answer: Answer) {
        match (asked.query, answer) {
            (Query::Describe, Answer::Described { schema_version, is_copied }) => {
                self.on_described(schema_version, is_copied);
            }
            (Query::Acquire, Answer::Acquired(standing)) => self.on_acquired(now, standing),
            (Query::Adopt { .. }, Answer::Done(true)) => self.start_over(now.at, Duration::ZERO),
            (Query::RaiseEpoch { to, .. }, Answer::Done(true)) => self.on_raised(to),
            (Query::Claims, Answer::Claims(claims)) => self.on_claims(now, claims),
            (Query::Load { sequence, rows }, Answer::Loaded { digest, bytes }) => {
                self.on_loaded(now, Flight { sequence, rows, bytes }, digest);
            }
            (Query::Park { rows, claims, .. }, Answer::Done(true)) => {
                self.on_parked(now, rows, claims);
            }
            (Query::Step { acked, done, claim, .. }, Answer::Done(true)) => {
                self.on_stepped(now.at, acked, &done, claim);
            }
            (Query::Scan { rows_max, .. }, Answer::Scanned(rows)) => {
                self.on_scanned(now.at, rows_max, rows);
            }
            (Query::Sweep { through, limit, .. }, Answer::Swept(ids)) => {
                let took = now.at.since(asked.since);
                self.on_swept(now.at, took, (through, limit), &ids);
            }
            (Query::Lag, Answer::Lag) => {}
            // Somebody else has taken the lease, or the database was set back.
            (_, Answer::Done(false)) => self.start_over(now.at, Duration::ZERO),
            (query, answer) => debug_assert!(false, "{answer:?} does not answer {query:?}"),
        }
    }

    /// Forgets everything that is not in the database, and takes the lease again.
    fn start_over(&mut self, now: Time, pause: Duration) {
        if self.holds_lease() {
            self.notes.push_back(Note::Inactive);
        }
        self.phase = Phase::Describing;
        self.not_before = now.after(pause);
        self.is_calling = false;
        if let Some(asked) = &mut self.asked {
            asked.is_stale = true;
        }
        self.forget_rows();
        self.window = Window::new(0);
        self.done.clear();
        self.held.clear();
        self.gone.clear();
    }

    /// Reads the table from its beginning again. What a look under way finds may be handed over and
    /// deleted by then.
    fn forget_rows(&mut self) {
        self.forget_look();
        let waiting = self.ready.drain(..).chain(self.bad.drain(..).map(|(row, _)| row));
        for row in waiting {
            self.held.remove(&row);
        }
        self.ready_bytes = 0;
        self.reading = Reading::new(&self.settings);
    }

    fn forget_look(&mut self) {
        if let Some(looking) = &mut self.looking {
            looking.is_stale = true;
        }
    }

    /// Ends, with the lease given back if it is held.
    fn end(&mut self, end: End) {
        if matches!(self.phase, Phase::Ended | Phase::Releasing(_)) {
            return;
        }
        if self.epoch.is_none() {
            self.ended(end);
            return;
        }
        if let Some(asked) = &mut self.asked {
            asked.is_stale = true;
        }
        self.forget_look();
        self.not_before = Time(0);
        self.phase = Phase::Releasing(end);
    }

    fn ended(&mut self, end: End) {
        self.phase = Phase::Ended;
        self.notes.push_back(Note::Ended(end));
    }

    fn close_if_due(&mut self, now: Time) {
        let Some(by) = self.closing else { return };
        let is_working = matches!(self.phase, Phase::Working);
        let is_idle = !is_working || self.window.len() == 0 && self.done.is_empty();
        // A transaction under way is waited for, so that the lease is given back after it.
        let is_answered = self.asked.is_none() && self.looking.is_none();
        if is_idle && is_answered || by <= now {
            self.closing = None;
            self.end(End::Shutdown);
        }
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    fn makes(&self, mistake: Mistake) -> bool {
        self.settings.mistake == Some(mistake)
    }
}
