//! Topics and subscriptions as small numbers, so that everything else sorts by number.

use std::collections::HashMap;

/// A topic of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicNo(u32);

/// A subscription of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionNo(u32);

/// The names in the order in which they first occur.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    topics: HashMap<&'a str, TopicNo>,
    topic_names: Vec<&'a str>,
    subscriptions: HashMap<(TopicNo, &'a str), SubscriptionNo>,
    subscription_names: Vec<(TopicNo, &'a str)>,
}

impl<'a> Names<'a> {
    pub(crate) fn topic(&mut self, name: &'a str) -> TopicNo {
        let next = TopicNo(number(self.topic_names.len()));
        *self.topics.entry(name).or_insert_with(|| {
            self.topic_names.push(name);
            next
        })
    }

    pub(crate) fn subscription(&mut self, topic: &'a str, name: &'a str) -> SubscriptionNo {
        let topic = self.topic(topic);
        let next = SubscriptionNo(number(self.subscription_names.len()));
        *self.subscriptions.entry((topic, name)).or_insert_with(|| {
            self.subscription_names.push((topic, name));
            next
        })
    }

    pub(crate) fn topic_name(&self, topic: TopicNo) -> &'a str {
        self.topic_names.get(index(topic.0)).copied().unwrap_or_default()
    }

    pub(crate) fn subscription_name(&self, subscription: SubscriptionNo) -> &'a str {
        self.subscription_names.get(index(subscription.0)).map_or("", |(_, name)| name)
    }

    pub(crate) fn topic_of(&self, subscription: SubscriptionNo) -> TopicNo {
        self.subscription_names.get(index(subscription.0)).map_or_else(TopicNo::default, |at| at.0)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicNo> + use<> {
        (0..number(self.topic_names.len())).map(TopicNo)
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
