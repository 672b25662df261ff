//! Producers: opening them, and forgetting those without a name.
//!
//! A named producer lives until it is retired. An unnamed one is forgotten an hour after the last
//! connection that used it ended; after a restart the hour starts anew.

use crate::context::{Client, Context};
use crate::event::{self, Event};
use crate::input::ConnectionId;
use crate::refusal::Refusal;
use crate::state::{Producer, State};
use crate::time::{Now, Time};
use posthouse_protocol::message::{ProducerOpen, ProducerOpened};
use posthouse_protocol::{ErrorCode, ProducerEpoch, ProducerId, Sequence};
use std::collections::{BTreeMap, BTreeSet};

/// Most producers, named and unnamed.
pub(crate) const PRODUCERS_MAX: usize = 100_000;
/// Most named producers.
pub(crate) const NAMED_MAX: usize = 10_000;
/// When to try again while there are too many.
const RETRY_FULL_MS: u32 = 60_000;
/// How long an unnamed producer outlives its last connection.
const IDLE_MS: u64 = 3_600_000;
/// Most producers forgotten in one frame.
const FORGET_MAX: usize = 1_000;

/// Which connections use which unnamed producers.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    used_by: BTreeMap<ConnectionId, BTreeSet<ProducerId>>,
    /// How many connections use a producer; those of none are in `idle`.
    users: BTreeMap<ProducerId, u32>,
    idle: BTreeMap<ProducerId, Time>,
    /// One entry per idle producer, ordered by when it is forgotten.
    deadlines: BTreeSet<(Time, ProducerId)>,
    /// The pair noted last, which is mostly the next one, too.
    last_used: Option<(ConnectionId, ProducerId)>,
}

impl Producers {
    /// Starts the hour of every unnamed producer.
    pub(crate) fn start(&mut self, context: &Context<'_>) {
        for producer in context.state.producers.values().filter(|p| p.name.is_none()) {
            self.rest(context.now, producer.id);
        }
    }

    /// Opens a producer and answers.
    pub(crate) fn open(&mut self, context: &mut Context<'_>, client: Client, open: &ProducerOpen) {
        let answer = self.try_open(context, client, open);
        context.answer(client, answer);
    }

    fn try_open(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        open: &ProducerOpen,
    ) -> Result<ProducerOpened, Refusal> {
        check_epoch(open)?;
        let named = open.name.as_ref().and_then(|name| context.state.producer_ids.get(name));
        let opened = match named.and_then(|id| context.state.producers.get(id)) {
            None => ProducerOpened {
                producer: room_for_one_more(context.state, open.name.is_some())?,
                epoch: open.epoch.unwrap_or(ProducerEpoch(1)),
                last: Sequence::ZERO,
            },
            Some(known) => ProducerOpened {
                producer: known.id,
                epoch: next_epoch(known, open.epoch)?,
                last: known.last,
            },
        };
        let (id, epoch, name) = (opened.producer, opened.epoch, open.name.clone());
        // A producer that opens its own epoch once more has only lost its connection.
        if context.state.producers.get(&id).is_none_or(|known| known.epoch != epoch) {
            let event = event::ProducerOpened { id, name, epoch };
            context.append(vec![Event::ProducerOpened(event)], Vec::new());
        }
        if open.name.is_none() {
            self.hold(client.connection, id);
        }
        Ok(opened)
    }

    /// Notes that `connection` publishes as `producer`.
    pub(crate) fn used(&mut self, producer: &Producer, connection: ConnectionId) {
        if producer.name.is_none() && self.last_used != Some((connection, producer.id)) {
            self.hold(connection, producer.id);
        }
    }

    fn hold(&mut self, connection: ConnectionId, producer: ProducerId) {
        self.last_used = Some((connection, producer));
        if !self.used_by.entry(connection).or_default().insert(producer) {
            return;
        }
        *self.users.entry(producer).or_default() += 1;
        if let Some(at) = self.idle.remove(&producer) {
            self.deadlines.remove(&(at, producer));
        }
        self.check_invariants();
    }

    /// Lets go of what `connection` used.
    pub(crate) fn disconnected(&mut self, now: Now, connection: ConnectionId) {
        self.last_used = None;
        for producer in self.used_by.remove(&connection).unwrap_or_default() {
            let users = self.users.entry(producer).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&producer);
                self.rest(now, producer);
            }
        }
        self.check_invariants();
    }

    fn rest(&mut self, now: Now, producer: ProducerId) {
        let at = now.mono.plus_millis(IDLE_MS);
        self.idle.insert(producer, at);
        self.deadlines.insert((at, producer));
    }

    /// Forgets producers whose hour is over.
    pub(crate) fn on_deadline(&mut self, context: &mut Context<'_>) {
        let mut events = Vec::new();
        let now = context.now.mono;
        while let Some((at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            self.deadlines.remove(&(at, id));
            self.idle.remove(&id);
            if context.state.producers.contains_key(&id) {
                events.push(Event::ProducerForgotten(event::ProducerForgotten { id }));
            }
            if events.len() == FORGET_MAX {
                break;
            }
        }
        if !events.is_empty() {
            context.append(events, Vec::new());
        }
        self.check_invariants();
    }

    /// When the next hour is over.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.idle.len(), self.deadlines.len());
        debug_assert!(self.users.keys().all(|producer| !self.idle.contains_key(producer)));
    }
}

/// Checks that an epoch which a client asks for can be given, and can be followed by another.
fn check_epoch(open: &ProducerOpen) -> Result<(), Refusal> {
    let text = match open.epoch {
        Some(_) if open.name.is_none() => "only a named producer can ask for an epoch",
        Some(ProducerEpoch(0 | u32::MAX)) => "an epoch is from 1 to 4294967294",
        Some(_) | None => return Ok(()),
    };
    Err(Refusal::of_request(ErrorCode::Invalid, text))
}

/// The epoch that `known` has from now on.
fn next_epoch(known: &Producer, wanted: Option<ProducerEpoch>) -> Result<ProducerEpoch, Refusal> {
    let next = known.epoch.next();
    if wanted.is_none() && next == known.epoch {
        let text = "the producer has used up its epochs: retire it, or take another name";
        return Err(Refusal::of_state(ErrorCode::Invalid, text));
    }
    let Some(wanted) = wanted else { return Ok(next) };
    if wanted >= known.epoch {
        return Ok(wanted);
    }
    let text = format!("epoch {wanted} was replaced by epoch {}", known.epoch);
    Err(Refusal::of_state(ErrorCode::Fenced, text))
}

/// The number of a new producer.
fn room_for_one_more(state: &State, is_named: bool) -> Result<ProducerId, Refusal> {
    let full = |text: String| {
        Err(Refusal::of_state(ErrorCode::Overloaded, text).retry_after(RETRY_FULL_MS))
    };
    if is_named && state.producer_ids.len() >= NAMED_MAX {
        return full(format!(
            "there are {NAMED_MAX} named producers, which is the limit: posthouse producer retire"
        ));
    }
    if state.producers.len() >= PRODUCERS_MAX {
        return full(format!("there are {PRODUCERS_MAX} producers, which is the limit"));
    }
    Ok(state.last_ids.producer.next())
}
