//! Whatever can be encoded comes back as it was, and has no other encoding.

use crate::golden::own;
use crate::schema::{self, Tape};
use posthouse_protocol::batch::{BatchBuilder, BatchView, Message, Priority, encoded_len};
use posthouse_protocol::{DecodeError, MessageId, Reply, Request, Timestamp, limits};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    /// The bytes are made by the schema, without the codec.
    #[test]
    fn every_message_comes_back(tape in vec(any::<u8>(), 0..600)) {
        let schema = schema::read();
        for (kind, name) in Request::KINDS {
            let mut bytes = Vec::new();
            schema.generate(name, "", &mut Tape(&tape), &mut bytes);
            let message = Request::decode(*kind, &bytes);
            let again = message.as_ref().map(|message| encoded(|out| message.encode(out)));
            prop_assert_eq!(again.as_ref(), Ok(&bytes), "{}: {:?}", name, message);
            prop_assert_eq!(message.map(|message| message.kind()), Ok(*kind));
        }
        for (kind, name) in Reply::KINDS {
            let mut bytes = Vec::new();
            schema.generate(name, "", &mut Tape(&tape), &mut bytes);
            let message = Reply::decode(*kind, &bytes);
            let again = message.as_ref().map(|message| encoded(|out| message.encode(out)));
            prop_assert_eq!(again.as_ref(), Ok(&bytes), "{}: {:?}", name, message);
            prop_assert_eq!(message.map(|message| message.kind()), Ok(*kind));
        }
    }

    #[test]
    fn every_batch_comes_back(messages in vec(message(), 1..20), at in any::<u64>()) {
        let mut builder = BatchBuilder::new();
        for message in &messages {
            let before = builder.len();
            builder.push(message).unwrap();
            prop_assert_eq!(builder.len() - before, encoded_len(message));
        }
        let len = builder.len();

        let batch = builder.finish(Timestamp(at));

        let view = BatchView::parse(&batch).unwrap();
        prop_assert_eq!((batch.len(), builder.is_empty()), (len, true));
        prop_assert_eq!(view.verify_bodies(), Ok(()));
        prop_assert_eq!((view.count() as usize, view.created_at()), (messages.len(), Timestamp(at)));
        prop_assert_eq!(view.messages().map(|message| own(&message)).collect::<Vec<_>>(), messages);
    }
}

#[test]
fn message_at_every_limit_fits_and_one_beyond_is_refused() {
    let limits: [fn(usize) -> Message; 5] = [
        |over| body(limits::MESSAGE_BYTES_MAX as usize + over),
        |over| Message { key: Some(vec![1; limits::KEY_BYTES_MAX + over].into()), ..body(0) },
        |over| Message { headers: vec![Default::default(); limits::HEADERS_MAX + over], ..body(0) },
        |over| {
            let value = vec![2; limits::HEADERS_BYTES_MAX - 8 + over].into();
            Message { headers: vec![(Default::default(), value)], ..body(0) }
        },
        |over| Message { priority: Priority(Priority::MAX.0 + over as u8), ..body(0) },
    ];
    for message in limits {
        let mut builder = BatchBuilder::new();
        builder.push(&message(0)).unwrap();
        let before = builder.clone();
        let refused = builder.push(&message(1));
        assert!(matches!(refused, Err(DecodeError::TooLarge { .. })), "{refused:?}");
        assert_eq!((builder.len(), builder.count()), (before.len(), before.count()));
        let batch = builder.finish(Timestamp(1));
        assert_eq!(BatchView::parse(&batch).unwrap().verify_bodies(), Ok(()));
    }
}

#[test]
fn batch_takes_no_more_bytes_and_messages_than_its_limits() {
    let mut large = BatchBuilder::new();
    large.push(&body(limits::MESSAGE_BYTES_MAX as usize)).unwrap();
    let refused = large.push(&body(limits::MESSAGE_BYTES_MAX as usize));
    assert!(matches!(refused, Err(DecodeError::TooLarge { field: "batch.batch_len", .. })));
    assert_eq!(large.count(), 1);

    let mut many = BatchBuilder::new();
    (0..limits::BATCH_MESSAGES_MAX).for_each(|_| many.push(&body(0)).unwrap());
    let refused = many.push(&body(0));
    assert!(matches!(refused, Err(DecodeError::TooLarge { field: "batch.count", .. })));
    let batch = many.finish(Timestamp(1));
    assert_eq!(BatchView::parse(&batch).unwrap().count(), limits::BATCH_MESSAGES_MAX);
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

fn body(len: usize) -> Message {
    Message { body: vec![7; len].into(), ..Message::default() }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = |len| vec(any::<u8>(), 0..len).prop_map(bytes::Bytes::from);
    let header = (bytes(20), bytes(40));
    (
        any::<[u8; 16]>().prop_map(MessageId),
        any::<u64>().prop_map(Timestamp),
        proptest::option::of(bytes(50)),
        vec(header, 0..6),
        (0..=9_u8).prop_map(Priority),
        (any::<bool>(), any::<u64>(), any::<bool>(), any::<u64>()),
        bytes(200),
    )
        .prop_map(
            |(id, created_at, key, headers, priority, (due, due_at, expires, at), body)| {
                let due_at = Timestamp(if due { due_at } else { 0 });
                let expires_at = Timestamp(if expires { at } else { 0 });
                Message { id, created_at, key, headers, priority, due_at, expires_at, body }
            },
        )
}
