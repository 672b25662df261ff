//! Commits: promised as a whole, and there as a whole or not at all, whether or not anybody was
//! told.

use super::audit::Found;
use super::{Content, Ledger, Subscription, messages_of, offsets};
use bytes::Bytes;
use posthouse_protocol::message::{
    Commit, Committed, CursorSave, DeliveryRun, Operation, Settled, Verdict,
};
use posthouse_protocol::{SubscriptionId, TopicId};
use std::collections::{BTreeMap, BTreeSet};

/// A commit that has been asked for.
#[derive(Clone, Debug)]
pub(super) struct Committing {
    /// Each publish with its messages.
    publishes: Vec<(TopicId, Vec<Content>)>,
    acks: Vec<(SubscriptionId, Vec<DeliveryRun>)>,
    saves: Vec<CursorSave>,
}

/// What happens together or not at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    messages: Vec<(TopicId, [u8; 16])>,
    acks: Vec<(SubscriptionId, u64)>,
}

impl Ledger {
    pub(super) fn commit_asked(&mut self, request: &Commit, tail: &Bytes) -> Committing {
        let mut asked = Committing { publishes: Vec::new(), acks: Vec::new(), saves: Vec::new() };
        let mut batches = request.batches(tail).expect("clients send tails that fit").into_iter();
        for operation in &request.operations {
            match operation {
                Operation::Publish(publish) => {
                    let topic = self.topic_ids.get(&publish.topic);
                    let topic = *topic.expect("clients commit to topics that were made");
                    let (_, batch) = batches.next().expect("a batch for each");
                    asked.publishes.push((topic, messages_of(&batch)));
                }
                Operation::Settle(settle) => {
                    self.may_settle(settle);
                    if settle.verdict == Verdict::Ack {
                        asked.acks.push((settle.subscription, settle.deliveries.clone()));
                    }
                }
                Operation::CursorSave(save) => {
                    self.may_save(save);
                    asked.saves.push(save.clone());
                }
            }
        }
        self.commits.entry((request.producer, request.sequence)).or_insert_with(|| asked.whole());
        asked
    }

    pub(super) fn committed(&mut self, asked: Committing, committed: &Committed) {
        assert_eq!(asked.publishes.len(), committed.published.len(), "an answer for each publish");
        for ((topic, messages), published) in asked.publishes.into_iter().zip(&committed.published)
        {
            self.accepted(topic, published.base, &messages);
        }
        for (subscription, runs) in asked.acks {
            self.settled(subscription, &runs, &Settled { refused: Vec::new() });
        }
        for save in asked.saves {
            self.saved(save.subscription, save.offset);
        }
    }

    /// Checks that of each commit everything is there, or nothing.
    ///
    /// # Errors
    ///
    /// The first one of which half is there, in words.
    pub(super) fn audit_commits(&self, all: &Found) -> Result<(), String> {
        let Found { stored, waiting, dead } = all;
        let there = stored.iter().chain(waiting);
        let found: BTreeSet<(TopicId, [u8; 16])> =
            there.flat_map(|(topic, found)| found.values().map(|(id, _)| (*topic, *id))).collect();
        for ((producer, sequence), whole) in &self.commits {
            let is_there = |at: &&(TopicId, [u8; 16])| found.contains(*at);
            let Some(present) = whole.messages.iter().find(is_there) else { continue };
            // What somebody has seen, or was told, may have been settled since.
            let is_half = |at: &&(TopicId, [u8; 16])| {
                !found.contains(*at) && !self.places.contains_key(*at) && !dead.contains(&at.1)
            };
            if let Some((topic, _)) = whole.messages.iter().find(is_half) {
                let text = format!("is there in topic {} and not in topic {topic}", present.0);
                return Err(format!("commit {sequence} of producer {producer} {text}"));
            }
            for (id, offset) in &whole.acks {
                if self.is_unsettled(stored, *id, *offset) {
                    let text = format!("offset {offset} of subscription {id} is not settled");
                    return Err(format!("commit {sequence} of producer {producer}: {text}"));
                }
            }
        }
        Ok(())
    }

    /// Whether a message is there although only this subscription could keep it.
    fn is_unsettled(
        &self,
        stored: &BTreeMap<TopicId, BTreeMap<u64, ([u8; 16], u32)>>,
        id: SubscriptionId,
        offset: u64,
    ) -> bool {
        let Some(topic) = self.subscriptions.get(&id).map(|known| known.topic) else {
            return false;
        };
        let of_topic = |known: &&Subscription| known.topic == topic;
        self.subscriptions.values().filter(of_topic).count() == 1
            && stored.get(&topic).is_some_and(|found| found.contains_key(&offset))
    }
}

impl Committing {
    fn whole(&self) -> Whole {
        let messages = self
            .publishes
            .iter()
            .flat_map(|(topic, messages)| messages.iter().map(move |it| (*topic, it.id)));
        let acks = self
            .acks
            .iter()
            .flat_map(|(id, runs)| runs.iter().flat_map(offsets).map(move |offset| (*id, offset)));
        Whole { messages: messages.collect(), acks: acks.collect() }
    }
}
