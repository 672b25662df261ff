//! The relay's task: carries out what the machine wants and tells it what came of it.

use super::error::RelayError;
use super::handle::{RelayState, RelayStats};
use super::machine::{
    Action, Answer, BrokerFault, Call, DatabaseFault, End, Input, Machine, Note, Producer, Query,
    Sent, Settings,
};
use super::query::{self, Commit, Found, Job, Report, Source};
use super::sending;
use super::time::{Now, Time};
use super::window::Sending;
use crate::Client;
use crate::failpoint::failpoint;
use crate::ids::random;
use crate::lock::lock;
use crate::outbox::{OutboxId, Row, Store};
use posthouse_protocol::message::{self, Committed};
use posthouse_protocol::{ProducerEpoch, ProducerId, Sequence};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::error::RequestError;

/// After so long without an answer a claim is sent anew, the same bytes under the same number.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what is under way may take once the handle is dropped.
const DROPPED: Duration = Duration::from_secs(10);

/// Where the producer stands, and its number if it was opened.
type Called = Result<(Producer, Option<ProducerId>), RequestError>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct Shell<S> {
    machine: Machine,
    started: Instant,
    client: Client,
    owner: String,
    lease: Duration,
    bell: Arc<Notify>,
    stop: watch::Receiver<Option<Instant>>,
    is_stopping: bool,
    stats: Arc<Mutex<RelayStats>>,
    /// Here while no query is under way.
    store: Option<S>,
    query: Option<Boxed<(S, Report)>>,
    /// Here while no look is under way.
    reader: Option<S>,
    look: Option<Boxed<(S, Report)>>,
    call: Option<(Call, Boxed<Called>)>,
    sends: Vec<Flying>,
    outbox: Option<OutboxId>,
    producer: Option<ProducerId>,
    /// The rows read last.
    scanned: Vec<Row>,
    /// The next claim.
    ahead: Option<Commit>,
    /// The claims that the machine has under way.
    commits: BTreeMap<u64, Commit>,
}

/// A claim on its way.
struct Flying {
    epoch: u64,
    sequence: u64,
    answer: Boxed<Result<Committed, RequestError>>,
}

enum Event<S> {
    Queried(S, Report),
    Looked(S, Report),
    Called(Call, Called),
    Sent { epoch: u64, sequence: u64, answer: Result<Committed, RequestError> },
    Rung,
    Due,
    Stop(Instant),
}

type Started<S> = (Shell<S>, watch::Sender<Option<Instant>>, Arc<Mutex<RelayStats>>);

impl<S: Store> Shell<S> {
    pub(super) fn new(
        store: S,
        client: Client,
        settings: Settings,
        (owner, bell): (String, Arc<Notify>),
    ) -> Started<S> {
        let (stop, stopped) = watch::channel(None);
        let stats = Arc::new(Mutex::new(RelayStats::default()));
        let shell = Self {
            lease: settings.lease,
            machine: Machine::new(settings),
            started: Instant::now(),
            client,
            owner,
            bell,
            stop: stopped,
            is_stopping: false,
            stats: Arc::clone(&stats),
            reader: Some(store.beside()),
            look: None,
            store: Some(store),
            query: None,
            call: None,
            sends: Vec::new(),
            outbox: None,
            producer: None,
            scanned: Vec::new(),
            ahead: None,
            commits: BTreeMap::new(),
        };
        (shell, stop, stats)
    }

    pub(super) async fn run(mut self) -> Result<(), RelayError> {
        loop {
            while let Some(action) = self.machine.poll(self.now()) {
                if let Some(end) = self.act(action).await {
                    if let Some(mut reader) = self.reader.take() {
                        reader.close().await;
                    }
                    return self.ended(&end);
                }
            }
            self.encode_ahead();
            let event = self.event().await;
            self.on_event(event);
            self.commits.retain(|sequence, _| self.machine.needs(*sequence));
        }
    }

    fn now(&self) -> Now {
        let millis = self.started.elapsed().as_millis();
        Now { at: Time(u64::try_from(millis).unwrap_or(u64::MAX)), random: random() }
    }

    fn ended(&self, end: &End) -> Result<(), RelayError> {
        let mut stats = lock(&self.stats);
        stats.state = RelayState::Ended;
        match RelayError::of(end, stats.last_error.as_deref()) {
            None => Ok(()),
            Some(error) => {
                tracing::error!(owner = self.owner, "{error}");
                Err(error)
            }
        }
    }

