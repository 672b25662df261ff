//! A consumer of a queue subscription: credit, taking, settling, and every way to be rude.

pub(crate) mod settling;

use super::committing::{Became, Committing};
use super::{Client, Phase, Session, Surroundings, name};
use crate::chance::Chance;
use bytes::Bytes;
use posthouse_checker::history::{self, ConsumerChange, Event};
use posthouse_protocol::message::{
    BACKOFF, Credit, Deliver, Extend, Operation, Settle, Settled, Subscribe, Subscribed,
    Unsubscribe, Verdict,
};
use posthouse_protocol::{ConsumerId, CorrelationId, Fence, Reply, SubscriptionId};
pub(crate) use settling::Settling;
use settling::{Told, What, fence, runs};
use std::collections::{BTreeMap, VecDeque};

/// Messages of credit.
const CREDIT_MAX: u64 = 24;

/// A consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    session: Session,
    topic: String,
    subscription: String,
    /// In the last look it acks everything.
    is_drain: bool,
    open: Option<Open>,
    subscribing: Option<(CorrelationId, ConsumerId, u64)>,
    unsubscribing: Option<(CorrelationId, u64)>,
    openings: u64,
    /// Taken and not settled.
    held: Vec<Taken>,
    settling: BTreeMap<CorrelationId, Settling>,
    known: Option<Subscribed>,
    committing: Option<Committing<Settling>>,
}

/// An open consumer.
#[derive(Debug)]
struct Open {
    /// In the history.
    number: u64,
    id: ConsumerId,
    granted: u64,
    granted_bytes: u64,
    received: u64,
    taken: u64,
    /// Credit in all, and when it was granted.
    grants: VecDeque<(u64, u64)>,
    inbox: VecDeque<Taken>,
}

/// A delivery.
#[derive(Clone, Debug)]
struct Taken {
    offset: u64,
    fence: Fence,
    attempt: u32,
    id: history::MessageId,
    crc: u32,
    /// When the credit was granted that it used.
    after: u64,
}

impl Consumer {
    pub(crate) const fn new(
        client: usize,
        topic: String,
        subscription: String,
        is_drain: bool,
    ) -> Self {
        Self {
            session: Session::new(client),
            topic,
            subscription,
            is_drain,
            open: None,
            subscribing: None,
            unsubscribing: None,
            openings: 0,
            held: Vec::new(),
            settling: BTreeMap::new(),
            known: None,
            committing: None,
        }
    }

    /// Settles in commits, too, that publish to several topics.
    pub(crate) fn committing(self, committing: Committing<Settling>) -> Self {
        Self { committing: Some(committing), ..self }
    }

    fn subscribe(&mut self, around: &mut Surroundings<'_>) {
        self.openings += 1;
        let consumer = ConsumerId(u32::try_from(self.openings).unwrap_or(u32::MAX));
        let request = Subscribe {
            consumer,
            topic: name(&self.topic),
            subscription: name(&self.subscription),
        };
        let sent = self.session.send(around, request, &[]);
        self.subscribing = sent.map(|to| (to, consumer, around.now));
    }

    fn opened(&mut self, around: &mut Surroundings<'_>, subscribed: Subscribed) {
        let Some((_, id, t0)) = self.subscribing.take() else { return };
        let number = (self.session.client as u64) << 32 | self.openings;
        self.change(around, (t0, around.now), number, ConsumerChange::Opened);
        self.known = Some(subscribed);
        self.open = Some(Open {
            number,
            id,
            granted: 0,
            granted_bytes: 0,
            received: 0,
            taken: 0,
            grants: VecDeque::new(),
            inbox: VecDeque::new(),
        });
        self.grant(around);
    }

    fn grant(&mut self, around: &mut Surroundings<'_>) {
        let Some(open) = &mut self.open else { return };
        let unsettled = self.held.len() as u64 + open.granted - open.taken;
        let room = CREDIT_MAX.saturating_sub(unsettled);
        open.granted += around.dice.between(room.min(1), room);
        let bytes_max = if self.is_drain { 2_000_000 } else { 60_000 };
        open.granted_bytes += around.dice.between(100, bytes_max);
        open.grants.push_back((open.granted, around.now));
        let (consumer, taken) = (open.id, open.taken);
        let credit = Credit { consumer, messages: open.granted, bytes: open.granted_bytes, taken };
        self.session.send(around, credit, &[]);
    }

