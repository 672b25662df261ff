//! What is dropped is forgotten, and mail after the end is refused.

use super::*;
use crate::error::PublishError;
use crate::limits::BrokerLimits;
use crate::mailbox::Mailbox;
use crate::message::Message;
use crate::publisher::{Key, Pending, Setup, Shared};
use posthouse_protocol::message::{ProducerOpened, Receipt};
use posthouse_protocol::settings::Durability;
use posthouse_protocol::{
    CorrelationId, ErrorCode, Name, Offset, ProducerEpoch, ProducerId, Sequence, TopicId, frame,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

#[test]
fn dropped_publisher_is_forgotten_once_it_has_sent_everything() {
    let mut world = World::new();
    let shared = world.publisher();
    let charge = shared.charge(&Message::new("a")).unwrap();
    drop(shared.accept(Message::new("a"), charge).unwrap());
    shared.dropped();

    world.round();
    assert_eq!(world.session.publishers.len(), 1);
    world.receipt(1);
    world.round();

    assert_eq!(world.session.publishers.len(), 0);
}

/// The broker that it was made for took more; this one would close the connection, again and again.
#[test]
fn batch_that_the_broker_would_not_read_fails_unsent() {
    let mut world = World::new();
    let shared = world.publisher();
    world.out.limit(150);
    let charge = shared.charge(&Message::new(vec![b'x'; 200])).unwrap();
    let pending = shared.accept(Message::new(vec![b'x'; 200]), charge).unwrap();

    world.round();

    let result = now(pending);
    assert!(matches!(&result, Some(Err(error)) if error.code() == Some(ErrorCode::TooLarge)));
    assert!(world.out.is_empty(), "something was sent");
}

#[test]
fn dropped_publisher_with_nothing_to_send_is_forgotten_at_once() {
    let mut world = World::new();
    let shared = world.publisher();
    world.round();
    shared.dropped();

    world.round();

    assert_eq!(world.session.publishers.len(), 0);
}

#[test]
fn publisher_dropped_without_a_connection_is_forgotten() {
    let mut world = World::new();
    let shared = world.publisher();
    world.round();
    world.session.on_disconnect();
    shared.dropped();

    world.collect();
    world.session.watch();

    assert_eq!(world.session.publishers.len(), 0);
}

#[test]
fn abandoned_session_is_over_when_nothing_is_left() {
    let mut world = World::new();
    let shared = world.publisher();
    let charge = shared.charge(&Message::new("a")).unwrap();
    drop(shared.accept(Message::new("a"), charge).unwrap());
    world.session.on_mail(Mail::Abandoned, world.now);
    world.round();

    assert!(!world.session.is_over(world.now));
    world.receipt(1);
    assert!(world.session.is_over(world.now));
}

/// What has come of it by now.
fn now(mut pending: Pending) -> Option<Result<crate::Receipt, PublishError>> {
    match Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// A session without a driver.
struct World {
    session: Session,
    out: Outgoing,
    mailbox: Arc<Mailbox>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let session = Session::new(Duration::from_secs(30));
        let mailbox = Arc::new(Mailbox::default());
        Self { session, out: Outgoing::default(), mailbox, now: Instant::now() }
    }

    fn publisher(&mut self) -> Arc<Shared> {
        let setup = Setup {
            key: Key(0),
            topic: Name::new("orders").unwrap(),
            producer: None,
            timeout: Duration::from_secs(30),
            room_bytes: 1000,
            message_bytes_max: 1000,
            limits: Arc::new(BrokerLimits::new()),
        };
        let shared = Arc::new(Shared::new(setup, Arc::clone(&self.mailbox)));
        let producer =
            ProducerOpened { producer: ProducerId(7), epoch: ProducerEpoch(1), last: Sequence(0) };
        let mail =
            Mail::PublisherOpened { shared: Arc::clone(&shared), topic: TopicId(1), producer };
        self.session.on_mail(mail, self.now);
        shared
    }

    fn collect(&mut self) {
        let mut mail = Vec::new();
        let _ = self.mailbox.poll_collect(&Context::from_waker(Waker::noop()), &mut mail);
        mail.into_iter().for_each(|mail| self.session.on_mail(mail, self.now));
    }

    fn round(&mut self) {
        self.collect();
        self.session.fill(self.now, &mut self.out);
    }

    fn receipt(&mut self, correlation: u32) {
        let durability = Durability::Synced;
        let receipt = Receipt { base: Some(Offset(0)), count: 1, durability, duplicate: false };
        let reply = Reply::from(receipt);
        let mut bytes = bytes::BytesMut::new();
        let head = |out: &mut bytes::BytesMut| reply.encode(out);
        frame::encode_head(&mut bytes, reply.kind(), CorrelationId(correlation), 0, head);
        let frame = frame::decode_whole(bytes.freeze()).unwrap();
        self.session.on_frame(frame, &mut self.out, self.now).unwrap();
    }
}
