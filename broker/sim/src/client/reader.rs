//! A reader: fetches a topic in order, and saves the cursor of a stream subscription.

use super::committing::{Became, Committing};
use super::{Client, Phase, Session, Surroundings, refused};
use crate::chance::Chance;
use bytes::Bytes;
use posthouse_checker::history::{self, CursorChange, Event, Outcome};
use posthouse_protocol::message::{CursorSave, Fetch, Fetched, Operation};
use posthouse_protocol::settings::Position;
use posthouse_protocol::{CorrelationId, Offset, Reply, SubscriptionId, TopicId};

/// A reader.
#[derive(Debug)]
pub(crate) struct Reader {
    session: Session,
    topic: (TopicId, String),
    cursor: Option<(SubscriptionId, String)>,
    next: u64,
    fetching: Option<(CorrelationId, u64)>,
    saving: Option<Saving>,
    saved: u64,
    /// The highest cursor ever asked for; none is ever asked for below, so that a promise stays one.
    asked: u64,
    /// In the last look: reads to the end and stops.
    is_final: bool,
    /// The end has been seen.
    is_at_end: bool,
    committing: Option<Committing<Cursor>>,
}

/// A cursor in a commit: the offset, and when it was first asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    t0: u64,
    offset: u64,
}

#[derive(Debug)]
struct Saving {
    to: CorrelationId,
    cursor: Cursor,
}

impl Reader {
    pub(crate) const fn new(
        client: usize,
        topic: (TopicId, String),
        cursor: Option<(SubscriptionId, String)>,
    ) -> Self {
        Self {
            session: Session::new(client),
            topic,
            cursor,
            next: 0,
            fetching: None,
            saving: None,
            saved: 0,
            asked: 0,
            is_final: false,
            is_at_end: false,
            committing: None,
        }
    }

    /// Saves in commits, too, that publish to several topics.
    pub(crate) fn committing(self, committing: Committing<Cursor>) -> Self {
        Self { committing: Some(committing), ..self }
    }

    /// A reader for the last look.
    pub(crate) fn last(client: usize, topic: (TopicId, String)) -> Self {
        Self { is_final: true, ..Self::new(client, topic, None) }
    }

    fn fetch(&mut self, around: &mut Surroundings<'_>) {
        let bytes_max = around.dice.between(1, 8_000);
        let messages_max = around.dice.between(1, 40);
        let wait_ms = if around.phase == Phase::Load { around.dice.below(200) } else { 0 };
        let from = if self.next == 0 { Position::Earliest } else { at(self.next) };
        let request = Fetch {
            topic: self.topic.0,
            from,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            messages_max: u32::try_from(messages_max).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(wait_ms).unwrap_or(0),
        };
        let sent = self.session.send(around, request, &[]);
        self.fetching = sent.map(|to| (to, around.now));
    }

    fn fetched(&mut self, around: &mut Surroundings<'_>, t0: u64, fetched: &Fetched, tail: &Bytes) {
        let parts = fetched.parts(tail).expect("fetched slices take apart");
        assert_eq!(fetched.damaged_from, None, "nothing is damaged here");
        let mut messages = Vec::new();
        for (slice, part) in fetched.slices.iter().zip(&parts) {
            for (offset, message) in (slice.first.0..).zip(part.messages()) {
                message.verify().expect("what is fetched is sound");
                let id = history::MessageId::from(message.entry.id.0);
                messages.push(history::Seen { offset, id, crc: crc32fast::hash(message.body) });
            }
        }
        around.history.push(Event::Fetch(history::Fetch {
            t0: history::Time(t0),
            t1: around.time(),
            topic: self.topic.1.clone(),
            from: self.next,
            next: fetched.next.0,
            messages,
        }));
        assert!(fetched.next.0 >= self.next, "a reader never goes back");
        self.is_at_end = fetched.next == fetched.end;
        self.next = fetched.next.0;
    }

