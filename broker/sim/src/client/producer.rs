//! A sender: pipelined, each publish chained to the one before, resending after a loss under the
//! same numbers.

use super::{Client, Phase, Session, Surroundings, name};
use crate::chance::Chance;
use bytes::Bytes;
use posthouse_checker::history::{self, Event, PublishOutcome};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::message::{ProducerOpen, Publish, Receipt, Refused};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{
    CorrelationId, ErrorCode, MessageId, ProducerEpoch, ProducerId, Reply, Sequence, Timestamp,
    TopicId,
};
use std::collections::VecDeque;

/// Publishes under way at most.
const WINDOW_MAX: usize = 10;
/// Batches of delayed messages, in percent.
const DELAYED_PERCENT: u64 = 15;
/// How long a refused publish waits.
const RETRY_NANOS: u64 = 40_000_000;

/// A topic to publish to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: TopicId,
    pub(crate) topic: String,
}

/// A sender.
#[derive(Debug)]
pub(crate) struct Producer {
    session: Session,
    name: Option<String>,
    targets: Vec<Target>,
    body_bytes_max: u64,
    batch_bytes_max: usize,
    identity: Option<(ProducerId, ProducerEpoch)>,
    opening: Option<CorrelationId>,
    window: VecDeque<Sent>,
    /// The last publish that has left the window.
    before: Sequence,
    /// The highest number given.
    highest: Sequence,
    messages: u64,
    resend_at: u64,
    /// Publishes that may still be begun.
    budget: u64,
}

/// A publish under way.
#[derive(Debug)]
struct Sent {
    sequence: Sequence,
    target: usize,
    batch: Bytes,
    messages: Vec<Content>,
    t0: Option<u64>,
    flight: Option<CorrelationId>,
    /// Tries whose answer never came.
    unanswered: u32,
    refused: Option<ErrorCode>,
    is_accepted: bool,
}

/// What is noted of a message.
#[derive(Clone, Copy, Debug)]
struct Content {
    id: MessageId,
    crc: u32,
    due_ms: Option<u64>,
}

impl Producer {
    pub(crate) fn new(client: usize, named: Option<&str>, targets: Vec<Target>) -> Self {
        Self {
            session: Session::new(client),
            name: named.map(str::to_owned),
            targets,
            body_bytes_max: 600,
            batch_bytes_max: 4 << 10,
            identity: None,
            opening: None,
            window: VecDeque::new(),
            before: Sequence::ZERO,
            highest: Sequence::ZERO,
            messages: 0,
            resend_at: 0,
            budget: u64::MAX,
        }
    }

    /// Changes how much it sends.
    pub(crate) const fn sized(mut self, body_max: u64, batch_max: usize, budget: u64) -> Self {
        self.body_bytes_max = body_max;
        self.batch_bytes_max = batch_max;
        self.budget = budget;
        self
    }

    fn open(&mut self, around: &mut Surroundings<'_>) {
        let name = self.name.as_deref().map(name);
        self.opening = self.session.send(around, ProducerOpen { name, epoch: None }, &[]);
    }

    fn begin(&mut self, around: &mut Surroundings<'_>) {
        let target = around.dice.index(self.targets.len());
        let mut builder = BatchBuilder::new();
        let mut messages = Vec::new();
        // A batch has delayed messages only, or none.
        let is_delayed = around.dice.percent(DELAYED_PERCENT);
        let wanted = if around.dice.percent(30) { around.dice.between(2, 12) } else { 1 };
        for _ in 0..wanted {
            let mut message = self.message(around);
            if is_delayed {
                message.due_at = around.due_at();
            }
            if builder.len() + posthouse_protocol::batch::encoded_len(&message)
                > self.batch_bytes_max
                && !messages.is_empty()
            {
                break;
            }
            let (id, crc) = (message.id, crc32fast::hash(&message.body));
            messages.push(Content { id, crc, due_ms: is_delayed.then_some(message.due_at.0) });
            builder.push(&message).expect("messages of the simulation are within the limits");
        }
        // Numbers ascend, with gaps: only `prev` says what is missing.
        self.highest = Sequence(self.highest.0 + around.dice.between(1, 3));
        self.window.push_back(Sent {
            sequence: self.highest,
            target,
            batch: builder.finish(Timestamp(around.now / 1_000_000)),
            messages,
            t0: None,
            flight: None,
            unanswered: 0,
            refused: None,
            is_accepted: false,
        });
        self.budget = self.budget.saturating_sub(1);
        self.transmit(around, self.window.len() - 1);
    }

