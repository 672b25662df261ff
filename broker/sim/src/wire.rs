//! Frames between simulated clients and the broker: the same bytes that a socket would carry.

use bytes::{Bytes, BytesMut};
use posthouse_engine::Input;
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::frame::{Frame, decode, encode_head};
use posthouse_protocol::{CorrelationId, Reply, Request, limits};

/// Encodes a request.
pub(crate) fn request(correlation: CorrelationId, request: &Request, tail: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    encode_head(&mut out, request.kind(), correlation, tail.len(), |out| request.encode(out));
    out.extend_from_slice(tail);
    out.freeze()
}

/// Encodes a reply or a push.
pub(crate) fn reply(correlation: CorrelationId, reply: &Reply, tail: &[Bytes]) -> Bytes {
    let mut out = BytesMut::new();
    let tail_len = tail.iter().map(Bytes::len).sum();
    encode_head(&mut out, reply.kind(), correlation, tail_len, |out| reply.encode(out));
    tail.iter().for_each(|part| out.extend_from_slice(part));
    out.freeze()
}

/// Decodes what the broker sent.
///
/// # Panics
///
/// If it is not one sound frame: the broker sends no others.
pub(crate) fn read_reply(bytes: &Bytes) -> (CorrelationId, Reply, Bytes) {
    let frame = whole(bytes);
    let reply = Reply::decode_frame(&frame).expect("the broker sends replies that decode");
    (frame.correlation, reply, frame.tail)
}

/// Decodes what a client sent, as a connection of the broker does.
///
/// # Panics
///
/// If it is not one sound request: simulated clients send no others.
pub(crate) fn read_request(connection: ConnectionId, bytes: &Bytes) -> Input {
    let frame = whole(bytes);
    let request = Request::decode_frame(&frame).expect("clients send requests that decode");
    if matches!(request, Request::Publish(_)) {
        let view = BatchView::parse(&frame.tail).expect("clients send sound batches");
        view.verify_bodies().expect("clients send sound bodies");
    }
    if let Request::Commit(commit) = &request {
        for (_, batch) in commit.batches(&frame.tail).expect("clients send tails that fit") {
            let view = BatchView::parse(&batch).expect("clients send sound batches");
            view.verify_bodies().expect("clients send sound bodies");
        }
    }
    Input::Request { connection, correlation: frame.correlation, request, batch: frame.tail }
}

fn whole(bytes: &Bytes) -> Frame {
    let mut received = BytesMut::from(bytes.as_ref());
    let frame = decode(&mut received, limits::FRAME_BYTES_MAX).expect("a sound frame");
    assert!(received.is_empty(), "one frame at a time");
    frame.expect("a whole frame")
}
