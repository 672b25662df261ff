//! Reading without consuming, and waiting until there is something to read.

use crate::context::{Client, Context};
use crate::effect::{Effect, Fetch, Gate};
use crate::input::ConnectionId;
use crate::refusal::Refusal;
use crate::time::Time;
use posthouse_protocol::message;
use posthouse_protocol::settings::Position;
use posthouse_protocol::{ErrorCode, Offset, PartitionId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most ranges in one answer; a reader comes back for the rest.
const RANGES_MAX: usize = 64;
/// Most fetches that wait.
const WAITING_MAX: usize = 100_000;

/// Fetches that wait for a message.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    waiting: BTreeMap<Ticket, Waiting>,
    by_partition: BTreeSet<(PartitionId, Ticket)>,
    by_connection: BTreeSet<(ConnectionId, Ticket)>,
    deadlines: BTreeSet<(Time, Ticket)>,
    last_ticket: Ticket,
}

/// Names a waiting fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket(u64);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    client: Client,
    wish: Wish,
    until: Time,
}

/// What a fetch is after, its place made absolute.
#[derive(Clone, Copy, Debug)]
struct Wish {
    partition: PartitionId,
    from: Offset,
    bytes_max: u32,
    messages_max: u32,
}

impl Fetches {
    /// Answers a fetch, or lets it wait.
    pub(crate) fn fetch(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        request: &message::Fetch,
    ) {
        let wish = match wish(context, request) {
            Ok(wish) => wish,
            Err(refusal) => return context.refuse(client, refusal),
        };
        let answer = answer(context, client, wish);
        // Who asks for more than there is has read what is lost: waiting would hide it.
        let is_beyond = matches!(request.from, Position::Offset(from) if from > answer.end);
        let waits = answer.ranges.is_empty() && request.wait_ms > 0 && !is_beyond;
        if waits && self.waiting.len() < WAITING_MAX {
            let until = context.now.mono.plus_millis(u64::from(request.wait_ms));
            let wish = Wish { from: answer.next, ..wish };
            self.park(Waiting { client, wish, until });
        } else {
            context.effects.push(Effect::Fetch(answer));
        }
    }

    fn park(&mut self, waiting: Waiting) {
        self.last_ticket = Ticket(self.last_ticket.0 + 1);
        let ticket = self.last_ticket;
        self.by_partition.insert((waiting.wish.partition, ticket));
        self.by_connection.insert((waiting.client.connection, ticket));
        self.deadlines.insert((waiting.until, ticket));
        self.waiting.insert(ticket, waiting);
        self.check_invariants();
    }

    fn unpark(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.by_partition.remove(&(waiting.wish.partition, ticket));
        self.by_connection.remove(&(waiting.client.connection, ticket));
        self.deadlines.remove(&(waiting.until, ticket));
        self.check_invariants();
        Some(waiting)
    }

    /// Answers those that wait at `partition`, which can be seen further than before.
    pub(crate) fn visible_moved(&mut self, context: &mut Context<'_>, partition: PartitionId) {
        let mut after = Ticket::default();
        while let Some(ticket) = self.next_at(partition, after) {
            after = ticket;
            let waiting = self.waiting.get(&ticket).copied();
            let Some(Waiting { client, wish, .. }) = waiting else { continue };
            let answer = answer(context, client, wish);
            if !answer.ranges.is_empty() {
                self.unpark(ticket);
                context.effects.push(Effect::Fetch(answer));
            }
        }
    }

    fn next_at(&self, partition: PartitionId, after: Ticket) -> Option<Ticket> {
        let from = (partition, Ticket(after.0 + 1));
        let (found, ticket) = self.by_partition.range(from..).next()?;
        (*found == partition).then_some(*ticket)
    }

    /// Refuses those that wait at a partition that was deleted.
    pub(crate) fn deleted(&mut self, context: &mut Context<'_>, partition: PartitionId) {
        while let Some(ticket) = self.next_at(partition, Ticket::default()) {
            if let Some(waiting) = self.unpark(ticket) {
                let text = "the topic was deleted";
                context.refuse(waiting.client, Refusal::of_state(ErrorCode::NotFound, text));
            }
        }
    }

    /// Forgets those of a connection that is gone.
    pub(crate) fn disconnected(&mut self, connection: ConnectionId) {
        while let Some((found, ticket)) =
            self.by_connection.range((connection, Ticket::default())..).next().copied()
            && found == connection
        {
            self.unpark(ticket);
        }
    }

    /// Answers those that have waited long enough, with nothing.
    pub(crate) fn on_deadline(&mut self, context: &mut Context<'_>) {
        let now = context.now.mono;
        while let Some((_, ticket)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            if let Some(waiting) = self.unpark(ticket) {
                let answer = answer(context, waiting.client, waiting.wish);
                context.effects.push(Effect::Fetch(answer));
            }
        }
    }

    /// When the next one has waited long enough.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.waiting.len(), self.by_partition.len());
        debug_assert_eq!(self.waiting.len(), self.by_connection.len());
        debug_assert_eq!(self.waiting.len(), self.deadlines.len());
    }
}

fn wish(context: &Context<'_>, request: &message::Fetch) -> Result<Wish, Refusal> {
    let topic = context.state.topics.get(&request.topic);
    let topic = topic.ok_or_else(|| Refusal::no_topic_id(request.topic))?;
    let partition = topic.partition;
    let from = resolve(context, partition, request.from);
    let messages_max = request.messages_max.max(1);
    Ok(Wish { partition, from, bytes_max: request.bytes_max, messages_max })
}

/// The offset that `position` means now. A position in time may lie early, by what the spacing of
/// the partition's milestones allows, never late.
pub(crate) fn resolve(context: &Context<'_>, partition: PartitionId, position: Position) -> Offset {
    let end = context.visible_end(partition);
    let found = context.state.partitions.get(&partition).map(|partition| match position {
        Position::Earliest => partition.start,
        Position::Latest => end,
        Position::Offset(offset) => offset.max(partition.start),
        Position::Time(at) => {
            partition.milestones.first_since(at, partition.next).max(partition.start)
        }
    });
    found.map_or(end, |found| found.min(end))
}

/// What can be read now.
fn answer(context: &Context<'_>, client: Client, wish: Wish) -> Fetch {
    let Wish { partition, from, bytes_max, messages_max } = wish;
    let end = context.visible_end(partition);
    let (ranges, next) = readable(context, wish, end);
    // Messages below the visible end are as durable as their topic asks. That messages are gone
    // follows from frames that may not be committed yet.
    let is_gapless =
        ranges.iter().try_fold(from, |at, range| (range.start == at).then_some(range.end));
    let shows_a_gap = is_gapless.is_none_or(|last| last < next);
    let gate = if shows_a_gap { context.present() } else { Gate::Now };
    let Client { connection, correlation } = client;
    Fetch { connection, correlation, partition, ranges, next, end, bytes_max, messages_max, gate }
}

fn readable(context: &Context<'_>, wish: Wish, end: Offset) -> (Vec<Range<Offset>>, Offset) {
    let mut ranges = Vec::new();
    let mut messages = u64::from(wish.messages_max);
    let retained = context.state.retained(wish.partition);
    for range in retained.into_iter().flat_map(|retained| retained.iter(wish.from)) {
        let stop = range.end.min(end).min(range.start.plus(messages));
        if range.start >= stop {
            break;
        }
        messages -= stop.distance_from(range.start);
        ranges.push(range.start..stop);
        if messages == 0 || ranges.len() == RANGES_MAX {
            return (ranges, stop);
        }
    }
    (ranges, end.max(wish.from))
}
