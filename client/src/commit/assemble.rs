//! Putting a commit together: operations and batches as they are sent, and who each of them is.
//!
//! Pure. Messages for one topic become one batch, topics in the order of their first message;
//! deliveries become a settlement for each subscription, verdict, delay and reason.

use super::Cursor;
use crate::Outgoing;
use crate::consumer::{Action, Delivery, Settlements};
use crate::error::{CommitErrorKind, CommitPart};
use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::BatchBuilder;
use posthouse_protocol::message::{
    CommitPublish, CursorSave, Operation, RefusedAt, Settle, Verdict,
};
use posthouse_protocol::{DecodeError, MessageId, Name, SubscriptionId, Timestamp, limits};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of an operation's head beside names, reasons and runs; rather too many.
const OPERATION_BYTES: usize = 64;
/// Bytes of one run of deliveries.
const RUN_BYTES: usize = 24;

/// What the application put into a commit, in its order.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) deliveries: Vec<(Arc<Delivery>, Action)>,
    pub(crate) cursors: Vec<Cursor>,
}

/// A commit as it is sent.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) operations: Vec<Operation>,
    pub(crate) tail: Bytes,
    pub(crate) key: Legend,
}

/// Which part of the application's commit each operation is.
#[derive(Debug, Default)]
pub(crate) struct Legend {
    operations: Vec<Place>,
    /// By message in the application's order: id, the publish that it is in, its position there.
    messages: Vec<(MessageId, u32, u32)>,
}

#[derive(Debug)]
enum Place {
    /// Messages by their indexes.
    Publish {
        topic: String,
        indexes: Vec<usize>,
    },
    Settlement {
        topic: String,
        subscription: String,
    },
    Cursor {
        topic: String,
        subscription: String,
    },
}

/// The messages for one topic that have a time, or those that have none: the broker takes no batch
/// with both.
#[derive(Debug)]
struct Gathering {
    topic: Name,
    builder: BatchBuilder,
    created_at: Timestamp,
    indexes: Vec<usize>,
}

impl Parts {
    /// Encodes everything.
    ///
    /// # Errors
    ///
    /// What breaks a limit. The deliveries are with the caller either way.
    pub(crate) fn assemble(
        messages: Vec<Outgoing>,
        deliveries: &[(Arc<Delivery>, Action)],
        cursors: &[Cursor],
        batch_bytes_max: usize,
    ) -> Result<Assembled, CommitErrorKind> {
        let count = messages.len() + deliveries.len() + cursors.len();
        if count == 0 {
            return Err(CommitErrorKind::Empty);
        }
        at_most("Commit.operations", count, limits::COMMIT_OPERATIONS_MAX as usize)?;
        let mut operations = Vec::new();
        let mut key = Legend::default();
        let tail = add_messages(messages, batch_bytes_max, &mut operations, &mut key)?;
        add_settlements(deliveries, &mut operations, &mut key);
        for Cursor { subscription, next, topic, name } in cursors {
            let save = CursorSave { subscription: *subscription, offset: *next };
            operations.push(Operation::CursorSave(save));
            let (topic, subscription) = (topic.as_str().to_owned(), name.clone());
            key.operations.push(Place::Cursor { topic, subscription });
        }
        at_most("Commit.groups", operations.len(), limits::LIST_ENTRIES_MAX as usize)?;
        let head = operations.iter().map(head_bytes).sum::<usize>() + OPERATION_BYTES;
        at_most("Commit.head", head, limits::HEAD_BYTES_MAX as usize)?;
        Ok(Assembled { operations, tail, key })
    }
}

