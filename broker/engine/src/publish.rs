//! Publishes: the producer's standing, the limits, the room, then one frame.
//!
//! The order of the checks matters. A repeat is answered like the original whatever else is the
//! case, and a publish that is refused never moves the producer's high-water mark, so that its
//! retry is not swallowed.

use crate::bugs::{Bug, planted};
use crate::context::{Client, Context};
use crate::effect::{BatchAppend, Gate};
use crate::engine::Volatile;
use crate::event::{Event, Published, Sender, TopicTrimmed};
use crate::input::{Space, WindowEntry};
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::state::Producer;
use bytes::Bytes;
use posthouse_protocol::batch::{BatchView, EntryRef, Priority};
use posthouse_protocol::message::{Publish, Receipt};
use posthouse_protocol::settings::{Durability, TopicSettings};
use posthouse_protocol::{ErrorCode, LogIndex, Offset, Timestamp};

/// Bytes that a frame takes besides its batch, generously.
const FRAME_BYTES: u64 = 256;
/// When to try again while the checkpointer catches up.
const RETRY_RING_MS: u32 = 100;
/// When to try again while the disk is full.
const RETRY_DISK_MS: u32 = 1_000;

/// What admits publishes.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The room left, publishes since it was measured already deducted.
    pub(crate) space: Space,
    /// Whether new work is refused.
    pub(crate) draining: bool,
    /// The messages of the batch at hand.
    entries: Vec<WindowEntry>,
}

impl Default for Admission {
    fn default() -> Self {
        let space = Space { disk_bytes: u64::MAX, ring_bytes: u64::MAX };
        Self { space, draining: false, entries: Vec::new() }
    }
}

/// Carries out a publish and answers it.
pub(crate) fn publish(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &Publish,
    batch: &Bytes,
) {
    match try_publish(volatile, context, client, (request, batch)) {
        Ok((receipt, gate)) => context.reply(client, receipt, gate),
        Err(refusal) => context.refuse(client, refusal),
    }
}

fn try_publish(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    (request, batch): (&Publish, &Bytes),
) -> Result<(Receipt, Gate), Refusal> {
    let view = BatchView::parse_trusted(batch)
        .map_err(|error| Refusal::of_request(ErrorCode::Malformed, error.to_string()))?;
    let producer = context.state.producers.get(&request.producer);
    let producer = producer.ok_or_else(|| unknown_producer(request))?;
    let repeat = standing(producer, request, &view, context.last())?;
    volatile.producers.used(producer, client.connection);
    match repeat {
        Some(repeat) => Ok(repeat),
        None => accept(volatile, context, request, (batch, &view)),
    }
}

/// Where the publish stands in the producer's sequence: a repeat and its answer, or the next one.
fn standing(
    producer: &Producer,
    request: &Publish,
    view: &BatchView<'_>,
    last: LogIndex,
) -> Result<Option<(Receipt, Gate)>, Refusal> {
    if request.epoch < producer.epoch {
        let text = format!("epoch {} was replaced by epoch {}", request.epoch, producer.epoch);
        return Err(Refusal::of_state(ErrorCode::Fenced, text));
    }
    if request.epoch > producer.epoch {
        return Err(unknown_producer(request));
    }
    if request.sequence <= producer.last {
        return repeat(producer, request, view, last).map(Some);
    }
    if request.prev != producer.last && !planted(Bug::LosePrevCheck) {
        let (prev, last) = (request.prev, producer.last);
        let text = format!("the last publish accepted is {last}, not {prev}: send that one first");
        return Err(Refusal::of_state(ErrorCode::OutOfSequence, text));
    }
    Ok(None)
}

fn repeat(
    producer: &Producer,
    request: &Publish,
    view: &BatchView<'_>,
    last: LogIndex,
) -> Result<(Receipt, Gate), Refusal> {
    let Some(accepted) = producer.result_of(request.sequence) else {
        let (base, count) = (None, view.count());
        let durability = Durability::Synced;
        let receipt = Receipt { base, count, durability, duplicate: true };
        return Ok((receipt, Gate::Committed(last)));
    };
    if accepted.digest != view.header_crc() || accepted.topic != request.topic {
        let text = format!("sequence {} was used for another batch", request.sequence);
        return Err(Refusal::of_state(ErrorCode::SequenceReused, text));
    }
    let (durability, gate) = reached(accepted.written, accepted.index);
    let (base, count) = (Some(accepted.base), accepted.count);
    Ok((Receipt { base, count, durability, duplicate: true }, gate))
}

