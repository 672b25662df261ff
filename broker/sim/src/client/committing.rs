//! Commits of one client: one under way at a time, repeated with the same bytes until its answer
//! is known.

use super::producer::Target;
use super::{Session, Surroundings, name};
use crate::chance::Chance;
use bytes::Bytes;
use posthouse_checker::history::{self, Event, PublishOutcome};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::message::{
    Commit, CommitPublish, Committed, Operation, ProducerOpen, ProducerOpened, Refused,
};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{
    CorrelationId, ErrorCode, MessageId, ProducerEpoch, ProducerId, Reply, Sequence, Timestamp,
};
use std::collections::BTreeMap;

/// Publishes of delayed messages, in percent.
const DELAYED_PERCENT: u64 = 15;
/// How long a refused commit waits.
const RETRY_NANOS: u64 = 40_000_000;

/// The commits of a client. `C` is what else they carry: a settlement, a cursor.
#[derive(Debug)]
pub(crate) struct Committing<C> {
    client: usize,
    name: Option<String>,
    targets: Vec<Target>,
    identity: Option<(ProducerId, ProducerEpoch)>,
    opening: Option<CorrelationId>,
    /// The last one that was accepted.
    before: Sequence,
    /// The highest number given.
    highest: Sequence,
    messages: u64,
    under_way: Option<UnderWay<C>>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    /// It happened.
    Done,
    /// It did not and never will; the code.
    Refused(u16),
    /// The broker does not know any more.
    Unknown,
}

#[derive(Debug)]
struct UnderWay<C> {
    sequence: Sequence,
    operations: Vec<Operation>,
    tail: Bytes,
    messages: Vec<Part>,
    t0: u64,
    flight: Option<CorrelationId>,
    resend_at: u64,
    /// Tries whose answer never came.
    unanswered: u32,
    carried: C,
}

/// A message of a commit.
#[derive(Clone, Copy, Debug)]
struct Part {
    target: usize,
    /// Which publish of the commit, and the place in its batch.
    publish: usize,
    place: u32,
    /// The place among all of the commit's messages in this topic.
    position: u32,
    id: MessageId,
    crc: u32,
    due_ms: Option<u64>,
}

impl<C> Committing<C> {
    pub(crate) const fn new(client: usize, name: Option<String>, targets: Vec<Target>) -> Self {
        Self {
            client,
            name,
            targets,
            identity: None,
            opening: None,
            before: Sequence::ZERO,
            highest: Sequence::ZERO,
            messages: 0,
            under_way: None,
        }
    }

    /// Whether nothing is under way.
    pub(crate) const fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    /// Whether a commit can begin.
    pub(crate) const fn is_ready(&self) -> bool {
        self.is_idle() && self.identity.is_some() && self.opening.is_none()
    }

    /// Opens the producer, or sends again what has to be.
    pub(crate) fn drive(&mut self, around: &mut Surroundings<'_>, session: &mut Session) {
        if self.opening.is_some() {
            return;
        }
        if self.identity.is_none() {
            let name = self.name.as_deref().map(name);
            self.opening = session.send(around, ProducerOpen { name, epoch: None }, &[]);
            return;
        }
        let waits = |at: &UnderWay<C>| at.flight.is_none() && at.resend_at <= around.now;
        if self.under_way.as_ref().is_some_and(waits) {
            self.transmit(around, session);
        }
    }

    /// Begins a commit that does `operations` and publishes a little besides.
    pub(crate) fn begin(
        &mut self,
        around: &mut Surroundings<'_>,
        session: &mut Session,
        mut operations: Vec<Operation>,
        carried: C,
    ) {
        let (mut tail, mut messages) = (Vec::new(), Vec::new());
        let (mut positions, mut delayed) = (BTreeMap::new(), BTreeMap::new());
        let mut publishes = Vec::new();
        for publish in 0..1 + around.dice.index(3) {
            let target = around.dice.index(self.targets.len());
            let mut builder = BatchBuilder::new();
            // All for one topic, or none: a time that has passed when the broker looks is no delay,
            // and then these lie among the others.
            let throw = around.dice.percent(DELAYED_PERCENT);
            let is_delayed = *delayed.entry(target).or_insert(throw);
            for place in 0..around.dice.between(1, 3) {
                let mut message = self.message(around);
                if is_delayed {
                    message.due_at = around.due_at();
                }
                builder.push(&message).expect("small messages are within the limits");
                let position = positions.entry(target).or_insert(0);
                let (id, crc) = (message.id, crc32fast::hash(&message.body));
                let due_ms = is_delayed.then_some(message.due_at.0);
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                let part = Part { target, publish, place, position: *position, id, crc, due_ms };
                messages.push(part);
                *position += 1;
            }
            let batch = builder.finish(Timestamp(around.now / 1_000_000));
            let Some(target) = self.targets.get(target) else { continue };
            let bytes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let topic = name(&target.topic);
            publishes.push(Operation::Publish(CommitPublish { topic, bytes }));
            tail.extend_from_slice(&batch);
        }
        if around.dice.percent(50) {
            operations.append(&mut publishes);
        } else {
            operations.splice(..0, publishes);
        }
        self.highest = Sequence(self.highest.0 + around.dice.between(1, 3));
        self.under_way = Some(UnderWay {
            sequence: self.highest,
            operations,
            tail: tail.into(),
            messages,
            t0: around.now,
            flight: None,
            resend_at: 0,
            unanswered: 0,
            carried,
        });
        self.transmit(around, session);
    }

