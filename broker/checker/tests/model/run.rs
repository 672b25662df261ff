//! A run of clients against the model broker, recorded as a suite would record it.

use crate::model::broker::{ATTEMPTS_MAX, Broker, Bug, LEASE_MS, Stored};
use crate::model::random::Random;
use posthouse_checker::history::{
    Broker as Life, BrokerChange, Consumer, ConsumerChange, Cursor, CursorChange, Deliver, Event,
    Extend, Fence, Fetch, Final, MessageId, Mode, Outcome, Publish, PublishOutcome, Seen, Sender,
    Settle, Subscription, Time, Topic, Verdict,
};
use std::collections::VecDeque;

const MS: u64 = 1_000_000;

/// Records a run of `steps` steps.
pub(crate) fn record(seed: u64, steps: u64, bug: Bug) -> Vec<Event> {
    let mut run = Run {
        random: Random(seed),
        broker: Broker::new(bug),
        events: Vec::new(),
        now: MS,
        consumers: Vec::new(),
        consumers_opened: 0,
        published: 0,
        sequences: [0; 3],
        prompt: seed % 2 == 1,
    };
    run.declare();
    run.start();
    for _ in 0..steps {
        run.step();
    }
    run.finish();
    run.events
}

#[derive(Debug)]
struct Client {
    number: u64,
    buffer: VecDeque<Handed>,
    held: Vec<Handed>,
    taken: Vec<Fence>,
    credit_at: u64,
}

#[derive(Clone, Debug)]
struct Handed {
    offset: u64,
    stored: Stored,
    fence: Fence,
    attempt: u32,
    after: u64,
}

#[derive(Debug)]
struct Run {
    random: Random,
    broker: Broker,
    events: Vec<Event>,
    now: u64,
    consumers: Vec<Client>,
    consumers_opened: u64,
    published: u64,
    sequences: [u64; 3],
    /// Deliveries are taken as soon as they are there.
    prompt: bool,
}

impl Run {
    fn declare(&mut self) {
        self.events.push(Event::Topic(Topic { topic: "q".into(), durability: Default::default() }));
        for (subscription, mode) in [("work", Mode::Queue), ("audit", Mode::Stream)] {
            let is_queue = mode == Mode::Queue;
            self.events.push(Event::Subscription(Subscription {
                topic: "q".into(),
                subscription: subscription.into(),
                mode,
                start: 0,
                attempts_max: if is_queue { ATTEMPTS_MAX } else { 0 },
                untaken_may_expire: !self.prompt,
                lease_ms_max: 0,
                dead_topic: is_queue.then(|| "q.work.dead".into()),
            }));
        }
    }

    fn start(&mut self) {
        let (t0, epoch) = (Time(self.now), self.broker.epoch);
        self.now += MS;
        let change = BrokerChange::Started { epoch };
        self.events.push(Event::Broker(Life { t0, t1: Time(self.now), change }));
        for _ in 0..3 {
            self.open();
        }
    }

    fn open(&mut self) {
        self.consumers_opened += 1;
        let number = self.consumers_opened;
        self.consumer(number, ConsumerChange::Opened, self.now, self.now + MS);
        self.now += 1;
        let (buffer, held, taken) = (VecDeque::new(), Vec::new(), Vec::new());
        self.consumers.push(Client { number, buffer, held, taken, credit_at: self.now });
    }

    fn consumer(&mut self, consumer: u64, change: ConsumerChange, t0: u64, t1: u64) {
        let (topic, subscription) = ("q".into(), "work".into());
        let (t0, t1) = (Time(t0), Time(t1));
        let event = Consumer { t0, t1, topic, subscription, consumer, change };
        self.events.push(Event::Consumer(event));
    }

    fn step(&mut self) {
        self.now += 1 + self.random.below(MS);
        self.broker.tick(self.now);
        match self.random.below(1000) {
            0..130 => self.publish(),
            130..430 => self.hand_out(),
            430..680 => self.take(),
            680..930 => self.settle(),
            930..960 => self.extend(),
            960..975 => self.fetch(),
            975..985 => self.cursor(),
            985..995 => self.consumer_ends(),
            995..999 => self.now += self.random.below(3 * LEASE_MS / 2 * MS),
            _ => self.kill(),
        }
    }

    fn publish(&mut self) {
        let producer = self.random.below(3);
        self.sequences[producer as usize] += 1;
        let sequence = self.sequences[producer as usize];
        let batch: Vec<Stored> = (0..1 + self.random.below(3)).map(|_| self.message()).collect();
        let refused = self.random.percent(3);
        if !refused || self.broker.bug == Bug::RefusedPublishIsStored {
            let first = self.broker.publish(producer, sequence, &batch);
            if refused {
                let outcome = |_| PublishOutcome::Failed("STORAGE_FULL".into());
                return self.publish_events((producer, sequence), &batch, outcome);
            }
            if self.random.percent(97) {
                return self.publish_events((producer, sequence), &batch, |at| ok(&first, at));
            }
            self.publish_events((producer, sequence), &batch, |_| PublishOutcome::Unknown);
            if self.random.percent(50) {
                let again = self.broker.publish(producer, sequence, &batch);
                self.publish_events((producer, sequence), &batch, |at| ok(&again, at));
            }
        } else {
            // Refused, and the number is used again for something else later.
            self.sequences[producer as usize] -= 1;
            let outcome = |_| PublishOutcome::Failed("STORAGE_FULL".into());
            self.publish_events((producer + 100, sequence), &batch, outcome);
        }
    }

