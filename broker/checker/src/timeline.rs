//! A history sorted for checking: every kind of event in the order in which the rules walk it.

mod deaths;
mod names;

use deaths::ascend;

pub(crate) use deaths::Deaths;
pub(crate) use names::{Names, SubscriptionNo, TopicNo};

use crate::history::{
    self, Clock, Consumer, ConsumerChange, Cursor, Deliver, Durability, Event, Extend, Fence,
    Fetch, MessageId, Outcome, Publish, PublishOutcome, Redrive, Settle, Time,
};
use crate::report::Subject;
use std::collections::HashMap;

/// A history, sorted.
#[derive(Debug, Default)]
pub(crate) struct Timeline<'a> {
    pub(crate) names: Names<'a>,
    /// By topic, message, time.
    pub(crate) publishes: Vec<At<(TopicNo, MessageId), &'a Publish>>,
    /// By subscription, offset, fence, time.
    pub(crate) deliveries: Vec<At<(SubscriptionNo, u64), &'a Deliver>>,
    /// By subscription, offset, fence, time.
    pub(crate) settles: Vec<At<(SubscriptionNo, u64), &'a Settle>>,
    /// By subscription, offset, fence, time.
    pub(crate) extends: Vec<At<(SubscriptionNo, u64), &'a Extend>>,
    /// By topic, time.
    pub(crate) fetches: Vec<At<TopicNo, &'a Fetch>>,
    /// By subscription, time.
    pub(crate) cursors: Vec<At<SubscriptionNo, &'a Cursor>>,
    /// By subscription, time.
    pub(crate) redrives: Vec<At<SubscriptionNo, &'a Redrive>>,
    /// Purges and retention, by topic.
    pub(crate) releases: Vec<At<TopicNo, &'a history::Released>>,
    /// Final looks, by topic and then subscription.
    pub(crate) finals: Vec<At<(TopicNo, Option<SubscriptionNo>), &'a history::Final>>,
    /// Declared subscriptions, by topic.
    pub(crate) subscriptions: Vec<At<(TopicNo, SubscriptionNo), &'a history::Subscription>>,
    /// Settings of the wall clock, by time.
    pub(crate) clocks: Vec<Clock>,
    pub(crate) consumers: Consumers,
    pub(crate) deaths: Deaths,
    /// The last moment of the history.
    pub(crate) end: Time,
    written: Vec<TopicNo>,
    /// Dead letter topic, where its letters come from.
    dead_topics: Vec<(TopicNo, SubscriptionNo)>,
}

/// An event with its place in the history and the key that it is sorted by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<K, E> {
    pub(crate) key: K,
    pub(crate) event: usize,
    pub(crate) is: E,
}

impl<'a> Timeline<'a> {
    pub(crate) fn new(events: &'a [Event]) -> Self {
        let mut timeline = Self::default();
        for (event, is) in events.iter().enumerate() {
            timeline.end = timeline.end.max(is.end());
            timeline.add(is, event);
        }
        timeline.sort();
        timeline
    }

    fn add(&mut self, is: &'a Event, event: usize) {
        match is {
            Event::Topic(is) => {
                let topic = self.names.topic(&is.topic);
                if is.durability == Durability::Written {
                    self.written.push(topic);
                }
            }
            Event::Subscription(is) => self.declare(is, event),
            Event::Publish(is) => {
                let key = (self.names.topic(&is.topic), is.id);
                self.publishes.push(At { key, event, is });
            }
            Event::Deliver(is) => {
                let key = (self.names.subscription(&is.topic, &is.subscription), is.offset);
                self.deliveries.push(At { key, event, is });
            }
            Event::Settle(is) => {
                let key = (self.names.subscription(&is.topic, &is.subscription), is.offset);
                self.settles.push(At { key, event, is });
            }
            Event::Extend(is) => {
                let key = (self.names.subscription(&is.topic, &is.subscription), is.offset);
                self.extends.push(At { key, event, is });
            }
            Event::Consumer(is) => {
                let subscription = self.names.subscription(&is.topic, &is.subscription);
                self.consumers.add(subscription, is);
            }
            Event::Broker(is) => self.deaths.add(is, event),
            Event::Clock(is) => self.clocks.push(*is),
            Event::Fetch(_)
            | Event::Cursor(_)
            | Event::Redrive(_)
            | Event::Released(_)
            | Event::Final(_) => self.add_look(is, event),
        }
    }

