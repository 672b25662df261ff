//! Engine and storage after damage: whatever single frame is lost, the broker starts, serves
//! everything else, and gives nothing again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::panic, reason = "a test that cannot go on says so by panicking")]

use bytes::Bytes;
use posthouse_broker::shell::{Job, Outlet, Room, Shell};
use posthouse_broker::{Folded, Loaded, perform};
use posthouse_engine::effect::Deliver;
use posthouse_engine::event::{self, Event};
use posthouse_engine::input::ConnectionId;
use posthouse_engine::{Engine, Input, Now, Time};
use posthouse_protocol::batch::{BatchBuilder, Message};
use posthouse_protocol::message::{self, DeliveryRun, ProducerOpened, Verdict};
use posthouse_protocol::settings::{Durability, Position, SubscriptionSettings, TopicSettings};
use posthouse_protocol::{
    ConsumerId, CorrelationId, Fence, LogIndex, Name, Offset, PartitionId, Reply, Request,
    Sequence, SubscriptionId, Timestamp, TopicId,
};
use posthouse_storage::checkpointer::{Checkpointer, Step};
use posthouse_storage::frame::{FrameKey, Kind};
use posthouse_storage::fs::sim::{Fate, SimFs};
use posthouse_storage::names::{FileKind, FileName};
use posthouse_storage::reader::Reader;
use posthouse_storage::recover::{CorruptRange, RecoveryReport};
use posthouse_storage::segment::{Header, Scanner};
use posthouse_storage::{Fold, Options, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const CONNECTION: ConnectionId = ConnectionId(1);
const CONSUMER: ConsumerId = ConsumerId(1);

/// Where everything goes that leaves the shell.
#[derive(Debug, Default)]
struct Post {
    replies: BTreeMap<CorrelationId, Reply>,
    delivered: Vec<Deliver>,
    jobs: Vec<Job>,
}

impl Outlet for Post {
    fn reply(&mut self, _connection: ConnectionId, correlation: CorrelationId, reply: Reply) {
        self.replies.insert(correlation, reply);
    }

    fn deliver(&mut self, deliver: Deliver) {
        self.delivered.push(deliver);
    }

    fn load(&mut self, job: Job) {
        self.jobs.push(job);
    }
}

/// Everything that was ever given to a client.
#[derive(Clone, Debug, Default)]
struct Given {
    /// The offset behind the last one of each topic.
    ends: BTreeMap<TopicId, Offset>,
    topics: BTreeSet<u32>,
    partitions: BTreeSet<u32>,
    subscriptions: BTreeSet<u32>,
    producers: BTreeSet<u64>,
    fence: Fence,
}

/// One life of a broker.
#[derive(Debug)]
struct Life {
    shell: Shell<Post>,
    reader: Reader,
    checkpointer: Checkpointer<Folded>,
    report: RecoveryReport,
    now: Now,
    correlation: u32,
}

impl Life {
    fn start(disk: &SimFs) -> Self {
        let Store { state, report, journal, reader, checkpointer, shared } = open(disk);
        let room = Room { shared, progress: checkpointer.progress() };
        let engine = Engine::new(state.0, journal.written());
        let mut shell = Shell::new(engine, journal, room, Post::default());
        let now = Now { mono: Time(1_000_000), wall: Timestamp(1_700_000_000_000) };
        shell.start(now, &report).unwrap();
        Self { shell, reader, checkpointer, report, now, correlation: 0 }
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
    }

    fn send(&mut self, request: impl Into<Request>, batch: Bytes) -> Reply {
        self.correlation += 1;
        let (correlation, request) = (CorrelationId(self.correlation), request.into());
        self.round(Some(Input::Request { connection: CONNECTION, correlation, request, batch }));
        self.shell.outlet().replies.remove(&correlation).unwrap_or(Reply::Done(message::Done {}))
    }

    fn ask(&mut self, request: impl Into<Request>) -> Reply {
        self.send(request, Bytes::new())
    }

    fn topic(&mut self, given: &mut Given, topic: &str, durability: Durability) -> TopicId {
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        let create = message::TopicCreate { topic: name(topic), settings };
        let Reply::TopicInfo(info) = self.ask(create) else { panic!("no topic") };
        assert!(given.topics.insert(info.id.0), "topic id {} is given again", info.id);
        assert!(given.partitions.insert(info.partition.0), "partition id is given again");
        info.id
    }

    fn subscription(
        &mut self,
        given: &mut Given,
        topic: &str,
        subscription: &str,
    ) -> SubscriptionId {
        let (topic, subscription) = (name(topic), name(subscription));
        let settings = SubscriptionSettings { attempts_max: 3, ..SubscriptionSettings::default() };
        let start = Position::Earliest;
        let create = message::SubscriptionCreate { topic, subscription, settings, start };
        let Reply::SubscriptionInfo(info) = self.ask(create) else { panic!("no subscription") };
        assert!(given.subscriptions.insert(info.id.0), "subscription id is given again");
        info.id
    }

    fn producer(&mut self, given: &mut Given, producer: Option<&str>) -> ProducerOpened {
        let open = message::ProducerOpen { name: producer.map(name), epoch: None };
        let Reply::ProducerOpened(opened) = self.ask(open) else { panic!("no producer") };
        let known = producer.is_some() && opened.last > Sequence::ZERO;
        assert!(given.producers.insert(opened.producer.0) || known, "producer id is given again");
        opened
    }

    fn publish(
        &mut self,
        given: &mut Given,
        sender: &mut ProducerOpened,
        topic: TopicId,
    ) -> Offset {
        let (producer, epoch, prev) = (sender.producer, sender.epoch, sender.last);
        let request = message::Publish { topic, producer, epoch, sequence: prev.next(), prev };
        let mut builder = BatchBuilder::new();
        for body in ["one", "two"] {
            builder.push(&Message { body: Bytes::from(body), ..Message::default() }).unwrap();
        }
        let reply = self.send(request, builder.finish(Timestamp(1)));
        let Reply::Receipt(receipt) = reply else { panic!("no receipt: {reply:?}") };
        sender.last = prev.next();
        let base = receipt.base.unwrap();
        let end = given.ends.entry(topic).or_default();
        assert!(base >= *end, "offset {base} of topic {topic} is given again");
        *end = base.plus(2);
        base
    }

    /// Takes messages until there are `count`, or no more.
    fn consume(&mut self, given: &mut Given, topic: &str, subscription: &str) -> Vec<DeliveryRun> {
        let (consumer, topic, subscription) = (CONSUMER, name(topic), name(subscription));
        self.ask(message::Subscribe { consumer, topic, subscription });
        let (messages, bytes, taken) = (100, 1 << 30, 0);
        self.ask(message::Credit { consumer, messages, bytes, taken });
        self.pass(1);
        self.ask(message::Unsubscribe { consumer });
        let delivered = std::mem::take(&mut self.shell.outlet().delivered);
        let runs = delivered.iter().flat_map(|deliver| {
            deliver.runs.iter().map(|run| DeliveryRun {
                first: run.first,
                fence: Fence { epoch: deliver.fence_epoch, counter: run.fence_counter },
                count: run.count,
            })
        });
        let runs: Vec<DeliveryRun> = runs.collect();
        let highest = runs.iter().map(|run| run.fence.plus(u64::from(run.count))).max();
        assert!(runs.iter().all(|run| run.fence > given.fence), "a fence is given again");
        given.fence = highest.unwrap_or(given.fence);
        runs
    }

    fn settle(&mut self, subscription: SubscriptionId, verdict: Verdict, run: DeliveryRun) {
        let (delay_ms, reason) = (5, "because".to_owned());
        let deliveries = vec![run];
        self.ask(message::Settle { subscription, verdict, delay_ms, reason, deliveries });
        self.pass(1);
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.shell.state().encode(&mut bytes);
        bytes
    }

    /// Everything is folded, and the stop is clean or a kill.
    fn fold(&mut self) {
        self.shell.finish_segment().unwrap();
        self.checkpointer.hurry();
        let mut clock = Duration::from_secs(1);
        while let Step::Worked(_) = self.checkpointer.step(clock).unwrap() {
            clock += Duration::from_millis(1);
        }
        assert_eq!(self.checkpointer.folded(), self.shell.state().index());
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn open(disk: &SimFs) -> Store<Folded> {
    let options = Options { segment_bytes: 64 << 10, ..Options::new([7; 16]) };
    Store::open(Arc::new(disk.clone()), options).unwrap_or_else(|error| panic!("{error}"))
}

fn copy(disk: &SimFs) -> SimFs {
    disk.crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 })
}

/// One of everything, in two starts; gives the disk with all of it in the journal.
fn scripted(clean: bool) -> (SimFs, Given) {
    let disk = SimFs::new();
    let mut given = Given::default();
    let mut life = Life::start(&disk);
    let given_to = &mut given;
    let orders = life.topic(given_to, "orders", Durability::Synced);
    let feed = life.topic(given_to, "feed", Durability::Written);
    let billing = life.subscription(given_to, "orders", "billing");
    let mut shop = life.producer(given_to, Some("shop"));
    let mut nobody = life.producer(given_to, None);
    for _ in 0..3 {
        life.publish(given_to, &mut shop, orders);
        life.publish(given_to, &mut nobody, feed);
    }
    let taken = life.consume(given_to, "orders", "billing");
    let at = |place: u64| one(&taken, place);
    life.settle(billing, Verdict::Ack, at(0));
    life.settle(billing, Verdict::Nack, at(1));
    life.settle(billing, Verdict::Reject, at(2));
    life.settle(billing, Verdict::Ack, at(4));
    let extra = life.topic(given_to, "extra", Durability::Synced);
    life.publish(given_to, &mut nobody, extra);
    life.ask(message::TopicDelete { topic: name("extra") });
    let extra = life.topic(given_to, "extra", Durability::Synced);
    life.publish(given_to, &mut nobody, extra);
    life.subscription(given_to, "feed", "reports");
    let (topic, subscription) = (name("feed"), name("reports"));
    life.ask(message::SubscriptionDelete { topic, subscription });
    let reports = life.subscription(given_to, "feed", "reports");
    let offset = Offset(3);
    life.ask(message::CursorSave { subscription: reports, offset });
    let settings = TopicSettings { durability: Durability::Written, ..TopicSettings::default() };
    life.ask(message::TopicAlter { topic: name("extra"), settings });
    drop(life);

    let mut life = Life::start(&disk);
    let mut shop = life.producer(given_to, Some("shop"));
    life.publish(given_to, &mut shop, orders);
    life.ask(message::TopicPurge { topic: name("extra") });
    life.publish(given_to, &mut shop, feed);
    let taken = life.consume(given_to, "orders", "billing");
    life.settle(billing, Verdict::Ack, one(&taken, 6));
    life.publish(given_to, &mut nobody, extra);
    life.publish(given_to, &mut shop, orders);
    life.publish(given_to, &mut shop, feed);
    if clean {
        life.shell.close().unwrap();
    } else {
        // What was only written is synced, and the idle journal marked.
        life.pass(1_100);
        life.pass(200);
    }
    (disk, given)
}

fn one(taken: &[DeliveryRun], offset: u64) -> DeliveryRun {
    let holds =
        |run: &&DeliveryRun| (run.first.0..run.first.0 + u64::from(run.count)).contains(&offset);
    let run = taken.iter().find(holds).unwrap();
    let fence = run.fence.plus(offset - run.first.0);
    DeliveryRun { first: Offset(offset), fence, count: 1 }
}

/// A frame of the journal.
#[derive(Clone, Debug)]
struct Frame {
    index: LogIndex,
    file: String,
    position: usize,
    events: Vec<Event>,
    /// Partition, offset and bytes.
    batches: Vec<(PartitionId, Offset, Bytes)>,
}

fn frames(disk: &SimFs) -> Vec<Frame> {
    let mut frames = Vec::new();
    for file in disk.all_names() {
        let is_segment = FileName::parse(&file).is_some_and(|name| name.kind == FileKind::Segment);
        if !is_segment {
            continue;
        }
        let bytes = disk.contents(&file).unwrap();
        let key = FrameKey::new(&Header::decode(&bytes).unwrap().salt);
        for (position, frame) in Scanner::new(key, &bytes) {
            if frame.kind == Kind::Data {
                let batches = frame.batches.map(|entry| {
                    let bytes = Bytes::copy_from_slice(frame.batch_bytes(&entry));
                    (entry.partition, entry.base, bytes)
                });
                frames.push(Frame {
                    index: frame.index,
                    file: file.clone(),
                    position: usize::try_from(position).unwrap(),
                    events: event::decode_all(frame.events).unwrap(),
                    batches: batches.collect(),
                });
            }
        }
    }
    frames
}

/// The disk with a bit of the frame's head flipped.
fn damaged(disk: &SimFs, frame: &Frame) -> SimFs {
    let disk = copy(disk);
    let mut bytes = disk.contents(&frame.file).unwrap();
    *bytes.get_mut(frame.position + 40).unwrap() ^= 1;
    disk.overwrite(&frame.file, bytes);
    disk
}

#[test]
fn whichever_frame_is_damaged_the_rest_is_served_and_nothing_is_given_again() {
    for clean in [false, true] {
        let (disk, given) = scripted(clean);
        let whole = open(&copy(&disk)).state;
        let frames = frames(&disk);
        assert!(frames.len() > 30, "{}", frames.len());
        for frame in &frames {
            let disk = damaged(&disk, frame);
            check(&disk, &given, &whole, &frames, &[frame]);
        }
    }
}

#[test]
fn whichever_two_frames_are_damaged_one_after_the_other_the_same_holds() {
    let (disk, given) = scripted(false);
    let whole = open(&copy(&disk)).state;
    let frames = frames(&disk);
    for (at, first) in frames.iter().enumerate() {
        let once = damaged(&disk, first);
        // The second one is damaged after a start has found the first.
        drop(Life::start(&once));
        for second in frames.iter().skip(at % 7).step_by(7) {
            if second.index != first.index {
                let disk = damaged(&once, second);
                check(&disk, &given, &whole, &frames, &[first, second]);
            }
        }
    }
}

fn check(disk: &SimFs, given: &Given, whole: &Folded, frames: &[Frame], lost: &[&Frame]) {
    let mut given = given.clone();
    let mut life = Life::start(disk);
    for lost in lost {
        let fenced = |range: &CorruptRange| {
            matches!(range, CorruptRange::Frames { first, last }
                if (*first..=*last).contains(&lost.index))
        };
        assert!(life.report.corrupt.iter().any(fenced), "{lost:?}: {}", life.report);
    }
    check_served(&life, whole, frames, lost);
    let bases = go_on(&mut life, &mut given);
    let live = life.state();

    // Killed; the journal is still there, fence and all.
    drop(life);
    assert_eq!(encoded(&open(&copy(disk)).state), live, "replay finds the live state: {lost:?}");
    let mut life = Life::start(disk);
    let again = go_on(&mut life, &mut given);
    assert_eq!(again["orders"].0, bases["orders"].0 + 4, "damage is met once: {lost:?}");

    // Folded, fence and all.
    life.fold();
    let live = life.state();
    life.shell.close().unwrap();
    let store = open(&copy(disk));
    assert_eq!(store.report.checkpoint, store.report.last);
    assert_eq!(encoded(&store.state), live, "the fold finds the live state: {lost:?}");
    let mut life = Life::start(disk);
    let last = go_on(&mut life, &mut given);
    let is_next = |topic: &str, sent| last[topic].0 == again[topic].0 + sent;
    let is_next = is_next("orders", 4) && is_next("feed", 2) && is_next("extra", 2);
    assert!(is_next, "a clean start skips nothing: {again:?} {last:?}");
}

fn encoded(state: &Folded) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    bytes
}

