//! Everything that outlives a connection: publishers, consumers, calls, and the closing of them.
//!
//! Does no IO and reads no clock. It turns mail and frames into frames; the driver carries them.

use super::calls::Calls;
use super::outgoing::{Outgoing, Owner};
use super::ready::{Party, Ready};
use super::timers::Timers;
use crate::call::Answer;
use crate::commit::Lanes;
use crate::error::{ConsumeError, Refusal, RequestError};
use crate::mailbox::{CloseReport, Mail};
use crate::{consumer, publisher};
use bytes::Bytes;
use posthouse_protocol::frame::Frame;
use posthouse_protocol::{ConsumerId, DecodeError, Outcome, Reply, StartEpoch};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What one client is doing.
#[derive(Debug)]
pub(crate) struct Session {
    publishers: BTreeMap<publisher::Key, publisher::Link>,
    consumers: BTreeMap<ConsumerId, consumer::Link>,
    calls: Calls,
    lanes: Lanes,
    ready: Ready,
    timers: Timers<Party>,
    closing: Option<Closing>,
    /// Whether the broker closed the last connection over something that this client did.
    is_at_fault: bool,
    /// The start of the broker that was connected last.
    start: StartEpoch,
    /// How long an abandoned client goes on sending.
    abandoned_for: Duration,
}

#[derive(Debug)]
struct Closing {
    deadline: Instant,
    reports: Vec<oneshot::Sender<CloseReport>>,
}

impl Session {
    pub(crate) fn new(abandoned_for: Duration) -> Self {
        Self {
            publishers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            calls: Calls::new(),
            lanes: Lanes::default(),
            ready: Ready::default(),
            timers: Timers::new(),
            closing: None,
            is_at_fault: false,
            start: StartEpoch::ZERO,
            abandoned_for,
        }
    }

    /// A handle wants something.
    pub(crate) fn on_mail(&mut self, mail: Mail, now: Instant) {
        match mail {
            Mail::Call(call) if self.closing.is_some() => {
                let closed = RequestError::Closed { outcome: Outcome::Definite };
                let _ = call.answer.send(Err(closed));
            }
            Mail::Call(call) => self.calls.add(*call),
            Mail::PublisherOpened { shared, topic, producer } => {
                let mut link = publisher::Link::new(shared, topic, &producer);
                link.on_connect(self.start);
                let key = link.key();
                if self.closing.is_some() {
                    link.close();
                }
                self.publishers.insert(key, link);
                self.ready.mark(Party::Publisher(key));
            }
            Mail::Publisher(key) => self.ready.mark(Party::Publisher(key)),
            Mail::ConsumerOpened { shared, answer } => {
                let mut link = consumer::Link::new(shared, answer);
                if self.closing.is_some() {
                    link.abandon(None);
                    return;
                }
                let id = link.id();
                self.consumers.insert(id, link);
                self.ready.mark(Party::Consumer(id));
            }
            Mail::Commit(job) => self.lanes.add(*job),
            Mail::ProducerOpened { key, name, opened, last } => {
                self.lanes.open(key, name, &opened, last);
            }
            Mail::ProducerDropped(key) => self.lanes.dropped(key),
            Mail::Consumer(id) => self.ready.mark(Party::Consumer(id)),
            Mail::Close { deadline, report } => self.close(deadline, Some(report)),
            Mail::Abandoned => self.close(now + self.abandoned_for, None),
        }
    }

    fn close(&mut self, deadline: Instant, report: Option<oneshot::Sender<CloseReport>>) {
        let fresh = Closing { deadline, reports: Vec::new() };
        let closing = self.closing.get_or_insert(fresh);
        closing.deadline = closing.deadline.min(deadline);
        closing.reports.extend(report);
        self.publishers.values().for_each(publisher::Link::close);
        self.consumers.values().for_each(consumer::Link::close);
        self.lanes.close();
        self.calls.abandon();
    }