    fn add_look(&mut self, is: &'a Event, event: usize) {
        match is {
            Event::Fetch(is) => {
                self.fetches.push(At { key: self.names.topic(&is.topic), event, is });
            }
            Event::Cursor(is) => {
                let key = self.names.subscription(&is.topic, &is.subscription);
                self.cursors.push(At { key, event, is });
            }
            Event::Redrive(is) => {
                let key = self.names.subscription(&is.topic, &is.subscription);
                self.redrives.push(At { key, event, is });
            }
            Event::Released(is) => {
                self.releases.push(At { key: self.names.topic(&is.topic), event, is });
            }
            Event::Final(is) => {
                let drained = is.subscription.as_deref();
                let drained = drained.map(|name| self.names.subscription(&is.topic, name));
                let key = (self.names.topic(&is.topic), drained);
                self.finals.push(At { key, event, is });
            }
            Event::Topic(_)
            | Event::Subscription(_)
            | Event::Publish(_)
            | Event::Deliver(_)
            | Event::Settle(_)
            | Event::Extend(_)
            | Event::Consumer(_)
            | Event::Broker(_)
            | Event::Clock(_) => {}
        }
    }

    fn declare(&mut self, is: &'a history::Subscription, event: usize) {
        let subscription = self.names.subscription(&is.topic, &is.subscription);
        let key = (self.names.topic(&is.topic), subscription);
        self.subscriptions.push(At { key, event, is });
        if let Some(dead) = &is.dead_topic {
            self.dead_topics.push((self.names.topic(dead), subscription));
        }
    }

    fn sort(&mut self) {
        self.publishes.sort_by_key(|at| (at.key, at.is.t0, at.event));
        self.deliveries.sort_by_key(|at| (at.key, at.is.fence, at.is.t, at.event));
        self.settles.sort_by_key(|at| (at.key, at.is.fence, at.is.t0, at.event));
        self.extends.sort_by_key(|at| (at.key, at.is.fence, at.is.t0, at.event));
        self.fetches.sort_by_key(|at| (at.key, at.is.t0, at.event));
        self.cursors.sort_by_key(|at| (at.key, at.is.t0, at.event));
        self.redrives.sort_by_key(|at| (at.key, at.is.t0, at.event));
        self.releases.sort_by_key(|at| (at.key, at.is.t0, at.event));
        self.finals.sort_by_key(|at| (at.key, at.is.t, at.event));
        self.subscriptions.sort_by_key(|at| (at.key, at.event));
        self.clocks.sort_by_key(|clock| (clock.t, clock.wall_ms));
        self.written.sort_unstable();
        self.dead_topics.sort_unstable();
        self.deaths.sort();
        self.consumers.crashes.values_mut().for_each(|crashes| ascend(crashes));
    }

    /// What the broker's wall clock shows at `t`, in milliseconds; nothing before it was first set.
    pub(crate) fn wall_ms(&self, t: Time) -> Option<u64> {
        const NANOS: u64 = 1_000_000;
        let set = self.clocks.partition_point(|clock| clock.t <= t);
        let last = self.clocks.get(set.checked_sub(1)?)?;
        Some(last.wall_ms.saturating_add(t.0 / NANOS - last.t.0 / NANOS))
    }

    /// Whether a power loss may take what was acknowledged on this topic.
    pub(crate) fn is_written(&self, topic: TopicNo) -> bool {
        self.written.binary_search(&topic).is_ok()
    }