fn add_messages(
    messages: Vec<Outgoing>,
    batch_bytes_max: usize,
    operations: &mut Vec<Operation>,
    key: &mut Legend,
) -> Result<Bytes, CommitErrorKind> {
    let mut places = BTreeMap::new();
    let mut gatherings: Vec<Gathering> = Vec::new();
    for (index, outgoing) in messages.into_iter().enumerate() {
        let (topic, content) = outgoing.into_parts();
        let fault =
            |topic: &str| CommitPart::Message { index: Some(index), topic: topic.to_owned() };
        let slot = (topic, content.due_at != Timestamp::ZERO);
        let place = match places.get(&slot) {
            Some(place) => *place,
            None => {
                let name = Name::new(&slot.0)
                    .map_err(|error| CommitErrorKind::Name { error, at: fault(&slot.0) })?;
                let (builder, created_at) = (BatchBuilder::new(), content.created_at);
                gatherings.push(Gathering {
                    topic: name,
                    builder,
                    created_at,
                    indexes: Vec::new(),
                });
                places.insert(slot.clone(), gatherings.len() - 1);
                gatherings.len() - 1
            }
        };
        let Some(gathering) = gatherings.get_mut(place) else { continue };
        gathering.builder.push(&content).map_err(|error| {
            let at = Some(fault(&slot.0));
            CommitErrorKind::Invalid { error, at }
        })?;
        gathering.indexes.push(index);
        let (publish, position) = (number(place), gathering.builder.count() - 1);
        key.messages.push((content.id, publish, position));
    }
    let bytes = gatherings.iter().map(|gathering| gathering.builder.len()).sum();
    at_most("Commit.batches", bytes, batch_bytes_max)?;
    let mut tail = BytesMut::with_capacity(bytes);
    for mut gathering in gatherings {
        let batch = gathering.builder.finish(gathering.created_at);
        tail.extend_from_slice(&batch);
        let topic = gathering.topic.as_str().to_owned();
        let publish = CommitPublish { topic: gathering.topic, bytes: number(batch.len()) };
        operations.push(Operation::Publish(publish));
        key.operations.push(Place::Publish { topic, indexes: gathering.indexes });
    }
    Ok(tail.freeze())
}

fn add_settlements(
    deliveries: &[(Arc<Delivery>, Action)],
    operations: &mut Vec<Operation>,
    key: &mut Legend,
) {
    let mut settlements: BTreeMap<SubscriptionId, (String, String, Settlements)> = BTreeMap::new();
    for (delivery, action) in deliveries {
        let (_, _, gathered) = settlements.entry(delivery.subscription_id()).or_insert_with(|| {
            let (topic, subscription) = delivery.source();
            let names = (topic.as_str().to_owned(), subscription.as_str().to_owned());
            (names.0, names.1, Settlements::default())
        });
        gathered.add(action.clone(), delivery.offset(), delivery.fence(), false);
    }
    for (subscription, (topic, name, mut gathered)) in settlements {
        for group in gathered.take() {
            let (verdict, delay_ms, reason) = match group.action {
                Action::Settle { verdict, delay_ms, reason } => (verdict, delay_ms, reason),
                Action::Extend { .. } => (Verdict::Release, 0, String::new()),
            };
            let deliveries = group.runs;
            let settle = Settle { subscription, verdict, delay_ms, reason, deliveries };
            operations.push(Operation::Settle(settle));
            let (topic, subscription) = (topic.clone(), name.clone());
            key.operations.push(Place::Settlement { topic, subscription });
        }
    }
}

fn head_bytes(operation: &Operation) -> usize {
    OPERATION_BYTES
        + match operation {
            Operation::Publish(publish) => publish.topic.as_str().len(),
            Operation::Settle(settle) => {
                settle.reason.len().min(limits::TEXT_BYTES_MAX)
                    + settle.deliveries.len() * RUN_BYTES
            }
            Operation::CursorSave(_) => 0,
        }
}

