//! Cursors of stream subscriptions.

use crate::context::{Client, Context};
use crate::event::{CursorSaved, Event};
use crate::refusal::Refusal;
use posthouse_protocol::ErrorCode;
use posthouse_protocol::message::{CursorSave, Done};
use posthouse_protocol::settings::Mode;

/// Saves a cursor and answers. Going back is allowed as far as messages are still there.
pub(crate) fn save(context: &mut Context<'_>, client: Client, request: &CursorSave) {
    match target(context, request) {
        Err(refusal) => context.refuse(client, refusal),
        Ok(None) => context.answer(client, Ok(Done {})),
        Ok(Some(saved)) => {
            let topic = context.state.subscriptions.get(&saved.subscription).map(|s| s.topic);
            let index = context.append(vec![Event::CursorSaved(saved)], Vec::new());
            let gate = topic.map_or_else(|| context.present(), |topic| context.gate(topic, index));
            context.reply(client, Done {}, gate);
        }
    }
}

/// What to record; `None` if the cursor is there already.
fn target(context: &Context<'_>, request: &CursorSave) -> Result<Option<CursorSaved>, Refusal> {
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
        return Ok(None);
    }
    Ok(Some(CursorSaved { subscription: id, offset }))
}