    fn save(&mut self, around: &mut Surroundings<'_>) {
        let Some((subscription, _)) = self.cursor else { return };
        let is_committing = self.committing.as_ref().is_some_and(|at| !at.is_idle());
        if self.saving.is_some() || is_committing || self.next <= self.asked {
            return;
        }
        let request = CursorSave { subscription, offset: Offset(self.next) };
        let offset = self.next;
        self.asked = offset;
        if let Some(committing) = self.committing.as_mut().filter(|at| at.is_ready())
            && around.phase == Phase::Load
            && around.dice.percent(80)
        {
            let carried = Cursor { t0: around.now, offset };
            let operations = vec![Operation::CursorSave(request)];
            committing.begin(around, &mut self.session, operations, carried);
            return;
        }
        let sent = self.session.send(around, request, &[]);
        let cursor = Cursor { t0: around.now, offset };
        self.saving = sent.map(|to| Saving { to, cursor });
    }

    fn saved(&mut self, around: &mut Surroundings<'_>, saving: Cursor, outcome: Outcome) {
        let Some((_, subscription)) = &self.cursor else { return };
        if outcome == Outcome::Ok {
            self.saved = saving.offset;
        }
        around.history.push(Event::Cursor(history::Cursor {
            t0: history::Time(saving.t0),
            t1: around.time(),
            topic: self.topic.1.clone(),
            subscription: subscription.clone(),
            change: CursorChange::Saved,
            offset: saving.offset,
            outcome,
        }));
    }
}

const fn at(offset: u64) -> Position {
    Position::Offset(Offset(offset))
}

impl Client for Reader {
    fn act(&mut self, around: &mut Surroundings<'_>) {
        let is_over = around.phase == Phase::Finish && !self.is_final;
        if is_over || !self.session.connect(around) {
            return;
        }
        if let Some(committing) = &mut self.committing {
            committing.drive(around, &mut self.session);
        }
        if self.fetching.is_none() && !(self.is_final && self.is_at_end) {
            self.fetch(around);
        } else if around.dice.percent(30) {
            self.save(around);
        }
    }

    fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        to: CorrelationId,
        reply: Reply,
        tail: &Bytes,
    ) {
        if let Some(committing) = self.committing.as_mut().filter(|at| at.asked(to)) {
            if let Some((cursor, became)) = committing.receive(around, &reply) {
                let outcome = match became {
                    Became::Done => Outcome::Ok,
                    Became::Refused(code) => refused(code),
                    Became::Unknown => Outcome::Unknown,
                };
                self.saved(around, cursor, outcome);
            }
            return;
        }
        let fetching = self.fetching.take_if(|asked| asked.0 == to);
        let saving = self.saving.take_if(|saving| saving.to == to);
        match (reply, fetching, saving) {
            (Reply::Fetched(fetched), Some((_, t0)), _) => {
                self.fetched(around, t0, &fetched, tail);
            }
            (Reply::Done(_), _, Some(saving)) => {
                self.saved(around, saving.cursor, Outcome::Ok);
            }
            (Reply::Refused(refusal), _, Some(saving)) => {
                self.saved(around, saving.cursor, refused(refusal.code));
            }
            (Reply::Refused(refusal), Some(_), _) => {
                panic!("a fetch was refused: {}", refusal.text);
            }
            (Reply::Goodbye(_), ..) => {}
            (other, ..) => panic!("a reader got {other:?}"),
        }
    }

    fn lost(&mut self, around: &mut Surroundings<'_>) {
        self.session.connection = None;
        self.fetching = None;
        if let Some(committing) = &mut self.committing {
            committing.lost();
        }
        if let Some(saving) = self.saving.take() {
            self.saved(around, saving.cursor, Outcome::Unknown);
        }
        // Some go back to what was saved, as a new process would.
        if !self.is_final && self.cursor.is_some() && around.dice.percent(50) {
            self.next = self.saved;
        }
    }

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn has_sent(&self) -> bool {
        self.committing.as_ref().is_none_or(Committing::is_idle)
    }

    fn is_done(&self) -> bool {
        if self.is_final {
            self.is_at_end
        } else {
            self.fetching.is_none() && self.saving.is_none()
        }
    }
}