    fn message(&mut self) -> Stored {
        self.published += 1;
        Stored { id: MessageId(u128::from(self.published)), crc: self.random.next() as u32 }
    }

    fn publish_events(
        &mut self,
        (producer, sequence): (u64, u64),
        batch: &[Stored],
        outcome: impl Fn(usize) -> PublishOutcome,
    ) {
        let t0 = Time(self.now - self.random.below(MS / 2).min(self.now));
        let t1 = Time(self.now + self.random.below(20 * MS));
        for (place, stored) in batch.iter().enumerate() {
            let position = place as u32;
            self.events.push(Event::Publish(Publish {
                t0,
                t1,
                topic: "q".into(),
                id: stored.id,
                crc: stored.crc,
                sender: Some(Sender { producer, sequence, position }),
                due_ms: None,
                outcome: outcome(place),
            }));
        }
        self.now += 1;
    }

    fn hand_out(&mut self) {
        let Some(at) = self.some_consumer() else { return };
        let client = &mut self.consumers[at];
        if client.buffer.len() >= 8 {
            return;
        }
        client.credit_at = client.credit_at.max(self.now - self.random.below(MS).min(self.now));
        let after = client.credit_at;
        let Some((offset, stored, fence, attempt)) = self.broker.hand_out(client.number, self.now)
        else {
            return;
        };
        client.buffer.push_back(Handed { offset, stored, fence, attempt, after });
        if self.prompt {
            self.take_from(at);
        }
    }