/// What was there is there, but for what was in the lost frames, and in topics made by them.
fn check_served(life: &Life, whole: &Folded, frames: &[Frame], lost: &[&Frame]) {
    let state = life.shell.state();
    let known: BTreeSet<PartitionId> = state.partitions().collect();
    let is_made_by = |frame: &&Frame, id: PartitionId| {
        frame
            .events
            .iter()
            .any(|event| matches!(event, Event::TopicCreated(e) if e.partition == id))
    };
    for id in Fold::partitions(whole) {
        let is_lost = lost.iter().any(|frame| is_made_by(frame, id));
        assert_eq!(known.contains(&id), !is_lost, "partition {id}, {lost:?}");
        if is_lost {
            continue;
        }
        let kept = frames.iter().filter(|frame| lost.iter().all(|lost| lost.index != frame.index));
        for (partition, base, bytes) in kept.flat_map(|frame| &frame.batches) {
            let is_needed = |needed: &[std::ops::Range<Offset>]| {
                needed.iter().any(|range| range.contains(base))
            };
            if *partition != id || !is_needed(&whole.0.needed(id)) {
                continue;
            }
            assert!(is_needed(&state.needed(id)), "offset {base} of {id}, {lost:?}");
            let read = life.reader.read(id, *base, 1).unwrap();
            assert_eq!(&read[0].bytes, bytes);
        }
    }
}

