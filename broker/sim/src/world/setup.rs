//! The beginning: topics and subscriptions, and everybody who will use them.

use super::World;
use crate::chance::Chance;
use crate::client::Client;
use crate::client::committing::Committing;
use crate::client::consumer::Consumer;
use crate::client::producer::{Producer, Target};
use crate::client::reader::Reader;
use crate::plan::Plan;
use posthouse_checker::history::{self, Event, Mode};
use posthouse_protocol::settings::{self, Durability};

impl World {
    /// Makes topics and subscriptions without faults, and lets everything become durable.
    pub(super) fn set_up(&mut self) -> Result<(), String> {
        self.quietly(|world| world.admin.is_done())?;
        let until = self.now + 3_000_000_000;
        while self.now < until {
            self.now += 50_000_000;
            self.step()?;
        }
        self.declare();
        self.record_clock();
        self.populate();
        Ok(())
    }

    /// Steps until `done`, with the clock running faster.
    pub(super) fn quietly(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        for _ in 0..200_000 {
            if done(self) {
                return Ok(());
            }
            if self.dice.percent(10) {
                self.now += self.dice.between(0, 20_000_000);
            }
            self.step()?;
        }
        let waiting = self.clients.iter().filter(|client| !client.is_done());
        let waiting: Vec<String> =
            waiting.map(|client| format!("{client:?}").chars().take(200).collect()).collect();
        Err(format!("nothing ends: up={} waiting={waiting:#?}", self.host.is_some()))
    }

    /// Notes what the wall clock shows from now on.
    pub(super) fn record_clock(&mut self) {
        let (t, wall_ms) = (history::Time(self.now), self.clock().wall.0);
        self.history.push(Event::Clock(history::Clock { t, wall_ms }));
    }

    fn declare(&mut self) {
        for wanted in Plan::topics() {
            let durability = match wanted.settings.durability {
                Durability::Synced => history::Durability::Synced,
                Durability::Written => history::Durability::Written,
            };
            let topic = wanted.topic.to_owned();
            self.history.push(Event::Topic(history::Topic { topic: topic.clone(), durability }));
            for (subscription, settings) in wanted.subscriptions {
                let is_queue = settings.mode == settings::Mode::Queue;
                self.history.push(Event::Subscription(history::Subscription {
                    topic: topic.clone(),
                    subscription: subscription.to_owned(),
                    mode: if is_queue { Mode::Queue } else { Mode::Stream },
                    start: 0,
                    attempts_max: if is_queue { settings.attempts_max } else { 0 },
                    lease_ms_max: if is_queue { settings.lease_ms_max } else { 0 },
                    untaken_may_expire: is_queue,
                    dead_topic: is_queue.then(|| format!("{topic}.{subscription}.dead")),
                }));
            }
        }
    }

    fn populate(&mut self) {
        let sent_to: [(&str, Option<&str>); 7] = [
            ("orders", None),
            ("orders", Some("shop")),
            ("fast", None),
            ("audit", Some("bank")),
            ("feed", None),
            ("small", None),
            ("orders fast audit", None),
        ];
        for (topics, named) in sent_to {
            let targets = self.targets(topics);
            let (body, batch) = self.plan.sizes();
            let budget = self.dice.between(20, 200);
            self.join(|client| {
                Box::new(Producer::new(client, named, targets).sized(body, batch, budget))
            });
        }
        let queues = [
            ("orders", "billing"),
            ("orders", "billing"),
            ("fast", "work"),
            ("fast", "work"),
            ("audit", "mail"),
            ("small", "drip"),
        ];
        for (topic, subscription) in queues {
            self.join(|client| {
                let (topic, subscription) = (topic.to_owned(), subscription.to_owned());
                Box::new(Consumer::new(client, topic, subscription, false))
            });
        }
        let transforming = [
            ("orders", "billing", Some("transform"), "audit fast feed"),
            ("fast", "work", None, "orders audit"),
            ("fast", "work", None, "fast"),
            ("audit", "mail", None, "audit fast"),
            ("orders", "billing", None, "feed orders"),
            ("orders", "billing", None, "fast"),
        ];
        for (topic, subscription, named, targets) in transforming {
            let targets = self.targets(targets);
            self.join(|client| {
                let (topic, subscription) = (topic.to_owned(), subscription.to_owned());
                let committing = Committing::new(client, named.map(str::to_owned), targets);
                let consumer = Consumer::new(client, topic, subscription, false);
                Box::new(consumer.committing(committing))
            });
        }
        for (topic, cursor) in [("audit", Some("trail")), ("feed", Some("cursor")), ("fast", None)]
        {
            let Some(target) = self.target(topic) else { continue };
            let cursor = cursor.and_then(|name| {
                let key = (topic.to_owned(), name.to_owned());
                self.admin.subscriptions.get(&key).map(|info| (info.id, name.to_owned()))
            });
            let targets = self.targets("orders fast");
            self.join(|client| {
                let committing = Committing::new(client, None, targets);
                let reader = Reader::new(client, (target.id, target.topic), cursor);
                Box::new(reader.committing(committing))
            });
        }
    }

    fn targets(&self, topics: &str) -> Vec<Target> {
        topics.split(' ').filter_map(|topic| self.target(topic)).collect()
    }

    fn target(&self, topic: &str) -> Option<Target> {
        let info = self.admin.topics.get(topic)?;
        Some(Target { id: info.id, topic: topic.to_owned() })
    }

    /// Lets somebody in; clients are numbered from 1, the operator is 0.
    pub(super) fn join(&mut self, make: impl FnOnce(usize) -> Box<dyn Client>) {
        self.clients.push(make(self.clients.len() + 1));
    }
}