    fn delivered(&mut self, deliver: &Deliver, tail: &Bytes) {
        let Some(open) = self.open.as_mut().filter(|open| open.id == deliver.consumer) else {
            return;
        };
        let parts = deliver.parts(tail).expect("deliveries take apart");
        for (slice, part) in deliver.slices.iter().zip(&parts) {
            let first = Fence { epoch: deliver.fence_epoch, counter: slice.fence_counter };
            for (ahead, message) in (0..).zip(part.messages()) {
                message.verify().expect("what is delivered is sound");
                open.received += 1;
                assert!(open.received <= open.granted, "more was delivered than there was credit");
                while open.grants.front().is_some_and(|grant| grant.0 < open.received) {
                    open.grants.pop_front();
                }
                open.inbox.push_back(Taken {
                    offset: slice.slice.first.0 + ahead,
                    fence: first.plus(ahead),
                    attempt: slice.attempt.0,
                    id: history::MessageId::from(message.entry.id.0),
                    crc: crc32fast::hash(message.body),
                    after: open.grants.front().map_or(0, |grant| grant.1),
                });
            }
        }
    }

    fn take(&mut self, around: &mut Surroundings<'_>) {
        let (Some(open), Some(known)) = (&mut self.open, &self.known) else { return };
        let count = match open.inbox.len() {
            all if self.is_drain => all,
            all => around.dice.index(all + 1),
        };
        for taken in open.inbox.drain(..count) {
            open.taken += 1;
            around.history.push(Event::Deliver(history::Deliver {
                t: history::Time(around.now),
                after: Some(history::Time(taken.after)),
                topic: self.topic.clone(),
                subscription: self.subscription.clone(),
                consumer: open.number,
                offset: taken.offset,
                id: taken.id,
                crc: taken.crc,
                attempt: taken.attempt,
                fence: fence(taken.fence),
                lease_ms: known.lease_ms,
            }));
            // Whoever empties a queue does not spend its leases on settling what it lost.
            if self.is_drain {
                self.held.retain(|held| held.offset != taken.offset);
            }
            self.held.push(taken);
        }
    }

    fn settle(&mut self, around: &mut Surroundings<'_>) {
        let Some(known) = &self.known else { return };
        if self.held.is_empty() {
            return;
        }
        let what = self.choose(around);
        let count = match self.held.len() {
            all if self.is_drain => all,
            all => 1 + around.dice.index(all),
        };
        let mut deliveries: Vec<Taken> = if matches!(what, What::Extend(_)) {
            self.held.iter().take(count).cloned().collect()
        } else if self.is_drain || around.dice.percent(50) {
            self.held.drain(..count).collect()
        } else {
            vec![self.held.swap_remove(around.dice.index(self.held.len()))]
        };
        deliveries.sort_by_key(|taken| (taken.offset, taken.fence));
        deliveries.dedup_by_key(|taken| taken.offset);
        self.transmit(around, known.subscription, what, deliveries);
    }

    fn choose(&self, around: &mut Surroundings<'_>) -> What {
        if self.is_drain {
            return What::Settle(Verdict::Ack);
        }
        match around.dice.below(100) {
            0..70 => What::Settle(Verdict::Ack),
            70..82 => What::Settle(Verdict::Nack),
            82..89 => What::Settle(Verdict::Release),
            89..92 => What::Settle(Verdict::Reject),
            _ => What::Extend(around.dice.between(1, 900)),
        }
    }

    fn transmit(
        &mut self,
        around: &mut Surroundings<'_>,
        subscription: SubscriptionId,
        what: What,
        deliveries: Vec<Taken>,
    ) {
        let runs = runs(&deliveries);
        if let Some(committing) = self.committing.as_mut().filter(|at| at.is_ready())
            && let What::Settle(verdict @ (Verdict::Ack | Verdict::Nack | Verdict::Reject)) = what
            && around.phase == Phase::Load
            && around.dice.percent(90)
        {
            let reason = "does not work".to_owned();
            let delay_ms = BACKOFF;
            let settle = Settle { subscription, verdict, delay_ms, reason, deliveries: runs };
            let carried = Settling { t0: around.now, what, deliveries };
            let operations = vec![Operation::Settle(settle)];
            committing.begin(around, &mut self.session, operations, carried);
            return;
        }
        let sent = match what {
            What::Settle(verdict) => {
                let fails = matches!(verdict, Verdict::Nack | Verdict::Reject);
                let delay_ms = if verdict != Verdict::Nack {
                    0
                } else if around.dice.percent(60) {
                    BACKOFF
                } else {
                    around.dice.between(0, 300)
                };
                let reason = if fails { "does not work".to_owned() } else { String::new() };
                let request = Settle { subscription, verdict, delay_ms, reason, deliveries: runs };
                self.session.send(around, request, &[])
            }
            What::Extend(lease_ms) => {
                self.session.send(around, Extend { subscription, lease_ms, deliveries: runs }, &[])
            }
        };
        if let Some(to) = sent {
            self.settling.insert(to, Settling { t0: around.now, what, deliveries });
        }
    }

    fn committed(&self, around: &mut Surroundings<'_>, settling: &Settling, became: Became) {
        let everything = Settled { refused: Vec::new() };
        let told = match became {
            Became::Done => Told::Settled(&everything),
            Became::Refused(code) => Told::Refused(code),
            Became::Unknown => Told::Nothing,
        };
        settling.answered(around, (&self.topic, &self.subscription), &told);
    }