    fn message(&mut self, around: &mut Surroundings<'_>) -> Message {
        self.messages += 1;
        let id = (self.client as u128) << 64 | u128::from(self.messages);
        let len = around.dice.below(200);
        let mut words = around.dice.split();
        let body: Vec<u8> = (0..len).map(|_| words.throw().to_le_bytes()[0]).collect();
        Message {
            id: MessageId(id.to_be_bytes()),
            created_at: Timestamp(around.now / 1_000_000),
            body: body.into(),
            ..Message::default()
        }
    }

    fn transmit(&mut self, around: &mut Surroundings<'_>, session: &mut Session) {
        let Some((producer, epoch)) = self.identity else { return };
        let Some(under_way) = &mut self.under_way else { return };
        let commit = Commit {
            producer,
            epoch,
            sequence: under_way.sequence,
            prev: self.before,
            operations: under_way.operations.clone(),
        };
        under_way.flight = session.send(around, commit, &under_way.tail);
    }

    /// Whether this answers something of it.
    pub(crate) fn asked(&self, to: CorrelationId) -> bool {
        let flight = self.under_way.as_ref().and_then(|under_way| under_way.flight);
        self.opening == Some(to) || flight == Some(to)
    }

    /// Takes the answer to something that it [`asked`](Self::asked); what was carried, once the
    /// outcome is known.
    #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is a mistake")]
    pub(crate) fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        reply: &Reply,
    ) -> Option<(C, Became)> {
        if self.opening.take().is_some() {
            if let Reply::ProducerOpened(opened) = reply {
                self.opened(opened);
            }
            return None;
        }
        self.under_way.as_mut()?.flight = None;
        match reply {
            Reply::Committed(committed) => self.done(around, committed),
            Reply::Refused(refused) => self.refused(around, refused),
            other => panic!("a commit was answered with {other:?}"),
        }
    }

    const fn opened(&mut self, opened: &ProducerOpened) {
        self.identity = Some((opened.producer, opened.epoch));
        self.before = opened.last;
        if self.highest.0 < opened.last.0 {
            self.highest = opened.last;
        }
    }

    fn done(
        &mut self,
        around: &mut Surroundings<'_>,
        committed: &Committed,
    ) -> Option<(C, Became)> {
        let under_way = self.under_way.take()?;
        around.commits.told += 1;
        around.commits.repeated += u64::from(committed.duplicate);
        self.before = under_way.sequence;
        let durability = match committed.durability {
            Durability::Synced => history::Durability::Synced,
            Durability::Written => history::Durability::Written,
        };
        let is_delayed = |part: &&Part| {
            let published = committed.published.get(part.publish);
            part.due_ms.is_some() && published.is_some_and(|published| published.base.is_none())
        };
        let delayed = under_way.messages.iter().filter(is_delayed).map(|part| part.publish);
        around.delays.committed += u64::from(delayed.max().is_some());
        self.record(around, &under_way, |part| {
            let published = committed.published.get(part.publish).expect("an answer for each");
            PublishOutcome::Ok {
                offset: published.base.map(|base| base.0 + u64::from(part.place)),
                durability,
                duplicate: committed.duplicate,
            }
        });
        Some((under_way.carried, Became::Done))
    }

    fn refused(&mut self, around: &mut Surroundings<'_>, refused: &Refused) -> Option<(C, Became)> {
        let code = ErrorCode::from_number(refused.code).expect("a code that exists");
        around.commits.refused += 1;
        let again_at = around.now + around.dice.between(1, RETRY_NANOS);
        let unanswered = self.under_way.as_ref().map_or(0, |under_way| under_way.unanswered);
        if code == ErrorCode::UnknownProducer {
            let under_way = self.under_way.take()?;
            self.record(around, &under_way, |_| PublishOutcome::Unknown);
            self.identity = None;
            (self.before, self.highest) = (Sequence::ZERO, Sequence::ZERO);
            return Some((under_way.carried, Became::Unknown));
        }
        let for_want_of_room =
            [ErrorCode::StorageFull, ErrorCode::Overloaded, ErrorCode::ShuttingDown];
        let gives_up = if code == ErrorCode::OutOfSequence {
            // A power loss has taken what this producer was told was `written`: only opening again
            // tells where it stands.
            self.identity = None;
            false
        } else if for_want_of_room.contains(&code) {
            (unanswered == 0 || code.covers_earlier_tries()) && around.dice.percent(30)
        } else {
            assert_eq!(code, ErrorCode::StaleFence, "a commit was refused: {}", refused.text);
            true
        };
        if !gives_up {
            self.under_way.as_mut()?.resend_at = again_at;
            return None;
        }
        let under_way = self.under_way.take()?;
        let outcome = PublishOutcome::Failed(code.name().to_owned());
        self.record(around, &under_way, |_| outcome.clone());
        Some((under_way.carried, Became::Refused(refused.code)))
    }

    fn record(
        &self,
        around: &mut Surroundings<'_>,
        under_way: &UnderWay<C>,
        outcome: impl Fn(&Part) -> PublishOutcome,
    ) {
        let Some((producer, _)) = self.identity else { return };
        for part in &under_way.messages {
            let Some(target) = self.targets.get(part.target) else { continue };
            around.history.push(Event::Publish(history::Publish {
                t0: history::Time(under_way.t0),
                t1: around.time(),
                topic: target.topic.clone(),
                id: history::MessageId::from(part.id.0),
                crc: part.crc,
                sender: Some(history::Sender {
                    producer: producer.0,
                    sequence: under_way.sequence.0,
                    position: part.position,
                }),
                due_ms: part.due_ms,
                outcome: outcome(part),
            }));
        }
    }

    /// Its connection is lost: what is under way is sent again on the next one.
    pub(crate) fn lost(&mut self) {
        self.opening = None;
        if let Some(under_way) = &mut self.under_way {
            under_way.unanswered += u32::from(under_way.flight.take().is_some());
            under_way.resend_at = 0;
        }
    }
}