fn at_most(field: &'static str, found: usize, limit: usize) -> Result<(), CommitErrorKind> {
    if found <= limit {
        return Ok(());
    }
    let (found, limit) = (found as u64, limit as u64);
    Err(CommitErrorKind::Invalid { error: DecodeError::TooLarge { field, found, limit }, at: None })
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Legend {
    /// The part that a refusal means.
    pub(crate) fn part(&self, at: &RefusedAt) -> Option<CommitPart> {
        let place = self.operations.get(usize::try_from(at.operation).ok()?)?;
        Some(match place {
            Place::Publish { topic, indexes } => {
                let message = usize::try_from(at.message).ok();
                let index = message.and_then(|message| indexes.get(message)).copied();
                CommitPart::Message { index, topic: topic.clone() }
            }
            Place::Settlement { topic, subscription } => {
                let (topic, subscription) = (topic.clone(), subscription.clone());
                CommitPart::Settlement { topic, subscription }
            }
            Place::Cursor { topic, subscription } => {
                let (topic, subscription) = (topic.clone(), subscription.clone());
                CommitPart::Cursor { topic, subscription }
            }
        })
    }

    /// How many publishes there are.
    pub(crate) fn publishes(&self) -> usize {
        let is_publish = |place: &&Place| matches!(place, Place::Publish { .. });
        self.operations.iter().filter(is_publish).count()
    }

    /// By message in the application's order: its id, the publish that it is in, its position there.
    pub(crate) fn messages(&self) -> &[(MessageId, u32, u32)] {
        &self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use posthouse_protocol::Offset;
    use posthouse_protocol::batch::BatchView;

    const MAX: usize = 1 << 20;

    #[test]
    fn messages_of_one_topic_become_one_batch_in_their_order() {
        let messages = vec![to("b", "1"), to("a", "2"), to("b", "3")];

        let commit = Parts::assemble(messages, &[], &[], MAX).unwrap();

        let publishes: Vec<_> = commit.operations.iter().map(topic_and_bytes).collect();
        let (first, second) = (publishes[0].1, publishes[1].1);
        assert_eq!(publishes.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(commit.tail.len(), first + second);
        assert_eq!(bodies(&commit.tail[..first]), ["1", "3"]);
        assert_eq!(bodies(&commit.tail[first..]), ["2"]);
        let places = commit.key.messages().iter().map(|(_, publish, at)| (*publish, *at));
        assert_eq!(places.collect::<Vec<_>>(), [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn refusal_is_traced_back_to_the_part_that_the_application_added() {
        let cursor = cursor();
        let messages = vec![to("b", "1"), to("a", "2"), to("b", "3")];
        let key = Parts::assemble(messages, &[], &[cursor], MAX).unwrap().key;
        let part = |operation, message| key.part(&RefusedAt { operation, message });

        let message =
            |index, topic: &str| Some(CommitPart::Message { index, topic: topic.to_owned() });
        assert_eq!(part(0, 1), message(Some(2), "b"));
        assert_eq!(part(1, RefusedAt::NO_MESSAGE), message(None, "a"));
        let (topic, subscription) = ("events".to_owned(), "view".to_owned());
        let saved = Some(CommitPart::Cursor { topic, subscription });
        assert_eq!(part(2, RefusedAt::NO_MESSAGE), saved);
        assert_eq!(part(3, 0), None);
    }

    #[test]
    fn limits_are_checked_and_named() {
        let many = vec![to("a", "x"); limits::COMMIT_OPERATIONS_MAX as usize + 1];
        let field = |result: Result<Assembled, CommitErrorKind>| {
            let error = result.unwrap_err();
            let CommitErrorKind::Invalid { error: DecodeError::TooLarge { field, .. }, at } = error
            else {
                panic!("{error:?}")
            };
            (field, at.is_some())
        };

        assert_eq!(field(Parts::assemble(many, &[], &[], MAX)), ("Commit.operations", false));
        let large = vec![to("a", &"x".repeat(600)), to("b", &"x".repeat(600))];
        assert_eq!(field(Parts::assemble(large, &[], &[], 1000)), ("Commit.batches", false));
        let cursors: Vec<_> = (0..=limits::LIST_ENTRIES_MAX).map(|_| cursor()).collect();
        assert_eq!(field(Parts::assemble(vec![], &[], &cursors, MAX)), ("Commit.groups", false));
        let key = Message::new("x").key(vec![0; 2000]).to("a");
        assert!(field(Parts::assemble(vec![key], &[], &[], MAX)).1);
        let empty = Parts::assemble(Vec::new(), &[], &[], MAX);
        assert_eq!(empty.unwrap_err(), CommitErrorKind::Empty);
        let name = Parts::assemble(vec![to("no such\nname", "x")], &[], &[], MAX);
        assert!(matches!(name, Err(CommitErrorKind::Name { .. })));
    }

    fn cursor() -> Cursor {
        let topic = Name::new("events").unwrap();
        Cursor { subscription: SubscriptionId(4), next: Offset(7), topic, name: "view".to_owned() }
    }

    fn to(topic: &str, body: &str) -> Outgoing {
        Message::new(body.to_owned()).to(topic)
    }

    fn topic_and_bytes(operation: &Operation) -> (&str, usize) {
        let Operation::Publish(publish) = operation else { panic!("{operation:?}") };
        (publish.topic.as_str(), publish.bytes as usize)
    }

    fn bodies(batch: &[u8]) -> Vec<String> {
        let view = BatchView::parse(batch).unwrap();
        view.messages().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
    }
}