    fn some_consumer(&mut self) -> Option<usize> {
        let count = self.consumers.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    fn take(&mut self) {
        let Some(at) = self.some_consumer() else { return };
        self.take_from(at);
    }

    fn take_from(&mut self, at: usize) {
        let after_known = self.random.percent(70);
        let client = &mut self.consumers[at];
        let Some(handed) = client.buffer.pop_front() else { return };
        self.events.push(Event::Deliver(Deliver {
            t: Time(self.now),
            after: after_known.then_some(Time(handed.after)),
            topic: "q".into(),
            subscription: "work".into(),
            consumer: client.number,
            offset: handed.offset,
            id: handed.stored.id,
            crc: handed.stored.crc,
            attempt: handed.attempt,
            fence: handed.fence,
            lease_ms: LEASE_MS,
        }));
        client.taken.push(handed.fence);
        client.held.push(handed);
    }

    fn settle(&mut self) {
        let Some(at) = self.some_consumer() else { return };
        if self.consumers[at].held.is_empty() {
            return;
        }
        let held = self.consumers[at].held.len() as u64;
        let handed = self.consumers[at].held.swap_remove(self.random.below(held) as usize);
        let verdict = match self.random.below(100) {
            0..75 => Verdict::Ack,
            75..88 => Verdict::Nack,
            88..97 => Verdict::Release,
            _ => Verdict::Reject,
        };
        let unknown = self.random.percent(2);
        let arrives = !unknown || self.random.percent(50);
        let accepted =
            arrives && self.broker.settle(handed.offset, handed.fence, verdict, self.now);
        let outcome = match (unknown, accepted) {
            (true, _) => Outcome::Unknown,
            (false, true) => Outcome::Ok,
            (false, false) => Outcome::Refused("STALE_FENCE".into()),
        };
        self.events.push(Event::Settle(Settle {
            t0: Time(self.now),
            t1: Time(self.now + self.random.below(10 * MS)),
            topic: "q".into(),
            subscription: "work".into(),
            offset: handed.offset,
            fence: handed.fence,
            verdict,
            outcome,
        }));
        self.now += 1;
    }

    fn extend(&mut self) {
        let Some(at) = self.some_consumer() else { return };
        let Some(handed) = self.consumers[at].held.last().cloned() else { return };
        let accepted = self.broker.extend(handed.offset, handed.fence, self.now);
        let outcome = if accepted { Outcome::Ok } else { Outcome::Refused("LEASE_ENDED".into()) };
        self.events.push(Event::Extend(Extend {
            t0: Time(self.now),
            t1: Time(self.now + MS),
            topic: "q".into(),
            subscription: "work".into(),
            offset: handed.offset,
            fence: handed.fence,
            lease_ms: 4 * LEASE_MS,
            outcome,
        }));
    }

    fn fetch(&mut self) {
        let start = self.broker.released + self.random.below(50);
        self.fetch_from(start.min(self.broker.end), 64);
    }

    fn fetch_from(&mut self, from: u64, at_most: usize) {
        let kept = self.broker.log.range(from.max(self.broker.released)..);
        let mut messages: Vec<Seen> = kept
            .take(at_most)
            .map(|(offset, stored)| Seen { offset: *offset, id: stored.id, crc: stored.crc })
            .collect();
        let next = messages.last().map_or(self.broker.end, |last| last.offset + 1);
        if self.broker.bug == Bug::FetchSkipsAMessage && messages.len() > 5 {
            messages.remove(3);
        }
        self.push_fetch("q", (from, next), messages);
    }

    fn push_fetch(&mut self, topic: &str, (from, next): (u64, u64), messages: Vec<Seen>) {
        let (t0, t1) = (Time(self.now), Time(self.now + 1 + self.random.below(MS)));
        self.now = t1.0;
        self.events.push(Event::Fetch(Fetch { t0, t1, topic: topic.into(), from, next, messages }));
    }

    fn cursor(&mut self) {
        let save = self.random.percent(60);
        if save {
            let ahead = self.random.below(40);
            self.broker.cursor = (self.broker.cursor + ahead).min(self.broker.end);
        }
        self.events.push(Event::Cursor(Cursor {
            t0: Time(self.now),
            t1: Time(self.now + 1),
            topic: "q".into(),
            subscription: "audit".into(),
            change: if save { CursorChange::Saved } else { CursorChange::Loaded },
            offset: self.broker.cursor,
            outcome: Outcome::Ok,
        }));
        self.now += 2;
    }

    fn consumer_ends(&mut self) {
        let Some(at) = self.some_consumer() else { return };
        let client = self.consumers.swap_remove(at);
        let change = match self.random.below(3) {
            0 => ConsumerChange::Closed,
            1 => ConsumerChange::Lost,
            _ => ConsumerChange::Crashed,
        };
        let counted = change != ConsumerChange::Closed;
        self.broker.gone(client.number, &client.taken, counted, self.now);
        self.consumer(client.number, change, self.now, self.now + MS);
        self.now += 1;
        self.open();
    }

    fn kill(&mut self) {
        let t0 = Time(self.now);
        // A publish is under way: it arrives or not, and nobody is told.
        self.sequences[0] += 1;
        let (batch, arrives) = (vec![self.message(), self.message()], self.random.percent(50));
        if arrives {
            self.broker.publish(0, self.sequences[0], &batch);
        }
        self.publish_events((0, self.sequences[0]), &batch, |_| PublishOutcome::Unknown);
        self.broker.restart();
        self.now += MS;
        let change = BrokerChange::Killed;
        self.events.push(Event::Broker(Life { t0, t1: Time(self.now), change }));
        self.now += MS;
        self.consumers.clear();
        self.start();
    }

    fn finish(&mut self) {
        while let Some(client) = self.consumers.pop() {
            self.broker.gone(client.number, &client.taken, false, self.now);
            self.consumer(client.number, ConsumerChange::Closed, self.now, self.now);
        }
        self.now += 1000 * MS;
        self.broker.tick(self.now);
        self.look(Some("work"));
        self.open();
        loop {
            self.now += LEASE_MS * MS / 2;
            let before = self.events.len();
            self.drain_some();
            if before == self.events.len() {
                break;
            }
        }
        self.look(None);
        self.fetch_from(0, usize::MAX);
        let dead = (0_u64..).zip(&self.broker.dead);
        let dead: Vec<Seen> =
            dead.map(|(offset, stored)| Seen { offset, id: stored.id, crc: stored.crc }).collect();
        let (t, topic) = (Time(self.now), "q.work.dead".to_owned());
        self.events.push(Event::Final(Final { t, topic, subscription: None }));
        self.push_fetch("q.work.dead", (0, dead.len() as u64), dead);
    }

    fn look(&mut self, subscription: Option<&str>) {
        let subscription = subscription.map(str::to_owned);
        let (t, topic) = (Time(self.now), "q".to_owned());
        self.events.push(Event::Final(Final { t, topic, subscription }));
        self.now += 1;
    }

    /// Hands out and acks whatever is ready.
    fn drain_some(&mut self) {
        for _ in 0..8 {
            self.consumers[0].credit_at = self.now;
            self.hand_out();
        }
        while !self.consumers[0].buffer.is_empty() {
            self.take();
        }
        while let Some(handed) = self.consumers[0].held.pop() {
            let accepted = self.broker.settle(handed.offset, handed.fence, Verdict::Ack, self.now);
            let refused = || Outcome::Refused("STALE_FENCE".into());
            self.events.push(Event::Settle(Settle {
                t0: Time(self.now),
                t1: Time(self.now + 1),
                topic: "q".into(),
                subscription: "work".into(),
                offset: handed.offset,
                fence: handed.fence,
                verdict: Verdict::Ack,
                outcome: if accepted { Outcome::Ok } else { refused() },
            }));
            self.now += 1;
        }
    }
}

fn ok((offsets, duplicate): &(Vec<u64>, bool), place: usize) -> PublishOutcome {
    PublishOutcome::Ok {
        offset: offsets.get(place).copied(),
        durability: Default::default(),
        duplicate: *duplicate,
    }
}