    /// The subscription whose dead letters this topic keeps.
    pub(crate) fn dead_letters_of(&self, topic: TopicNo) -> Option<SubscriptionNo> {
        let found = self.dead_topics.iter().find(|(dead, _)| *dead == topic);
        found.map(|(_, subscription)| *subscription)
    }

    /// The topic whose messages may turn up in `topic`: itself, or where its dead letters come from.
    pub(crate) fn origin(&self, topic: TopicNo) -> TopicNo {
        let of = self.dead_letters_of(topic);
        of.map_or(topic, |subscription| self.names.topic_of(subscription))
    }

    /// The declared subscriptions of a topic.
    pub(crate) fn declared(
        &self,
        topic: TopicNo,
    ) -> &[At<(TopicNo, SubscriptionNo), &'a history::Subscription>] {
        group(&self.subscriptions, |at| at.key.0, topic)
    }

    /// What was declared of a subscription.
    pub(crate) fn declaration(
        &self,
        subscription: SubscriptionNo,
    ) -> Option<&'a history::Subscription> {
        let declared = self.declared(self.names.topic_of(subscription)).iter();
        declared.filter(|at| at.key.1 == subscription).map(|at| at.is).next()
    }

    /// The publishes of one message.
    pub(crate) fn publishes_of(
        &self,
        topic: TopicNo,
        id: MessageId,
    ) -> &[At<(TopicNo, MessageId), &'a Publish>] {
        group(&self.publishes, |at| at.key, (topic, id))
    }

    /// Redrives of a topic that may have been carried out.
    pub(crate) fn redrives_of(&self, topic: TopicNo) -> usize {
        let redrives = self.redrives.iter().filter(|at| self.names.topic_of(at.key) == topic);
        redrives.filter(|at| !matches!(at.is.outcome, Outcome::Refused(_))).count()
    }

    /// Whether dead letters of a subscription may have been given back.
    pub(crate) fn is_redriven(&self, subscription: SubscriptionNo) -> bool {
        let redrives = group(&self.redrives, |at| at.key, subscription).iter();
        redrives.filter(|at| !matches!(at.is.outcome, Outcome::Refused(_))).count() > 0
    }

    /// Names a message of a topic in a report.
    pub(crate) fn message(&self, topic: TopicNo, offset: Option<u64>, id: MessageId) -> Subject {
        let topic = Some(self.names.topic_name(topic).to_owned());
        Subject { topic, offset, id: Some(id), ..Subject::default() }
    }

    /// Names a subscription, or something of it, in a report.
    pub(crate) fn subscription(&self, subscription: SubscriptionNo) -> Subject {
        Subject {
            topic: Some(self.names.topic_name(self.names.topic_of(subscription)).to_owned()),
            subscription: Some(self.names.subscription_name(subscription).to_owned()),
            ..Subject::default()
        }
    }

    /// Names a delivery in a report.
    pub(crate) fn delivery(&self, at: &At<(SubscriptionNo, u64), &Deliver>) -> Subject {
        Subject {
            offset: Some(at.is.offset),
            id: Some(at.is.id),
            fence: Some(at.is.fence),
            ..self.subscription(at.key.0)
        }
    }
}

/// The consumers of a history.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    lives: HashMap<u64, Life>,
    /// Crashes of each subscription's consumers; both ends of the spans ascend.
    crashes: HashMap<SubscriptionNo, Vec<(Time, Time)>>,
}

/// When a consumer came and went.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    opened: Option<Time>,
    ended: Option<Time>,
    /// When its end may have failed deliveries.
    failed: Option<Time>,
    crashed: Option<(Time, Time)>,
}

