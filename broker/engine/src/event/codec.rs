//! Events as bytes: for each, kind u8, length u32 and the fields, one event after another.
//!
//! A kind number is never given to another event. The length lets a later version skip fields
//! that it added at the end; this version refuses what it does not know.

use super::{
    Committed, CursorSaved, DeadLettered, DelayEnded, Delayed, Event, Failed, HandedOut,
    ProducerForgotten, ProducerOpened, Published, Rejected, Settled, Started, SubscriptionCreated,
    SubscriptionDeleted, TopicAltered, TopicCreated, TopicDeleted, TopicTrimmed,
};
use crate::bugs::{Bug, planted};
use posthouse_protocol::DecodeError;
use posthouse_protocol::codec::{Sink, Source};
use posthouse_protocol::wire::Wire;

macro_rules! kinds {
    ($($variant:ident = $kind:literal,)*) => {
        impl Event {
            /// The kinds and names, for documents and tests.
            pub const KINDS: &[(u8, &'static str)] = &[$(($kind, stringify!($variant)),)*];

            /// The number in the frame.
            #[must_use]
            pub const fn kind(&self) -> u8 {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            fn encode_fields(&self, out: &mut Vec<u8>) {
                match self { $(Self::$variant(event) => event.encode(out),)* }
            }

            fn decode_fields(kind: u8, source: &mut Source<'_>) -> Result<Self, DecodeError> {
                match kind {
                    $($kind => $variant::decode(source, stringify!($variant)).map(Self::$variant),)*
                    found => {
                        let found = u64::from(found);
                        Err(DecodeError::Invalid { field: "event.kind", found })
                    }
                }
            }
        }
    };
}

kinds! {
    Started = 1,
    TopicCreated = 2,
    TopicAltered = 3,
    TopicTrimmed = 4,
    TopicDeleted = 5,
    SubscriptionCreated = 6,
    SubscriptionDeleted = 7,
    ProducerOpened = 8,
    ProducerForgotten = 9,
    Published = 10,
    HandedOut = 11,
    Settled = 12,
    Failed = 13,
    Rejected = 14,
    DeadLettered = 15,
    CursorSaved = 16,
    Committed = 17,
    Delayed = 18,
    DelayEnded = 19,
}

/// Appends the events in their order.
pub fn encode_all(events: &[Event], out: &mut Vec<u8>) {
    for event in events {
        if planted(Bug::ForgetAcks) && matches!(event, Event::Settled(_)) {
            continue;
        }
        out.put_u8(event.kind());
        let length_at = out.len();
        out.put_u32(0);
        event.encode_fields(out);
        let fields_at = length_at + 4;
        let len = u32::try_from(out.len() - fields_at).unwrap_or(u32::MAX);
        if let Some(slot) = out.get_mut(length_at..fields_at) {
            slot.copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Reads what [`encode_all`] wrote.
///
/// # Errors
///
/// [`DecodeError`], naming the first field that is wrong.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let mut source = Source::new(bytes);
    let mut events = Vec::new();
    while source.remaining() > 0 {
        let kind = source.u8("event.kind")?;
        let fields = source.prefixed(bytes.len(), "event.length")?;
        let mut fields = Source::new(fields);
        events.push(Event::decode_fields(kind, &mut fields)?);
        fields.end()?;
    }
    Ok(events)
}

#[cfg(test)]
mod tests;