fn accept(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    request: &Publish,
    (batch, view): (&Bytes, &BatchView<'_>),
) -> Result<(Receipt, Gate), Refusal> {
    let Volatile { deliveries, sweeps, admission, .. } = volatile;
    let topic = context.state.topics.get(&request.topic);
    let topic = topic.ok_or_else(|| Refusal::no_topic_id(request.topic))?;
    let (id, partition) = (topic.id, topic.partition);
    let written = topic.settings.durability == Durability::Written;
    let (base, count) = (context.partition_end(partition), view.count());
    admission.check_messages(&topic.settings, view, base)?;
    admission.check_space(batch)?;
    let bytes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
    let trim = make_room(context.state, topic, u64::from(count), u64::from(bytes))?;
    let (producer, sequence, digest) = (request.producer, request.sequence, view.header_crc());
    let sender = Some(Sender { producer, sequence, digest });
    let published = Published { topic: id, base, count, bytes, written, sender };
    let published = Event::Published(published);
    let events = match trim {
        Some(start) => vec![Event::TopicTrimmed(TopicTrimmed { id, start }), published],
        None => vec![published],
    };
    let batches = vec![BatchAppend { partition, base, count, bytes: batch.clone() }];
    let index = context.append(events, batches);
    admission.take(batch);
    if trim.is_some() {
        deliveries.trimmed(context, partition);
    }
    deliveries.published(context, partition, &admission.entries);
    sweeps.published(context, id);
    let (durability, gate) = reached(written, index);
    Ok((Receipt { base: Some(base), count, durability, duplicate: false }, gate))
}

const fn reached(written: bool, index: LogIndex) -> (Durability, Gate) {
    if written {
        (Durability::Written, Gate::Written(index))
    } else {
        (Durability::Synced, Gate::Committed(index))
    }
}

fn unknown_producer(request: &Publish) -> Refusal {
    let (producer, epoch) = (request.producer, request.epoch);
    let text = format!("no producer {producer} of epoch {epoch}: its results are forgotten");
    Refusal::of_state(ErrorCode::UnknownProducer, text)
}

impl Admission {
    /// Checks every message, and keeps what its hand-out needs in `entries`.
    fn check_messages(
        &mut self,
        settings: &TopicSettings,
        view: &BatchView<'_>,
        base: Offset,
    ) -> Result<(), Refusal> {
        self.entries.clear();
        let mut offset = base;
        for entry in view.entries() {
            check_message(settings, &entry)?;
            let index_len = u32::try_from(entry.bytes().len()).unwrap_or(u32::MAX);
            let bytes = index_len.saturating_add(entry.body_len);
            self.entries.push(WindowEntry { offset, bytes, damaged: false });
            offset = offset.next();
        }
        Ok(())
    }

    fn check_space(&self, batch: &Bytes) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let (ring, disk) = room_of(batch);
        if self.space.disk_bytes < disk {
            let text = "the disk has no room: consume or purge messages, or give it more";
            let refusal = Refusal::of_request(ErrorCode::StorageFull, text);
            return Err(refusal.retry_after(RETRY_DISK_MS));
        }
        if self.space.ring_bytes < ring {
            let text = "the journal has no room until the checkpointer has caught up";
            let refusal = Refusal::of_request(ErrorCode::Overloaded, text);
            return Err(refusal.retry_after(RETRY_RING_MS));
        }
        Ok(())
    }

    const fn take(&mut self, batch: &Bytes) {
        let (ring, disk) = room_of(batch);
        self.space.ring_bytes = self.space.ring_bytes.saturating_sub(ring);
        self.space.disk_bytes = self.space.disk_bytes.saturating_sub(disk);
    }
}

/// Bytes that a batch takes in the journal, and on the disk: there once more, in a run.
const fn room_of(batch: &Bytes) -> (u64, u64) {
    let frame = batch.len() as u64 + FRAME_BYTES;
    (frame, 2 * frame)
}

fn check_message(settings: &TopicSettings, entry: &EntryRef<'_>) -> Result<(), Refusal> {
    if entry.body_len > settings.message_bytes_max {
        let (found, limit) = (entry.body_len, settings.message_bytes_max);
        let text = format!("a body of {found} bytes is above the topic's limit of {limit}");
        return Err(Refusal::of_request(ErrorCode::TooLarge, text));
    }
    let plain = entry.priority == Priority::DEFAULT
        && entry.due_at == Timestamp::ZERO
        && entry.expires_at == Timestamp::ZERO;
    if plain {
        return Ok(());
    }
    let text = "delay, expiry and priority of messages are not built yet";
    Err(Refusal::of_request(ErrorCode::Unsupported, text))
}