    fn message(&mut self, around: &mut Surroundings<'_>) -> Message {
        self.messages += 1;
        let id = (self.session.client as u128) << 64 | u128::from(self.messages);
        let is_heavy = self.body_bytes_max > 2_000;
        let max = if around.dice.percent(if is_heavy { 50 } else { 10 }) {
            self.body_bytes_max
        } else {
            self.body_bytes_max.min(100)
        };
        let len = around.dice.below(max + 1);
        let mut words = around.dice.split();
        let body: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| words.throw().to_le_bytes())
            .take(usize::try_from(len).unwrap_or(0))
            .collect();
        let header = (Bytes::from_static(b"n"), Bytes::from(self.messages.to_string()));
        Message {
            id: MessageId(id.to_be_bytes()),
            created_at: Timestamp(around.now / 1_000_000),
            key: around.dice.percent(20).then(|| Bytes::from_static(b"key")),
            headers: if around.dice.percent(20) { vec![header] } else { Vec::new() },
            body: body.into(),
            ..Message::default()
        }
    }

    fn transmit(&mut self, around: &mut Surroundings<'_>, at: usize) {
        let Some((producer, epoch)) = self.identity else { return };
        let before = at.checked_sub(1).and_then(|before| self.window.get(before));
        let prev = before.map_or(self.before, |before| before.sequence);
        let Some(sent) = self.window.get_mut(at) else { return };
        let Some(target) = self.targets.get(sent.target) else { return };
        let publish = Publish { topic: target.id, producer, epoch, sequence: sent.sequence, prev };
        sent.t0.get_or_insert(around.now);
        sent.flight = self.session.send(around, publish, &sent.batch);
        sent.refused = None;
    }

    fn resend(&mut self, around: &mut Surroundings<'_>) {
        for at in 0..self.window.len() {
            if self.window.get(at).is_some_and(|sent| !sent.is_accepted) {
                self.transmit(around, at);
            }
        }
    }

    /// A power loss has taken what this producer was told was `written`: the broker's high-water
    /// mark lies behind, and only opening again tells where.
    fn is_chain_broken(&self) -> bool {
        let front = self.window.front().and_then(|front| front.refused);
        front == Some(ErrorCode::OutOfSequence)
    }

    /// Sometimes gives up the publish at the front, which is known not to have happened.
    fn give_up(&mut self, around: &mut Surroundings<'_>) {
        let Some(front) = self.window.front() else { return };
        let Some(code) = front.refused else { return };
        // An earlier try without an answer may still be under way, and take effect.
        if front.unanswered == 0 && code != ErrorCode::OutOfSequence && around.dice.percent(30) {
            let outcome = PublishOutcome::Failed(code.name().to_owned());
            if let Some(sent) = self.window.pop_front() {
                self.record(around, &sent, |_| outcome.clone());
            }
        }
    }

    fn accepted(&mut self, around: &mut Surroundings<'_>, at: usize, receipt: &Receipt) {
        let durability = match receipt.durability {
            Durability::Synced => history::Durability::Synced,
            Durability::Written => history::Durability::Written,
        };
        if let Some(sent) = self.window.get_mut(at) {
            sent.is_accepted = true;
            sent.flight = None;
        }
        if let Some(sent) = self.window.get(at) {
            let is_delayed = sent.messages.iter().any(|message| message.due_ms.is_some());
            around.delays.published += u64::from(is_delayed && receipt.base.is_none());
            self.record(around, sent, |position| PublishOutcome::Ok {
                offset: receipt.base.map(|base| base.0 + u64::from(position)),
                durability,
                duplicate: receipt.duplicate,
            });
        }
        while let Some(front) = self.window.pop_front_if(|front| front.is_accepted) {
            self.before = front.sequence;
        }
    }

    fn declined(&mut self, around: &mut Surroundings<'_>, at: usize, refused: &Refused) {
        let code = ErrorCode::from_number(refused.code).expect("a code that exists");
        self.resend_at = around.now + around.dice.between(1, RETRY_NANOS);
        if code == ErrorCode::UnknownProducer {
            self.start_anew(around);
        }
        // The only ones that a sender of sound publishes to topics that exist can get.
        let expected = [
            ErrorCode::UnknownProducer,
            ErrorCode::StorageFull,
            ErrorCode::Overloaded,
            ErrorCode::ShuttingDown,
            ErrorCode::OutOfSequence,
        ];
        assert!(expected.contains(&code), "a publish was refused with {code}: {}", refused.text);
        if let Some(sent) = self.window.get_mut(at) {
            sent.flight = None;
            sent.refused = Some(code);
        }
    }

    /// The broker has forgotten this producer: what is under way stays unknown.
    fn start_anew(&mut self, around: &mut Surroundings<'_>) {
        for sent in std::mem::take(&mut self.window) {
            if !sent.is_accepted {
                self.record(around, &sent, |_| PublishOutcome::Unknown);
            }
        }
        self.identity = None;
        (self.before, self.highest) = (Sequence::ZERO, Sequence::ZERO);
    }

    fn record(
        &self,
        around: &mut Surroundings<'_>,
        sent: &Sent,
        outcome: impl Fn(u32) -> PublishOutcome,
    ) {
        let Some((producer, _)) = self.identity else { return };
        let Some(target) = self.targets.get(sent.target) else { return };
        for (position, message) in (0_u32..).zip(&sent.messages) {
            around.history.push(Event::Publish(history::Publish {
                t0: history::Time(sent.t0.unwrap_or(around.now)),
                t1: around.time(),
                topic: target.topic.clone(),
                id: history::MessageId::from(message.id.0),
                crc: message.crc,
                sender: Some(history::Sender {
                    producer: producer.0,
                    sequence: sent.sequence.0,
                    position,
                }),
                due_ms: message.due_ms,
                outcome: outcome(position),
            }));
        }
    }
}