    async fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Query(query) => self.ask(query),
            Action::Look(look) => self.look(look),
            Action::Call(call) => self.call(call),
            Action::Send { epoch, sending } => {
                self.send(epoch, sending);
                #[cfg(feature = "failpoints")]
                tokio::task::yield_now().await;
                failpoint("relay.after-send");
            }
            Action::Note(Note::Ended(end)) => return Some(end),
            Action::Note(note) => self.note(&note),
        }
        None
    }

    fn ask(&mut self, query: Query) {
        let sources = self.sources(&query);
        let job = Job::new(query, (self.owner.clone(), self.lease), sources);
        self.query = self.store.take().map(|store| job.start(store));
    }

    fn look(&mut self, query: Query) {
        let job = Job::new(query, (self.owner.clone(), self.lease), BTreeMap::new());
        self.look = self.reader.take().map(|reader| job.start(reader));
    }

    /// Encodes the next claim while the one before it is recorded. One that does not encode, which was
    /// looked at before, ends the relay when it is claimed.
    fn encode_ahead(&mut self) {
        let ready = self.machine.ready();
        if !ready.is_empty() && !self.ahead.as_ref().is_some_and(|commit| commit.is_of(ready)) {
            match query::commit(ready, std::mem::take(&mut self.scanned)) {
                Ok(commit) => self.ahead = Some(commit),
                Err(error) => tracing::error!(owner = self.owner, %error, "rows do not encode"),
            }
        }
    }

    /// What the claims that a query records are made from: new ones of the rows read last, changed
    /// ones of those from before.
    fn sources(&mut self, query: &Query) -> BTreeMap<u64, Source> {
        let mut sources = BTreeMap::new();
        for draft in query.drafts() {
            let known = self.commits.get(&draft.sequence);
            let ahead = self.ahead.take_if(|it| known.is_none() && it.is_of(&draft.rows));
            let source = match (known, ahead) {
                (Some(commit), _) => Source::Rows(commit.rows.clone()),
                (None, Some(commit)) => Source::Commit(commit),
                (None, None) => Source::Rows(std::mem::take(&mut self.scanned)),
            };
            sources.insert(draft.sequence, source);
        }
        sources
    }

    fn call(&mut self, call: Call) {
        let client = self.client.clone();
        let name = self.outbox.map(|outbox| format!("outbox-{outbox}")).unwrap_or_default();
        let answer = async move {
            match call {
                Call::Describe { .. } => {
                    let found = client.describe_producer(&name).await?;
                    Ok((known(found.epoch, found.last), None))
                }
                Call::Open { epoch } => {
                    let epoch = ProducerEpoch(u32::try_from(epoch).unwrap_or(u32::MAX));
                    let opened = client.open_producer(&name, Some(epoch)).await?;
                    Ok((known(opened.epoch, opened.last), Some(opened.producer)))
                }
            }
        };
        self.call = Some((call, Box::pin(answer)));
    }

    fn send(&mut self, epoch: u64, Sending { sequence, prev }: Sending) {
        let (Some(commit), Some(producer)) = (self.commits.get(&sequence), self.producer) else {
            debug_assert!(false, "claim {sequence} is not at hand");
            return;
        };
        let message = message::Commit {
            producer,
            epoch: ProducerEpoch(u32::try_from(epoch).unwrap_or(u32::MAX)),
            sequence: Sequence(sequence),
            prev: Sequence(prev),
            operations: commit.encoded.operations.clone(),
        };
        let answer = self.client.send_commit(message, commit.encoded.tail.clone(), SEND_TIMEOUT);
        self.sends.push(Flying { epoch, sequence, answer: Box::pin(answer) });
    }

    async fn event(&mut self) -> Event<S> {
        let deadline = self.machine.deadline().map(|at| {
            let at = Duration::from_millis(at.0);
            self.started.checked_add(at).unwrap_or_else(|| self.started + DROPPED)
        });
        let Self { query, look, call, sends, bell, stop, is_stopping, .. } = self;
        // In this order: a stop is heard whatever else there is, and a look is under way before a
        // query encodes what it records.
        tokio::select! {
            biased;
            changed = stop.changed(), if !*is_stopping => {
                let by = changed.ok().and_then(|()| *stop.borrow());
                Event::Stop(by.unwrap_or_else(|| Instant::now() + DROPPED))
            }
            (reader, report) = poll_fn(|cx| poll_optional(look, cx)) => {
                *look = None;
                Event::Looked(reader, report)
            }
            (store, report) = poll_fn(|cx| poll_optional(query, cx)) => {
                *query = None;
                Event::Queried(store, report)
            }
            event = poll_fn(|cx| poll_call(call, cx)) => event,
            event = poll_fn(|cx| poll_sends(sends, cx)) => event,
            () = bell.notified() => Event::Rung,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                Event::Due
            }
        }
    }

    fn on_event(&mut self, event: Event<S>) {
        let input = match event {
            Event::Queried(store, report) => {
                self.store = Some(store);
                Input::Database(self.on_report(report))
            }
            Event::Looked(reader, report) => {
                self.reader = Some(reader);
                Input::Looked(self.on_report(report))
            }
            Event::Called(call, answer) => self.on_called(call, answer),
            Event::Sent { epoch, sequence, answer } => self.on_sent(epoch, sequence, &answer),
            Event::Rung => Input::Wake,
            Event::Due => Input::Time,
            Event::Stop(by) => {
                self.is_stopping = true;
                let by = by.saturating_duration_since(self.started).as_millis();
                Input::Shutdown { by: Time(u64::try_from(by).unwrap_or(u64::MAX)) }
            }
        };
        let is_ack = matches!(input, Input::Sent { outcome: Sent::Accepted, .. });
        self.machine.handle(self.now(), input);
        if is_ack {
            failpoint("relay.after-ack");
        }
    }

    fn on_report(&mut self, report: Report) -> Result<Answer, DatabaseFault> {
        let Report { answer, error, found, claims } = report;
        if let Some(error) = error {
            self.failed(&error.to_string());
        }
        self.commits.extend(claims);
        match found {
            Found::Nothing => {}
            Found::Description(found) => {
                self.outbox = Some(found.outbox);
                let warning = found.durability_warning;
                if let Some(warning) = &warning
                    && lock(&self.stats).durability_warning.as_ref() != Some(warning)
                {
                    self.warn(warning);
                }
                lock(&self.stats).durability_warning = warning;
            }
            Found::Rows(rows) => {
                self.scanned = rows;
                // Rows of the same numbers need not be the same rows: the relay may have started over.
                self.ahead = None;
            }
            Found::Lag(lag) => lock(&self.stats).lag = Some(lag),
        }
        answer
    }

    fn on_called(&mut self, call: Call, answer: Called) -> Input {
        if let Err(error) = &answer {
            self.failed(&error.to_string());
        }
        let answer: Result<Producer, BrokerFault> =
            sending::producer(answer.map(|(producer, id)| {
                self.producer = id.or(self.producer);
                producer
            }));
        Input::Broker(call, answer)
    }

    fn on_sent(
        &mut self,
        epoch: u64,
        sequence: u64,
        answer: &Result<Committed, RequestError>,
    ) -> Input {
        if let Err(error) = answer {
            self.failed(&error.to_string());
        }
        let commit = self.commits.get(&sequence);
        let outcome = commit.map_or(Sent::Retry(None), |it| sending::sent(answer, &it.encoded));
        Input::Sent { epoch, sequence, outcome }
    }

    fn failed(&self, text: &str) {
        tracing::debug!(owner = self.owner, text, "relay: attempt failed");
        lock(&self.stats).last_error = Some(text.to_owned());
    }

    fn note(&self, note: &Note) {
        self.count(note);
        self.log(note);
    }

    fn count(&self, note: &Note) {
        let mut stats = lock(&self.stats);
        match note {
            Note::StandingBy => stats.state = RelayState::StandingBy,
            Note::Active { .. } => stats.state = RelayState::Active,
            Note::Inactive => stats.state = RelayState::Starting,
            Note::HandedOver { rows, .. } => {
                stats.claims += 1;
                stats.rows += u64::try_from(*rows).unwrap_or(u64::MAX);
            }
            Note::Parked { rows } => {
                stats.parked += u64::try_from(rows.len()).unwrap_or(u64::MAX);
            }
            Note::DatabaseRestored | Note::Ended(_) => {}
        }
    }

    fn log(&self, note: &Note) {
        match note {
            Note::StandingBy => self.tell("stands by"),
            Note::Active { epoch } => self.tell(&format!("hands over, epoch {epoch}")),
            Note::Inactive => {
                let said = lock(&self.stats).last_error.clone().unwrap_or_default();
                self.warn(&format!("takes the lease again: {said}"));
            }
            Note::Parked { rows } => {
                for (row, reason) in rows {
                    self.warn(&format!("row {} set aside: {reason}", row.0));
                }
            }
            Note::DatabaseRestored => {
                self.warn("the database is older than what the broker has of it");
            }
            Note::HandedOver { .. } | Note::Ended(_) => {}
        }
    }

    fn tell(&self, text: &str) {
        tracing::info!(owner = self.owner, "relay {text}");
    }

    fn warn(&self, text: &str) {
        tracing::warn!(owner = self.owner, "relay: {text}");
    }
}

