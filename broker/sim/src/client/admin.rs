//! The operator: makes topics and subscriptions, looks at them, and gives dead letters back.

use super::{Client, Phase, Session, Surroundings, name, refused};
use crate::chance::Chance;
use bytes::Bytes;
use posthouse_checker::history::{self, Event, Outcome};
use posthouse_protocol::message::{
    DeadRedrive, SubscriptionCreate, SubscriptionDescribe, SubscriptionInfo, TopicCreate,
    TopicDescribe, TopicInfo, TopicList,
};
use posthouse_protocol::settings::{Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{CorrelationId, Reply, Request};
use std::collections::BTreeMap;

/// A topic to make, with its subscriptions.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: &'static str,
    pub(crate) settings: TopicSettings,
    pub(crate) subscriptions: Vec<(&'static str, SubscriptionSettings)>,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Admin {
    session: Session,
    wanted: Vec<Wanted>,
    /// Requests of the setup, still to be answered.
    left: Vec<Request>,
    asked: Option<(CorrelationId, Request)>,
    redriving: Option<(CorrelationId, u64, &'static str, &'static str)>,
    can_redrive: bool,
    pub(crate) topics: BTreeMap<String, TopicInfo>,
    pub(crate) subscriptions: BTreeMap<(String, String), SubscriptionInfo>,
    /// Topics that were asked for in the last look and do not exist.
    pub(crate) missing: Vec<String>,
}

impl Admin {
    pub(crate) fn new(client: usize, wanted: Vec<Wanted>, can_redrive: bool) -> Self {
        let mut left = Vec::new();
        for each in wanted.iter().rev() {
            let topic = name(each.topic);
            for (subscription, settings) in &each.subscriptions {
                left.push(Request::from(SubscriptionCreate {
                    topic: topic.clone(),
                    subscription: name(subscription),
                    settings: settings.clone(),
                    start: Position::Earliest,
                }));
            }
            left.push(TopicCreate { topic, settings: each.settings.clone() }.into());
        }
        Self {
            session: Session::new(client),
            wanted,
            left,
            asked: None,
            redriving: None,
            can_redrive,
            topics: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            missing: Vec::new(),
        }
    }

    /// Asks for what there is.
    pub(crate) fn describe(&mut self, topics: impl IntoIterator<Item = String>) {
        self.left.extend(
            topics.into_iter().map(|topic| Request::from(TopicDescribe { topic: name(&topic) })),
        );
    }

    /// Asks how a subscription stands.
    pub(crate) fn look_at(&mut self, topic: &str, subscription: &str) {
        let (topic, subscription) = (name(topic), name(subscription));
        self.left.push(SubscriptionDescribe { topic, subscription }.into());
    }

    fn ask(&mut self, around: &mut Surroundings<'_>, request: Request) {
        let sent = self.session.send(around, request.clone(), &[]);
        self.asked = sent.map(|to| (to, request));
    }

    fn redrive(&mut self, around: &mut Surroundings<'_>) {
        let each = self.wanted.get(around.dice.index(self.wanted.len()));
        let Some((topic, (subscription, _))) =
            each.and_then(|each| Some((each.topic, each.subscriptions.first()?)))
        else {
            return;
        };
        let limit = u32::try_from(around.dice.between(1, 8)).unwrap_or(1);
        let request = DeadRedrive { topic: name(topic), subscription: name(subscription), limit };
        let sent = self.session.send(around, request, &[]);
        self.redriving = sent.map(|to| (to, around.now, topic, *subscription));
    }

    fn redriven(&mut self, around: &mut Surroundings<'_>, outcome: Outcome) {
        let Some((_, t0, topic, subscription)) = self.redriving.take() else { return };
        around.history.push(Event::Redrive(history::Redrive {
            t0: history::Time(t0),
            t1: around.time(),
            topic: topic.to_owned(),
            subscription: subscription.to_owned(),
            outcome,
        }));
    }

    fn answered(&mut self, reply: Reply) {
        let asked = self.asked.take();
        match (reply, asked) {
            (Reply::TopicInfo(info), _) => {
                self.topics.insert(info.topic.to_string(), info);
            }
            (Reply::SubscriptionInfo(info), _) => {
                let topic = self.topics.values().find(|topic| topic.id == info.topic);
                if let Some(topic) = topic.map(|topic| topic.topic.to_string()) {
                    self.subscriptions.insert((topic, info.subscription.to_string()), info);
                }
            }
            (Reply::Refused(_), Some((_, Request::TopicDescribe(request)))) => {
                self.missing.push(request.topic.to_string());
            }
            (Reply::Refused(refusal), Some((_, request))) => {
                panic!("{request:?} was refused: {}", refusal.text);
            }
            _ => {}
        }
    }
}

impl Client for Admin {
    fn act(&mut self, around: &mut Surroundings<'_>) {
        if !self.session.connect(around) || self.asked.is_some() || self.redriving.is_some() {
            return;
        }
        if let Some(request) = self.left.pop() {
            return self.ask(around, request);
        }
        if around.phase != Phase::Load || !around.dice.percent(5) {
            return;
        }
        if self.can_redrive && around.dice.percent(30) {
            self.redrive(around);
        } else {
            self.ask(around, TopicList { after: None, limit: 100 }.into());
        }
    }

    fn receive(
        &mut self,
        around: &mut Surroundings<'_>,
        to: CorrelationId,
        reply: Reply,
        _: &Bytes,
    ) {
        if self.redriving.is_some_and(|asked| asked.0 == to) {
            let outcome = if let Reply::Refused(refusal) = reply {
                refused(refusal.code)
            } else {
                Outcome::Ok
            };
            self.redriven(around, outcome);
        } else if self.asked.as_ref().is_some_and(|asked| asked.0 == to) {
            self.answered(reply);
        }
    }

    fn lost(&mut self, around: &mut Surroundings<'_>) {
        self.session.connection = None;
        self.redriven(around, Outcome::Unknown);
        if let Some((_, request)) = self.asked.take() {
            self.left.push(request);
        }
    }

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn is_done(&self) -> bool {
        self.left.is_empty() && self.asked.is_none() && self.redriving.is_none()
    }
}