    fn unsubscribe(&mut self, around: &mut Surroundings<'_>) {
        let Some(open) = &self.open else { return };
        let sent = self.session.send(around, Unsubscribe { consumer: open.id }, &[]);
        self.unsubscribing = sent.map(|to| (to, around.now));
    }

    fn closed(&mut self, around: &mut Surroundings<'_>, t0: u64) {
        self.unsubscribing = None;
        if let Some(open) = self.open.take() {
            self.change(around, (t0, around.now), open.number, ConsumerChange::Closed);
        }
        // What it holds is given back; whoever settles it all the same is told so.
        if around.dice.percent(80) {
            self.held.clear();
        }
    }

    fn change(
        &self,
        around: &mut Surroundings<'_>,
        (t0, t1): (u64, u64),
        consumer: u64,
        change: ConsumerChange,
    ) {
        around.history.push(Event::Consumer(history::Consumer {
            t0: history::Time(t0),
            t1: history::Time(t1),
            topic: self.topic.clone(),
            subscription: self.subscription.clone(),
            consumer,
            change,
        }));
    }
}

impl Client for Consumer {
    fn act(&mut self, around: &mut Surroundings<'_>) {
        let is_over = around.phase == Phase::Finish && !self.is_drain;
        if (is_over && self.session.connection.is_none()) || !self.session.connect(around) {
            return;
        }
        if let Some(committing) = &mut self.committing {
            committing.drive(around, &mut self.session);
            if committing.is_ready() && around.phase == Phase::Load && !self.held.is_empty() {
                return self.settle(around);
            }
        }
        if self.unsubscribing.is_some() || self.subscribing.is_some() {
            return;
        }
        if self.open.is_none() {
            if !is_over {
                self.subscribe(around);
            }
            return;
        }
        if is_over {
            return self.unsubscribe(around);
        }
        if self.is_drain {
            self.take(around);
            if !self.held.is_empty() {
                return self.settle(around);
            }
        }
        match around.dice.below(100) {
            0..35 => self.take(around),
            35..75 => self.settle(around),
            75..97 => self.grant(around),
            97..98 if !self.is_drain => self.unsubscribe(around),
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most replies are none of its business")]
    fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        to: CorrelationId,
        reply: Reply,
        tail: &Bytes,
    ) {
        if let Some(committing) = self.committing.as_mut().filter(|at| at.asked(to)) {
            if let Some((settling, became)) = committing.receive(around, &reply) {
                self.committed(around, &settling, became);
            }
            return;
        }
        match reply {
            Reply::Deliver(deliver) => self.delivered(&deliver, tail),
            Reply::Subscribed(subscribed) => self.opened(around, subscribed),
            Reply::Settled(settled) => {
                if let Some(settling) = self.settling.remove(&to) {
                    settling.answered(
                        around,
                        (&self.topic, &self.subscription),
                        &Told::Settled(&settled),
                    );
                }
            }
            Reply::Done(_) => {
                if let Some((_, t0)) = self.unsubscribing.filter(|asked| asked.0 == to) {
                    self.closed(around, t0);
                }
            }
            Reply::Refused(refusal) => {
                if let Some(settling) = self.settling.remove(&to) {
                    settling.answered(
                        around,
                        (&self.topic, &self.subscription),
                        &Told::Refused(refusal.code),
                    );
                } else if self.subscribing.is_some_and(|asked| asked.0 == to) {
                    self.subscribing = None;
                }
            }
            Reply::Goodbye(_) => {}
            other => panic!("a consumer got {other:?}"),
        }
    }

    fn lost(&mut self, around: &mut Surroundings<'_>) {
        self.session.connection = None;
        self.subscribing = None;
        self.unsubscribing = None;
        if let Some(committing) = &mut self.committing {
            committing.lost();
        }
        if let Some(open) = self.open.take() {
            let span = (self.session.lived, around.now);
            self.change(around, span, open.number, ConsumerChange::Lost);
        }
        for settling in std::mem::take(&mut self.settling).into_values() {
            settling.answered(around, (&self.topic, &self.subscription), &Told::Nothing);
            // Some ask again on the next connection.
            if matches!(settling.what, What::Settle(Verdict::Ack)) && around.dice.percent(50) {
                self.held.extend(settling.deliveries);
            }
        }
        if around.dice.percent(50) {
            self.held.clear();
        }
    }

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn has_sent(&self) -> bool {
        self.committing.as_ref().is_none_or(Committing::is_idle)
    }

    fn is_done(&self) -> bool {
        if !self.is_drain {
            return self.settling.is_empty() && self.open.is_none() && self.subscribing.is_none();
        }
        self.settling.is_empty()
            && self.held.is_empty()
            && self.open.as_ref().is_none_or(|open| open.inbox.is_empty())
    }
}