fn known(epoch: ProducerEpoch, last: Sequence) -> Producer {
    Producer::Known { epoch: u64::from(epoch.0), last: last.0 }
}

fn poll_optional<T>(future: &mut Option<Boxed<T>>, cx: &mut Context<'_>) -> Poll<T> {
    future.as_mut().map_or(Poll::Pending, |future| future.as_mut().poll(cx))
}

fn poll_call<S>(call: &mut Option<(Call, Boxed<Called>)>, cx: &mut Context<'_>) -> Poll<Event<S>> {
    let Some((which, future)) = call else { return Poll::Pending };
    let which = *which;
    future.as_mut().poll(cx).map(|answer| {
        *call = None;
        Event::Called(which, answer)
    })
}

fn poll_sends<S>(sends: &mut Vec<Flying>, cx: &mut Context<'_>) -> Poll<Event<S>> {
    let mut done = None;
    for (at, flying) in sends.iter_mut().enumerate() {
        if let Poll::Ready(answer) = flying.answer.as_mut().poll(cx) {
            done = Some((at, answer));
            break;
        }
    }
    let Some((at, answer)) = done else { return Poll::Pending };
    let Flying { epoch, sequence, .. } = sends.remove(at);
    Poll::Ready(Event::Sent { epoch, sequence, answer })
}
