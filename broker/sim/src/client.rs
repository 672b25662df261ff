//! Clients as small state machines: what they do next is a throw of the dice, what they were told
//! goes into the history.

pub(crate) mod admin;
pub(crate) mod committing;
pub(crate) mod consumer;
pub(crate) mod producer;
pub(crate) mod reader;

use crate::ledger::Ledger;
use crate::net::Net;
use crate::trace::Trace;
use crate::wire;
use bytes::Bytes;
use posthouse_checker::history::{self, Event, Outcome};
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::{
    CorrelationId, ErrorCode, Name, Outcome as Told, Reply, Request, Timestamp,
};
use posthouse_storage::fs::dice::Dice;
use std::fmt::Debug;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Topics are made.
    Setup,
    /// Everybody works.
    Load,
    /// Nothing new is published: what is under way gets its answer.
    Flush,
    /// Only the last looks: everybody else leaves.
    Finish,
}

/// What clients see of the world.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// Nanoseconds since the run began.
    pub(crate) now: u64,
    /// The wall clock, of clients and broker alike.
    pub(crate) wall: Timestamp,
    pub(crate) phase: Phase,
    pub(crate) is_up: bool,
    pub(crate) dice: &'a mut Dice,
    pub(crate) net: &'a mut Net,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) history: &'a mut Vec<Event>,
    pub(crate) trace: &'a mut Trace,
    /// Refusals that arrived.
    pub(crate) refusals: u64,
    pub(crate) commits: Commits,
    pub(crate) delays: Delays,
}

/// Answers to commits that arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Commits {
    pub(crate) told: u64,
    pub(crate) repeated: u64,
    pub(crate) refused: u64,
}

/// Messages accepted to be delayed, as clients were told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delays {
    pub(crate) published: u64,
    pub(crate) committed: u64,
}

impl Surroundings<'_> {
    /// When a message is to be due: mostly soon, sometimes after all load, rarely already.
    pub(crate) fn due_at(&mut self) -> Timestamp {
        let millis = if self.dice.percent(10) { 20_000 } else { 1_500 };
        self.wall.plus_millis(self.dice.below(millis))
    }

    pub(crate) const fn time(&self) -> history::Time {
        history::Time(self.now)
    }
}

/// Something that talks to the broker.
pub(crate) trait Client: Debug {
    /// Does the next thing.
    fn act(&mut self, around: &mut Surroundings<'_>);

    /// Takes a frame.
    fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        to: CorrelationId,
        reply: Reply,
        tail: &Bytes,
    );

    /// Notices that its connection is lost.
    fn lost(&mut self, around: &mut Surroundings<'_>);

    /// Its connection.
    fn session(&mut self) -> &mut Session;

    /// Whether everything that it has to publish was answered.
    fn has_sent(&self) -> bool {
        true
    }

    /// Whether it waits for nothing any more.
    fn is_done(&self) -> bool;
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: usize,
    pub(crate) connection: Option<ConnectionId>,
    correlation: u32,
    /// When the connection surely lived last: when the latest frame that has come left the broker. It may
    /// have been under way when the broker had lost the connection.
    pub(crate) lived: u64,
}

impl Session {
    pub(crate) const fn new(client: usize) -> Self {
        Self { client, connection: None, correlation: 0, lived: 0 }
    }

    /// Connects if there is no connection. Says whether there is one.
    pub(crate) fn connect(&mut self, around: &mut Surroundings<'_>) -> bool {
        if self.connection.is_none() && around.is_up {
            self.connection = Some(around.net.connect(self.client));
            self.lived = around.now;
        }
        self.connection.is_some()
    }

    /// Sends a request; the reply will carry the same number.
    pub(crate) fn send(
        &mut self,
        around: &mut Surroundings<'_>,
        request: impl Into<Request>,
        tail: &[u8],
    ) -> Option<CorrelationId> {
        let connection = self.connection?;
        self.correlation += 1;
        let request = request.into();
        let has_reply = !matches!(request, Request::Credit(_));
        let to = CorrelationId(if has_reply { self.correlation } else { 0 });
        let frame = wire::request(to, &request, tail);
        around.trace.frame(around.now, connection.0, &frame);
        around.ledger.sent(connection, &frame);
        around.net.send_up(connection, frame);
        Some(to)
    }
}

/// What the history says of an operation that was refused with this code.
pub(crate) fn refused(number: u16) -> Outcome {
    let code = ErrorCode::from_number(number).expect("the broker sends codes that exist");
    match code.outcome() {
        Told::Definite => Outcome::Refused(code.name().to_owned()),
        Told::Unknown => Outcome::Unknown,
    }
}

/// A name that is one.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("names of the simulation are valid")
}
