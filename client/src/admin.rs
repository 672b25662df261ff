//! Topics, subscriptions and producers: creating, altering, describing, listing, purging, deleting, redriving.

use crate::call::{Repeat, expect_reply};
use crate::core::Core;
use crate::error::RequestError;
use posthouse_protocol::message::{
    DeadRedrive, ProducerInfo, ProducerList, ProducerRetire, SubscriptionCreate,
    SubscriptionDelete, SubscriptionDescribe, SubscriptionInfo, SubscriptionList, TopicAlter,
    TopicCreate, TopicDelete, TopicDescribe, TopicInfo, TopicList, TopicPurge,
};
use posthouse_protocol::settings::{Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{ErrorCode, Name};
use std::sync::Arc;

/// Names asked for at a time.
const PAGE: u32 = 1000;

/// Administration over a client's connection.
///
/// Requests are repeated after a reconnect where twice is as good as once, until the operation
/// timeout. Purging and redriving are not: a connection lost before their answer is
/// [`RequestError::ConnectionLost`]. Dropping a future leaves open whether the request is carried out.
#[derive(Clone, Debug)]
pub struct Admin {
    core: Arc<Core>,
}

impl Admin {
    pub(crate) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes a topic. The same name with the same settings is no error.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `ALREADY_EXISTS` if it exists with other settings.
    pub async fn create_topic(
        &self,
        topic: &str,
        settings: TopicSettings,
    ) -> Result<TopicInfo, RequestError> {
        let request = TopicCreate { topic: Name::new(topic)?, settings };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, TopicInfo)
    }

    /// Replaces a topic's settings.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic.
    pub async fn alter_topic(
        &self,
        topic: &str,
        settings: TopicSettings,
    ) -> Result<TopicInfo, RequestError> {
        let request = TopicAlter { topic: Name::new(topic)?, settings };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, TopicInfo)
    }

    /// A topic's id, settings and state.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic.
    pub async fn describe_topic(&self, topic: &str) -> Result<TopicInfo, RequestError> {
        let request = TopicDescribe { topic: Name::new(topic)? };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, TopicInfo)
    }

    /// The names of all topics, in order.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn list_topics(&self) -> Result<Vec<Name>, RequestError> {
        let mut names = Vec::new();
        loop {
            let request = TopicList { after: names.last().cloned(), limit: PAGE };
            let page = expect_reply!(self.core.call(request, Repeat::Safe).await?, TopicNames)?;
            if page.topics.is_empty() {
                return Ok(names);
            }
            names.extend(page.topics);
        }
    }

    /// Forgets all messages that a topic has now.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic.
    pub async fn purge_topic(&self, topic: &str) -> Result<(), RequestError> {
        let request = TopicPurge { topic: Name::new(topic)? };
        expect_reply!(self.core.call(request, Repeat::Never).await?, Done).map(|_| ())
    }

    /// Deletes a topic with its messages and subscriptions.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic. A deletion whose answer was lost and
    /// that is repeated may say so too.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), RequestError> {
        let request = TopicDelete { topic: Name::new(topic)? };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, Done).map(|_| ())
    }

    /// The named producers, in the order of their names.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn list_producers(&self) -> Result<Vec<ProducerInfo>, RequestError> {
        let mut producers: Vec<ProducerInfo> = Vec::new();
        loop {
            let after = producers.last().and_then(|producer| producer.name.clone());
            let request = ProducerList { after, limit: PAGE };
            let page = expect_reply!(self.core.call(request, Repeat::Safe).await?, ProducerInfos)?;
            if page.producers.is_empty() {
                return Ok(producers);
            }
            producers.extend(page.producers);
        }
    }

    /// Forgets a named producer: what it sends afterwards is refused with `UNKNOWN_PRODUCER`, and what
    /// it sent before is no longer recognised when it is repeated.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such producer. A retirement whose answer was lost
    /// and that is repeated may say so too.
    pub async fn retire_producer(&self, producer: &str) -> Result<(), RequestError> {
        let request = ProducerRetire { name: Name::new(producer)? };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, Done).map(|_| ())
    }

    /// Makes a subscription that starts at `start`. The same name with the same settings is no error.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic, `ALREADY_EXISTS` if the subscription
    /// exists with other settings.
    pub async fn create_subscription(
        &self,
        topic: &str,
        subscription: &str,
        settings: SubscriptionSettings,
        start: Position,
    ) -> Result<SubscriptionInfo, RequestError> {
        let (topic, subscription) = (Name::new(topic)?, Name::new(subscription)?);
        let request = SubscriptionCreate { topic, subscription, settings, start };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, SubscriptionInfo)
    }

    /// A subscription's id, settings and state.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic or subscription.
    pub async fn describe_subscription(
        &self,
        topic: &str,
        subscription: &str,
    ) -> Result<SubscriptionInfo, RequestError> {
        let (topic, subscription) = (Name::new(topic)?, Name::new(subscription)?);
        let request = SubscriptionDescribe { topic, subscription };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, SubscriptionInfo)
    }

    /// The names of a topic's subscriptions, in order.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic.
    pub async fn list_subscriptions(&self, topic: &str) -> Result<Vec<Name>, RequestError> {
        let topic = Name::new(topic)?;
        let mut names = Vec::new();
        loop {
            let after = names.last().cloned();
            let request = SubscriptionList { topic: topic.clone(), after, limit: PAGE };
            let answer = self.core.call(request, Repeat::Safe).await?;
            let page = expect_reply!(answer, SubscriptionNames)?;
            if page.subscriptions.is_empty() {
                return Ok(names);
            }
            names.extend(page.subscriptions);
        }
    }

    /// Deletes a subscription.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic or subscription. A deletion whose
    /// answer was lost and that is repeated may say so too.
    pub async fn delete_subscription(
        &self,
        topic: &str,
        subscription: &str,
    ) -> Result<(), RequestError> {
        let (topic, subscription) = (Name::new(topic)?, Name::new(subscription)?);
        let request = SubscriptionDelete { topic, subscription };
        expect_reply!(self.core.call(request, Repeat::Safe).await?, Done).map(|_| ())
    }

    /// Gives at most `limit` dead letters, oldest first, back to the subscription that they came
    /// from, and says how many.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic, subscription or dead letter.
    pub async fn redrive(
        &self,
        topic: &str,
        subscription: &str,
        limit: u32,
    ) -> Result<u32, RequestError> {
        let (topic, subscription) = (Name::new(topic)?, Name::new(subscription)?);
        let request = DeadRedrive { topic, subscription, limit };
        let redriven = expect_reply!(self.core.call(request, Repeat::Never).await?, Redriven);
        redriven.map(|redriven| redriven.count)
    }

    /// Makes a topic with default settings unless there is one with this name.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn ensure_topic(&self, topic: &str) -> Result<TopicInfo, RequestError> {
        match self.create_topic(topic, TopicSettings::default()).await {
            Err(error) if error.code() == Some(ErrorCode::AlreadyExists) => {
                self.describe_topic(topic).await
            }
            result => result,
        }
    }

    /// Makes a queue subscription with default settings, starting at the first message, unless there
    /// is one with this name.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; `NOT_FOUND` if there is no such topic.
    pub async fn ensure_subscription(
        &self,
        topic: &str,
        subscription: &str,
    ) -> Result<SubscriptionInfo, RequestError> {
        let settings = SubscriptionSettings::default();
        let made = self.create_subscription(topic, subscription, settings, Position::Earliest);
        match made.await {
            Err(error) if error.code() == Some(ErrorCode::AlreadyExists) => {
                self.describe_subscription(topic, subscription).await
            }
            result => result,
        }
    }
}
