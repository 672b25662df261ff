//! What every part of the engine is given with an input: the moment, the state, and the way out.
//!
//! [`Context::append`] is the only place where the state of a running engine changes.

use crate::effect::{Append, BatchAppend, Effect, Effects, Gate};
use crate::event::{Event, Published};
use crate::input::ConnectionId;
use crate::refusal::Refusal;
use crate::state::State;
use crate::time::Now;
use crate::visibility::Visibility;
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{
    CorrelationId, LogIndex, Offset, PartitionId, Reply, StartEpoch, TopicId,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) connection: ConnectionId,
    /// For the reply; zero asks for none.
    pub(crate) correlation: CorrelationId,
}

/// The journal as the engine knows it.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The frame appended last.
    pub(crate) last: LogIndex,
    pub(crate) visibility: Visibility,
}

/// One input's surroundings.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) state: &'a mut State,
    pub(crate) journal: &'a mut Journal,
    pub(crate) effects: &'a mut Effects,
}

impl Context<'_> {
    /// Makes one frame of `events` and the batches that they name, applies it, and returns its
    /// number.
    ///
    /// # Panics
    ///
    /// If an event does not fit the state: the decision that made it was wrong.
    pub(crate) fn append(&mut self, events: Vec<Event>, batches: Vec<BatchAppend>) -> LogIndex {
        debug_assert!(!events.is_empty(), "a frame says that something happened");
        let (index, time) = (self.journal.last.next(), self.now.wall);
        self.journal.last = index;
        for event in &events {
            if let Err(error) = self.state.apply(index, time, event) {
                panic!("an event fits the state that it was decided on: {error}");
            }
            if let Event::Published(published) = event {
                self.note_published(index, published);
            }
            if let Event::TopicAltered(altered) = event
                && self.durability(altered.id) == Durability::Written
                && let Some(topic) = self.state.topics.get(&altered.id)
            {
                let (partition, next) = (topic.partition, self.partition_end(topic.partition));
                self.journal.visibility.altered(index, partition, next);
            }
            if let Event::Delayed(delayed) = event {
                self.journal.visibility.delayed(index, delayed.partition, delayed.written);
            }
        }
        self.effects.push(Effect::Append(Append { index, time, events, batches }));
        index
    }

    fn note_published(&mut self, index: LogIndex, published: &Published) {
        if let Some(topic) = self.state.topics.get(&published.topic) {
            let range = (published.base, published.base.plus(u64::from(published.count)));
            let visibility = &mut self.journal.visibility;
            visibility.published(index, topic.partition, range, published.written);
        }
    }

    /// The frame appended last.
    pub(crate) const fn last(&self) -> LogIndex {
        self.journal.last
    }

    /// The start that is running: the epoch of every fence given out.
    pub(crate) const fn start_epoch(&self) -> StartEpoch {
        self.state.start_epoch
    }

    /// What a reply that shows the present state waits for.
    pub(crate) const fn present(&self) -> Gate {
        Gate::Committed(self.journal.last)
    }

    /// Sends a reply, unless none was asked for.
    pub(crate) fn reply(&mut self, client: Client, reply: impl Into<Reply>, gate: Gate) {
        if client.correlation != CorrelationId::ZERO {
            let Client { connection, correlation } = client;
            self.effects.push(Effect::Reply { connection, correlation, reply: reply.into(), gate });
        }
    }

    /// Sends something that was not asked for.
    pub(crate) fn push(&mut self, connection: ConnectionId, reply: impl Into<Reply>, gate: Gate) {
        let (correlation, reply) = (CorrelationId::ZERO, reply.into());
        self.effects.push(Effect::Reply { connection, correlation, reply, gate });
    }

    /// Sends a refusal.
    pub(crate) fn refuse(&mut self, client: Client, refusal: Refusal) {
        let gate = if refusal.reveals() { self.present() } else { Gate::Now };
        self.reply(client, refusal.into_reply(), gate);
    }

    /// Sends an answer or a refusal; the answer shows the present state.
    pub(crate) fn answer<R: Into<Reply>>(&mut self, client: Client, answer: Result<R, Refusal>) {
        match answer {
            Ok(reply) => self.reply(client, reply, self.present()),
            Err(refusal) => self.refuse(client, refusal),
        }
    }

    /// The offset that the next message of `partition` gets.
    pub(crate) fn partition_end(&self, partition: PartitionId) -> Offset {
        self.state.partitions.get(&partition).map_or(Offset::ZERO, |partition| partition.next)
    }

    /// Everything below may be seen by readers.
    pub(crate) fn visible_end(&self, partition: PartitionId) -> Offset {
        self.journal.visibility.end(partition, self.partition_end(partition))
    }

    /// What a change to `topic` waits for before it is acknowledged.
    pub(crate) fn durability(&self, topic: TopicId) -> Durability {
        let topic = self.state.topics.get(&topic);
        topic.map_or(Durability::Synced, |topic| topic.settings.durability)
    }

    /// What the acknowledgement of the frame `index`, which changed `topic`, waits for.
    pub(crate) fn gate(&self, topic: TopicId, index: LogIndex) -> Gate {
        match self.durability(topic) {
            Durability::Synced => Gate::Committed(index),
            Durability::Written => Gate::Written(index),
        }
    }
}
