//! Dead letters go back to the subscription that they came from, and to no other.
//!
//! One frame each: published to the source topic, settled there for all other subscriptions, and
//! settled in the dead letter topic.

use super::Deliveries;
use super::dead_letter::{REDRIVE, dead_topic, place_in, published};
use super::settle::run_of;
use crate::context::{Client, Context};
use crate::effect::Effect;
use crate::event::{Event, Settled};
use crate::input::{ConnectionId, LoadPurpose};
use crate::refusal::Refusal;
use crate::state::{State, Subscription};
use bytes::Bytes;
use posthouse_protocol::message::{DeadRedrive, Redriven};
use posthouse_protocol::settings::Mode;
use posthouse_protocol::{ErrorCode, Offset, PartitionId, SubscriptionId};
use std::collections::{BTreeMap, BTreeSet};

/// Messages of one redrive that are loaded at the same time.
const LOADS_MAX: usize = 16;

/// Redrives under way: at most one of each dead letter topic.
#[derive(Debug, Default)]
pub(super) struct Redrives {
    jobs: BTreeMap<PartitionId, Job>,
    /// Those that may go on.
    active: BTreeSet<PartitionId>,
}

#[derive(Debug)]
struct Job {
    /// Who gets the answer.
    client: Client,
    /// Where the messages go back to.
    source: SubscriptionId,
    /// Which subscription of the dead letter topic keeps them.
    keeper: SubscriptionId,
    /// Where to look for the next one.
    next: Offset,
    /// Everything that was visible when the job began lies below.
    end: Offset,
    /// How many more to ask for.
    left: u32,
    /// Asked for and not answered.
    asked: BTreeSet<Offset>,
    /// How many were given back.
    count: u32,
}

impl Redrives {
    /// Nobody waits for the answer: asks for no more, but what is asked for is given back.
    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        for (partition, job) in &mut self.jobs {
            if job.client.connection == connection {
                job.left = 0;
                self.active.insert(*partition);
            }
        }
    }
}

impl Deliveries {
    /// Gives dead letters back; the answer comes after the last one.
    pub(crate) fn redrive(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        request: &DeadRedrive,
    ) {
        match self.begin_redrive(context, client, request) {
            Ok(true) => {}
            Ok(false) => context.reply(client, Redriven { count: 0 }, context.present()),
            Err(refusal) => context.refuse(client, refusal),
        }
    }

    /// Says whether there is anything to wait for.
    fn begin_redrive(
        &mut self,
        context: &Context<'_>,
        client: Client,
        request: &DeadRedrive,
    ) -> Result<bool, Refusal> {
        let DeadRedrive { topic, subscription: name, limit } = request;
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        if context.state.topic_named(topic).is_none() {
            return Err(Refusal::no_topic(topic));
        }
        let source = context
            .state
            .subscription_named(topic, name)
            .ok_or_else(|| Refusal::no_subscription(topic, name))?;
        let Some(dead) = dead_topic(context.state, source) else { return Ok(false) };
        let keeper = dead.subscriptions.iter().find(|(name, _)| name.as_str() == REDRIVE);
        let Some(keeper) = keeper.and_then(|(_, id)| context.state.subscriptions.get(id)) else {
            return Ok(false);
        };
        if self.redrives.jobs.contains_key(&dead.partition) {
            let text = format!("a redrive of \"{}\" is under way", dead.name);
            return Err(Refusal::of_state(ErrorCode::Overloaded, text).retry_after(1_000));
        }
        let job = Job {
            client,
            source: source.id,
            keeper: keeper.id,
            next: keeper.ack_floor(),
            end: context.visible_end(dead.partition),
            left: *limit,
            asked: BTreeSet::new(),
            count: 0,
        };
        self.redrives.jobs.insert(dead.partition, job);
        self.redrives.active.insert(dead.partition);
        Ok(true)
    }

    /// Asks for more messages, and answers when there are none left.
    pub(super) fn go_on_redriving(&mut self, context: &mut Context<'_>) {
        while let Some(partition) = self.redrives.active.pop_first() {
            let Some(job) = self.redrives.jobs.get_mut(&partition) else { continue };
            let queue = self.queues.get(&job.keeper);
            let held = |offset: Offset| {
                queue.is_some_and(|queue| queue.in_flight.holds_any(offset..offset.next()))
            };
            while job.asked.len() < LOADS_MAX
                && let Some(offset) = job.find_next(context.state, held)
            {
                job.asked.insert(offset);
                context.effects.push(Effect::LoadMessage {
                    purpose: LoadPurpose::Redrive { partition, offset },
                    partition,
                    offset,
                    headers: Vec::new(),
                });
            }
            if job.asked.is_empty() {
                let (client, count) = (job.client, job.count);
                self.redrives.jobs.remove(&partition);
                context.reply(client, Redriven { count }, context.present());
            }
        }
    }

    /// Gives one dead letter back. One whose bytes are damaged stays, as does one that somebody has
    /// taken or settled in the meantime.
    pub(crate) fn bring_back(
        &mut self,
        context: &mut Context<'_>,
        partition: PartitionId,
        offset: Offset,
        batch: Option<Bytes>,
    ) {
        let Some(job) = self.redrives.jobs.get_mut(&partition) else { return };
        if !job.asked.remove(&offset) {
            return;
        }
        self.redrives.active.insert(partition);
        let (source, keeper) = (job.source, job.keeper);
        let queue = self.queues.get(&keeper);
        let is_held = queue.is_some_and(|queue| queue.in_flight.holds_any(offset..offset.next()));
        let is_kept = !is_held && is_open(context.state.subscriptions.get(&keeper), offset);
        let Some(batch) = batch.filter(|_| is_kept) else { return };
        let Some(source) = context.state.subscriptions.get(&source) else { return };
        let topic = context.state.topics.get(&source.topic);
        let Some(place) = topic.and_then(|topic| place_in(context.state, topic)) else { return };
        job.count += 1;

        let others: Vec<_> = context
            .state
            .subscriptions_of(place.topic)
            .filter(|other| other.id != source.id && other.settings.mode == Mode::Queue)
            .map(|other| other.id)
            .collect();
        let mut events = vec![published(place, &batch)];
        events.extend(others.iter().map(|other| settled(*other, place.base)));
        events.push(settled(keeper, offset));
        self.publish(context, events, place, batch);
        self.forget(keeper, offset..offset.next());
    }
}

impl Job {
    fn find_next(&mut self, state: &State, held: impl Fn(Offset) -> bool) -> Option<Offset> {
        let keeper = state.subscriptions.get(&self.keeper)?;
        while self.left > 0 {
            let offset = keeper.next_unsettled(self.next);
            if offset >= self.end {
                return None;
            }
            self.next = offset.next();
            if !held(offset) && is_open(Some(keeper), offset) {
                self.left -= 1;
                return Some(offset);
            }
        }
        None
    }
}

fn is_open(subscription: Option<&Subscription>, offset: Offset) -> bool {
    subscription.is_some_and(|subscription| {
        !subscription.is_settled(offset) && !subscription.rejected.contains_key(&offset)
    })
}

fn settled(subscription: SubscriptionId, offset: Offset) -> Event {
    let runs = vec![run_of(&(offset..offset.next()))];
    Event::Settled(Settled { subscription, runs })
}
