//! Consumers: diligent ones, moody ones, some that leave and some that crash.

use crate::load::Part;
use crate::progress::Deed;
use crate::{block_on, connect, record, runtime};
use posthouse_checker::history::{self, ConsumerChange, Event, Settle, Verdict};
use posthouse_client::{Client, Consumer, Delivery, Retry, Settlement};
use std::collections::VecDeque;
use std::time::Duration;

/// Settlements on their way at a time.
const WINDOW: usize = 32;
/// Deliveries that a moody consumer puts aside.
const ASIDE: usize = 8;

/// How a consumer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Acks everything.
    Diligent,
    /// Acks, nacks, releases, rejects, drops, and acks some things late.
    Moody,
    /// Acks everything, and opens a new consumer now and then.
    Leaving,
    /// Acks some things and dies with others in its hands.
    Crashing,
}

/// Consumes until the load stops.
pub(crate) fn run(part: Part, topic: &'static str, subscription: &'static str, style: Style) {
    let mut worker = Worker { part, topic, subscription, consumer: 0, settling: VecDeque::new() };
    match style {
        Style::Crashing => while worker.crash() {},
        Style::Diligent | Style::Moody | Style::Leaving => block_on(worker.work(style)),
    }
}

struct Worker {
    part: Part,
    topic: &'static str,
    subscription: &'static str,
    /// Its number in the history.
    consumer: u64,
    settling: VecDeque<(Settle, Settlement)>,
}

impl Worker {
    async fn work(&mut self, style: Style) {
        let client = connect(&self.part.address).await;
        let mut consumer = self.open(&client).await;
        let mut aside = VecDeque::new();
        while let Some(delivery) = self.take(&mut consumer).await {
            match style {
                Style::Moody => self.decide(delivery, &mut aside),
                Style::Diligent | Style::Leaving | Style::Crashing => self.ack(delivery),
            }
            self.confirm(WINDOW).await;
            if style == Style::Leaving && self.part.chance.below(100) == 0 {
                self.close(consumer).await;
                consumer = self.open(&client).await;
            }
        }
        aside.into_iter().for_each(|delivery| self.ack(delivery));
        self.confirm(0).await;
        self.close(consumer).await;
        client.close(crate::support::PATIENCE).await;
    }

    async fn open(&mut self, client: &Client) -> Consumer {
        self.consumer = self.part.record.next_consumer();
        let t0 = self.part.record.now();
        let consumer = client.consumer(self.topic, self.subscription).credit(64, 1 << 20);
        let consumer = consumer.await.unwrap();
        self.changed(t0, ConsumerChange::Opened);
        consumer
    }

    /// Drops the consumer. Everything that it took is settled and confirmed first.
    async fn close(&mut self, consumer: Consumer) {
        self.confirm(0).await;
        let t0 = self.part.record.now();
        drop(consumer);
        self.changed(t0, ConsumerChange::Closed);
    }

    fn changed(&self, t0: history::Time, change: ConsumerChange) {
        self.part.record.add(Event::Consumer(history::Consumer {
            t0,
            t1: self.part.record.now(),
            topic: self.topic.to_owned(),
            subscription: self.subscription.to_owned(),
            consumer: self.consumer,
            change,
        }));
    }

    /// The next delivery; `None` once the load stops.
    async fn take(&self, consumer: &mut Consumer) -> Option<Delivery> {
        let delivery = tokio::select! {
            biased;
            () = self.part.stopped() => return None,
            next = consumer.next() => next.expect("the client is open").unwrap(),
        };
        let place = (self.topic, self.subscription, self.consumer);
        self.part.record.add(record::deliver(self.part.record.now(), place, &delivery));
        self.part.progress.count(Deed::Taken);
        if delivery.attempt().0 == 0 {
            self.part.room.add_permits(1);
        }
        Some(delivery)
    }

    fn decide(&mut self, delivery: Delivery, aside: &mut VecDeque<Delivery>) {
        match self.part.chance.below(100) {
            0..60 => self.ack(delivery),
            60..64 => self.settle(delivery, Verdict::Nack, |it| it.nack(Retry::Now)),
            64..68 => {
                let after = Retry::After(Duration::from_millis(self.part.chance.below(10)));
                self.settle(delivery, Verdict::Nack, |it| it.nack(after));
            }
            68..72 => self.settle(delivery, Verdict::Nack, |it| it.nack(Retry::Backoff)),
            72..84 => self.settle(delivery, Verdict::Release, Delivery::release),
            84..86 => self.settle(delivery, Verdict::Reject, |it| it.reject("moody")),
            86 => self.forget(delivery),
            _ => {
                aside.push_back(delivery);
                if aside.len() > ASIDE {
                    aside.pop_front().into_iter().for_each(|delivery| self.ack(delivery));
                }
            }
        }
    }

    fn ack(&mut self, delivery: Delivery) {
        self.settle(delivery, Verdict::Ack, Delivery::ack);
    }

    fn settle(
        &mut self,
        delivery: Delivery,
        verdict: Verdict,
        act: impl FnOnce(Delivery) -> Settlement,
    ) {
        let t0 = self.part.record.now();
        let settle = record::settle(t0, (self.topic, self.subscription), &delivery, verdict);
        self.settling.push_back((settle, act(delivery)));
    }

    /// Drops a delivery, which is a nack that nobody confirms.
    fn forget(&mut self, delivery: Delivery) {
        let t0 = self.part.record.now();
        let place = (self.topic, self.subscription);
        let settle = record::settle(t0, place, &delivery, Verdict::Nack);
        drop(delivery);
        self.part.record.add(Event::Settle(settle));
    }

    /// Waits until at most so many settlements are on their way.
    async fn confirm(&mut self, left: usize) {
        while self.settling.len() > left {
            let Some((settle, settlement)) = self.settling.pop_front() else { return };
            let result = settlement.await;
            let t1 = self.part.record.now();
            self.part.record.add(record::settled(settle, t1, result));
            self.part.progress.count(Deed::Settled);
        }
    }

    /// Opens a connection, takes a few deliveries, acks some, and cuts the connection with the
    /// others in its hands. `false` once the load stops.
    fn crash(&mut self) -> bool {
        let runtime = runtime();
        let few = 2 + self.part.chance.below(6);
        let mut held = Vec::new();
        let (client, consumer, goes_on) = runtime.block_on(async {
            let client = connect(&self.part.address).await;
            let mut consumer = self.open(&client).await;
            for _ in 0..few {
                let Some(delivery) = self.take(&mut consumer).await else {
                    return (client, consumer, false);
                };
                if self.part.chance.below(2) == 0 {
                    self.ack(delivery);
                } else {
                    held.push(delivery);
                }
            }
            self.confirm(0).await;
            (client, consumer, true)
        });
        let t0 = self.part.record.now();
        // The driver and its socket go with the runtime, before anybody can say good-bye.
        drop(runtime);
        self.changed(t0, ConsumerChange::Lost);
        drop((held, consumer, client));
        // What was on its way may have arrived.
        for (settle, _) in self.settling.drain(..) {
            self.part.record.add(Event::Settle(settle));
        }
        goes_on
    }
}
