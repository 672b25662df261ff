//! Requests about named producers, other than opening them.

use crate::context::{Client, Context};
use crate::event::{Event, ProducerForgotten};
use crate::refusal::Refusal;
use crate::state::Producer;
use posthouse_protocol::message::{
    Done, ProducerDescribe, ProducerInfo, ProducerInfos, ProducerList, ProducerRetire,
};
use posthouse_protocol::{Name, limits};
use std::ops::Bound;

/// Answers with a producer's id, epoch and last sequence.
pub(crate) fn describe(context: &mut Context<'_>, client: Client, request: &ProducerDescribe) {
    let answer = named(context, &request.name).map(info);
    context.answer(client, answer);
}

/// Answers with named producers in the order of their names.
pub(crate) fn list(context: &mut Context<'_>, client: Client, request: &ProducerList) {
    let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let ids = context.state.producer_ids.range((after, Bound::Unbounded)).map(|(_, id)| id);
    let found = ids.filter_map(|id| context.state.producers.get(id));
    let limit = usize::try_from(request.limit.min(limits::LIST_ENTRIES_MAX)).unwrap_or(usize::MAX);
    let producers = found.take(limit).map(info).collect();
    context.answer(client, Ok(ProducerInfos { producers }));
}

/// Forgets a producer and its results.
pub(crate) fn retire(context: &mut Context<'_>, client: Client, request: &ProducerRetire) {
    let answer = named(context, &request.name).map(|producer| producer.id).map(|id| {
        context.append(vec![Event::ProducerForgotten(ProducerForgotten { id })], Vec::new());
        Done {}
    });
    context.answer(client, answer);
}

fn named<'a>(context: &'a Context<'_>, producer: &Name) -> Result<&'a Producer, Refusal> {
    let id = context.state.producer_ids.get(producer);
    let found = id.and_then(|id| context.state.producers.get(id));
    found.ok_or_else(|| Refusal::no_producer(producer))
}

fn info(producer: &Producer) -> ProducerInfo {
    ProducerInfo {
        producer: producer.id,
        name: producer.name.clone(),
        epoch: producer.epoch,
        last: producer.last,
        last_at: producer.last_at,
    }
}
