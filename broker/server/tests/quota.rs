//! A disk that ends before the file system says so, as one with a quota does.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use bytes::Bytes;
use posthouse_broker::shell::{Job, Outlet, Room, Shell};
use posthouse_broker::{Folded, Loaded, perform};
use posthouse_engine::effect::Deliver;
use posthouse_engine::input::ConnectionId;
use posthouse_engine::{Engine, Input, Now, Time};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::message::{self, ProducerOpened};
use posthouse_protocol::settings::Position;
use posthouse_protocol::{
    CorrelationId, ErrorCode, Name, Reply, Request, Sequence, Timestamp, TopicId,
};
use posthouse_storage::checkpointer::{Checkpointer, Step};
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::reader::Reader;
use posthouse_storage::shared::Shared;
use posthouse_storage::{Options, Store};
use std::sync::Arc;
use std::time::Duration;

const CONNECTION: ConnectionId = ConnectionId(1);
const SEGMENT_BYTES: u64 = 64 << 10;
const BODY_BYTES: usize = 4 << 10;

#[test]
fn publishes_are_refused_at_a_quota_and_go_on_when_there_is_room_again() {
    for segments in [8, 12, 20, 40] {
        let disk = SimFs::new();
        disk.claim_free(u64::MAX);
        let mut life = Life::start(&disk);
        let topic = life.prepare();
        let mut sender = life.producer();
        disk.set_capacity(segments * SEGMENT_BYTES);

        // Nobody settles anything.
        let accepted = life.publish_until_refused(&mut sender, topic, segments);
        assert!(accepted > 0, "segments={segments}");
        assert!(life.shared.ready_count() > 0, "something is left to settle with");
        drop(life);

        let disk = disk.crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 });
        let mut life = Life::start(&disk);
        let mut sender = life.producer();
        let refused = life.publish(&mut sender, topic);
        assert_eq!(refused, Err(ErrorCode::StorageFull));
        disk.set_capacity(4 * segments * SEGMENT_BYTES);
        life.publish_until_accepted(&mut sender, topic, segments);
    }
}

/// A broker without sockets, and what leaves it.
#[derive(Debug)]
struct Life {
    shell: Shell<Post>,
    shared: Arc<Shared>,
    reader: Reader,
    checkpointer: Checkpointer<Folded>,
    now: Now,
    correlation: u32,
}

#[derive(Debug, Default)]
struct Post {
    reply: Option<(CorrelationId, Reply)>,
    jobs: Vec<Job>,
}

impl Outlet for Post {
    fn reply(&mut self, _connection: ConnectionId, correlation: CorrelationId, reply: Reply) {
        self.reply = Some((correlation, reply));
    }

    fn deliver(&mut self, _deliver: Deliver) {}

    fn load(&mut self, job: Job) {
        self.jobs.push(job);
    }
}

impl Life {
    fn start(disk: &SimFs) -> Self {
        let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new([7; 16]) };
        let opened = Store::<Folded>::open(Arc::new(disk.clone()), options);
        let Store { state, report, journal, reader, checkpointer, shared } =
            opened.unwrap_or_else(|error| panic!("{error}"));
        let progress = checkpointer.progress();
        let room = Room { shared: Arc::clone(&shared), progress };
        let engine = Engine::new(state.0, journal.written());
        let mut shell = Shell::new(engine, journal, room, Post::default());
        let now = Now { mono: Time(1_000_000), wall: Timestamp(1_700_000_000_000) };
        shell.start(now, &report).unwrap();
        Self { shell, shared, reader, checkpointer, now, correlation: 0 }
    }

    fn round(&mut self, input: Option<Input>) {
        assert!(self.shell.round(self.now, input.into_iter()).unwrap().is_none());
        while let Some(job) = self.shell.outlet().jobs.pop() {
            let Loaded::Input(input) = perform(&self.reader, job) else { continue };
            self.round(Some(input));
        }
    }

    fn pass(&mut self, millis: u64) {
        let mono = self.now.mono.plus_millis(millis);
        self.now = Now { mono, wall: self.now.wall.plus_millis(millis) };
        self.round(None);
        let clock = Duration::from_millis(self.now.mono.0 / 1_000);
        // What it does while a message is published.
        for _ in 0..4 {
            if !matches!(self.checkpointer.step(clock).unwrap(), Step::Worked(_)) {
                break;
            }
        }
    }

    fn ask(&mut self, request: impl Into<Request>, batch: Bytes) -> Reply {
        self.correlation += 1;
        let (correlation, request) = (CorrelationId(self.correlation), request.into());
        self.round(Some(Input::Request { connection: CONNECTION, correlation, request, batch }));
        for _ in 0..100 {
            match self.shell.outlet().reply.take() {
                Some((found, reply)) if found == correlation => return reply,
                _ => self.pass(1),
            }
        }
        panic!("no answer");
    }

    /// Makes `orders` with the queue `billing`, which nobody reads.
    fn prepare(&mut self) -> TopicId {
        let (topic, subscription) = (name("orders"), name("billing"));
        let create = message::TopicCreate { topic: topic.clone(), settings: Default::default() };
        let Reply::TopicInfo(info) = self.ask(create, Bytes::new()) else { panic!("no topic") };
        let (settings, start) = (Default::default(), Position::Earliest);
        let create = message::SubscriptionCreate { topic, subscription, settings, start };
        let reply = self.ask(create, Bytes::new());
        assert!(matches!(reply, Reply::SubscriptionInfo(_)), "{reply:?}");
        info.id
    }

    fn producer(&mut self) -> ProducerOpened {
        let open = message::ProducerOpen { name: None, epoch: None };
        let reply = self.ask(open, Bytes::new());
        let Reply::ProducerOpened(opened) = reply else { panic!("{reply:?}") };
        opened
    }

    fn publish(&mut self, sender: &mut ProducerOpened, topic: TopicId) -> Result<(), ErrorCode> {
        let (producer, epoch, prev) = (sender.producer, sender.epoch, sender.last);
        let request = message::Publish { topic, producer, epoch, sequence: prev.next(), prev };
        let mut builder = BatchBuilder::new();
        let body = Bytes::from(vec![7; BODY_BYTES]);
        builder.push(&Message { body, ..Message::default() }).unwrap();
        let reply = self.ask(request, builder.finish(Timestamp(1)));
        if let Reply::Refused(refused) = &reply {
            return Err(ErrorCode::from_number(refused.code).unwrap());
        }
        assert!(matches!(reply, Reply::Receipt(_)), "{reply:?}");
        sender.last = Sequence(prev.0 + 1);
        Ok(())
    }

    /// How many publishes were accepted before nothing more was, for some seconds.
    fn publish_until_refused(
        &mut self,
        sender: &mut ProducerOpened,
        topic: TopicId,
        segments: u64,
    ) -> u64 {
        let (mut accepted, mut refused) = (0, 0);
        while refused < 500 {
            match self.publish(sender, topic) {
                Ok(()) => (accepted, refused) = (accepted + 1, 0),
                Err(_) => refused += 1,
            }
            self.pass(10);
            assert!(accepted * 4_096 < segments * SEGMENT_BYTES, "more than there is room for");
        }
        accepted
    }

    fn publish_until_accepted(
        &mut self,
        sender: &mut ProducerOpened,
        topic: TopicId,
        segments: u64,
    ) {
        let mut accepted = 0;
        for _ in 0..2_000 {
            accepted += u64::from(self.publish(sender, topic).is_ok());
            self.pass(10);
        }
        assert!(accepted * 4_096 > segments * SEGMENT_BYTES / 2, "accepted={accepted}");
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
