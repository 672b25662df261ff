//! Topics as the catalog knows them.

use crate::event;
use posthouse_protocol::settings::TopicSettings;
use posthouse_protocol::{Name, PartitionId, SubscriptionId, TopicId};
use std::collections::BTreeMap;

/// The durable state of a topic; its messages' is in its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: Name,
    pub(crate) partition: PartitionId,
    /// Where its delayed messages wait, once there was one.
    pub(crate) waiting_room: Option<PartitionId>,
    pub(crate) settings: TopicSettings,
    /// Whose dead letters it keeps.
    pub(crate) dead_of: Option<SubscriptionId>,
    pub(crate) subscriptions: BTreeMap<Name, SubscriptionId>,
}

impl Topic {
    pub(super) fn new(event: &event::TopicCreated) -> Self {
        Self {
            id: event.id,
            name: event.topic.clone(),
            partition: event.partition,
            waiting_room: None,
            settings: event.settings.clone(),
            dead_of: event.dead_of,
            subscriptions: BTreeMap::new(),
        }
    }
}
