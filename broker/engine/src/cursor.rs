//! Cursors of stream subscriptions.

use crate::context::{Client, Context};
use crate::event::{CursorSaved, Event};
use crate::refusal::Refusal;
use posthouse_protocol::message::{CursorSave, Done};
use posthouse_protocol::settings::Mode;
use posthouse_protocol::{ErrorCode, TopicId};

/// Saves a cursor and answers. Going back is allowed as far as messages are still there.
pub(crate) fn save(context: &mut Context<'_>, client: Client, request: &CursorSave) {
    match target(context, request) {
        Err(refusal) => context.refuse(client, refusal),
        Ok((_, None)) => context.answer(client, Ok(Done {})),
        Ok((topic, Some(saved))) => {
            let index = context.append(vec![Event::CursorSaved(saved)], Vec::new());
            let gate = context.gate(topic, index);
            context.reply(client, Done {}, gate);
        }
    }
}

/// The topic that is read, and what to record; `None` if the cursor is there already.
pub(crate) fn target(
    context: &Context<'_>,
    request: &CursorSave,
) -> Result<(TopicId, Option<CursorSaved>), Refusal> {
    let id = request.subscription;
    let subscription = context.state.subscriptions.get(&id);
    let subscription = subscription.ok_or_else(|| Refusal::no_subscription_id(id))?;
    if subscription.settings.mode != Mode::Stream {
        let text =
            format!("subscription \"{}\" is a queue: settle its messages", subscription.name);
        return Err(Refusal::of_state(ErrorCode::Invalid, text));
    }
    let end = context.visible_end(subscription.partition);
    if request.offset > end {
        let text = format!("offset {} is beyond the end, which is {end}", request.offset);
        return Err(Refusal::of_state(ErrorCode::Invalid, text));
    }
    let retained = context.state.retained(subscription.partition);
    let start = retained.map_or(end, |retained| retained.start());
    let floor = subscription.ack_floor();
    let offset = if request.offset < floor { request.offset.max(start) } else { request.offset };
    if offset == floor || (request.offset < floor && offset > floor) {
        return Ok((subscription.topic, None));
    }
    Ok((subscription.topic, Some(CursorSaved { subscription: id, offset })))
}