impl Consumers {
    fn add(&mut self, subscription: SubscriptionNo, is: &Consumer) {
        let life = self.lives.entry(is.consumer).or_default();
        match is.change {
            ConsumerChange::Opened => life.opened = Some(is.t0),
            ConsumerChange::Closed => life.ended = earlier(life.ended, is.t0),
            ConsumerChange::Lost => {
                life.ended = earlier(life.ended, is.t0);
                life.failed = earlier(life.failed, is.t0);
            }
            ConsumerChange::Crashed => {
                life.ended = earlier(life.ended, is.t0);
                life.failed = earlier(life.failed, is.t0);
                life.crashed = Some((is.t0, is.t1));
                self.crashes.entry(subscription).or_default().push((is.t0, is.t1));
            }
        }
    }

    /// Before which the broker cannot have handed anything to it.
    pub(crate) fn opened(&self, consumer: u64) -> Time {
        self.lives.get(&consumer).and_then(|life| life.opened).unwrap_or(Time::ZERO)
    }

    /// From when on it may have been gone.
    pub(crate) fn ended(&self, consumer: u64) -> Option<Time> {
        self.lives.get(&consumer).and_then(|life| life.ended)
    }

    /// From when on its loss may have counted as a failure of what it held.
    pub(crate) fn failed(&self, consumer: u64) -> Option<Time> {
        self.lives.get(&consumer).and_then(|life| life.failed)
    }

    /// How many consumers of a subscription, but for `holder`, may have crashed in the span.
    pub(crate) fn crashes_in(
        &self,
        subscription: SubscriptionNo,
        (after, before): (Time, Time),
        holder: Option<u64>,
    ) -> u64 {
        let Some(crashes) = self.crashes.get(&subscription) else { return 0 };
        let start = crashes.partition_point(|(_, t1)| *t1 < after);
        let end = crashes.partition_point(|(t0, _)| *t0 <= before);
        let touching = u64::try_from(end.saturating_sub(start)).unwrap_or(u64::MAX);
        let life = holder.and_then(|holder| self.lives.get(&holder));
        let itself = life.and_then(|life| life.crashed);
        let itself = itself.is_some_and(|(t0, t1)| t1 >= after && t0 <= before);
        touching.saturating_sub(u64::from(itself))
    }
}

fn earlier(known: Option<Time>, found: Time) -> Option<Time> {
    Some(known.map_or(found, |known| known.min(found)))
}

/// The part of a sorted list that has this key.
pub(crate) fn group<T, K: Ord + Copy>(list: &[T], key: impl Fn(&T) -> K, wanted: K) -> &[T] {
    let start = list.partition_point(|item| key(item) < wanted);
    let rest = list.get(start..).unwrap_or_default();
    // Groups are short: counting is faster than a second search.
    let len = rest.iter().take_while(|item| key(item) == wanted).count();
    rest.get(..len).unwrap_or_default()
}

/// Deliveries, settlements or extensions of one hand-out.
pub(crate) fn of_fence<T: Fenced>(list: &[T], fence: Fence) -> &[T] {
    group(list, Fenced::fence, fence)
}

/// Something that names a hand-out.
pub(crate) trait Fenced {
    fn fence(&self) -> Fence;
}

impl<K> Fenced for At<K, &Settle> {
    fn fence(&self) -> Fence {
        self.is.fence
    }
}

impl<K> Fenced for At<K, &Extend> {
    fn fence(&self) -> Fence {
        self.is.fence
    }
}

/// What is known in the end about a message that was published once or several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A receipt came.
    Ok,
    /// No receipt came, and not every try was refused for good.
    Unknown,
    /// Every try was refused for good.
    Failed,
}

/// Puts the tries of one message together.
pub(crate) fn told<K>(publishes: &[At<K, &Publish>]) -> Told {
    let ok = |at: &At<K, &Publish>| matches!(at.is.outcome, PublishOutcome::Ok { .. });
    let failed = |at: &At<K, &Publish>| matches!(at.is.outcome, PublishOutcome::Failed(_));
    if publishes.iter().any(ok) {
        Told::Ok
    } else if publishes.iter().all(failed) {
        Told::Failed
    } else {
        Told::Unknown
    }
}