    /// Makes frames while `out` has room. What must not be sent fails; then what is behind it has its
    /// turn.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Outgoing) {
        loop {
            self.fill_once(now, out);
            let refused = out.take_refused();
            if refused.is_empty() {
                return;
            }
            for (owner, refusal) in refused {
                self.on_refusal(owner, refusal, now);
            }
        }
    }

    fn fill_once(&mut self, now: Instant, out: &mut Outgoing) {
        self.calls.fill(out);
        self.lanes.fill(now, out);
        for _ in 0..self.ready.len() {
            if !out.has_room() {
                return;
            }
            let Some(party) = self.ready.pop() else {
                return;
            };
            if self.fill_one(party, now, out) {
                self.ready.mark(party);
            }
        }
    }

    /// Lets one make its frames; `true` if there may be more.
    fn fill_one(&mut self, party: Party, now: Instant, out: &mut Outgoing) -> bool {
        let (more, is_finished) = match party {
            Party::Publisher(key) => match self.publishers.get_mut(&key) {
                Some(link) => (link.fill(now, out), link.is_finished()),
                None => return false,
            },
            Party::Consumer(id) => match self.consumers.get_mut(&id) {
                Some(link) => (link.fill(now, out), link.is_finished()),
                None => return false,
            },
        };
        if is_finished {
            self.remove(party);
            return false;
        }
        self.set_timer(party);
        more
    }

    fn remove(&mut self, party: Party) {
        self.timers.set(party, None);
        match party {
            Party::Publisher(key) => drop(self.publishers.remove(&key)),
            Party::Consumer(id) => drop(self.consumers.remove(&id)),
        }
    }

    fn set_timer(&mut self, party: Party) {
        let deadline = match party {
            Party::Publisher(key) => self.publishers.get(&key).map(publisher::Link::next_deadline),
            Party::Consumer(id) => self.consumers.get(&id).map(consumer::Link::next_deadline),
        };
        self.timers.set(party, deadline.flatten());
    }

    /// Without a connection nothing is sent, but what waits has its time limit all the same.
    pub(crate) fn watch(&mut self) {
        while let Some(party) = self.ready.pop() {
            self.set_timer(party);
            let is_finished = match party {
                Party::Publisher(key) => {
                    self.publishers.get(&key).is_some_and(publisher::Link::is_finished)
                }
                Party::Consumer(id) => {
                    self.consumers.get(&id).is_some_and(consumer::Link::is_finished)
                }
            };
            if is_finished {
                self.remove(party);
            }
        }
    }

    /// Some moment of [`Self::next_deadline`] has come.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.calls.on_time(now);
        self.lanes.on_time(now);
        while let Some(party) = self.timers.pop(now) {
            if let Party::Publisher(key) = party
                && let Some(link) = self.publishers.get_mut(&key)
            {
                link.on_time(now);
            }
            self.ready.mark(party);
        }
    }

    /// When [`Self::on_time`] next has something to do, or the closing is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let closing = self.closing.as_ref().map(|closing| closing.deadline);
        let calls = self.calls.next_deadline();
        let own = [self.timers.next(), calls, self.lanes.next_deadline(), closing];
        own.into_iter().flatten().min()
    }

    /// The broker says something.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; the connection is then beyond repair.
    pub(crate) fn on_frame(
        &mut self,
        frame: Frame,
        out: &mut Outgoing,
        now: Instant,
    ) -> Result<(), DecodeError> {
        let reply = Reply::decode(frame.kind, &frame.head)?;
        match out.take_owner(frame.correlation) {
            Some(owner) => self.on_answer(owner, reply, frame.tail, now),
            None => self.on_push(reply, frame.tail, now),
        }
    }

    fn on_push(&mut self, reply: Reply, tail: Bytes, now: Instant) -> Result<(), DecodeError> {
        if let Reply::Deliver(deliver) = reply {
            if let Some(link) = self.consumers.get(&deliver.consumer) {
                link.on_deliver(&deliver, tail, now)?;
                self.set_timer(Party::Consumer(deliver.consumer));
            }
        } else if let Reply::ConsumerEnded(ended) = reply {
            if let Some(link) = self.consumers.get_mut(&ended.consumer) {
                link.on_refusal(Refusal::new(ended.code, &ended.text), now);
                self.ready.mark(Party::Consumer(ended.consumer));
            }
        } else if let Reply::Goodbye(goodbye) = reply {
            let reason = Refusal::new(goodbye.code, &goodbye.text);
            tracing::info!(%reason, "broker is closing the connection");
            self.is_at_fault = !reason.is_retriable();
        }
        // A heartbeat has said what it had to by coming.
        Ok(())
    }

    fn on_answer(
        &mut self,
        owner: Owner,
        reply: Reply,
        tail: Bytes,
        now: Instant,
    ) -> Result<(), DecodeError> {
        let reply = match refusal(reply) {
            Ok(reply) => reply,
            Err(refusal) => {
                self.on_refusal(owner, refusal, now);
                return Ok(());
            }
        };
        match owner {
            Owner::Call(number) => {
                self.calls.on_answer(number, Answer { reply, tail });
                Ok(())
            }
            Owner::Publish { .. } | Owner::Topic(_) | Owner::Producer(_) => {
                self.on_publisher_answer(owner, reply, now)
            }
            Owner::Subscribe(_) | Owner::Settle { .. } => self.on_consumer_answer(owner, reply),
            Owner::Commit { .. } | Owner::Lane(_) => self.on_lane_answer(owner, reply),
            Owner::Nobody => Ok(()),
        }
    }

    fn on_publisher_answer(
        &mut self,
        owner: Owner,
        reply: Reply,
        now: Instant,
    ) -> Result<(), DecodeError> {
        let (Owner::Publish { publisher: key, .. } | Owner::Topic(key) | Owner::Producer(key)) =
            owner
        else {
            return Ok(());
        };
        let Some(link) = self.publisher(key) else {
            return Ok(());
        };
        match (owner, reply) {
            (Owner::Publish { sequence, .. }, Reply::Receipt(receipt)) => {
                link.on_receipt(sequence, &receipt);
            }
            (Owner::Topic(_), Reply::TopicInfo(info)) => link.on_topic(Ok(info), now),
            (Owner::Producer(_), Reply::ProducerOpened(opened)) => {
                link.on_producer(Ok(opened), now);
            }
            (_, reply) => return Err(unexpected(&reply)),
        }
        Ok(())
    }

    fn on_lane_answer(&mut self, owner: Owner, reply: Reply) -> Result<(), DecodeError> {
        match (owner, reply) {
            (Owner::Commit { lane, number }, Reply::Committed(committed)) => {
                self.lanes.on_committed(lane, number, &committed);
            }
            (Owner::Lane(key), Reply::ProducerOpened(opened)) => {
                self.lanes.on_opened(key, &opened);
            }
            (Owner::Lane(key), Reply::ProducerInfo(info)) => {
                self.lanes.on_described(key, &info);
            }
            (_, reply) => return Err(unexpected(&reply)),
        }
        Ok(())
    }

    fn on_consumer_answer(&mut self, owner: Owner, reply: Reply) -> Result<(), DecodeError> {
        let (Owner::Subscribe(id) | Owner::Settle { consumer: id, .. }) = owner else {
            return Ok(());
        };
        let Some(link) = self.consumer(id) else {
            return Ok(());
        };
        match (owner, reply) {
            (Owner::Subscribe(_), Reply::Subscribed(subscribed)) => {
                link.on_subscribed(&subscribed);
            }
            (Owner::Settle { number, .. }, Reply::Settled(settled)) => {
                link.on_settled(number, settled);
            }
            (_, reply) => return Err(unexpected(&reply)),
        }
        Ok(())
    }

    /// The publisher whose answer has come, which may have more to send now.
    fn publisher(&mut self, key: publisher::Key) -> Option<&mut publisher::Link> {
        self.ready.mark(Party::Publisher(key));
        self.publishers.get_mut(&key)
    }

    /// The consumer whose answer has come.
    fn consumer(&mut self, id: ConsumerId) -> Option<&mut consumer::Link> {
        self.ready.mark(Party::Consumer(id));
        self.consumers.get_mut(&id)
    }

    /// The broker has refused something, or would have.
    fn on_refusal(&mut self, owner: Owner, refusal: Refusal, now: Instant) {
        match owner {
            Owner::Call(number) => self.calls.on_refusal(number, refusal, now),
            Owner::Publish { publisher, sequence } => {
                if let Some(link) = self.publisher(publisher) {
                    link.on_refusal(sequence, refusal, now);
                }
            }
            Owner::Topic(key) => {
                if let Some(link) = self.publisher(key) {
                    link.on_topic(Err(refusal), now);
                }
            }
            Owner::Producer(key) => {
                if let Some(link) = self.publisher(key) {
                    link.on_producer(Err(refusal), now);
                }
            }
            Owner::Subscribe(id) => {
                if let Some(link) = self.consumer(id) {
                    link.on_refusal(refusal, now);
                }
            }
            Owner::Settle { consumer, number } => {
                if let Some(link) = self.consumer(consumer) {
                    link.on_settle_refused(number, refusal, now);
                }
            }
            Owner::Commit { lane, number } => self.lanes.on_refusal(lane, number, refusal, now),
            Owner::Lane(key) => self.lanes.on_not_told(key, refusal, now),
            Owner::Nobody => {}
        }
    }

    /// The connection is gone; what was under way goes on with the next.
    pub(crate) fn on_disconnect(&mut self) {
        self.calls.on_disconnect();
        self.lanes.on_disconnect();
        self.publishers.values_mut().for_each(publisher::Link::on_disconnect);
        self.consumers.values_mut().for_each(consumer::Link::on_disconnect);
        for (key, link) in &self.publishers {
            self.timers.set(Party::Publisher(*key), link.next_deadline());
        }
        for (id, link) in &self.consumers {
            self.timers.set(Party::Consumer(*id), link.next_deadline());
        }
    }

    /// Whether the broker closed this connection over something that this client did, and may do
    /// again with what it resends.
    pub(crate) const fn is_at_fault(&self) -> bool {
        self.is_at_fault
    }

    /// There is a connection again: everyone has a look.
    pub(crate) fn on_connect(&mut self, start: StartEpoch) {
        self.is_at_fault = false;
        self.start = start;
        self.publishers.values_mut().for_each(|link| link.on_connect(start));
        let publishers = self.publishers.keys().copied().map(Party::Publisher);
        let consumers = self.consumers.keys().copied().map(Party::Consumer);
        publishers.chain(consumers).for_each(|party| self.ready.mark(party));
    }

    /// Whether the client is closing and is done, or its time is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.closing.as_ref().is_some_and(|closing| {
            closing.deadline <= now
                || self.lanes.is_flushed()
                    && self.publishers.values().all(publisher::Link::is_flushed)
                    && self.consumers.values().all(consumer::Link::is_flushed)
        })
    }

    /// Gives back what consumers were sent and nobody took.
    pub(crate) fn unsubscribe(&mut self, out: &mut Outgoing) {
        self.consumers.values_mut().for_each(|link| link.unsubscribe(out));
    }

    /// Ends everything that is left and reports it.
    pub(crate) fn abandon(&mut self) {
        self.calls.abandon();
        let error = self.closing.is_none().then_some(ConsumeError::Closed);
        let abandoned = |link: &mut consumer::Link| link.abandon(error.clone());
        // First the commits: what they would have settled goes back to its consumer.
        let committing = self.lanes.abandon();
        let publishing: u64 = self.publishers.values_mut().map(publisher::Link::abandon).sum();
        let report = CloseReport {
            unsent: committing + publishing,
            unsettled: self.consumers.values_mut().map(abandoned).sum(),
        };
        for waiting in self.closing.take().into_iter().flat_map(|closing| closing.reports) {
            let _ = waiting.send(report);
        }
    }
}

fn refusal(reply: Reply) -> Result<Reply, Refusal> {
    if let Reply::Refused(refused) = reply { Err(refused.into()) } else { Ok(reply) }
}

fn unexpected(reply: &Reply) -> DecodeError {
    DecodeError::Invalid { field: "frame.kind", found: u64::from(reply.kind()) }
}

#[cfg(test)]
mod tests;