impl Client for Producer {
    fn act(&mut self, around: &mut Surroundings<'_>) {
        if !self.session.connect(around) || self.opening.is_some() {
            return;
        }
        if self.identity.is_none() {
            return self.open(around);
        }
        let is_flying = self.window.iter().any(|sent| sent.flight.is_some());
        let is_waiting = self.window.iter().any(|sent| sent.flight.is_none() && !sent.is_accepted);
        if is_waiting {
            if is_flying || around.now < self.resend_at {
                return;
            }
            if self.is_chain_broken() {
                return self.open(around);
            }
            self.give_up(around);
            self.resend(around);
        } else if around.phase == Phase::Load && self.budget > 0 {
            let room = WINDOW_MAX.saturating_sub(self.window.len());
            for _ in 0..around.dice.index(room + 1) {
                self.begin(around);
            }
        }
    }

    fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        to: CorrelationId,
        reply: Reply,
        _: &Bytes,
    ) {
        if let Reply::ProducerOpened(opened) = reply {
            assert_eq!(self.opening.take(), Some(to), "an answer to what was asked");
            self.identity = Some((opened.producer, opened.epoch));
            self.before = opened.last;
            self.window.iter_mut().for_each(|sent| sent.refused = None);
            return;
        }
        let at = self.window.iter().position(|sent| sent.flight == Some(to));
        match (reply, at) {
            (Reply::Receipt(receipt), Some(at)) => self.accepted(around, at, &receipt),
            (Reply::Refused(refused), Some(at)) => self.declined(around, at, &refused),
            (Reply::Refused(_), None) if self.opening == Some(to) => self.opening = None,
            (Reply::Goodbye(_), _) => {}
            (other, None) if self.identity.is_none() => drop(other),
            (other, _) => panic!("a producer got {other:?}"),
        }
    }

    fn lost(&mut self, around: &mut Surroundings<'_>) {
        self.session.connection = None;
        self.opening = None;
        for sent in &mut self.window {
            sent.unanswered += u32::from(sent.flight.take().is_some());
        }
        self.resend_at = around.now;
        // A named producer may come back as its next incarnation.
        if self.name.is_some() && around.dice.percent(30) {
            self.identity = None;
        }
    }

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn has_sent(&self) -> bool {
        self.window.is_empty()
    }

    fn is_done(&self) -> bool {
        self.has_sent()
    }
}
