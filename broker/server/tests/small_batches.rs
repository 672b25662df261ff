//! More stored batches than one frame can list: they come in several frames, whoever reads them.

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use posthouse_protocol::message::{
    Commit, CommitPublish, Credit, Fetch, Operation, ProducerOpen, Subscribe, SubscriptionCreate,
    SubscriptionDescribe, TopicCreate,
};
use posthouse_protocol::settings::Position;
use posthouse_protocol::{ConsumerId, Offset, Reply, Sequence, TopicId, limits};
use support::{Wire, batch, name, start};

const CONSUMER: ConsumerId = ConsumerId(1);
/// Batches of one message that are stored.
const STORED: u64 = 5_000;
/// Those of one commit; each of its publishes is a batch of its own.
const TOGETHER: usize = 2_500;
/// Entries of the longest list that can be decoded.
const SLICES_MAX: u64 = limits::LIST_ENTRIES_MAX as u64;

#[tokio::test]
async fn fetch_lists_no_more_batches_than_can_be_decoded_and_says_where_to_go_on() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let topic = store(&mut wire).await;
    let mut next = 0;
    for expected in [SLICES_MAX, STORED - SLICES_MAX] {
        let from = Position::Offset(Offset(next));
        let (bytes_max, messages_max) = (1 << 20, 10_000);
        let fetch = Fetch { topic, from, bytes_max, messages_max, wait_ms: 0 };
        let Reply::Fetched(fetched) = wire.ask(fetch, &[]).await else { panic!("not fetched") };
        let offsets: Vec<_> = fetched.slices.iter().map(|slice| slice.first.0).collect();
        assert_eq!(offsets, (next..next + expected).collect::<Vec<_>>());
        next += expected;
        assert_eq!((fetched.next, fetched.end), (Offset(next), Offset(STORED)));
    }
}

#[tokio::test]
async fn delivery_of_more_batches_than_can_be_decoded_goes_out_in_several_frames() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    store(&mut wire).await;
    let mut first = Wire::hello(&broker).await;
    subscribe(&mut first).await;
    assert_eq!(consume(&mut first).await, (0..STORED).collect::<Vec<_>>());
    // While somebody is there, all of it lies ready at once when it is given back.
    subscribe(&mut wire).await;
    drop(first);
    while in_flight(&mut wire).await > 0 {}
    assert_eq!(consume(&mut wire).await, (0..STORED).collect::<Vec<_>>());
}

/// Makes `orders` with the queue `billing`, and stores batches of one message.
async fn store(wire: &mut Wire) -> TopicId {
    let create = TopicCreate { topic: name("orders"), settings: Default::default() };
    let Reply::TopicInfo(info) = wire.ask(create, &[]).await else { panic!("no topic") };
    let (topic, subscription) = (name("orders"), name("billing"));
    let (settings, start) = (Default::default(), Position::Earliest);
    let create = SubscriptionCreate { topic, subscription, settings, start };
    assert!(matches!(wire.ask(create, &[]).await, Reply::SubscriptionInfo(_)));
    let open = ProducerOpen { name: None, epoch: None };
    let Reply::ProducerOpened(opened) = wire.ask(open, &[]).await else { panic!("not opened") };
    let one = batch(&[b""]);
    let bytes = u32::try_from(one.len()).expect("a small batch");
    let publish = || Operation::Publish(CommitPublish { topic: name("orders"), bytes });
    for number in 1..=STORED / TOGETHER as u64 {
        let (sequence, prev) = (Sequence(number), Sequence(number - 1));
        let operations = (0..TOGETHER).map(|_| publish()).collect();
        let (producer, epoch) = (opened.producer, opened.epoch);
        let commit = Commit { producer, epoch, sequence, prev, operations };
        let reply = wire.ask(commit, &one.repeat(TOGETHER)).await;
        assert!(matches!(reply, Reply::Committed(_)), "{reply:?}");
    }
    info.id
}

async fn in_flight(wire: &mut Wire) -> u64 {
    let describe = SubscriptionDescribe { topic: name("orders"), subscription: name("billing") };
    let reply = wire.ask(describe, &[]).await;
    let Reply::SubscriptionInfo(info) = reply else { panic!("{reply:?}") };
    info.in_flight
}

async fn subscribe(wire: &mut Wire) {
    let (topic, subscription) = (name("orders"), name("billing"));
    let subscribe = Subscribe { consumer: CONSUMER, topic, subscription };
    assert!(matches!(wire.ask(subscribe, &[]).await, Reply::Subscribed(_)));
}

/// Takes everything from `billing`; the offsets, in order.
async fn consume(wire: &mut Wire) -> Vec<u64> {
    let credit = Credit { consumer: CONSUMER, messages: 10_000, bytes: 8 << 20, taken: 0 };
    wire.send(credit, &[]).await;
    let mut offsets = Vec::new();
    while (offsets.len() as u64) < STORED {
        let (_, reply, _) = wire.receive().await.expect("a push");
        if let Reply::Deliver(deliver) = reply {
            let slices = deliver.slices.iter().map(|deliver| &deliver.slice);
            offsets.extend(slices.flat_map(|s| s.first.0..s.first.0 + u64::from(s.count)));
        }
    }
    offsets.sort_unstable();
    offsets
}
