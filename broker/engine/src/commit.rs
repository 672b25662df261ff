//! Atomic commits: everything is checked, then everything happens in one frame.
//!
//! Nothing changes before the last check has passed, so that a refusal needs no undoing. A reader
//! sees all of a commit at the same moment: when its frame is committed if anything that it
//! touches is synced, else when it is written.

mod plan;

use crate::bugs::{Bug, planted};
use crate::context::{Client, Context};
use crate::effect::{BatchAppend, Gate};
use crate::engine::Volatile;
use crate::event::{self, Event};
use crate::refusal::Refusal;
use crate::sending::{Sending, Standing, reached};
use crate::state::Kept;
use bytes::Bytes;
use plan::Plan;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::message::{Commit, Committed, CommittedPublish};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{DecodeError, ErrorCode, LogIndex};

/// Bytes that a frame takes besides events and batches, and for each batch, generously.
const FRAME_BYTES: u64 = 128;
const BATCH_BYTES: u64 = 48;

/// A commit with its batches, each beside the place of its operation.
#[derive(Debug)]
struct Received<'a> {
    request: &'a Commit,
    batches: &'a [(usize, Bytes)],
    views: &'a [BatchView<'a>],
    /// Over operations and batches.
    digest: u32,
}

/// Carries out a commit and answers it.
pub(crate) fn commit(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    request: &Commit,
    tail: &Bytes,
) {
    match try_commit(volatile, context, client, (request, tail)) {
        Ok((committed, gate)) => context.reply(client, committed, gate),
        Err(refusal) => context.refuse(client, refusal),
    }
}

fn try_commit(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    client: Client,
    (request, tail): (&Commit, &Bytes),
) -> Result<(Committed, Gate), Refusal> {
    let batches = request.batches(tail).map_err(malformed)?;
    let views = batches.iter().map(|(_, batch)| BatchView::parse_trusted(batch));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let digest = request.digest(views.iter().map(BatchView::header_crc));
    let received = Received { request, batches: &batches, views: &views, digest };
    let (producer, standing) = Sending::from(request).standing(context.state)?;
    if let Standing::Repeat(kept) = standing {
        let repeat = repeat(kept, &received, context.last())?;
        volatile.producers.used(producer, client.connection);
        return Ok(repeat);
    }
    volatile.producers.used(producer, client.connection);
    accept(volatile, context, &received)
}

fn malformed(error: DecodeError) -> Refusal {
    Refusal::of_request(ErrorCode::Malformed, error.to_string())
}

fn repeat(
    kept: Option<&Kept>,
    received: &Received<'_>,
    last: LogIndex,
) -> Result<(Committed, Gate), Refusal> {
    let Some(kept) = kept else {
        let unknown = |view: &BatchView<'_>| CommittedPublish { base: None, count: view.count() };
        let published = received.views.iter().map(unknown).collect();
        let durability = Durability::Synced;
        let committed = Committed { published, durability, duplicate: true };
        return Ok((committed, Gate::Committed(last)));
    };
    let reused = || Sending::from(received.request).reused();
    let Kept::Commit(accepted) = kept else { return Err(reused()) };
    if accepted.digest != received.digest {
        return Err(reused());
    }
    let (durability, gate) = reached(accepted.written, accepted.index);
    let published = accepted.published.iter().map(answer).collect();
    Ok((Committed { published, durability, duplicate: true }, gate))
}

fn answer(placed: &event::Placed) -> CommittedPublish {
    CommittedPublish { base: placed.base, count: placed.count }
}

fn accept(
    volatile: &mut Volatile,
    context: &mut Context<'_>,
    received: &Received<'_>,
) -> Result<(Committed, Gate), Refusal> {
    let Volatile { deliveries, sweeps, admission, .. } = volatile;
    let mut plan = Plan::default();
    plan.check(context, admission, received)?;
    let batch_bytes = received.batches.iter().map(|(_, batch)| batch.len()).sum();
    // What settles gives room back, and is never refused for it.
    if !received.batches.is_empty() || !plan.settles() {
        admission.check_space(batch_bytes)?;
    }
    let written = plan.is_written(context);
    let published: Vec<event::Placed> = plan.placed().collect();
    let committed = published.iter().map(answer).collect();
    let events = plan.events(
        written,
        event::Committed {
            producer: received.request.producer,
            sequence: received.request.sequence,
            digest: received.digest,
            written,
            published,
        },
    );
    check_frame(&events, received.batches, admission.space.frame_bytes_max)?;
    let index = append(context, events, plan.batches());
    admission.take(batch_bytes);
    for settlement in &plan.settlements {
        deliveries.settled(settlement, (!written).then_some(index));
    }
    for (_, demand) in plan.demands.iter().filter(|(_, demand)| demand.trim.is_some()) {
        deliveries.trimmed(context, demand.partition);
    }
    for publish in plan.publishes.iter().filter(|publish| publish.due.is_empty()) {
        deliveries.published(context, publish.partition, &publish.entries);
        sweeps.published(context, publish.topic);
    }
    let (durability, gate) = reached(written, index);
    Ok((Committed { published: committed, durability, duplicate: false }, gate))
}

fn append(
    context: &mut Context<'_>,
    mut events: Vec<Event>,
    mut batches: Vec<BatchAppend>,
) -> LogIndex {
    let first = events.iter().position(|event| matches!(event, Event::Published(_)));
    if let Some(first) = first.filter(|_| planted(Bug::SplitCommit)) {
        let rest = batches.split_off(1);
        context.append(vec![events.remove(first)], batches);
        return context.append(events, rest);
    }
    context.append(events, batches)
}

/// Checks that the frame of a commit is not too large for the journal.
fn check_frame(events: &[Event], batches: &[(usize, Bytes)], limit: u64) -> Result<(), Refusal> {
    let mut encoded = Vec::new();
    event::encode_all(events, &mut encoded);
    let batches = batches.iter().map(|(_, batch)| batch.len() as u64 + BATCH_BYTES).sum::<u64>();
    let bytes = encoded.len() as u64 + FRAME_BYTES + batches;
    if bytes <= limit {
        return Ok(());
    }
    let text = format!(
        "the commit takes {bytes} bytes in the journal, where {limit} are the most: divide it"
    );
    Err(Refusal::of_request(ErrorCode::TooLarge, text))
}
