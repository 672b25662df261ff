//! Publishes: the producer's standing, the limits, the room, then one frame.
//!
//! The order of the checks matters. A repeat is answered like the original whatever else is the
//! case, and a publish that is refused never moves the producer's high-water mark, so that its
//! retry is not swallowed.

use crate::admission::Admission;
use crate::context::{Client, Context};
use crate::delay::{self, DUE_BYTES, due_times};
use crate::effect::{BatchAppend, Gate};
use crate::engine::Volatile;
use crate::event::{Delayed, Event, Published, Sender, TopicTrimmed};
use crate::refusal::Refusal;
use crate::retention::make_room;
use crate::sending::{Sending, Standing, reached};
use crate::state::Kept;
use bytes::Bytes;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::message::{Publish, Receipt};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{ErrorCode, Timestamp, TopicId};

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
    let (producer, standing) = Sending::from(request).standing(context.state)?;
    if let Standing::Repeat(kept) = standing {
        let repeat = repeat(kept, request, &view, context)?;
        volatile.producers.used(producer, client.connection);
        return Ok(repeat);
    }
    volatile.producers.used(producer, client.connection);
    accept(volatile, context, request, (batch, &view))
}

fn repeat(
    kept: Option<&Kept>,
    request: &Publish,
    view: &BatchView<'_>,
    context: &Context<'_>,
) -> Result<(Receipt, Gate), Refusal> {
    let Some(kept) = kept else {
        let (base, count) = (None, view.count());
        let durability = Durability::Synced;
        let receipt = Receipt { base, count, durability, duplicate: true };
        return Ok((receipt, Gate::Committed(context.last())));
    };
    let Kept::Publish(accepted) = kept else { return Err(Sending::from(request).reused()) };
    if accepted.digest != view.header_crc() || accepted.topic != request.topic {
        return Err(Sending::from(request).reused());
    }
    let (base, count) = (accepted.base, accepted.count);
    let topic = context.state.topics.get(&accepted.topic);
    let is_held = topic.is_some_and(|topic| context.journal.visibility.is_held(topic.partition));
    let (durability, gate) = reached(accepted.written, accepted.index);
    let gate = if is_held { Gate::Committed(accepted.index) } else { gate };
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
    let is_held = context.journal.visibility.is_held(partition);
    let (base, count) = (context.partition_end(partition), view.count());
    admission.check_messages(&topic.settings, view, base)?;
    let (producer, sequence, digest) = (request.producer, request.sequence, view.header_crc());
    let sender = Some(Sender { producer, sequence, digest });
    if admission.has_times {
        let due = due_times(view, context.now.wall)?;
        if !due.is_empty() {
            delay::check_fits(topic, view)?;
            let batch = (batch, view);
            return delay(context, admission, (id, written && !is_held), (sender, due), batch);
        }
    }
    admission.check_space(batch.len())?;
    let bytes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
    let trim = make_room(context.state, topic, u64::from(count), u64::from(bytes))?;
    let published = Published { topic: id, base, count, bytes, written, sender };
    let published = Event::Published(published);
    let events = match trim {
        Some(start) => vec![Event::TopicTrimmed(TopicTrimmed { id, start }), published],
        None => vec![published],
    };
    let header_crc = digest;
    let batches = vec![BatchAppend { partition, base, count, header_crc, bytes: batch.clone() }];
    let index = context.append(events, batches);
    admission.take(batch.len());
    if trim.is_some() {
        deliveries.trimmed(context, partition);
    }
    deliveries.published(context, partition, &admission.entries);
    sweeps.published(context, id);
    let (durability, gate) = reached(written, index);
    // Behind what waits for its commit it cannot be seen either, and a receipt says that it can.
    let gate = if is_held { Gate::Committed(index) } else { gate };
    Ok((Receipt { base: Some(base), count, durability, duplicate: false }, gate))
}

/// Puts a batch into the waiting room of its topic.
fn delay(
    context: &mut Context<'_>,
    admission: &mut Admission,
    (id, written): (TopicId, bool),
    (sender, due): (Option<Sender>, Vec<Timestamp>),
    (batch, view): (&Bytes, &BatchView<'_>),
) -> Result<(Receipt, Gate), Refusal> {
    admission.check_waiting(context.state.waiting.messages(), due.len())?;
    let bytes = batch.len() + due.len() * DUE_BYTES;
    admission.check_space(bytes)?;
    admission.check_frame(bytes)?;
    let topic = context.state.topics.get(&id).ok_or_else(|| Refusal::no_topic_id(id))?;
    let (partition, base) = delay::place_of(context.state, topic, 0);
    let count = u32::try_from(due.len()).unwrap_or(u32::MAX);
    let delayed = Delayed { topic: id, partition, base, due, written, sender };
    let header_crc = view.header_crc();
    let append = BatchAppend { partition, base, count, header_crc, bytes: batch.clone() };
    let index = context.append(vec![Event::Delayed(delayed)], vec![append]);
    admission.take(bytes);
    let (durability, gate) = reached(written, index);
    Ok((Receipt { base: None, count, durability, duplicate: false }, gate))
}