/// Everything works, and everything given is new. Gives where the publishes went.
fn go_on(life: &mut Life, given: &mut Given) -> BTreeMap<&'static str, Offset> {
    let mut bases = BTreeMap::new();
    let mut sender = life.producer(given, None);
    for topic in ["orders", "feed", "extra"] {
        let describe = message::TopicDescribe { topic: name(topic) };
        let id = if let Reply::TopicInfo(info) = life.ask(describe) {
            info.id
        } else {
            life.topic(given, topic, Durability::Synced)
        };
        bases.insert(topic, life.publish(given, &mut sender, id));
    }
    let mut shop = life.producer(given, Some("shop"));
    let topic = life.ask(message::TopicDescribe { topic: name("orders") });
    let Reply::TopicInfo(info) = topic else { panic!("no topic") };
    bases.insert("orders", life.publish(given, &mut shop, info.id));
    let (topic, subscription) = (name("orders"), name("billing"));
    let describe = message::SubscriptionDescribe { topic, subscription };
    let billing = if let Reply::SubscriptionInfo(info) = life.ask(describe) {
        info.id
    } else {
        life.subscription(given, "orders", "billing")
    };
    life.pass(100);
    let taken = life.consume(given, "orders", "billing");
    for run in taken {
        life.settle(billing, Verdict::Ack, run);
    }
    let describe =
        message::SubscriptionDescribe { topic: name("orders"), subscription: name("billing") };
    let Reply::SubscriptionInfo(info) = life.ask(describe) else { panic!("no subscription") };
    assert_eq!(info.backlog, 0, "everything is handed out and settled, and nobody waits for a gap");
    bases
}
